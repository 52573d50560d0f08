"""A customer in Azure Table Storage: each operation on one, and its true outcome even if a response is lost.

Each add stores an id of its own in the row. If the outcome of a write is unknown (a lost connection, a late or broken
response), the row is read back by its key until storage responds. If it is there, the add succeeded; if not, the write
is repeated, at most twice, which cannot make a second row. Updates and deletes are conditional on what was read before
them, so one that was made is recognised even if another writer came after it, and a delete never takes a customer that
was added later with the same id. A delete whose customer another request deleted is no success, unless an attempt of
its own may have been the one.

All of it takes at most ``STORAGE_BUDGET`` seconds. If storage stays unreachable for that long, or makes a write after
the last read-back, the response is a 503 although the customer may be there. To repeat such an add is safe with the
repeatability headers or a client's own id; without them, it may make a duplicate.

The first attempts of the adds of a batch are made together (``insert_group.py``); all of this holds for each of them.

Sources: "Understanding the Table service data model"; "Table Service REST API", Insert Entity.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple

from azure.core.exceptions import AzureError, ResourceExistsError, ResourceModifiedError

from customers.email_index import index_row_of
from customers.errors import (
    NotFound,
    PreconditionFailed,
    ServiceUnavailable,
    TooManyRequests,
)
from customers.insert_group import Place
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

_LOST = (ResourceExistsError, ResourceModifiedError, NoSuchRow)
"""The errors of a write that lost against another writer, or found its own earlier attempt."""

type Precondition = Callable[[str], bool]
"""Whether a customer's ETag meets the caller's condition."""


class _Row(NamedTuple):
    """A row as storage has it, and its ETag."""

    columns: Mapping[str, Any]
    etag: str


class _Pending[Base](NamedTuple):
    """A write that has not been made, and what to make it from."""

    base: Base


class CustomersTable:
    """The one table of all customers, for what concerns one of them. ``lists.py`` finds several.

    Every method takes at most the budget. It raises TooManyRequests or ServiceUnavailable if storage throttles or is
    unreachable: then nothing was written, or whether it was cannot be determined.
    """

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._settings = settings
        self._connection = connection

    async def add(
        self,
        business_id: str,
        customer: BookingCustomer,
        *,
        operation_id: str,
        digest: RequestDigest | None = None,
        insert: Place | None = None,
    ) -> Stored:
        """Add a customer and its index row: one storage operation, if all goes well.

        ``operation_id`` is unique per add and stored in the row, so that a write whose outcome is unknown can be
        recognised as ours. An earlier add with the same ``digest`` is returned as it was returned then. Raises Conflict
        if the business has another customer with this id, RepeatRejected if the request came before with another body.
        ``insert`` writes it together with others: each attempt's outcome is found out as if it had been alone.
        """
        insert_row = insert or await self._connection.insert()
        row = new_row(business_id, customer, operation_id, digest)
        index_row = index_row_of(row)

        async def write(_: None) -> Stored:
            return Stored(customer, await insert_row(row, index_row, operation_id=operation_id))

        def check(found: _Row | None) -> Stored | _Pending[None]:
            if found is None:
                return _Pending(None)
            is_repeat = check_repeat(found.columns, operation_id, digest)
            return as_first_returned(found.columns, found.etag)._replace(is_repeat=is_repeat)

        # No overall timeout: the write and the read-back each have their own.
        return await self._write(
            business_id, customer.id, None, write, check, self._deadline(), max_repeats=_MAX_REPEATS
        )

    async def get(self, business_id: str, customer_id: str) -> Stored:
        """Return a customer. Raises NotFound."""
        async with self._budget():
            row = await self._read(business_id, customer_id)
            return Stored(from_row(row.columns), row.etag)

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
                old_is_indexed = missing.index == 0
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
                lost = isinstance(error, _LOST)
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
            raise_unavailable(late if isinstance(error, _LOST) else error)

    async def _read(self, business_id: str, customer_id: str) -> _Row:
        try:
            entity = await self._connection.get(business_id, customer_id)
        except (AzureError, Backpressure) as error:
            raise_unavailable(error)
        if entity is None:
            raise _no_such_customer()
        return _Row(entity, etag_of(entity.metadata))

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
