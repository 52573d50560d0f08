"""The customers in Azure Table Storage: each operation, and its true outcome even if a response is lost.

Each add stores an id of its own in the row. If the outcome of a write is unknown (a lost connection, a late or broken
response), the row is read back by its key until storage responds. If it is there, the add succeeded; if not, the write
is repeated, at most twice, which cannot make a second row. Updates and deletes are conditional on what was read before
them, so one that was made is recognised even if another writer came after it, and a delete never takes a customer that
was added later with the same id. A delete whose customer another request deleted is no success, unless an attempt of
its own may have been the one.

All of it takes at most ``STORAGE_BUDGET`` seconds. If storage stays unreachable for that long, or makes a write after
the last read-back, the response is a 503 although the customer may be there. To repeat such an add is safe with the
repeatability headers or a client's own id; without them, it may make a duplicate.

Sources: "Understanding the Table service data model"; "Table Service REST API", Insert Entity and Query Entities.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple, cast

from azure.core import MatchConditions
from azure.core.exceptions import AzureError, ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.data.tables import TableEntity, TableErrorCode, UpdateMode

from customers.errors import (
    BadRequest,
    GraphError,
    NotFound,
    PreconditionFailed,
    ServiceUnavailable,
    TooManyRequests,
)
from customers.model import BookingCustomer, Stored
from customers.row import (
    RequestDigest,
    as_first_returned,
    changed_row,
    check_repeat,
    from_row,
    is_updated_by,
    new_row,
    same_customer,
)
from customers.settings import Settings
from customers.storage import Backpressure, Connection, NoSuchRow, etag_of, is_transient, raise_unavailable

_MAX_ATTEMPTS = 10
"""Attempts at one write, other writers' interference included."""

_MAX_REPEATS = 2
"""Repeats of a failed insert or delete. An update is repeated by the storage client itself."""

_READ_BACK_SHARE = 0.3
"""The share of the budget that no write may use: it is for reading back what became of a write that failed."""

_READ_BACK_MARGIN = 0.02
"""In seconds. Reading back ends this long before the budget, so that the caller learns why the write failed."""

type Precondition = Callable[[str], bool]
"""Whether a customer's ETag meets the caller's condition."""

type Continuation = dict[str, str | None]
"""Where a list continues: the ``PartitionKey`` and ``RowKey`` that Table Storage returned, opaque."""


class TableFilter(NamedTuple):
    """A filter in Table Storage's language: its text, with ``@name`` in place of each value, and the values."""

    text: str
    parameters: dict[str, str | datetime]


class Page(NamedTuple):
    """One page of customers and its continuation token (None on the last page)."""

    customers: list[Stored]
    continuation: Continuation | None


class _Row(NamedTuple):
    """A row as storage has it, and its ETag."""

    columns: Mapping[str, Any]
    etag: str


class _Pending[Base](NamedTuple):
    """A write that has not been made, and what to make it from."""

    base: Base


