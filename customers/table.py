"""The customers in Azure Table Storage: PartitionKey is the business id, RowKey the customer id.

Sources: "Understanding the Table service data model"; "Table Service REST API", Insert Entity and Query Entities.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple, cast

import aiohttp
from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
    ServiceResponseError,
)
from azure.core.pipeline import PipelineResponse
from azure.core.pipeline.transport import AioHttpTransport
from azure.data.tables import TableEntity, TableErrorCode, UpdateMode
from azure.data.tables.aio import TableClient
from pydantic import ConfigDict, TypeAdapter
from pydantic.alias_generators import to_camel
from pydantic_core import to_json

from customers.errors import (
    Conflict,
    GraphError,
    NotFound,
    PreconditionFailed,
    RepeatRejected,
    ServiceUnavailable,
    TooManyRequests,
)
from customers.insert import Insert
from customers.model import BookingCustomer, Phone, PhysicalAddress
from customers.settings import Settings

# Azurite closes a connection that was idle for 5 seconds, and a request sent at that moment fails.
_KEEP_ALIVE = 4.0
_RETRY_AFTER = 2

# The request-id of the add, and of the last update: by them a write whose answer was lost is recognised.
_ADDED_BY = "operationId"
_UPDATED_BY = "updateOperationId"
# Of an add that may be repeated: what its repeats are recognised by, and from the first update on the customer as it
# was before, for a repeat is answered as the add was.
_REQUEST, _BODY, _FIRST_ETAG = "repeatableRequest", "repeatableBody", "firstETag"
_FIRST = {name: f"first{name[0].upper()}{name[1:]}" for name in ("displayName", "emailAddress", "addresses", "phones")}
_MOST_ATTEMPTS = 10
_STALE = "The customer has changed since; get it again and decide anew."

# An error must not show a customer's data.
_addresses = TypeAdapter(tuple[PhysicalAddress, ...], config=ConfigDict(hide_input_in_errors=True))
_phones = TypeAdapter(tuple[Phone, ...], config=ConfigDict(hide_input_in_errors=True))


class _Backpressure(Exception):
    """Storage names a time to wait: the caller is told it, rather than made to wait here."""

    def __init__(self, retry_after: int, *, throttled: bool) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after
        self.throttled = throttled


def _pass_on_retry_after(response: PipelineResponse[Any, Any]) -> None:
    http = response.http_response
    if http.status_code in (429, 503) and (seconds := http.headers.get("Retry-After")):
        retry_after = int(seconds) if seconds.isdecimal() else _RETRY_AFTER
        raise _Backpressure(retry_after, throttled=_throttles(http))


def _throttles(response: Any) -> bool:
    """Whether too much was asked: 429, or 503 with the code ServerBusy ("Table service error codes")."""
    return response.status_code == 429 or (response.status_code == 503 and "ServerBusy" in response.text())


type Precondition = Callable[[str], bool]
"""Tells whether a customer's ETag is as the caller wants it."""

type Continuation = dict[str, str]
"""Where Table Storage goes on: the ``PartitionKey`` and ``RowKey`` that it names, opaque."""


class TableFilter(NamedTuple):
    """A filter of Table Storage's: its text, with ``@name`` in the place of each value, and the values."""

    text: str
    parameters: dict[str, str | datetime]


class Repeat(NamedTuple):
    """What the repeats of an add are recognised by: digests of who asks for it under which id, and of what it adds."""

    request: str
    body: str


class Page(NamedTuple):
    """Some customers of a list, and where Table Storage goes on; None at the end."""

    customers: list[BookingCustomer]
    continuation: Continuation | None


