"""The insert with a managed identity, which no emulator has: what goes over the wire, and what errors become."""

import asyncio
import email
import json
import re
from collections.abc import Mapping, Sequence
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
    ServiceResponseError,
)
from hypothesis import given
from hypothesis import strategies as st

from customers.direct import Direct
from customers.insert import Insert, refused_part

ROW: dict[str, str | datetime] = {
    "PartitionKey": "b",
    "RowKey": "r",
    "name": 'é\U0001f600"',
    "at": datetime(2026, 11, 23, 12, 0, 0, 5000, tzinfo=UTC),
}


INDEX_ROW: dict[str, str | datetime] = {"PartitionKey": "b", "RowKey": " o'é", "customerId": "r"}


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
    """What came of inserting the row, or several: the ETags, what storage got, and the identity that was used."""

    etags: list[str]
    received: list[Received]
    credential: Credential


async def _insert(
    status: int, headers: Mapping[str, str], body: bytes, times: int, rows: Sequence[Any] = ()
) -> Inserted:
    done = Inserted([], [], Credential())

    async def answer(request: web.BaseRequest) -> web.Response:
        done.received.append(Received(request.method, request.path, request.headers, await request.read()))
        if status == 0:
            assert request.transport
            request.transport.abort()
        return web.Response(status=status or 202, headers=headers, body=body)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        # A real client takes tokens to https:// only.
        account = f"http://127.0.0.1:{runner.addresses[0][1]}"
        client = SimpleNamespace(url=account, table_name="customers", credential=done.credential, api_version="v")
        async with aiohttp.ClientSession() as session:
            timeout = aiohttp.ClientTimeout(sock_read=5)
            insert = Insert(Direct(cast("Any", client), session, timeout=timeout, on_error=lambda _: None))
            if rows:
                done.etags.extend(await insert.all([insert.part(*pair) for pair in rows], operation_id="o"))
                return done
            done.etags.extend(await asyncio.gather(*[insert(ROW, INDEX_ROW, operation_id="o") for _ in range(times)]))
    finally:
        await runner.cleanup()
    return done


def insert(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"", times: int = 1) -> Inserted:
    """Insert the rows, so many times at once, into an account that answers so; status 0 is no answer."""
    return asyncio.run(_insert(status, headers or {}, body, times))


def responses(*parts: str) -> bytes:
    """The body of the response to a transaction, with these responses inside."""
    head = "--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n"
    inner = "--c\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n{}\r\n\r\n"
    return (head + "".join(inner.format(part) for part in parts) + "--c--\r\n--b--\r\n").encode()


MADE = "HTTP/1.1 204 No Content\r\nDataServiceVersion: 3.0;\r\nETag: W/{}\r\n"
DONE = responses(MADE.format(1), MADE.format(2))


def test_both_rows_are_sent_with_the_identitys_token_and_the_etag_of_the_first_returned() -> None:
    done = insert(202, body=DONE)
    (sent,) = done.received
    assert done.etags == ["W/1"]
    assert done.credential.scopes == [("https://storage.azure.com/.default",)]
    assert (sent.method, sent.path) == ("POST", "/$batch")
    assert sent.headers["Authorization"] == "Bearer token"
    assert sent.headers["x-ms-client-request-id"] == "o"
    assert sent.body.isascii()  # in chunks that split a character, Azurite would store something else


def test_the_rows_are_a_changeset_of_an_insert_and_an_upsert() -> None:
    (sent,) = insert(202, body=DONE).received
    whole = email.message_from_bytes(f"Content-Type: {sent.headers['Content-Type']}\r\n\r\n".encode() + sent.body)
    parts = [part.get_payload() for part in whole.walk() if part.get_content_type() == "application/http"]
    requests = [str(part).replace("\r\n", "\n").partition("\n\n") for part in parts]
    (insert_head, _, row), (put_head, _, index_row) = requests
    assert re.match(r"POST http://127.0.0.1:\d+/customers HTTP/1.1\n", insert_head)
    assert "Prefer: return-no-content" in insert_head
    assert json.loads(row) == {**ROW, "at": "2026-11-23T12:00:00.005000Z", "at@odata.type": "Edm.DateTime"}
    assert re.match(
        r"PUT http://127.0.0.1:\d+/customers\(PartitionKey='b',RowKey='%20o%27%27%C3%A9'\) HTTP/1.1\n", put_head
    )
    assert json.loads(index_row) == INDEX_ROW


