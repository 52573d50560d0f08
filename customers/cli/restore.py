"""Puts the rows of a backup back into the table, while the service works.

A row that the table lacks is added, one that is older than in the backup is replaced, and a newer one is kept unless
the caller decides otherwise. Storage gives what it writes another ETag and timestamp, so a row with the same columns is
left alone: a second restore changes nothing.

The index rows of the backup are not used. They are made from the customers, each in one transaction with its customer,
as the service writes them. If the table was not empty, its index is then checked and repaired, as by ``reindex``.
"""

import asyncio
import os
import random
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote
from uuid import uuid4

from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.data.tables import TableEntity, TableErrorCode

from customers.cli.backup_file import Columns, Row, check, read, ticks, timestamp_of, to_columns, to_entity
from customers.cli.command import THE_TABLE, Command, Exit, Unreachable, add_business, patiently, table_connection
from customers.cli.progress import Progress
from customers.cli.reindex import Report, reindex
from customers.email_index import INDEXED, MARK, index_row_of
from customers.partition import is_customer_row, is_index_row
from customers.repeatability import SKEW, WINDOW
from customers.row import restored_row
from customers.storage import Connection, NoSuchRow, Operation, etag_of, put, remove, replace

_AT_ONCE = 8
"""Batches."""

_BATCH = 33
"""Rows of a transaction: each takes up to three of its 100 operations."""

_BATCH_BYTES = 2 << 20
"""Of a transaction's 4 MiB."""

_URL_BYTES = 6_000
"""The longest keys, percent-encoded, with which one query asks for a range; others are read one by one."""

_ATTEMPTS = 10
"""For one row, while other writers change it."""

_CONFLICTS = (NoSuchRow, ResourceExistsError, ResourceModifiedError)


@dataclass
class Restored:
    """What came of the rows of a backup, without index rows."""

    written: int = 0
    unchanged: int = 0
    kept: int = 0
    """Newer in the table."""

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.written} rows restored, {self.unchanged} already there, {self.kept} newer in the table and kept."


async def restore(
    connection: Connection, path: Path, *, business: str | None, overwrite: bool, quiet: bool
) -> tuple[Restored, Report | None]:
    """Put the rows of a business, or of all, back, and return what was done, and what was repaired of the index.

    Raises UsageError for a file that is not a whole backup, before anything is changed.
    """
    backup = check(path)
    was_empty = await patiently(lambda: _mark_if_empty(connection))
    work = _Restore(connection, overwrite=overwrite)
    with Progress("rows", total=backup.rows, quiet=quiet) as progress:

        def rows() -> Iterator[Row]:
            for row in read(path):
                progress.advance()
                if business in (None, row.key[0]):
                    yield row

        batches = _batches(rows())

        async def put_back_batches() -> None:
            for batch in batches:  # which all that run share
                await work.put_back(batch)

        await asyncio.gather(*(put_back_batches() for _ in range(_AT_ONCE)))
    if was_empty:
        return work.done, None
    return work.done, await reindex(connection, business=business or backup.business, quiet=quiet)