class CustomersTable:
    """The one table of all customers, through one client, made on first use and closed with the event loop.

    Every method takes at most the budget, and raises TooManyRequests or ServiceUnavailable when storage throttles or
    can't be reached: nothing was written then, or it can't be found out.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: _Connection | None = None
        self._closing: AsyncGenerator[None] | None = None

    async def add(
        self, business_id: str, customer: BookingCustomer, *, operation_id: str, repeat: Repeat | None = None
    ) -> BookingCustomer:
        """Add a customer and return it with its ETag: one storage operation, if all goes well.

        ``operation_id``, new for each add, is kept in the row: by it an add whose outcome is unknown is recognised.
        An add that was made before with the same ``repeat`` returns the customer as it was returned then.
        Raises Conflict if the business has another customer of that id already, RepeatRejected if the request was
        made before with another body.
        """
        insert = (await self._connected()).insert
        row = _to_row(business_id, customer, operation_id, repeat)
        async with self._budget() as deadline:
            try:
                async with self._time_to_write():
                    etag = await insert(row, operation_id=operation_id)
                return customer.model_copy(update={"etag": etag})
            except Exception as error:  # whatever it is, the write may have been made
                if _is_refusal(error):
                    raise
                found = await self._find_out(business_id, customer.id, error, deadline)
                if found is None and not isinstance(error, ResourceExistsError):
                    raise _told(error) from error
                if found is None or not _is_repeat(found, operation_id, repeat):
                    raise Conflict("The business already has a customer of this id.") from None
                return _as_first_returned(found)

    async def get(self, business_id: str, customer_id: str) -> BookingCustomer:
        """Return a customer. Raises NotFound."""
        async with self._budget():
            return _from_row(await self._read(business_id, customer_id))

    async def page(
        self, business_id: str, *, where: TableFilter | None, top: int, continuation: Continuation | None
    ) -> Page:
        """Return the next customers of a business in the order of their ids, at most ``top``.

        A page is empty only at the end. One storage operation, unless storage itself stops before it finds any.
        """
        async with self._budget():
            while True:
                found, continuation = await self._query(business_id, where, top, continuation)
                if found or continuation is None:
                    return Page([_from_row({**row, "etag": _etag(row.metadata)}) for row in found], continuation)

    async def count(self, business_id: str, *, where: TableFilter | None) -> int:
        """Count a business's customers by their keys, a thousand in one storage operation."""
        number, continuation = 0, None
        async with self._budget():
            while True:
                found, continuation = await self._query(business_id, where, 1000, continuation, select="RowKey")
                number += len(found)
                if continuation is None:
                    return number

    async def update(
        self,
        business_id: str,
        customer_id: str,
        changes: Mapping[str, Any],
        *,
        at: datetime,
        operation_id: str,
        precondition: Precondition | None,
    ) -> BookingCustomer:
        """Change those properties of a customer and return it: one read and one write, conditional on what was read.

        When another writer came between, the changes are made to what that one wrote, so that neither is lost.
        Raises NotFound, and PreconditionFailed if the customer's ETag does not meet the precondition.
        """
        table = await self._table()
        async with self._budget() as deadline:
            for attempt in range(_MOST_ATTEMPTS):
                row = await self._read(business_id, customer_id)
                if row.get(_UPDATED_BY) == operation_id:
                    return _from_row(row)  # an answer was lost, the write was not
                _require(precondition, row["etag"])
                if not changes:
                    return _from_row(row)
                changed = {
                    "PartitionKey": business_id,
                    "RowKey": customer_id,
                    **_to_columns(changes),
                    **_first_columns(row),
                    "lastUpdatedDateTime": at,
                    _UPDATED_BY: operation_id,
                }
                try:
                    async with self._time_to_write():
                        written = await table.update_entity(
                            changed,
                            mode=UpdateMode.MERGE,
                            etag=row["etag"],
                            match_condition=MatchConditions.IfNotModified,
                        )
                    return _from_row({**row, **changed, "etag": _etag(written)})
                except ResourceModifiedError:
                    await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - spreads writers, no secret
                except Exception as error:  # whatever it is, the write may have been made
                    if _is_refusal(error) and not isinstance(error, ResourceNotFoundError):
                        raise
                    found = await self._find_out(business_id, customer_id, error, deadline)
                    if found is None:
                        raise _no_such_customer() from None
                    if found.get(_UPDATED_BY) != operation_id:
                        raise _told(error) from error
                    return _from_row(found)
        raise ServiceUnavailable("Others keep changing this customer; nothing was written.", retry_after=1)

    async def delete(self, business_id: str, customer_id: str, *, precondition: Precondition | None) -> None:
        """Delete a customer: a read, which tells whether it is there, and a delete.

        Raises NotFound, and PreconditionFailed if the customer's ETag does not meet the precondition.
        """
        table = await self._table()
        async with self._budget() as deadline:
            etag = (await self._read(business_id, customer_id))["etag"]
            condition: dict[str, Any] = {}
            if precondition is not None:
                _require(precondition, etag)
                condition = {"etag": etag, "match_condition": MatchConditions.IfNotModified}
            try:
                async with self._time_to_write():
                    # The transport may repeat a delete whose answer was lost. That it then finds nothing is a success,
                    # and the client takes it for one.
                    await table.delete_entity(business_id, customer_id, **condition)
            except ResourceModifiedError:
                raise PreconditionFailed(_STALE) from None
            except Exception as error:  # whatever it is, the delete may have been made
                if _is_refusal(error):
                    raise
                if await self._find_out(business_id, customer_id, error, deadline) is not None:
                    raise _told(error) from error

    async def is_there(self) -> bool:
        """Tell whether the table exists and answers."""
        try:
            await self.get("healthz", "healthz")
        except NotFound:
            return True
        except (GraphError, AzureError):
            return False
        return True

    async def _find_out(
        self, business_id: str, customer_id: str, error: Exception, deadline: float
    ) -> dict[str, Any] | None:
        """Return the row that a write left that ended in ``error``, None if there is no such row.

        Asks until storage answers or the budget ends, and raises what ``error`` comes to then.
        """
        pause = 0.05
        try:
            async with asyncio.timeout_at(deadline - 0.02):
                while True:
                    try:
                        return await self._read(business_id, customer_id)
                    except NotFound:
                        return None
                    except (TooManyRequests, ServiceUnavailable):
                        await asyncio.sleep(pause)
                        pause *= 2
        except TimeoutError:
            raise _told(error) from error

    async def _read(self, business_id: str, customer_id: str) -> dict[str, Any]:
        table = await self._table()
        try:
            row = await table.get_entity(business_id, customer_id)
        except ResourceNotFoundError as error:
            if getattr(error, "error_code", None) == TableErrorCode.TABLE_NOT_FOUND:
                raise
            raise _no_such_customer() from None
        except (AzureError, _Backpressure) as error:
            if _is_refusal(error):
                raise
            raise _told(error) from error
        return {**row, "etag": _etag(row.metadata)}

    async def _query(
        self,
        business_id: str,
        where: TableFilter | None,
        top: int,
        continuation: Continuation | None,
        select: str | None = None,
    ) -> tuple[list[TableEntity], Continuation | None]:
        """One storage operation: some rows of the business, perhaps none, and where to go on."""
        table = await self._table()
        text = "PartitionKey eq @business"
        parameters: dict[str, str | datetime] = {"business": business_id}
        if where is not None:
            text = f"{text} and {where.text}"
            parameters |= where.parameters
        pages = table.query_entities(text, parameters=parameters, results_per_page=top, select=select).by_page(
            cast("str", continuation)  # it is a dict, whatever the declaration says
        )
        try:
            rows = [row async for row in await anext(pages)]
        except (AzureError, _Backpressure) as error:
            if _is_refusal(error):
                raise
            raise _told(error) from error
        return rows, pages.continuation_token  # type: ignore[attr-defined]

    @asynccontextmanager
    async def _budget(self) -> AsyncGenerator[float]:
        """Bound all that one request does with storage; the value is when that ends, by the event loop's clock."""
        deadline = asyncio.get_running_loop().time() + self._settings.budget
        try:
            async with asyncio.timeout_at(deadline):
                yield deadline
        except TimeoutError as error:
            raise _told(error) from error

    def _time_to_write(self) -> asyncio.Timeout:
        """What is left of the budget is for finding out what became of the write."""
        return asyncio.timeout(self._settings.budget * 0.7)

    async def _table(self) -> TableClient:
        return (await self._connected()).table

    async def _connected(self) -> "_Connection":
        if self._connection is None:
            self._connection = _connect(self._settings)
            # asyncio.Runner closes asynchronous generators that are suspended when the loop ends.
            self._closing = _closed_with_the_loop(self._connection.close)
            await anext(self._closing)
        return self._connection


