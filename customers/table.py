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
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple, cast
from uuid import uuid4

from azure.core.exceptions import AzureError, ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.data.tables import TableEntity, TableErrorCode

from customers.email_index import CUSTOMER_ID, INDEXED, LEAST_CUSTOMER, Address, index_range, index_row_of
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
from customers.storage import (
    Backpressure,
    Connection,
    NoSuchRow,
    etag_of,
    is_transient,
    put,
    raise_unavailable,
    remove,
    replace,
)

_MAX_ATTEMPTS = 10
"""Attempts at one write, other writers' interference included."""

_MAX_REPEATS = 2
"""Repeats of a failed write."""

_READ_BACK_SHARE = 0.3
"""The share of the budget that no write may use: it is for reading back what became of a write that failed."""

_READ_BACK_MARGIN = 0.02
"""In seconds. Reading back ends this long before the budget, so that the caller learns why the write failed."""

_MAX_ROWS = 1000
"""Rows of one storage operation."""

_MAX_GETS = 20
"""Customers of one lookup that are read at the same time."""

_MARK_REMEMBERED = 60.0
"""In seconds: how long a table that is not indexed is taken for such. It stays indexed once it is."""

_INDEX_ROW_REMOVED = 2
"""The place of that operation in the transaction of an update."""

MARK = {"PartitionKey": " index", "RowKey": INDEXED}
"""The entity that says that every customer of the table has its index row. No business id begins with a space."""

type Precondition = Callable[[str], bool]
"""Whether a customer's ETag meets the caller's condition."""


class Continuation(NamedTuple):
    """Where a list continues: the keys that Table Storage returned, opaque, and whether it is a list of index rows."""

    partition_key: str
    row_key: str | None
    indexed: bool = False


class TableFilter(NamedTuple):
    """A filter in Table Storage's language: its text, with ``@name`` in place of each value, and the values."""

    text: str
    parameters: dict[str, str | datetime]


class Condition(NamedTuple):
    """What a filter demands: conditions on the e-mail address, which the index can answer, and what storage evaluates.

    A customer must meet all of them.
    """

    addresses: tuple[Address, ...] = ()
    where: TableFilter | None = None


