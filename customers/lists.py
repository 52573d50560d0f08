"""Several customers of a business: pages of a list, counts, and lookups by e-mail address through the index.

What an index row answers costs the same at any size of the business; anything else reads the business until it has
enough or the budget ends.

Source: "Table Service REST API", Query Entities; "Query timeout and pagination".
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from azure.core.exceptions import AzureError

from customers.email_index import CUSTOMER_ID, INDEXED, MARK, Address, index_range, index_row_of
from customers.errors import BadRequest, GraphError
from customers.model import Stored
from customers.partition import LEAST_CUSTOMER, is_customer_row
from customers.read import FilterValue, Keys, Row
from customers.row import from_row
from customers.settings import Settings
from customers.storage import Backpressure, Connection, etag_of, put, raise_unavailable

_MAX_ROWS = 1000
"""Rows of one storage operation."""

_MAX_GETS = 20
"""Customers of one lookup that are read at the same time."""

_MARK_REMEMBERED = 60.0
"""In seconds: how long a table that is not indexed is taken for such. It stays indexed once it is."""


class Continuation(NamedTuple):
    """Where a list continues: the keys that Table Storage returned, opaque, and whether it is a list of index rows."""

    partition_key: str
    row_key: str | None
    indexed: bool = False


class TableFilter(NamedTuple):
    """A filter in Table Storage's language: its text, with ``@name`` in place of each value, and the values."""

    text: str
    parameters: dict[str, FilterValue]


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