class _Connection(NamedTuple):
    """The client, the insert over the same transport, and what closes them and their credential."""

    table: TableClient
    insert: Insert
    close: AsyncExitStack


async def _closed_with_the_loop(close: AsyncExitStack) -> AsyncGenerator[None]:
    async with close:
        yield


def _connect(settings: Settings) -> _Connection:
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
    retries = {"retry_total": 2, "retry_backoff_factor": 0.2}
    options: dict[str, Any] = {"transport": transport, "raw_response_hook": _pass_on_retry_after, **retries}
    if settings.storage is not None:
        client = TableClient.from_connection_string(settings.storage.get_secret_value(), settings.table, **options)
    else:
        # Only where it is used: 100 ms of the start.
        from azure.identity.aio import ManagedIdentityCredential  # noqa: PLC0415

        credential = ManagedIdentityCredential(client_id=str(settings.client_id) if settings.client_id else None)
        close.push_async_callback(credential.close)
        client = TableClient(str(settings.table_service_uri), settings.table, credential=credential, **options)
    close.push_async_callback(client.close)
    return _Connection(client, Insert(client, transport, retries=retries, on_answer=_pass_on_retry_after), close)


def _is_refusal(error: Exception) -> bool:
    """Whether storage refused the request for what it is, so that it changed nothing and would be refused again."""
    return (
        isinstance(error, HttpResponseError)
        and not isinstance(error, ResourceExistsError)
        and error.status_code is not None
        and 400 <= error.status_code < 500
        and error.status_code not in (408, 429)
    )


