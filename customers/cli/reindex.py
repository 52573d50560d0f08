"""Completes and repairs the index of e-mail addresses, while the service works.

Each index row is changed on the condition that it is still as it was read, and a row that was added is taken back if
its customer went away meanwhile. What the service writes at the same time is right already and is left alone.
"""

import asyncio
import sys
import time
from dataclasses import dataclass
from uuid import uuid4

from azure.core.exceptions import ResourceExistsError, ResourceModifiedError
from azure.data.tables import TableEntity

from customers.email_index import CUSTOMER_ID, INDEXED, MARK, index_row_of, is_index_row
from customers.storage import Connection, NoSuchRow, Operation, etag_of, put, remove, replace

_AT_ONCE = 20
_COLUMNS = ["PartitionKey", "RowKey", INDEXED, CUSTOMER_ID]
_SECONDS_BETWEEN_LINES = 5.0


@dataclass
class Report:
    """What was found and done. ``was_indexed`` is whether the table was marked as indexed before."""

    was_indexed: bool
    customers: int = 0
    added: int = 0
    corrected: int = 0
    removed: int = 0
    unreadable: int = 0

    @property
    def wrong(self) -> int:
        """How many rows were not as they should be."""
        return self.added + self.corrected + self.removed + self.unreadable

    def __str__(self) -> str:
        """One line for a person."""
        return (
            f"{self.customers} customers. Index rows: {self.added} added, {self.corrected} corrected, "
            f"{self.removed} removed. {self.unreadable} customers without an address. The table is indexed."
        )


async def reindex(connection: Connection, *, show_progress: bool) -> Report:
    """Give each customer its index row, remove those that name nobody, and mark the table as indexed."""
    table = await connection.table()
    work = _Reindex(connection, Report(await connection.get(MARK["PartitionKey"], MARK["RowKey"]) is not None))
    progress = _Progress(show=show_progress)
    async for page in table.list_entities(select=_COLUMNS, results_per_page=1000).by_page():
        rows = [row async for row in page if row["PartitionKey"] != MARK["PartitionKey"]]
        await asyncio.gather(*(work.mend(row) for row in rows))
        progress.tell(work.report.customers)
    await work.change(put(MARK))
    return work.report


class _Reindex:
    def __init__(self, connection: Connection, report: Report) -> None:
        self.report = report
        self._connection = connection
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def mend(self, row: TableEntity) -> None:
        """Put right what belongs to a row of the table."""
        async with self._at_once:
            await (self._mend_index_row(row) if is_index_row(row) else self._mend_customer(row))

    async def change(self, operation: Operation) -> bool:
        """Make a change; False if the row is not as it was any more."""
        try:
            await self._connection.transact([operation], operation_id=str(uuid4()))
        except (NoSuchRow, ResourceModifiedError, ResourceExistsError):
            return False
        return True

    async def _mend_index_row(self, row: TableEntity) -> None:
        customer_id = row.get(CUSTOMER_ID)
        customer = await self._connection.get(row["PartitionKey"], customer_id) if customer_id else None
        right = index_row_of(customer) if customer and customer.get(INDEXED) else None
        etag = etag_of(row.metadata)
        if right is None or right["RowKey"] != row["RowKey"]:
            if await self.change(remove(row, etag)):
                self.report.removed += 1
        elif right[INDEXED] != row.get(INDEXED) and await self.change(replace(right, etag)):
            self.report.corrected += 1

    async def _mend_customer(self, row: TableEntity) -> None:
        self.report.customers += 1
        if not row.get(INDEXED):
            self.report.unreadable += 1
            return
        right = index_row_of(row)
        if await self._connection.get(right["PartitionKey"], right["RowKey"]) is not None:
            return  # mended as an index row
        if not await self.change(("create", right, {})):
            return
        self.report.added += 1
        customer = await self._connection.get(row["PartitionKey"], row["RowKey"])
        if customer is None or index_row_of(customer) != right:
            added = await self._connection.get(right["PartitionKey"], right["RowKey"])
            if added is not None and added.get(CUSTOMER_ID) == row["RowKey"]:
                await self.change(remove(right, etag_of(added.metadata)))


class _Progress:
    """A line every few seconds, or one that is written over on a terminal. How many rows there are is not known."""

    def __init__(self, *, show: bool) -> None:
        self._show = show
        self._started = self._told = time.monotonic()

    def tell(self, customers: int) -> None:
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if self._show and (terminal or now - self._told >= _SECONDS_BETWEEN_LINES):
            self._told = now
            rate = customers / max(now - self._started, 0.001)
            print(f"{customers} customers, {rate:.0f} a second", end="\r" if terminal else "\n", file=sys.stderr)
