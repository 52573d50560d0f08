"""Tries the main operations of a running service, and some that it must refuse; for a deployed one above all.

Usage: ``smoke.py``, with the variables BASE_URL and TOKEN (a token that may write). It prints each step, and exits
with 1 at the first that fails. It deletes what it adds, to a business of its own, or to BUSINESS: a user's token needs
one whose member the user is.
"""

import os
import sys
import uuid
from collections.abc import Mapping
from urllib.parse import quote

import httpx

PATIENCE = 60.0
"""Seconds for an answer: the first may wait for a cold start."""
ADA = {"@odata.type": "#microsoft.graph.bookingCustomer", "displayName": "Ada Lovelace"}


class SmokeError(Exception):
    """A step did not go as it must; the message says how it went."""


def step(  # noqa: PLR0913
    client: httpx.Client,
    what: str,
    status: int,
    request: tuple[str, str],
    *,
    body: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
) -> httpx.Response:
    """Send a request and tell of it. Raises SmokeError if it is not answered with this status."""
    try:
        response = client.request(*request, json=body, headers=headers, params=params)
    except httpx.HTTPError as error:
        raise SmokeError(f"{what}: {request[0]} {request[1]} was not answered: {error!r}") from None
    if response.status_code != status:
        raise SmokeError(
            f"{what}: {request[0]} {request[1]} was answered with {response.status_code} instead of {status} "
            f"(request-id {response.headers.get('request-id')}): {response.text[:500]}"
        )
    print(f"{response.status_code} {what}")
    return response


def expect(what: str, found: object, wanted: object) -> None:
    """Raise SmokeError unless both are the same."""
    if found != wanted:
        raise SmokeError(f"{what}: {found!r} instead of {wanted!r}")


def operations(client: httpx.Client, customers: str, email: str) -> None:
    """Add, get, find, update and delete a customer."""
    added = step(client, "add", 201, ("POST", customers), body={**ADA, "emailAddress": email}).json()
    one = f"{customers}/{added['id']}"
    try:
        step(client, "add once more, refused", 409, ("POST", customers), body={**added, "displayName": "Eve"})
        got = step(client, "get", 200, ("GET", one))
        expect("get", (got.json()["displayName"], got.json()["emailAddress"]), ("Ada Lovelace", email))
        filtered = {"$filter": f"emailAddress eq '{email}'"}
        found = step(client, "find by e-mail", 200, ("GET", customers), params=filtered).json()
        expect("find by e-mail", [customer["id"] for customer in found["value"]], [added["id"]])
        change = {"displayName": "Ada King"}
        updated = step(client, "update", 200, ("PATCH", one), body=change).json()
        expect("update", (updated["displayName"], updated["emailAddress"]), ("Ada King", email))
        requests = [
            {"id": name, "method": "GET", "url": f"{customers.removeprefix('/beta')}{path}"}
            for name, path in {"get": f"/{added['id']}", "count": "/$count", "unknown": "/nobody"}.items()
        ]
        batch = step(client, "a batch", 200, ("POST", "/beta/$batch"), body={"requests": requests}).json()
        statuses = {response["id"]: response["status"] for response in batch["responses"]}
        expect("a batch", statuses, {"get": 200, "count": 200, "unknown": 404})
        stale = {"If-Match": got.headers["ETag"]}
        step(client, "update what has changed, refused", 412, ("PATCH", one), body=change, headers=stale)
    finally:
        step(client, "delete", 204, ("DELETE", one))
    step(client, "get what is deleted, refused", 404, ("GET", one))


def refusals(client: httpx.Client, customers: str) -> None:
    """Send what must be refused."""
    ada = {**ADA, "emailAddress": "ada@example.com"}
    step(client, "no token, refused", 401, ("POST", customers), body=ada, headers={"Authorization": ""})
    bad = {"Authorization": "Bearer e30.e30.e30"}
    step(client, "a forged token, refused", 401, ("POST", customers), body=ada, headers=bad)
    step(client, "no e-mail address, refused", 400, ("POST", customers), body=ADA)
    step(client, "an unknown property, refused", 400, ("POST", customers), body={**ada, "nickname": "Ada"})
    text = {"Content-Type": "text/plain"}
    step(client, "a body that is not JSON, refused", 415, ("POST", customers), body=ada, headers=text)
    step(client, "an unknown option, refused", 400, ("GET", customers), params={"$search": "Ada"})
    step(client, "a method that is not there, refused", 405, ("PUT", customers), body=ada)


def main() -> int:
    """Try everything; 1 with one line on stderr at the first failure, 2 if a variable is missing."""
    base, token = os.environ.get("BASE_URL"), os.environ.get("TOKEN")
    if not base or not token:
        print("Set BASE_URL and TOKEN.", file=sys.stderr)
        return 2
    run = uuid.uuid4().hex
    headers = {"Authorization": f"Bearer {token}"}
    try:
        with httpx.Client(base_url=base, headers=headers, timeout=PATIENCE) as client:
            step(client, "ready", 200, ("GET", "/healthz"))
            business = os.environ.get("BUSINESS") or f"smoke-{run}@example.com"
            customers = f"bookingBusinesses/{quote(business, safe='')}/customers"
            operations(client, f"/beta/{customers}", f"ada-{run}@example.com")
            refusals(client, f"/v1.0/solutions/{customers}")
    except (SmokeError, httpx.InvalidURL) as failure:
        print(f"FAILED {failure}", file=sys.stderr)
        return 1
    print(f"{base} works.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
