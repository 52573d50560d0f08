"""The customers in Azure Table Storage: PartitionKey is the business id, RowKey the customer id.

Sources: "Understanding the Table service data model"; "Table Service REST API", Insert Entity and Query Entities.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

import aiohttp
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.core.pipeline import PipelineResponse
from azure.core.pipeline.transport import AioHttpTransport
from azure.data.tables import TableErrorCode
from azure.data.tables.aio import TableClient
from pydantic import TypeAdapter
from pydantic_core import to_json

from customers.errors import Conflict, GraphError, NotFound, ServiceUnavailable, TooManyRequests
from customers.model import BookingCustomer, Phone, PhysicalAddress
from customers.settings import Settings

# Azurite closes a connection that was idle for 5 seconds, and a request sent at that moment fails.
_KEEP_ALIVE = 4.0
_RETRY_AFTER = 2

# An insert names the row it makes, so that repeating it can't make a second: where the first try did commit, the
# repeat meets its own row, which the operation's id in the row tells.
_REPEATABLE = ["GET", "POST"]

_OPERATION = "operationId"

_addresses = TypeAdapter(tuple[PhysicalAddress, ...])
_phones = TypeAdapter(tuple[Phone, ...])


class _Backpressure(Exception):
    """Storage names a time to wait: the caller is told it, rather than made to wait here."""

    def __init__(self, status: int, retry_after: int) -> None:
        super().__init__(status, retry_after)
        self.status = status
        self.retry_after = retry_after


def _pass_on_retry_after(response: PipelineResponse[Any, Any]) -> None:
    http = response.http_response
    if http.status_code in (429, 503) and (seconds := http.headers.get("Retry-After")):
        raise _Backpressure(http.status_code, int(seconds) if seconds.isdecimal() else _RETRY_AFTER)


class CustomersTable:
    """The one table of all customers, through one client, made on first use and closed with the event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: TableClient | None = None
        self._closing: AsyncGenerator[None] | None = None

    async def add(self, business_id: str, customer: BookingCustomer, *, operation_id: str) -> BookingCustomer:
        """Add a customer that is not there yet and return it with its ETag: one storage operation, if all goes well.

        ``operation_id``, new for each add, is kept in the row: by it an add whose outcome is unknown is recognised.
        Raises Conflict if the business already has a customer of that id, and TooManyRequests or
        ServiceUnavailable, within the budget, if nothing was written or that can't be found out.
        """
        table = await self._table()
        row = _to_row(business_id, customer, operation_id)
        budget = self._settings.budget
        try:
            async with asyncio.timeout(budget):
                try:
                    # What is left of the budget is for finding out what became of the write.
                    async with asyncio.timeout(budget * 0.7):
                        written = await table.create_entity(
                            row,
                            response_preference="return-no-content",
                            retry_on_methods=_REPEATABLE,
                        )
                except (AzureError, TimeoutError, _Backpressure) as error:
                    if _is_refusal(error):
                        raise
                    return await self._what_became_of(business_id, customer.id, operation_id, error)
        except TimeoutError as error:
            raise _out_of_reach(error) from error
        return customer.model_copy(update={"etag": str(written["etag"])})

    async def _what_became_of(
        self, business_id: str, customer_id: str, operation_id: str, error: Exception
    ) -> BookingCustomer:
        """Return the customer if the write that ended in ``error`` was committed; raise what is true otherwise."""
        try:
            row = await self._read(business_id, customer_id)
        except ResourceNotFoundError:
            row = None
        if row is not None and row.get(_OPERATION) == operation_id:
            return _from_row(row)
        if row is not None or isinstance(error, ResourceExistsError):
            raise Conflict("The business already has a customer of this id.")
        raise _out_of_reach(error) from error

    async def get(self, business_id: str, customer_id: str) -> BookingCustomer:
        """Return a customer. Raises NotFound, and TooManyRequests or ServiceUnavailable within the budget."""
        try:
            async with asyncio.timeout(self._settings.budget):
                return _from_row(await self._read(business_id, customer_id))
        except TimeoutError as error:
            raise _out_of_reach(error) from error
        except ResourceNotFoundError as error:
            if getattr(error, "error_code", None) == TableErrorCode.TABLE_NOT_FOUND:
                raise
            raise NotFound("The business has no customer of this id.") from None

    async def is_there(self) -> bool:
        """Tell whether the table exists and answers within the budget."""
        try:
            await self.get("healthz", "healthz")
        except NotFound:
            return True
        except (GraphError, AzureError):
            return False
        return True

    async def _read(self, business_id: str, customer_id: str) -> Mapping[str, Any]:
        table = await self._table()
        try:
            row = await table.get_entity(business_id, customer_id)
        except ResourceNotFoundError:
            raise
        except (AzureError, _Backpressure) as error:
            if _is_refusal(error):
                raise
            raise _out_of_reach(error) from error
        return {**row, "etag": row.metadata["etag"]}

    async def _table(self) -> TableClient:
        if self._client is None:
            self._client, close = _connect(self._settings)
            # asyncio.Runner closes asynchronous generators that are suspended when the loop ends.
            self._closing = _closed_with_the_loop(close)
            await anext(self._closing)
        return self._client