class CustomersTable:
    """The one table of all customers.

    Every method takes at most the budget. It raises TooManyRequests or ServiceUnavailable if storage throttles or is
    unreachable: then nothing was written, or whether it was cannot be determined.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection = Connection(settings)

    async def add(
        self, business_id: str, customer: BookingCustomer, *, operation_id: str, digest: RequestDigest | None = None
    ) -> Stored:
        """Add a customer: one storage operation, if all goes well.

        ``operation_id`` is unique per add and stored in the row, so that a write whose outcome is unknown can be
        recognised as ours. An earlier add with the same ``digest`` is returned as it was returned then. Raises Conflict
        if the business has another customer with this id, RepeatRejected if the request came before with another body.
        """
        insert = await self._connection.insert()
        row = new_row(business_id, customer, operation_id, digest)

        async def write(_: None) -> Stored:
            return Stored(customer, await insert(row, operation_id=operation_id))

        def check(found: _Row | None) -> Stored | _Pending[None]:
            if found is None:
                return _Pending(None)
            check_repeat(found.columns, operation_id, digest)
            return as_first_returned(found.columns, found.etag)

        # No overall timeout: the write and the read-back each have their own.
        return await self._write(
            business_id, customer.id, None, write, check, self._deadline(), max_repeats=_MAX_REPEATS
        )

    async def get(self, business_id: str, customer_id: str) -> Stored:
        """Return a customer. Raises NotFound."""
        async with self._budget():
            row = await self._read(business_id, customer_id)
            return Stored(from_row(row.columns), row.etag)

    async def page(
        self, business_id: str, *, where: TableFilter | None, top: int, continuation: Continuation | None
    ) -> Page:
        """Return the next customers of a business in the order of their ids, at most ``top``.

        Only the last page may be empty. One storage operation, unless storage itself stops before it finds any.
        """
        async with self._budget():
            while True:
                found, continuation = await self._query(business_id, where, top, continuation)
                if found or continuation is None:
                    return Page([Stored(from_row(row), etag_of(row.metadata)) for row in found], continuation)

    async def count(self, business_id: str, *, where: TableFilter | None) -> int:
        """Count a business's customers by their keys, a thousand per storage operation."""
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
    ) -> Stored:
        """Change properties of a customer: one read, and one write that is conditional on what was read.

        If another writer comes between, the changes are applied to what that one wrote, so that neither is lost.
        Raises NotFound, and PreconditionFailed if the customer's ETag does not meet the precondition.
        """
        table = await self._connection.table()

        async def write(base: _Row) -> Stored:
            row = changed_row(base.columns, base.etag, changes, at, operation_id)
            # Replaced rather than merged: a merge cannot remove the column of a property that is now null.
            written = await table.update_entity(
                row, mode=UpdateMode.REPLACE, etag=base.etag, match_condition=MatchConditions.IfNotModified
            )
            return Stored(from_row(row), etag_of(written))

        def check(found: _Row | None) -> Stored | _Pending[_Row]:
            if found is None:
                raise _no_such_customer()
            if not is_updated_by(found.columns, operation_id):
                _require(precondition, found.etag)
                if changes:
                    return _Pending(found)
            return Stored(from_row(found.columns), found.etag)

        async with self._budget() as deadline:
            row = check(await self._read(business_id, customer_id))
            if not isinstance(row, _Pending):
                return row
            return await self._write(business_id, customer_id, row.base, write, check, deadline)

    async def delete(
        self, business_id: str, customer_id: str, *, operation_id: str, precondition: Precondition | None
    ) -> None:
        """Delete a customer: one read, and one delete of what was read.

        Of several deletes of one customer at once, one succeeds; another does too only if it had an attempt whose
        outcome is unknown. Raises NotFound, and PreconditionFailed if the customer's ETag does not meet the
        precondition.
        """
        may_be_ours = False

        async def write(base: _Row) -> None:
            nonlocal may_be_ours
            try:
                await self._connection.delete(business_id, customer_id, etag=base.etag, operation_id=operation_id)
            except (NoSuchRow, ResourceModifiedError):
                raise
            except BaseException:  # a timeout is a cancellation here
                may_be_ours = True
                raise

        def check(found: _Row | None) -> _Pending[_Row] | None:
            if found is not None and same_customer(found.columns, row.columns):
                _require(precondition, found.etag)
                return _Pending(found)
            if may_be_ours:
                return None  # deleted; another customer may have been added with its id
            if precondition is not None:
                raise PreconditionFailed("Another request has deleted the customer.")
            raise _no_such_customer()

        async with self._budget() as deadline:
            row = await self._read(business_id, customer_id)
            _require(precondition, row.etag)
            await self._write(business_id, customer_id, row, write, check, deadline, max_repeats=_MAX_REPEATS)

    async def is_there(self) -> bool:
        """Whether the table exists and storage responds."""
        try:
            await self.get("healthz", "healthz")
        except NotFound:
            return True
        except (GraphError, AzureError):
            return False
        return True

    async def _write[Base, Result](  # noqa: PLR0913 - the parts of a write
        self,
        business_id: str,
        customer_id: str,
        base: Base,
        write: Callable[[Base], Awaitable[Result]],
        check: Callable[[_Row | None], Result | _Pending[Base]],
        deadline: float,
        *,
        max_repeats: int = 0,
    ) -> Result:
        """Write a row until it is known what came of it.

        ``write`` makes one attempt. Whatever its error, the write may have been made, so the row is read back, and
        ``check`` decides by it: the result if the write was made, else what the next attempt starts from; or it raises.
        An attempt that lost against another writer is always repeated, one that failed in a transient way
        ``max_repeats`` times.
        """
        for attempt in range(_MAX_ATTEMPTS):
            # Taken outside the try: if it is too late to begin, nothing has been written that had to be read back.
            write_timeout = self._write_timeout(deadline)
            try:
                async with write_timeout:
                    return await write(base)
            except Exception as error:  # noqa: BLE001 - the write may have been made, whatever the error
                outcome = check(await self._read_outcome(business_id, customer_id, error, deadline))
                if not isinstance(outcome, _Pending):
                    return outcome
                base = outcome.base
                lost = isinstance(error, ResourceExistsError | ResourceModifiedError | NoSuchRow)
                if not lost and (attempt >= max_repeats or not is_transient(error)):
                    raise_unavailable(error)
            # The longer the more attempts there were, so that competing writers spread out.
            await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - no secret
        raise ServiceUnavailable(
            "Other requests keep changing this customer. Nothing was written; try again later.", retry_after=1
        )

    async def _read_outcome(self, business_id: str, customer_id: str, error: Exception, deadline: float) -> _Row | None:
        """Return the row after a write that failed with ``error``; None if there is no row.

        Reads until storage responds or the budget ends. Then it raises what ``error`` means for the caller.
        """
        pause = 0.05
        try:
            async with asyncio.timeout_at(deadline - _READ_BACK_MARGIN):
                while True:
                    try:
                        return await self._read(business_id, customer_id)
                    except NotFound:
                        return None
                    except (TooManyRequests, ServiceUnavailable):
                        await asyncio.sleep(pause)
                        pause = min(2 * pause, 0.5)
        except TimeoutError as late:
            # A conflict that could not be examined proves nothing: the row may be of this very write.
            raise_unavailable(late if isinstance(error, ResourceExistsError | ResourceModifiedError) else error)

    async def _read(self, business_id: str, customer_id: str) -> _Row:
        table = await self._connection.table()
        try:
            entity = await table.get_entity(business_id, customer_id)
        except ResourceNotFoundError as error:
            if getattr(error, "error_code", None) == TableErrorCode.TABLE_NOT_FOUND:
                raise
            raise _no_such_customer() from None
        except (AzureError, Backpressure) as error:
            raise_unavailable(error)
        return _Row(entity, etag_of(entity.metadata))

    async def _query(
        self,
        business_id: str,
        where: TableFilter | None,
        top: int,
        continuation: Continuation | None,
        select: str | None = None,
    ) -> tuple[list[TableEntity], Continuation | None]:
        """One storage operation: some rows of the business, perhaps none, and where the list continues."""
        table = await self._connection.table()
        text = "PartitionKey eq @business"
        parameters: dict[str, str | datetime] = {"business": business_id}
        if where is not None:
            text = f"{text} and {where.text}"
            parameters |= where.parameters
        pages = table.query_entities(text, parameters=parameters, results_per_page=top, select=select).by_page(
            cast("str", continuation)  # it is a dict, despite its declaration
        )
        try:
            rows = [row async for row in await anext(pages)]
        except (AzureError, Backpressure) as error:
            status = getattr(error, "status_code", None)
            if status in (414, 431):
                raise BadRequest("The $filter is too long for storage. Shorten the strings or use fewer.") from error
            if status == 400 and (where or continuation):
                raise BadRequest(
                    "Storage rejects this $filter or $skiptoken. Simplify the filter; follow @odata.nextLink unchanged."
                ) from error
            raise_unavailable(error)
        return rows, pages.continuation_token  # type: ignore[attr-defined]

    def _deadline(self) -> float:
        """When a request that begins now must be done with storage, by the event loop's clock."""
        return asyncio.get_running_loop().time() + self._settings.budget

    @asynccontextmanager
    async def _budget(self) -> AsyncGenerator[float]:
        """Limit all that one request does with storage; the value is the deadline."""
        deadline = self._deadline()
        try:
            async with asyncio.timeout_at(deadline):
                yield deadline
        except TimeoutError as error:
            raise_unavailable(error)

    def _write_timeout(self, deadline: float) -> asyncio.Timeout:
        """Limit a write, so that the rest of the budget is left for reading back what became of it.

        Raises ServiceUnavailable if it is too late to begin.
        """
        latest = deadline - _READ_BACK_SHARE * self._settings.budget
        if asyncio.get_running_loop().time() >= latest:
            raise ServiceUnavailable("Storage is slow. Try again later.", retry_after=1)
        return asyncio.timeout_at(latest)


def _require(precondition: Precondition | None, etag: str) -> None:
    if precondition is not None and not precondition(etag):
        raise PreconditionFailed("The customer has changed. Get it again and retry with its new ETag.")


def _no_such_customer() -> NotFound:
    return NotFound("The business has no customer with this id.")
