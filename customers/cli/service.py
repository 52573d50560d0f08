"""The service as the command line talks to it: its URL, batches, and repeats of what did not arrive.

Sources: "Combine multiple HTTP requests using JSON batching" (Microsoft Graph); RFC 9110, 10.2.3 (Retry-After).
"""

import asyncio
import json
import random
import time
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote, urlencode

import aiohttp
from pydantic_core import to_json
from yarl import URL

from customers.cli.command import Unreachable, UsageError, add_business
from customers.cli.tokens import TOKEN, Tokens, add_token_arguments, choose_tokens
from customers.surface import Surface

_FIRST_PATIENCE = 5.0
_PATIENCE = 60.0
"""In seconds: how long the service may fail before it is given up, at first and once it has responded."""

_TRANSIENT = (429, 500, 502, 503, 504)
_MAX_PAUSE = 10.0
_MAX_RETRY_AFTER = 120.0
_MAX_FAULTS = 5
"""How often one request may be a 500, while others succeed."""

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=60)
_AGAIN = "Run the same command again: it continues, and adds nobody twice."
_SURFACE = Surface.V1_SOLUTIONS


class Result(NamedTuple):
    """The response to one request: its status, its JSON, and whether an earlier attempt may have been carried out."""

    status: int
    body: Any
    repeated: bool = False

    @property
    def message(self) -> str:
        """The message of an error."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        message = error.get("message") if isinstance(error, dict) else None
        return str(message) if message else f"HTTP status {self.status}"


def add_arguments(parser: ArgumentParser) -> None:
    """Add what every command has that talks to the service."""
    add_business(parser, "the id of the business", required=True)
    parser.add_argument(
        "--url", required=True, help="the service, such as https://contoso.azurewebsites.net; http only on this machine"
    )
    add_token_arguments(parser)


@asynccontextmanager
async def connect(options: Namespace) -> AsyncGenerator["Service"]:
    """Connect to the service that the arguments name. Raises UsageError."""
    base = read_url(options.url)
    async with AsyncExitStack() as close:
        tokens = choose_tokens(options, close)
        session = aiohttp.ClientSession(timeout=_TIMEOUT, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)
        await close.enter_async_context(session)
        yield Service(base, options.business, session, tokens)


def read_url(text: str) -> URL:
    """Read the URL of the service: https, or http on this machine, since the token goes there. Raises UsageError."""
    try:
        url = URL(text)
        host = url.host or ""
    except ValueError as error:
        raise UsageError(f"--url {text}: {error}.") from None
    if url.scheme not in ("http", "https") or not host:
        raise UsageError(f"--url must be a URL such as https://contoso.azurewebsites.net, not {text}")
    if url.user is not None or url.password is not None or url.path not in ("", "/") or url.query or url.fragment:
        raise UsageError(f"--url must end after the host, as {url.origin()} does.")
    if url.scheme == "http" and not _is_this_machine(host):
        raise UsageError("--url must begin with https://: over http, others could read the token and the customers.")
    return url.origin()


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Service:
    """The customers of one business."""

    def __init__(self, base: URL, business: str, session: aiohttp.ClientSession, tokens: Tokens) -> None:
        self._base = base
        self._session = session
        self._tokens = tokens
        self._collection = _SURFACE.collection_url("", business).removeprefix(f"/{_SURFACE.version}")
        headers = {"Content-Type": "application/json", "Prefer": "return=minimal"}
        add = to_json({"method": "POST", "url": self._collection, "headers": headers})
        self._add = add[:-1] + b',"body":'
        self._responded = False
        self._failing_since: float | None = None

    def add(self, customer: bytes) -> bytes:
        """The request of a batch that adds a customer, who is JSON."""
        return self._add + customer + b"}"

    def get(self, customer_id: str) -> bytes:
        """The request of a batch that gets a customer."""
        return to_json({"method": "GET", "url": f"{self._collection}/{quote(customer_id, safe='')}"})

    def find(self, address: str) -> bytes:
        """The request of a batch that gets the ids of the customers with an e-mail address, whatever its case."""
        text = address.replace("'", "''")
        options = {"$filter": f"tolower(emailAddress) eq '{text}'", "$select": "id"}
        return to_json({"method": "GET", "url": f"{self._collection}?{_query(options)}"})

    def pages(self, options: Mapping[str, str]) -> URL:
        """The URL of the first page of a list."""
        return self._url(f"{self._collection}?{_query(options)}")

    async def batch(self, requests: Sequence[bytes]) -> list[Result]:
        """Send a batch of these requests, and those again that the service asks to repeat or that may not have arrived.

        Raises Unreachable if the service is away for too long, or refuses the batch.
        """
        results: dict[int, Result] = {}
        attempts = 0
        while pending := [number for number in range(len(requests)) if number not in results]:
            members = [b'{"id":"%d",' % number + requests[number][1:] for number in pending]
            body = b'{"requests":[' + b",".join(members) + b"]}"
            whole = await self._request("POST", self._url("/$batch"), body)
            if whole.status == 413 and len(requests) > 1:
                half = len(requests) // 2
                return [*await self.batch(requests[:half]), *await self.batch(requests[half:])]
            if whole.status == 413:
                return [whole]
            if whole.status != 200:
                _refused(whole)
            attempts += 1
            reason, retry_after = "Not every request has a response.", 0.0
            for number, one, seconds in _responses(whole.body, pending):
                if one.status in (401, 403):
                    _refused(one)
                if one.status in _TRANSIENT and (one.status != 500 or attempts < _MAX_FAULTS):
                    reason, retry_after = one.message, max(retry_after, seconds)
                else:
                    results[number] = one._replace(repeated=whole.repeated or attempts > 1)
            if any(number in results for number in pending):
                self._failing_since = None
            if len(results) < len(requests):
                await self._pause(attempts, reason, retry_after)
        return [results[number] for number in range(len(requests))]

    async def page(self, url: URL) -> Result:
        """Get a page of a list, or a count. Raises Unreachable, also if the link leads to another host."""
        if url.origin() != self._base:
            raise Unreachable(
                f"The next page is at {url.origin()}, not at {self._base}, so the token is not sent there."
            )
        result = await self._request("GET", url)
        if result.status not in (200, 400):
            _refused(result)
        self._failing_since = None
        return result

    async def count(self) -> int | None:
        """How many customers there are; None if there are too many to count in one request."""
        result = await self.page(self._url(f"{self._collection}/$count"))
        return result.body if result.status == 200 and isinstance(result.body, int) else None

    def _url(self, path: str) -> URL:
        return URL(f"{self._base}/{_SURFACE.version}{path}", encoded=True)

    async def _request(self, method: str, url: URL, body: bytes | None = None) -> Result:
        """Make a request until the service responds to it."""
        attempts, may_be_done, renewed = 0, False, False
        while True:
            token = await self._tokens.get()
            try:
                result, retry_after = await self._attempt(method, url, body, token)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                may_be_done |= not isinstance(error, aiohttp.ClientConnectorError)
                reason, retry_after = str(error) or type(error).__name__, 0.0
            else:
                self._responded = True
                if result.status == 401 and not renewed and await self._tokens.renew(token):
                    renewed = True
                    continue
                if result.status not in _TRANSIENT:
                    return result._replace(repeated=may_be_done)
                may_be_done |= result.status != 429
                reason = result.message
            attempts += 1
            await self._pause(attempts, reason, retry_after)

    async def _attempt(self, method: str, url: URL, body: bytes | None, token: str) -> tuple[Result, float]:
        """Make a request once: the response, and how many seconds it asks to wait."""
        headers = {"Authorization": f"Bearer {token}"} | ({"Content-Type": "application/json"} if body else {})
        request = self._session.request(method, url, data=body, headers=headers, allow_redirects=False)
        async with request as response:
            result = Result(response.status, _parse(await response.read()))
            if 300 <= response.status < 400:
                location = response.headers.get("Location")
                raise Unreachable(f"{self._base} redirects to {location}. If that is the service, give its URL.")
            return result, seconds_of(response.headers.get("Retry-After"))

    async def _pause(self, attempt: int, reason: str, retry_after: float) -> None:
        """Wait before another attempt. Raises Unreachable if the service has failed for too long, or would."""
        now = asyncio.get_running_loop().time()
        # All requests share it, so one that is throttled while others succeed is not given up.
        self._failing_since = self._failing_since or now
        patience = _PATIENCE if self._responded else _FIRST_PATIENCE
        if now - self._failing_since > patience or retry_after > _MAX_RETRY_AFTER:
            wait = f" It asks to wait {retry_after:.0f} seconds." if retry_after > _MAX_RETRY_AFTER else ""
            raise Unreachable(f"The service at {self._base} cannot be reached, or fails: {reason}{wait}\n{_AGAIN}")
        # Spread out, so that what failed together is not repeated together.
        pause = min(_MAX_PAUSE, 0.1 * 2**attempt) * random.uniform(0.5, 1)  # noqa: S311 - no secret
        await asyncio.sleep(max(pause, retry_after))


def _refused(result: Result) -> NoReturn:
    """Raise Unreachable for a response that no repeat would change."""
    what = {
        401: f"The service refuses the token; it may have expired. Get a new one for {TOKEN}, or sign in again",
        403: "The token lacks the permission",
        404: "There is no service with $batch at this URL",
    }.get(result.status, f"The service refuses the request with status {result.status}")
    raise Unreachable(f"{what}: {result.message}\n{_AGAIN}")


def _responses(body: Any, pending: Sequence[int]) -> list[tuple[int, Result, float]]:
    """The responses of a batch, by the number of their request, and how many seconds each asks to wait."""
    found = []
    responses = body.get("responses") if isinstance(body, dict) else None
    for one in responses if isinstance(responses, list) else ():
        number = int(one["id"]) if str(one.get("id")).isdecimal() else -1
        if number in pending and isinstance(one.get("status"), int):
            headers = {str(name).lower(): str(value) for name, value in (one.get("headers") or {}).items()}
            found.append((number, Result(one["status"], one.get("body")), seconds_of(headers.get("retry-after"))))
    return found


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content) if content else None
    except ValueError:
        return None


def seconds_of(retry_after: str | None) -> float:
    """Read a Retry-After header: seconds, or a date."""
    if not retry_after:
        return 0.0
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return 0.0


def _query(options: Mapping[str, str]) -> str:
    return urlencode(options, quote_via=quote, safe="$")