class CustomerLists:
    """The lists of all businesses.

    Every method takes at most the budget. It raises TooManyRequests or ServiceUnavailable if storage throttles or is
    unreachable.
    """

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._settings = settings
        self._connection = connection
        self._indexed = False
        self._ask_again = 0.0

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
            async with asyncio.timeout(self._settings.budget):
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
            async with asyncio.timeout(self._settings.budget):
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
        return [_stored(row) for row in rows if _matches(condition, row)], reached

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
        return [_stored(row) for row in found], reached

    async def _count_lookup(
        self, business_id: str, condition: Condition, reached: Continuation | None
    ) -> tuple[int, Continuation | None]:
        index_rows, reached = await self._index_rows(business_id, condition, _MAX_ROWS, reached)
        if condition.where is None:
            return len(index_rows), reached
        return len(await self._customers(business_id, condition, index_rows)), reached

    async def _index_rows(
        self, business_id: str, condition: Condition, top: int, reached: Continuation | None
    ) -> tuple[list[Row], Continuation | None]:
        first, end = index_range(condition.addresses[0].value)
        where = TableFilter("RowKey ge @first and RowKey lt @end", {"first": first, "end": end})
        rows, reached = await self._query(business_id, where, top, reached, index=True)
        return [row for row in rows if _matches(condition, row)], reached

    async def _customers(self, business_id: str, condition: Condition, index_rows: Sequence[Row]) -> list[Row]:
        """The rows of those customers that meet the condition, in the order of their index rows."""
        at_once = asyncio.Semaphore(_MAX_GETS)

        async def get(customer_id: str) -> Row | None:
            async with at_once:
                if condition.where is None:
                    return await self._get(business_id, customer_id)
                own = TableFilter(
                    f"RowKey eq @id and {condition.where.text}", {"id": customer_id, **condition.where.parameters}
                )
                rows, _ = await self._query(business_id, own, 1, None, index=True)
                return rows[0] if rows else None

        found = await asyncio.gather(*(get(row[CUSTOMER_ID]) for row in index_rows))
        # One may be deleted or have another address since, or the index row may be one that a repair left behind.
        return [row for row in found if row is not None and _matches(condition, row)]

    async def _is_indexed(self, condition: Condition) -> bool:
        """Whether the index answers this condition: if it has one on the address, and every customer its index row."""
        if not condition.addresses:
            return False
        if not self._indexed and asyncio.get_running_loop().time() >= self._ask_again:
            await self._look_for_mark()
        return self._indexed

    async def _look_for_mark(self) -> None:
        """Find out whether the table is marked as indexed. A new one is marked here: see ``_is_complete``.

        Raises ResourceNotFoundError if there is no table.
        """
        self._ask_again = asyncio.get_running_loop().time() + _MARK_REMEMBERED
        if await self._get(MARK["PartitionKey"], MARK["RowKey"]) is None:
            try:
                if not await self._is_complete():
                    return
                await self._connection.transact([put(MARK)], operation_id=str(uuid4()))
            except (AzureError, Backpressure) as error:
                raise_unavailable(error)
        self._indexed = True

    async def _is_complete(self) -> bool:
        """Whether one storage operation shows that every customer of the table has its index row."""
        table = await self._connection.table()
        pages = table.list_entities(results_per_page=_MAX_ROWS, select=["PartitionKey", "RowKey", INDEXED]).by_page()
        # A transaction may come between two rows that are read, but what it changes only looks incomplete.
        rows = [row async for row in await anext(pages)]
        if pages.continuation_token:  # type: ignore[attr-defined]
            return False
        keys = {(row["PartitionKey"], row["RowKey"]) for row in rows}
        return all(
            row.get(INDEXED) and (row["PartitionKey"], index_row_of(row)["RowKey"]) in keys
            for row in rows
            if is_customer_row(row)
        )

    async def is_there(self) -> bool:
        """Whether the table exists and storage responds."""
        try:
            async with asyncio.timeout(self._settings.budget):
                await self._look_for_mark()
        except (GraphError, AzureError, TimeoutError):
            return False
        return True

    async def _get(self, partition_key: str, row_key: str) -> Row | None:
        try:
            return await self._connection.get(partition_key, row_key)
        except (AzureError, Backpressure) as error:
            raise_unavailable(error)

    async def _query(
        self,
        business_id: str,
        where: TableFilter | None,
        top: int,
        continuation: Continuation | None,
        *,
        select: Sequence[str] = (),
        index: bool = False,
    ) -> tuple[list[Row], Continuation | None]:
        """One storage operation: some rows of the business, perhaps none, and where the list continues.

        They are customers, or, with ``index``, whatever ``where`` selects by its keys.
        """
        text = "PartitionKey eq @business"
        parameters: dict[str, FilterValue] = {"business": business_id}
        if not index:
            text += " and RowKey ge @least"
            parameters["least"] = LEAST_CUSTOMER
        if where is not None:
            text = f"{text} and {where.text}"
            parameters |= where.parameters
        reached = Keys(continuation.partition_key, continuation.row_key) if continuation else None
        read = await self._connection.read()
        try:
            rows, keys = await read.query(text, parameters, top=top, select=select, continuation=reached)
        except (AzureError, Backpressure) as error:
            status = getattr(error, "status_code", None)
            if status in (414, 431):
                raise BadRequest("The $filter is too long for storage. Shorten the strings or use fewer.") from error
            if status == 400 and (where or continuation):
                raise BadRequest(
                    "Storage rejects this $filter or $skiptoken. Simplify the filter; follow @odata.nextLink unchanged."
                ) from error
            raise_unavailable(error)
        return rows, Continuation(*keys, index) if keys else None


def _stored(row: Row) -> Stored:
    return Stored(from_row(row), etag_of(row.metadata))


def _for_storage(condition: Condition) -> TableFilter | None:
    """What storage can evaluate of a condition: all of it but an address without its case."""
    exact = [address.value for address in condition.addresses if address.exact]
    parts = [f"{INDEXED} eq @address{number}" for number in range(len(exact))]
    parameters: dict[str, FilterValue] = {f"address{number}": value for number, value in enumerate(exact)}
    if condition.where is not None:
        parts.append(condition.where.text)
        parameters |= condition.where.parameters
    return TableFilter(" and ".join(parts), parameters) if parts else None


def _matches(condition: Condition, row: Mapping[str, Any]) -> bool:
    return all(address.matches(row[INDEXED]) for address in condition.addresses)
