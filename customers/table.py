"""The customers in Azure Table Storage: each operation, and the truth about it whatever happens to its answer.

Sources: "Understanding the Table service data model"; "Table Service REST API", Insert Entity and Query Entities.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple, cast

from azure.core import MatchConditions
from azure.core.exceptions import AzureError, ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.data.tables import TableEntity, TableErrorCode, UpdateMode

from customers.errors import (
    BadRequest,
    Conflict,
    GraphError,
    NotFound,
    PreconditionFailed,
    ServiceUnavailable,
    TooManyRequests,
)
from customers.model import BookingCustomer
from customers.row import (
    Repeat,
    as_first_returned,
    from_row,
    is_of_one_add,
    is_repeat,
    is_updated_by,
    to_changed_columns,
    to_row,
)
from customers.settings import Settings
from customers.storage import Backpressure, Connection, etag_of, give_up, is_passing

_MOST_ATTEMPTS = 10
_MOST_REPEATS = 2
_STALE = "The customer has changed since; get it again and decide anew."

type Precondition = Callable[[str], bool]
"""Tells whether a customer's ETag is as the caller wants it."""

type Continuation = dict[str, str | None]
"""Where Table Storage goes on: the ``PartitionKey`` and ``RowKey`` that it names, opaque."""


class TableFilter(NamedTuple):
    """A filter of Table Storage's: its text, with ``@name`` in the place of each value, and the values."""

    text: str
    parameters: dict[str, str | datetime]


class Page(NamedTuple):
    """Some customers of a list, and where Table Storage goes on; None at the end."""

    customers: list[BookingCustomer]
    continuation: Continuation | None