def _told(error: Exception) -> Exception:
    """What to tell a caller of a storage that does not answer as it should; another error is what it is."""
    throttled, seconds = False, _RETRY_AFTER
    if isinstance(error, _Backpressure):
        throttled, seconds = error.throttled, error.retry_after
    elif isinstance(error, HttpResponseError) and error.response is not None:
        throttled = _throttles(error.response)
    elif not isinstance(error, AzureError | TimeoutError):
        return error
    if throttled:
        return TooManyRequests("Storage is throttling; try again later.", retry_after=seconds)
    return ServiceUnavailable("Storage cannot be reached; try again later.", retry_after=seconds)


def _etag(metadata: Mapping[str, Any]) -> str:
    """The ETag of a row. Raises ServiceResponseError if storage's answer is broken and has none."""
    if etag := metadata.get("etag"):
        return str(etag)
    raise ServiceResponseError("the answer has no ETag")


def _require(precondition: Precondition | None, etag: str) -> None:
    if precondition is not None and not precondition(etag):
        raise PreconditionFailed(_STALE)


def _no_such_customer() -> NotFound:
    return NotFound("The business has no customer of this id.")


def _to_row(
    business_id: str, customer: BookingCustomer, operation_id: str, repeat: Repeat | None
) -> dict[str, str | datetime]:
    return {
        "PartitionKey": business_id,
        "RowKey": customer.id,
        **_to_columns(
            {
                "display_name": customer.display_name,
                "email_address": customer.email_address,
                "addresses": customer.addresses,
                "phones": customer.phones,
            }
        ),
        "createdDateTime": customer.created_date_time,
        "lastUpdatedDateTime": customer.last_updated_date_time,
        _ADDED_BY: operation_id,
        **({_REQUEST: repeat.request, _BODY: repeat.body} if repeat else {}),
    }


def _is_repeat(row: Mapping[str, Any], operation_id: str, repeat: Repeat | None) -> bool:
    """Whether a row was made by this add, or by the same request. Raises RepeatRejected if that had another body."""
    if row.get(_ADDED_BY) == operation_id:
        return True
    if repeat is None or row.get(_REQUEST) != repeat.request:
        return False
    if row.get(_BODY) != repeat.body:
        raise RepeatRejected("This Repeatability-Request-ID was used for another body; a new request takes a new one.")
    return True


def _first_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """What to keep of a row that is about to change, if repeats may have to be answered with it."""
    if _REQUEST not in row or _FIRST_ETAG in row:
        return {}
    return {_FIRST_ETAG: row["etag"], **{first: row[name] for name, first in _FIRST.items()}}


def _as_first_returned(row: Mapping[str, Any]) -> BookingCustomer:
    """The customer as its add answered it, whatever has become of it since."""
    if _FIRST_ETAG not in row:
        return _from_row(row)
    first = {name: row[column] for name, column in _FIRST.items()}
    return _from_row({**row, **first, "etag": row[_FIRST_ETAG], "lastUpdatedDateTime": row["createdDateTime"]})


def _to_columns(properties: Mapping[str, Any]) -> dict[str, str]:
    """Texts are columns as they are; arrays are JSON."""
    return {
        to_camel(name): value if isinstance(value, str) else to_json(value, by_alias=True, exclude_none=True).decode()
        for name, value in properties.items()
    }


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
