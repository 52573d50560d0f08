"""The insert with a managed identity, which no emulator has: what goes over the wire, and what errors become."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import aiohttp
import pytest
from aiohttp import web
from azure.core.credentials import AccessToken
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
)

from customers.insert import Insert

ROW: dict[str, str | datetime] = {
    "PartitionKey": "b",
    "RowKey": "r",
    "name": 'é\U0001f600"',
    "at": datetime(2026, 11, 23, 12, 0, 0, 5000, tzinfo=UTC),
}


class Credential:
    """A managed identity, which keeps its token as soon as it has one."""

    def __init__(self) -> None:
        self.scopes: list[tuple[str, ...]] = []
        self._token: AccessToken | None = None

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        """Return the token."""
        if self._token is None:
            self.scopes.append(scopes)
            await asyncio.sleep(0.01)
            self._token = AccessToken("token", 1 << 40)
        return self._token


class Received(NamedTuple):
    """One request that storage got."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Inserted(NamedTuple):
    """What came of inserting the row: the ETags, what storage got, and the identity that was used."""

    etags: list[str]
    received: list[Received]
    credential: Credential


async def _insert(status: int, headers: Mapping[str, str], times: int) -> Inserted:
    done = Inserted([], [], Credential())

    async def answer(request: web.BaseRequest) -> web.Response:
        done.received.append(Received(request.method, request.path, request.headers, await request.read()))
        if status == 0:
            assert request.transport
            request.transport.abort()
        return web.Response(status=status or 204, headers=headers)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        # A real client takes tokens to https:// only.
        account = f"http://127.0.0.1:{runner.addresses[0][1]}"
        client = SimpleNamespace(url=account, table_name="customers", credential=done.credential, api_version="v")
        async with aiohttp.ClientSession() as session:
            timeout = aiohttp.ClientTimeout(sock_read=5)
            insert = Insert(cast("Any", client), session, timeout=timeout, on_error=lambda _: None)
            done.etags.extend(await asyncio.gather(*[insert(ROW, operation_id="o") for _ in range(times)]))
    finally:
        await runner.cleanup()
    return done


def insert(status: int, headers: Mapping[str, str], times: int = 1) -> Inserted:
    """Insert the row, so many times at once, into an account that answers so; status 0 is no answer."""
    return asyncio.run(_insert(status, headers, times))


def test_a_row_is_sent_with_the_identitys_token_and_the_etag_returned() -> None:
    done = insert(204, {"ETag": "W/1"})
    (sent,) = done.received
    assert done.etags == ["W/1"]
    assert done.credential.scopes == [("https://storage.azure.com/.default",)]
    assert (sent.method, sent.path) == ("POST", "/customers")
    assert sent.headers["Authorization"] == "Bearer token"
    assert sent.headers["Prefer"] == "return-no-content"
    assert sent.headers["x-ms-client-request-id"] == "o"
    assert sent.body.isascii()  # in chunks that split a character, Azurite would store something else
    assert json.loads(sent.body) == {**ROW, "at": "2026-11-23T12:00:00.005000Z", "at@odata.type": "Edm.DateTime"}


def test_many_at_once_ask_for_one_token() -> None:
    done = insert(204, {"ETag": "W/1"}, times=20)
    assert len(done.received) == 20
    assert len(done.credential.scopes) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (409, ResourceExistsError),
        (404, ResourceNotFoundError),
        (401, ClientAuthenticationError),
        (403, HttpResponseError),
        (307, HttpResponseError),
        (500, HttpResponseError),
        (204, HttpResponseError),  # without an ETag
        (0, ServiceRequestError),
    ],
)
def test_any_other_response_raises_the_error_of_the_storage_client(status: int, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        insert(status, {"Location": "/elsewhere"})
    assert type(raised.value) is error
    if isinstance(raised.value, HttpResponseError):
        assert raised.value.status_code == status