def test_several_are_one_changeset_and_each_has_its_etag() -> None:
    both = [(ROW, INDEX_ROW), ({**ROW, "RowKey": "s"}, {**INDEX_ROW, "customerId": "s"})]
    answer = responses(*(MADE.format(number) for number in range(4)))
    done = asyncio.run(_insert(202, {}, answer, 1, both))
    assert done.etags == ["W/0", "W/2"]
    (sent,) = done.received
    assert sent.body.count(b"\r\nPOST ") == sent.body.count(b"\r\nPUT ") == 2
    assert sent.body.index(b'"RowKey": "r"') < sent.body.index(b'"RowKey": "s"')
    for made in range(4):
        with pytest.raises((ServiceResponseError, HttpResponseError)):
            asyncio.run(_insert(202, {}, responses(*[MADE.format(1)] * made), 1, both))


@pytest.mark.parametrize(
    ("message", "part"), [("0:The specified", 0), ("5:The specified entity", 2), ("12:x", 6), ("The specified", None)]
)
def test_storage_says_which_part_had_the_taken_key(message: str, part: int | None) -> None:
    error = json.dumps({"odata.error": {"code": "EntityAlreadyExists", "message": {"lang": "en-US", "value": message}}})
    with pytest.raises(ResourceExistsError) as raised:
        insert(202, body=responses(f"HTTP/1.1 409 Conflict\r\nContent-Type: application/json\r\n\r\n{error}"))
    assert refused_part(raised.value) == part


def test_many_at_once_ask_for_one_token() -> None:
    done = insert(202, body=DONE, times=20)
    assert len(done.received) == 20
    assert len(done.credential.scopes) == 1


_STATUSES = [
    (409, ResourceExistsError),
    (404, ResourceNotFoundError),
    (401, ClientAuthenticationError),
    (403, HttpResponseError),
    (500, HttpResponseError),
]


@pytest.mark.parametrize(
    ("status", "error"), [*_STATUSES, (307, HttpResponseError), (204, HttpResponseError), (0, ServiceRequestError)]
)
def test_any_other_response_raises_the_error_of_the_storage_client(status: int, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        insert(status, {"Location": "/elsewhere"})
    assert type(raised.value) is error
    if isinstance(raised.value, HttpResponseError):
        assert raised.value.status_code == status


@pytest.mark.parametrize(("status", "error"), _STATUSES)
def test_an_error_inside_the_response_is_the_error(status: int, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        insert(202, body=responses(f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\n\r\n{{}}"))
    assert type(raised.value) is error
    assert isinstance(raised.value, HttpResponseError)
    assert raised.value.status_code == status


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>all is well</html>", DONE[:300], responses(MADE.format(1)), responses("HTTP/1.1 204 No\r\n", "x")],
)
def test_a_response_that_does_not_say_that_both_are_there_is_no_success(body: bytes) -> None:
    with pytest.raises((ServiceResponseError, HttpResponseError)):
        insert(202, body=body)


@given(st.integers(0, len(DONE) - 1))
def test_a_response_that_is_cut_is_no_success_unless_it_says_it_all(length: int) -> None:
    if DONE[:length].count(b"HTTP/1.1 204") < 2 or not DONE[:length].rstrip(b"\r\n-bc").endswith(b"W/2"):
        with pytest.raises((ServiceResponseError, HttpResponseError)):
            insert(202, body=DONE[:length])