async def _closed_with_the_loop(close: AsyncExitStack) -> AsyncGenerator[None]:
    async with close:
        yield


def _connect(settings: Settings) -> tuple[TableClient, AsyncExitStack]:
    """Make the client, and what closes it and its credential."""
    close = AsyncExitStack()
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )
    options: dict[str, Any] = {
        "transport": AioHttpTransport(
            session=session, connection_timeout=settings.connect_timeout, read_timeout=settings.read_timeout
        ),
        "retry_total": 2,
        "retry_backoff_factor": 0.2,
        "raw_response_hook": _pass_on_retry_after,
    }
    if settings.storage is not None:
        client = TableClient.from_connection_string(settings.storage.get_secret_value(), settings.table, **options)
    else:
        # Only where it is used: 100 ms of the start.
        from azure.identity.aio import ManagedIdentityCredential  # noqa: PLC0415

        credential = ManagedIdentityCredential(client_id=str(settings.client_id) if settings.client_id else None)
        close.push_async_callback(credential.close)
        client = TableClient(str(settings.table_service_uri), settings.table, credential=credential, **options)
    close.push_async_callback(client.close)
    return client, close


def _is_refusal(error: Exception) -> bool:
    """Whether storage refused the request for what it is, so that it changed nothing and would be refused again."""
    return (
        isinstance(error, HttpResponseError)
        and not isinstance(error, ResourceExistsError)
        and error.status_code is not None
        and 400 <= error.status_code < 500
        and error.status_code not in (408, 429)
    )


def _out_of_reach(error: Exception) -> GraphError:
    """What to tell a caller of a storage that does not answer as it should."""
    status = error.status if isinstance(error, _Backpressure) else getattr(error, "status_code", None)
    seconds = error.retry_after if isinstance(error, _Backpressure) else _RETRY_AFTER
    # "Table Service error codes": ServerBusy, a 503, is how Table Storage throttles.
    if status == 429 or "ServerBusy" in str(error):
        return TooManyRequests("Storage is throttling; try again later.", retry_after=seconds)
    return ServiceUnavailable("Storage cannot be reached; try again later.", retry_after=seconds)


def _to_row(business_id: str, customer: BookingCustomer, operation_id: str) -> dict[str, str | datetime]:
    return {
        "PartitionKey": business_id,
        "RowKey": customer.id,
        "displayName": customer.display_name,
        "emailAddress": customer.email_address,
        "addresses": _to_column(customer.addresses),
        "phones": _to_column(customer.phones),
        "createdDateTime": customer.created_date_time,
        "lastUpdatedDateTime": customer.last_updated_date_time,
        _OPERATION: operation_id,
    }


def _to_column(items: tuple[PhysicalAddress, ...] | tuple[Phone, ...]) -> str:
    return to_json(items, by_alias=True, exclude_none=True).decode()


def _from_row(row: Mapping[str, Any]) -> BookingCustomer:
    return BookingCustomer(
        etag=row["etag"],
        id=row["RowKey"],
        display_name=row["displayName"],
        email_address=row["emailAddress"],
        addresses=_addresses.validate_json(row["addresses"]),
        phones=_phones.validate_json(row["phones"]),
        created_date_time=row["createdDateTime"],
        last_updated_date_time=row["lastUpdatedDateTime"],
    )