class CustomersTable:
    """The one table of all customers.

    Every method takes at most the budget, and raises TooManyRequests or ServiceUnavailable when storage throttles or
    can't be reached: nothing was written then, or it can't be found out.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection = Connection(settings)

    async def add(
        self, business_id: str, customer: BookingCustomer, *, operation_id: str, repeat: Repeat | None = None
    ) -> BookingCustomer:
        """Add a customer and return it with its ETag: one storage operation, if all goes well.

        ``operation_id``, new for each add, is kept in the row: by it an add whose outcome is unknown is recognised.
        An add that was made before with the same ``repeat`` returns the customer as it was returned then.
        Raises Conflict if the business has another customer of that id already, RepeatRejected if the request was
        made before with another body.
        """
        insert = await self._connection.insert()
        row = to_row(business_id, customer, operation_id, repeat)
        # No bound of the whole is needed: the write has one, and so has finding out.
        deadline = self._deadline()
        for attempt in range(_MOST_ATTEMPTS):
            time_to_write = self._time_to_write(deadline)
            try:
                async with time_to_write:
                    etag = await insert(row, operation_id=operation_id)
                return customer.model_copy(update={"etag": etag})
            except Exception as error:  # noqa: BLE001 - whatever it is, the write may have been made
                found = await self._find_out(business_id, customer.id, error, deadline)
                if found is not None:
                    if is_repeat(found, operation_id, repeat):
                        return as_first_returned(found)
                    raise Conflict("The business already has a customer of this id.") from None
                if isinstance(error, ResourceExistsError):
                    continue  # the customer that was in the way has been deleted meanwhile
                if attempt >= _MOST_REPEATS or not is_passing(error):
                    give_up(error)
                await _pause(attempt)
        raise _too_busy()

    async def get(self, business_id: str, customer_id: str) -> BookingCustomer:
        """Return a customer. Raises NotFound."""
        async with self._budget():
            return from_row(await self._read(business_id, customer_id))

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
                    return Page([from_row({**row, "etag": etag_of(row.metadata)}) for row in found], continuation)

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
        table = await self._connection.table()
        async with self._budget() as deadline:
            for attempt in range(_MOST_ATTEMPTS):
                row = await self._read(business_id, customer_id)
                if is_updated_by(row, operation_id):
                    return from_row(row)  # an answer was lost, the write was not
                _require(precondition, row["etag"])
                if not changes:
                    return from_row(row)
                changed = to_changed_columns(row, changes, at, operation_id)
                time_to_write = self._time_to_write(deadline)
                try:
                    async with time_to_write:
                        written = await table.update_entity(
                            changed,
                            mode=UpdateMode.MERGE,
                            etag=row["etag"],
                            match_condition=MatchConditions.IfNotModified,
                        )
                    return from_row({**row, **changed, "etag": etag_of(written)})
                except ResourceModifiedError:
                    await _pause(attempt)
                except Exception as error:  # noqa: BLE001 - whatever it is, the write may have been made
                    found = await self._find_out(business_id, customer_id, error, deadline)
                    if found is None:
                        raise _no_such_customer() from None
                    if not is_updated_by(found, operation_id):
                        give_up(error)
                    return from_row(found)
        raise _too_busy()

    async def delete(self, business_id: str, customer_id: str, *, precondition: Precondition | None) -> None:
        """Delete a customer: a read, which tells whether it is there, and a delete of what was read.

        Raises NotFound, and PreconditionFailed if the customer's ETag does not meet the precondition.
        """
        table = await self._connection.table()
        async with self._budget() as deadline:
            row = await self._read(business_id, customer_id)
            for _ in range(_MOST_ATTEMPTS):
                _require(precondition, row["etag"])
                time_to_write = self._time_to_write(deadline)
                try:
                    async with time_to_write:
                        # A repeat of a delete that was made finds nothing, which the client takes for a success.
                        await table.delete_entity(
                            business_id, customer_id, etag=row["etag"], match_condition=MatchConditions.IfNotModified
                        )
                except Exception as error:  # noqa: BLE001 - whatever it is, the delete may have been made
                    found = await self._find_out(business_id, customer_id, error, deadline)
                    if found is None or not is_of_one_add(found, row):
                        return  # it is gone, and somebody may have added another one of its id
                    if not isinstance(error, ResourceModifiedError):
                        give_up(error)
                    row = found
                else:
                    return
        raise _too_busy()

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
                        pause = min(2 * pause, 0.5)
        except TimeoutError as late:
            # A conflict that could not be looked into says nothing: it may be with a row of this very write.
            give_up(late if isinstance(error, ResourceExistsError | ResourceModifiedError) else error)

    async def _read(self, business_id: str, customer_id: str) -> dict[str, Any]:
        table = await self._connection.table()
        try:
            row = await table.get_entity(business_id, customer_id)
        except ResourceNotFoundError as error:
            if getattr(error, "error_code", None) == TableErrorCode.TABLE_NOT_FOUND:
                raise
            raise _no_such_customer() from None
        except (AzureError, Backpressure) as error:
            give_up(error)
        return {**row, "etag": etag_of(row.metadata)}

    async def _query(
        self,
        business_id: str,
        where: TableFilter | None,
        top: int,
        continuation: Continuation | None,
        select: str | None = None,
    ) -> tuple[list[TableEntity], Continuation | None]:
        """One storage operation: some rows of the business, perhaps none, and where to go on."""
        table = await self._connection.table()
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
        except (AzureError, Backpressure) as error:
            if getattr(error, "status_code", None) == 400 and (where or continuation):
                raise BadRequest("Storage does not take this $filter or $skiptoken.") from error
            give_up(error)
        return rows, pages.continuation_token  # type: ignore[attr-defined]

    def _deadline(self) -> float:
        """When a request that begins now has to be done with storage, by the event loop's clock."""
        return asyncio.get_running_loop().time() + self._settings.budget

    @asynccontextmanager
    async def _budget(self) -> AsyncGenerator[float]:
        """Bound all that one request does with storage; the value is the deadline."""
        deadline = self._deadline()
        try:
            async with asyncio.timeout_at(deadline):
                yield deadline
        except TimeoutError as error:
            give_up(error)

    def _time_to_write(self, deadline: float) -> asyncio.Timeout:
        """Bound a write: what is left of the budget then is for finding out what became of it.

        Raises ServiceUnavailable if it is too late to begin.
        """
        latest = deadline - 0.3 * self._settings.budget
        if asyncio.get_running_loop().time() >= latest:
            raise ServiceUnavailable("Storage is slow; try again later.", retry_after=1)
        return asyncio.timeout_at(latest)


async def _pause(attempt: int) -> None:
    """Spread those who come again, the more the oftener they came."""
    await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - no secret


def _require(precondition: Precondition | None, etag: str) -> None:
    if precondition is not None and not precondition(etag):
        raise PreconditionFailed(_STALE)


def _too_busy() -> ServiceUnavailable:
    return ServiceUnavailable("Others keep changing this customer; nothing was written.", retry_after=1)


def _no_such_customer() -> NotFound:
    return NotFound("The business has no customer of this id.")
