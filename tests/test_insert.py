"""The insert with a managed identity, which no emulator has: what goes over the wire, and what errors become."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceResponseError,
)
from azure.core.pipeline.transport import AioHttpTransport
from azure.data.tables.aio import TableClient

from customers.insert import Insert

ROW: dict[str, str | datetime] = {
    "PartitionKey": "b",
    "RowKey": "r",
    "name": "é",
    "at": datetime(2026, 11, 23, 12, 0, 0, 5000, tzinfo=UTC),
}


class Credential:
    """A managed identity."""

    scopes: tuple[str, ...] = ()

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        """Return a token."""
        self.scopes = scopes
        return AccessToken("token", 1 << 40)


class Recorder(AioHttpTransport):  # type: ignore[misc]  # it is declared as anything at all
    """A transport that keeps requests and answers them alike."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        super().__init__()
        self.sent: list[Any] = []
        self._answer = SimpleNamespace(status_code=status, headers=dict(headers), reason="", text=lambda: "")

    async def send(self, request: Any, **_: Any) -> Any:
        """Keep the request."""
        self.sent.append(request)
        return self._answer

    async def open(self) -> None:
        """Nothing to open."""


def insert(status: int, headers: Mapping[str, str]) -> tuple[str, Recorder, Credential]:
    """Insert the row into an account that answers so."""
    credential, transport = Credential(), Recorder(status, headers)
    client = TableClient("https://a.table.core.windows.net", "customers", credential=cast("Any", credential))
    inserts = Insert(client, transport, retries={"retry_total": 0}, on_answer=lambda _: None)
    return asyncio.run(inserts(ROW, operation_id="o")), transport, credential


def test_a_row_is_sent_with_the_identitys_token_and_the_etag_returned() -> None:
    etag, transport, credential = insert(204, {"ETag": "W/1"})
    (request,) = transport.sent
    assert etag == "W/1"
    assert credential.scopes == ("https://storage.azure.com/.default",)
    assert (request.method, request.url) == ("POST", "https://a.table.core.windows.net/customers")
    assert request.headers["Authorization"] == "Bearer token"
    assert request.headers["Prefer"] == "return-no-content"
    assert request.headers["x-ms-client-request-id"] == "o"
    assert json.loads(request.content) == {
        **ROW,
        "at": "2026-11-23T12:00:00.005000Z",
        "at@odata.type": "Edm.DateTime",
    }


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (409, {}, ResourceExistsError),
        (404, {}, ResourceNotFoundError),
        (401, {}, ClientAuthenticationError),
        (403, {}, HttpResponseError),
        (500, {}, HttpResponseError),
        (204, {}, ServiceResponseError),
    ],
)
def test_any_other_answer_is_the_error_that_the_storage_client_raises(
    status: int, headers: Mapping[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        insert(status, headers)
