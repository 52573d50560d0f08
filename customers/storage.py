"""The connection to Table Storage, and what its errors mean.

Sources: "Table service error codes"; azure-core, "Error handling".
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple, NoReturn

import aiohttp
from azure.core import MatchConditions
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResponseNotReadError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.core.pipeline.transport import AioHttpTransport
from azure.data.tables import TableTransactionError, UpdateMode
from azure.data.tables.aio import TableClient

from customers.direct import TRANSIENT, Direct
from customers.errors import ServiceUnavailable, TooManyRequests
from customers.insert import Insert
from customers.read import Read, Row
from customers.settings import TableSettings

# In seconds. Azurite closes a connection after 5 seconds without a request, and one sent at that instant fails.
_KEEP_ALIVE = 4.0
# In seconds, where storage names none.
_RETRY_AFTER = 2


type Operation = tuple[str, Mapping[str, Any], Mapping[str, Any]]
"""A change in a transaction: what to do, the row, and the options, as the storage client takes them."""


def replace(row: Mapping[str, Any], etag: str) -> Operation:
    """Replace a row that still has this ETag."""
    condition = {"etag": etag, "match_condition": MatchConditions.IfNotModified}
    return "update", row, {"mode": UpdateMode.REPLACE, **condition}


def put(row: Mapping[str, Any]) -> Operation:
    """Insert a row, or replace the one with its key."""
    return "upsert", row, {"mode": UpdateMode.REPLACE}


def remove(row: Mapping[str, Any], etag: str | None = None) -> Operation:
    """Delete the row with this one's key, if it still has this ETag."""
    keys = {name: row[name] for name in ("PartitionKey", "RowKey")}
    return "delete", keys, {"etag": etag, "match_condition": MatchConditions.IfNotModified} if etag else {}


class Backpressure(Exception):
    """Storage asks to wait. The caller gets its Retry-After, rather than being made to wait here."""

    def __init__(self, retry_after: int, *, throttled: bool) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after
        self.throttled = throttled


