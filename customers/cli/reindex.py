"""Completes and repairs the index of e-mail addresses, while the service works.

Each index row is changed on the condition that it is still as it was read, and a row that was added is taken back if
its customer went away meanwhile. What the service writes at the same time is right already and is left alone.
"""

import asyncio
import os
from argparse import Namespace
from dataclasses import dataclass
from uuid import uuid4

from azure.core.exceptions import ResourceExistsError, ResourceModifiedError
from azure.data.tables import TableEntity

from customers.cli.command import THE_TABLE, Command, Exit, table_connection
from customers.cli.progress import Progress
from customers.email_index import CUSTOMER_ID, INDEXED, MARK, index_row_of
from customers.partition import is_customer_row, is_index_row
from customers.storage import Connection, NoSuchRow, Operation, etag_of, put, remove, replace

_AT_ONCE = 20
_COLUMNS = ["PartitionKey", "RowKey", INDEXED, CUSTOMER_ID]


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
            f"{self.removed} removed. {self.unreadable} customers without an address."
        )


async def reindex(connection: Connection, *, business: str | None = None, quiet: bool) -> Report:
    """Give each customer its index row, remove those that name nobody, and mark the table as indexed.

    With ``business`` only its rows are looked at, and the table is not marked.
    """
    table = await connection.table()
    if business is None:
        found = table.list_entities(select=_COLUMNS, results_per_page=1000)
    else:
        of_business = {"business": business}
        found = table.query_entities(
            "PartitionKey eq @business", parameters=of_business, select=_COLUMNS, results_per_page=1000
        )
    work = _Reindex(connection, Report(await connection.get(MARK["PartitionKey"], MARK["RowKey"]) is not None))
    with Progress("rows", quiet=quiet) as progress:
        async for page in found.by_page():
            rows = [row async for row in page if row["PartitionKey"] != MARK["PartitionKey"]]
            await asyncio.gather(*(work.mend(row) for row in rows))
            progress.advance(len(rows))
    if business is None:
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
            if is_index_row(row):
                await self._mend_index_row(row)
            elif is_customer_row(row):
                await self._mend_customer(row)

    async def change(self, operation: Operation) -> bool:
        """Make a change; False if the row has changed."""
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


async def _run(options: Namespace) -> Exit:
    async with table_connection(os.environ) as connection:
        report = await reindex(connection, quiet=options.quiet)
    print(report, "The table is indexed.")
    return Exit.SOME_WRONG if report.was_indexed and report.wrong else Exit.DONE


REINDEX = Command(
    name="reindex",
    summary="complete and repair the index of e-mail addresses",
    description=f"""\
Give every customer its row in the index of e-mail addresses, and remove rows that name nobody. Lookups by address use
the index from then on. It is safe while the service works, if every instance of it knows the index (0.3.0 or newer),
and safe to run again: then it says whether anything was wrong.

{THE_TABLE}""",
    example="CUSTOMERS_STORAGE__tableServiceUri=https://contoso.table.core.windows.net python -m customers reindex",
    add_arguments=lambda _: None,
    run=_run,
)