async def _mark_if_empty(connection: Connection) -> bool:
    """Whether the table is empty. If so, mark it as indexed: every customer that is added has an index row."""
    table = await connection.table()
    async for row in table.list_entities(results_per_page=2, select=["PartitionKey"]):
        if row["PartitionKey"] != MARK["PartitionKey"]:
            return False
    await connection.transact([put(MARK)], operation_id=str(uuid4()))
    return True


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows of one partition that fit into a transaction together. Index rows and the mark of the table are left out."""
    wanted = (row for row in rows if row.key[0] != MARK["PartitionKey"] and not is_index_row(row.columns))
    for _, group in groupby(wanted, lambda row: row.key[0]):
        batch: list[Row] = []
        for row in group:
            if batch and (len(batch) == _BATCH or sum(one.size for one in batch) + row.size > _BATCH_BYTES):
                yield batch
                batch = []
            batch.append(row)
        yield batch


def _own_index_row(columns: Columns) -> dict[str, str] | None:
    """The index row that belongs to a row; None if it is no customer, or one without an address."""
    return index_row_of(columns) if is_customer_row(columns) and columns.get(INDEXED) else None


class _Plan(NamedTuple):
    operations: list[Operation]
    newer: bool = False


class _Restore:
    def __init__(self, connection: Connection, *, overwrite: bool) -> None:
        self.done = Restored()
        self._connection = connection
        self._overwrite = overwrite
        # An older add can no longer be repeated.
        self._repeatable_since = datetime.now(UTC) - WINDOW - SKEW - timedelta(hours=1)

    async def put_back(self, batch: Sequence[Row]) -> None:
        try:
            await patiently(lambda: self._write(batch))
        except _CONFLICTS:
            for row in batch:
                await self._put_back_one(row)

    async def _put_back_one(self, row: Row) -> None:
        old_is_indexed = True
        for _ in range(_ATTEMPTS):
            try:
                await patiently(lambda: self._write([row], old_is_indexed=old_is_indexed))  # noqa: B023 - awaited here
            except _CONFLICTS as conflict:
                # The first operation is on the row itself, so a row that is missing elsewhere is its old index row.
                old_is_indexed = not isinstance(conflict, NoSuchRow) or conflict.index == 0
                await asyncio.sleep(random.uniform(0, 0.2))  # noqa: S311 - no secret
            else:
                return
        raise Unreachable("Others keep changing a row of the backup. Run the same command again.")

    async def _write(self, batch: Sequence[Row], *, old_is_indexed: bool = True) -> None:
        """Restore rows in one transaction; safe to repeat, for it reads the table first.

        Raises one of _CONFLICTS if the table has changed since it was read, or lacks an old index row.
        """
        found = await self._find(batch)
        plans = [self._plan(row, found.get(row.key), old_is_indexed=old_is_indexed) for row in batch]
        operations = [operation for plan in plans for operation in plan.operations]
        if operations:
            await self._connection.transact(operations, operation_id=str(uuid4()))
        for plan in plans:
            self.done.written += bool(plan.operations)
            self.done.kept += plan.newer
            self.done.unchanged += not plan.operations and not plan.newer

    async def _find(self, batch: Sequence[Row]) -> dict[tuple[str, str], TableEntity]:
        """Those rows of the table that have the keys of these."""
        keys = {row.key for row in batch}
        (partition_key, first), (_, last) = batch[0].key, batch[-1].key
        if len(batch) == 1 or len(quote(partition_key + first + last)) > _URL_BYTES:
            one_by_one = {key: await self._get(*key) for key in keys}
            return {key: row for key, row in one_by_one.items() if row is not None}
        table = await self._connection.table()
        between = table.query_entities(
            "PartitionKey eq @partition and RowKey ge @first and RowKey le @last",
            parameters={"partition": partition_key, "first": first, "last": last},
        )
        return {key: row async for row in between if (key := (row["PartitionKey"], row["RowKey"])) in keys}

    async def _get(self, partition_key: str, row_key: str) -> TableEntity | None:
        # With the storage client, which has the timestamp, too.
        table = await self._connection.table()
        try:
            return await table.get_entity(partition_key, row_key)
        except ResourceNotFoundError as error:
            if getattr(error, "error_code", None) == TableErrorCode.TABLE_NOT_FOUND:
                raise
            return None

    def _plan(self, row: Row, found: TableEntity | None, *, old_is_indexed: bool) -> _Plan:
        columns = row.columns
        created = columns.get("createdDateTime")
        if created is not None and datetime.fromisoformat(created) > self._repeatable_since:
            columns = restored_row(columns, row.etag)
        index = _own_index_row(columns)
        if found is None:
            return _Plan([("create", to_entity(columns), {}), *([put(index)] if index else [])])
        there = to_columns(found)
        if there in (row.columns, restored_row(row.columns, row.etag)):
            return _Plan([])
        if not self._overwrite and ticks(timestamp_of(found)) > ticks(row.timestamp):
            return _Plan([], newer=True)
        operations = [replace(to_entity(columns), etag_of(found.metadata))]
        old = _own_index_row(there)
        if index:
            operations.append(put(index))
        if old and old_is_indexed and (index is None or old["RowKey"] != index["RowKey"]):
            operations.append(remove(old))
        return _Plan(operations)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="a backup")
    add_business(parser, "restore this business only", required=False)
    parser.add_argument("--overwrite", action="store_true", help="replace rows of the table that are newer, too")


async def _run(options: Namespace) -> Exit:
    async with table_connection(os.environ) as connection:
        done, index = await restore(
            connection, options.file, business=options.business, overwrite=options.overwrite, quiet=options.quiet
        )
    print(done)
    if index is not None:
        print(index)
    return Exit.SOME_WRONG if done.kept else Exit.DONE


RESTORE = Command(
    name="restore",
    summary="put the rows of a backup back into the table",
    description=f"""\
Put the rows of a backup back. A row that the table lacks is added, and one that changed before the backup was made is
replaced. One that changed since is kept, and counted, unless --overwrite says otherwise; then the exit code is 1. What
was added since is left alone. Customers that were deleted since come back. It is safe while the service works, and safe
to run again: after an interruption, the same command does what is left.

The table must exist.

{THE_TABLE}""",
    example="CUSTOMERS_STORAGE__tableServiceUri=https://contoso.table.core.windows.net python -m customers restore "
    "customers-2026-11-24.ndjson.gz",
    add_arguments=_add_arguments,
    run=_run,
)
