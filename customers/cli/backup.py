"""Writes every row of the table to a file, while the service works.

Each row is as storage had it when it was read. A customer and its index row may be read at different times, so the
restore makes index rows from the customers.
"""

import os
from argparse import ArgumentParser, Namespace
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from azure.data.tables import TableEntity

from customers.cli.backup_file import Place, Writer
from customers.cli.command import THE_TABLE, Command, Exit, add_business, patiently, table_connection
from customers.cli.progress import Progress
from customers.storage import Connection

_PAGE = 1000
"""Rows of one storage operation."""


async def back_up(connection: Connection, path: Path, *, business: str | None, quiet: bool) -> int:
    """Write the rows of a business, or of all, and return how many there are. Raises UsageError."""
    table = await connection.table()
    subject = {"account": table.account_name, "table": table.table_name, "business": business}
    writer = Writer(path, subject, began=datetime.now(UTC).isoformat(timespec="seconds"))
    with closing(writer), Progress("rows", quiet=quiet) as progress:
        if writer.rows:
            progress.say(f"Continuing {writer.unfinished}, which has {writer.rows} rows.")
            progress.advance(writer.rows)
        while not writer.complete:
            rows, place = await patiently(lambda: _page(connection, business, writer.place))
            writer.page(rows, place)
            progress.advance(len(rows))
        writer.finish()
    return writer.rows


async def _page(
    connection: Connection, business: str | None, place: Place | None
) -> tuple[list[TableEntity], Place | None]:
    table = await connection.table()
    if business is None:
        found = table.list_entities(results_per_page=_PAGE)
    else:
        of_business = {"business": business}
        found = table.query_entities("PartitionKey eq @business", parameters=of_business, results_per_page=_PAGE)
    pages = found.by_page(cast("str | None", place))  # a dict, despite its declaration
    rows = [row async for row in await anext(pages)]
    return rows, pages.continuation_token  # type: ignore[attr-defined]


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the file to write")
    add_business(parser, "back up this business only", required=False)


async def _run(options: Namespace) -> Exit:
    async with table_connection(os.environ) as connection:
        rows = await back_up(connection, options.output, business=options.business, quiet=options.quiet)
    print(f"{rows} rows are in {options.output}.")
    return Exit.DONE


BACKUP = Command(
    name="backup",
    summary="write every row of the table to a file",
    description=f"""\
Write every row of the table, as storage has it, to a gzip file of JSON lines, which restore reads. It is safe while the
service works. What is written is in FILE.unfinished until it is complete; after an interruption, the same command
continues it. The file holds customers: keep it as safe as the table.

{THE_TABLE}""",
    example="CUSTOMERS_STORAGE__tableServiceUri=https://contoso.table.core.windows.net python -m customers backup "
    "-o customers-$(date +%F).ndjson.gz",
    add_arguments=_add_arguments,
    run=_run,
)
