"""Batches: their requests, and the responses in their response."""

import json
from typing import Any

import httpx

from tests.support.graph import DOCUMENTED

BATCH = "/v1.0/$batch"
_JSON = {"Content-Type": "application/json"}


def customers(business: str) -> str:
    """The collection of a business, relative to v1.0."""
    return f"/solutions/bookingBusinesses/{business}/customers"


def add(member: str, url: str, **more: Any) -> dict[str, Any]:
    """An add of the documented customer, with more properties of the request or of the customer."""
    of_request: dict[str, Any] = {name: more.pop(name) for name in ("headers", "body", "dependsOn") if name in more}
    body = {**DOCUMENTED, **more}
    return {"id": member, "method": "POST", "url": url, "headers": _JSON, "body": body, **of_request}


def get(member: str, url: str, **more: Any) -> dict[str, Any]:
    """A read."""
    return {"id": member, "method": "GET", "url": url, **more}


def by_id(whole: httpx.Response) -> dict[str, httpx.Response]:
    """The responses in the response to a batch."""
    assert whole.status_code == 200, whole.text
    assert whole.headers["Content-Type"] == "application/json"
    body = whole.json()
    assert set(body) == {"responses"}
    found = {}
    for response in body["responses"]:
        assert set(response) - {"body"} == {"id", "status", "headers"}
        content = json.dumps(response["body"]).encode() if "body" in response else b""
        found[response["id"]] = httpx.Response(response["status"], headers=response["headers"], content=content)
    assert len(found) == len(body["responses"])
    return found


def send(client: httpx.Client, *requests: dict[str, Any]) -> dict[str, httpx.Response]:
    """Send a batch of these requests."""
    return by_id(client.post(BATCH, json={"requests": requests}))