class Page(NamedTuple):
    """One page of customers and where the list continues (None on the last page)."""

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
        self._indexed = False
        self._ask_again = 0.0

    async def add(
        self, business_id: str, customer: BookingCustomer, *, operation_id: str, digest: RequestDigest | None = None
    ) -> Stored:
        """Add a customer and its index row: one storage operation, if all goes well.

        ``operation_id`` is unique per add and stored in the row, so that a write whose outcome is unknown can be
        recognised as ours. An earlier add with the same ``digest`` is returned as it was returned then. Raises Conflict
        if the business has another customer with this id, RepeatRejected if the request came before with another body.
        """
        insert = await self._connection.insert()
        row = new_row(business_id, customer, operation_id, digest)
        index_row = index_row_of(row)

        async def write(_: None) -> Stored:
            return Stored(customer, await insert(row, index_row, operation_id=operation_id))

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
        self, business_id: str, *, condition: Condition, top: int, continuation: Continuation | None
    ) -> Page:
        """Return the next customers of a business in the order of their ids, at most ``top``.

        Only the last page may be empty, or one for which the budget was too short to find anything. Without a condition
        on the address, it is one storage operation, unless storage itself stops before it finds any; with one, it is a
        range of index rows, and a get for each customer.
        """
        reached = continuation
        try:
            async with asyncio.timeout_at(self._deadline()):
                indexed = continuation.indexed if continuation else await self._is_indexed(condition)
                step = self._lookup if indexed and condition.addresses else self._scan
                while True:
                    found, reached = await step(business_id, condition, top, reached)
                    if found or reached is None:
                        return Page(found, reached)
        except TimeoutError as error:
            # After some progress, an error would be repeated in vain: the same rows would be read again.
            if reached is continuation or reached is None:
                raise_unavailable(error)
            return Page([], reached)

    async def count(self, business_id: str, *, condition: Condition) -> int:
        """Count a business's customers by their keys where that is enough, a thousand per storage operation.

        Raises BadRequest if there are more than can be counted within the budget.
        """
        number, reached = 0, None
        try:
            async with asyncio.timeout_at(self._deadline()):
                step = self._count_lookup if await self._is_indexed(condition) else self._count_scan
                while True:
                    found, reached = await step(business_id, condition, reached)
                    number += found
                    if reached is None:
                        return number
        except TimeoutError as error:
            if reached is None:
                raise_unavailable(error)
            raise BadRequest(
                "There are too many customers to count in one request. "
                "List them with $select=id, follow each @odata.nextLink, and count what comes."
            ) from error

    async def _scan(
        self, business_id: str, condition: Condition, top: int, reached: Continuation | None
    ) -> tuple[list[Stored], Continuation | None]:
        """One storage operation: some customers that meet the condition, perhaps none."""
        rows, reached = await self._query(business_id, _for_storage(condition), top, reached)
        return [Stored(from_row(row), etag_of(row.metadata)) for row in rows if _matches(condition, row)], reached

    async def _count_scan(
        self, business_id: str, condition: Condition, reached: Continuation | None
    ) -> tuple[int, Continuation | None]:
        columns = ["RowKey", *([INDEXED] if condition.addresses else [])]
        rows, reached = await self._query(business_id, _for_storage(condition), _MAX_ROWS, reached, select=columns)
        return sum(_matches(condition, row) for row in rows), reached

    async def _lookup(
        self, business_id: str, condition: Condition, top: int, reached: Continuation | None
    ) -> tuple[list[Stored], Continuation | None]:
        """The customers of the next index rows: one storage operation for these, and one for each customer."""
        index_rows, reached = await self._index_rows(business_id, condition, top, reached)
        found = await self._customers(business_id, condition, index_rows)
        return [Stored(from_row(row.columns), row.etag) for row in found], reached

    async def _count_lookup(
        self, business_id: str, condition: Condition, reached: Continuation | None
    ) -> tuple[int, Continuation | None]:
        index_rows, reached = await self._index_rows(business_id, condition, _MAX_ROWS, reached)
        if condition.where is None:
            return len(index_rows), reached
        return len(await self._customers(business_id, condition, index_rows)), reached

    async def _index_rows(
        self, business_id: str, condition: Condition, top: int, reached: Continuation | None
    ) -> tuple[list[TableEntity], Continuation | None]:
        first, end = index_range(condition.addresses[0].value)
        where = TableFilter("RowKey ge @first and RowKey lt @end", {"first": first, "end": end})
        rows, reached = await self._query(business_id, where, top, reached, index=True)
        return [row for row in rows if _matches(condition, row)], reached

    async def _customers(self, business_id: str, condition: Condition, index_rows: Sequence[TableEntity]) -> list[_Row]:
        """The rows of those customers that meet the condition, in the order of their index rows."""
        at_once = asyncio.Semaphore(_MAX_GETS)

        async def get(customer_id: str) -> _Row | None:
            async with at_once:
                if condition.where is None:
                    try:
                        return await self._read(business_id, customer_id)
                    except NotFound:  # deleted since
                        return None
                own = TableFilter(
                    f"RowKey eq @id and {condition.where.text}", {"id": customer_id, **condition.where.parameters}
                )
                rows, _ = await self._query(business_id, own, 1, None, index=True)
                return _Row(rows[0], etag_of(rows[0].metadata)) if rows else None

        found = await asyncio.gather(*(get(row[CUSTOMER_ID]) for row in index_rows))
        # Its address may have changed since, or the index row may be one that a repair left behind.
        return [row for row in found if row is not None and _matches(condition, row.columns)]

    async def _is_indexed(self, condition: Condition) -> bool:
        """Whether the index answers this condition: if it has one on the address, and every customer its index row."""
        if not condition.addresses:
            return False
        if not self._indexed and asyncio.get_running_loop().time() >= self._ask_again:
            await self._look_for_mark()
        return self._indexed

    async def _look_for_mark(self) -> None:
        """Find out whether the table is marked as indexed; an empty one is marked here, since it is complete.

        Raises ResourceNotFoundError if there is no table.
        """
        self._ask_again = asyncio.get_running_loop().time() + _MARK_REMEMBERED
        try:
            await self._read(MARK["PartitionKey"], MARK["RowKey"])
        except NotFound:
            table = await self._connection.table()
            try:
                async for _ in table.list_entities(results_per_page=1, select=["RowKey"]):
                    return
                await self._connection.transact([put(MARK)], operation_id=str(uuid4()))
            except (AzureError, Backpressure) as error:
                raise_unavailable(error)
        self._indexed = True

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

        The index row changes with the address, in the same write.

        If another writer comes between, the changes are applied to what that one wrote, so that neither is lost.
        Raises NotFound, and PreconditionFailed if the customer's ETag does not meet the precondition.
        """
        old_is_indexed = True

        async def write(base: _Row) -> Stored:
            nonlocal old_is_indexed
            row = changed_row(base.columns, base.etag, changes, at, operation_id)
            # Replaced rather than merged: a merge cannot remove the column of a property that is now null.
            operations = [replace(row, base.etag)]
            before, after = index_row_of(base.columns), index_row_of(row)
            if before != after:
                operations.append(put(after))
                if before["RowKey"] != after["RowKey"] and old_is_indexed:
                    operations.append(remove(before))
            try:
                done = await self._connection.transact(operations, operation_id=operation_id)
            except NoSuchRow as missing:
                old_is_indexed = missing.index != _INDEX_ROW_REMOVED
                raise
            return Stored(from_row(row), etag_of(done[0]))

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
            return await self._write(
                business_id, customer_id, row.base, write, check, deadline, max_repeats=_MAX_REPEATS
            )

    async def delete(
        self, business_id: str, customer_id: str, *, operation_id: str, precondition: Precondition | None
    ) -> None:
        """Delete a customer and its index row: one read, and one delete of what was read.

        Of several deletes of one customer at once, one succeeds; another does too only if it had an attempt whose
        outcome is unknown. Raises NotFound, and PreconditionFailed if the customer's ETag does not meet the
        precondition.
        """
        may_be_ours, indexed = False, True

        async def write(base: _Row) -> None:
            nonlocal may_be_ours, indexed
            operations = [remove(base.columns, base.etag)]
            if indexed:
                operations.append(remove(index_row_of(base.columns)))
            try:
                await self._connection.transact(operations, operation_id=operation_id)
            except NoSuchRow as missing:
                indexed = missing.index == 0
                raise
            except ResourceModifiedError:
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
            await self._look_for_mark()
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
        *,
        select: Sequence[str] | None = None,
        index: bool = False,
    ) -> tuple[list[TableEntity], Continuation | None]:
        """One storage operation: some rows of the business, perhaps none, and where the list continues.

        They are customers, or, with ``index``, whatever ``where`` selects by its keys.
        """
        table = await self._connection.table()
        text = "PartitionKey eq @business"
        parameters: dict[str, str | datetime] = {"business": business_id}
        if not index:
            text += " and RowKey ge @least"
            parameters["least"] = LEAST_CUSTOMER
        if where is not None:
            text = f"{text} and {where.text}"
            parameters |= where.parameters
        keys = continuation and {"PartitionKey": continuation.partition_key, "RowKey": continuation.row_key}
        pages = table.query_entities(
            text, parameters=parameters, results_per_page=top, select=list(select) if select else None
        ).by_page(cast("str", keys))  # a dict, despite its declaration
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
        token = pages.continuation_token  # type: ignore[attr-defined]
        return rows, Continuation(token["PartitionKey"], token["RowKey"], index) if token else None

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


def _for_storage(condition: Condition) -> TableFilter | None:
    """What storage can evaluate of a condition: all of it but an address without its case."""
    exact = [address.value for address in condition.addresses if address.exact]
    parts = [f"{INDEXED} eq @address{number}" for number in range(len(exact))]
    parameters: dict[str, str | datetime] = {f"address{number}": value for number, value in enumerate(exact)}
    if condition.where is not None:
        parts.append(condition.where.text)
        parameters |= condition.where.parameters
    return TableFilter(" and ".join(parts), parameters) if parts else None


def _matches(condition: Condition, row: Mapping[str, Any]) -> bool:
    return all(address.matches(row[INDEXED]) for address in condition.addresses)


def _require(precondition: Precondition | None, etag: str) -> None:
    if precondition is not None and not precondition(etag):
        raise PreconditionFailed("The customer has changed. Get it again and retry with its new ETag.")


def _no_such_customer() -> NotFound:
    return NotFound("The business has no customer with this id.")