class NoSuchRow(Exception):
    """There is no row to change: the one of that operation of a transaction."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


def _pass_on_retry_after(response: Any) -> None:
    if response.status_code in (429, 503) and (seconds := response.headers.get("Retry-After")):
        retry_after = int(seconds) if seconds.isdecimal() else _RETRY_AFTER
        raise Backpressure(retry_after, throttled=_throttles(response))


def _throttles(response: Any) -> bool:
    """Whether storage throttles: 429, or 503 with the code ServerBusy ("Table service error codes")."""
    try:
        return response.status_code == 429 or (response.status_code == 503 and "ServerBusy" in response.text())
    except ResponseNotReadError:  # of a transaction
        return False


class Connection:
    """The one storage client of the process, made on first use and closed with the event loop.

    Without a credential it uses the managed identity, or the key of Azurite.
    """

    def __init__(self, settings: TableSettings, credential: AsyncTokenCredential | None = None) -> None:
        self._settings = settings
        self._credential = credential
        self._open: _Opened | None = None
        self._closing: AsyncGenerator[None] | None = None

    async def table(self) -> TableClient:
        """Return the client of the table."""
        return (await self._opened()).table

    async def insert(self) -> Insert:
        """Return the insert into the table, over the same connections and with the same credential."""
        return (await self._opened()).insert

    async def read(self) -> Read:
        """Return what reads rows of the table, over the same connections and with the same credential."""
        return (await self._opened()).read

    async def get(self, partition_key: str, row_key: str) -> Row | None:
        """Return a row, or None if the table has no such row. Raises as ``Read.get``."""
        return await (await self.read()).get(partition_key, row_key)

    async def transact(self, operations: Sequence[Operation], *, operation_id: str) -> Sequence[Mapping[str, Any]]:
        """Make all of these changes or none, in one attempt, and return the metadata of each row, as ``etag_of`` reads.

        Raises NoSuchRow, ResourceExistsError for a taken key, ResourceModifiedError if a row has another ETag, and what
        else the client raises.
        """
        # A POST even for one row: aiohttp repeats other methods by itself if their connection was closed, and the
        # caller has to know which attempt found nothing.
        table = await self.table()
        headers = {"x-ms-client-request-id": operation_id}
        try:
            done = await table.submit_transaction(operations, headers=headers, retry_total=0)
        except TableTransactionError as error:
            if error.status_code == 404:
                raise NoSuchRow(error.index) from error
            kinds = {409: ResourceExistsError, 412: ResourceModifiedError}
            if error.status_code in kinds:
                raise kinds[error.status_code](response=error.response) from error
            raise
        if len(done) != len(operations):
            raise ServiceResponseError("the response to the transaction cannot be read")
        return done

    async def _opened(self) -> "_Opened":
        if self._open is None:
            self._open = _connect(self._settings, self._credential)
            # The Functions host has no shutdown hook for an app. But asyncio.Runner, when its loop ends, closes the
            # asynchronous generators that are suspended, so one of these closes the connections.
            self._closing = _closed_with_the_loop(self._open.close)
            await anext(self._closing)
        return self._open


class _Opened(NamedTuple):
    """The client, what goes past it, and the stack that closes them and their credential."""

    table: TableClient
    insert: Insert
    read: Read
    close: AsyncExitStack


async def _closed_with_the_loop(close: AsyncExitStack) -> AsyncGenerator[None]:
    async with close:
        yield


def _connect(settings: TableSettings, credential: AsyncTokenCredential | None) -> _Opened:
    close = AsyncExitStack()
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )
    transport = AioHttpTransport(
        session=session, connection_timeout=settings.connect_timeout, read_timeout=settings.read_timeout
    )
    options: dict[str, Any] = {
        "transport": transport,
        "raw_response_hook": lambda response: _pass_on_retry_after(response.http_response),
        "retry_total": 2,
        "retry_backoff_factor": 0.2,
    }
    if settings.storage is not None:
        client = TableClient.from_connection_string(settings.storage.get_secret_value(), settings.table, **options)
    else:
        if credential is None:
            # Only where it is used: it is 100 ms of the start.
            from azure.identity.aio import ManagedIdentityCredential  # noqa: PLC0415

            credential = ManagedIdentityCredential(client_id=str(settings.client_id) if settings.client_id else None)
            close.push_async_callback(credential.close)
        client = TableClient(str(settings.table_service_uri), settings.table, credential=credential, **options)
    close.push_async_callback(client.close)
    timeout = aiohttp.ClientTimeout(sock_connect=settings.connect_timeout, sock_read=settings.read_timeout)
    direct = Direct(client, session, timeout=timeout, on_error=_pass_on_retry_after)
    return _Opened(client, Insert(direct), Read(direct), close)


def is_transient(error: Exception) -> bool:
    """Whether the same request is likely to succeed if it is repeated at once."""
    if isinstance(error, HttpResponseError):
        return error.status_code in TRANSIENT
    return isinstance(error, ServiceRequestError)


def raise_unavailable(error: Exception) -> NoReturn:
    """Raise TooManyRequests or ServiceUnavailable if ``error`` means that storage throttles or is unreachable.

    Any other error is raised unchanged: storage rejected the request itself, or the bug is ours.
    """
    throttled, seconds = False, _RETRY_AFTER
    if isinstance(error, Backpressure):
        throttled, seconds = error.throttled, error.retry_after
    elif isinstance(error, HttpResponseError):
        if error.status_code is not None and 400 <= error.status_code < 500 and error.status_code not in TRANSIENT:
            raise error
        throttled = error.response is not None and _throttles(error.response)
    elif isinstance(error, TimeoutError):
        raise ServiceUnavailable(
            "Storage did not finish in time. Try again later, or request less.", retry_after=seconds
        ) from error
    elif not isinstance(error, AzureError):
        raise error
    if throttled:
        raise TooManyRequests("Storage is throttling. Try again later.", retry_after=seconds) from error
    raise ServiceUnavailable("Storage cannot be reached. Try again later.", retry_after=seconds) from error


def etag_of(metadata: Mapping[str, Any]) -> str:
    """The ETag in an entity's metadata. Raises ServiceResponseError if the response had none."""
    if etag := metadata.get("etag"):
        return str(etag)
    raise ServiceResponseError("the response has no ETag")
