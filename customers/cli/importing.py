"""Adds the customers of a file to a business, so that the same command again adds nobody twice.

A customer without an ``id`` gets one that is derived from its line. So a repeat finds it, however the first run ended,
and equal lines are one customer.

All of the file is checked before anything is sent; what is valid waits in a temporary file.
"""

import asyncio
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from customers.cli.command import Command, Exit, UsageError
from customers.cli.lines import Line, Valid
from customers.cli.progress import Progress
from customers.cli.records import DEFAULT_ENCODING, File
from customers.cli.rejects import Refusals
from customers.cli.sending import Counts, Import
from customers.cli.service import add_arguments, connect
from customers.errors import BadRequest

_LINES_PER_STEP = 1000


async def check(file: File, valid: Valid, refusals: Refusals, *, quiet: bool) -> None:
    """Validate the whole file. Raises UsageError where it cannot be read."""
    reached = 0
    with _progress("bytes checked", file.size, refusals, quiet=quiet) as progress:
        for number, record in enumerate(file.source.records(), 1):
            problem = record.problem
            if not problem:
                try:
                    valid.add(Line.read(record))
                except BadRequest as error:
                    problem = file.source.explain(record, error)
            if problem:
                refusals.refuse(record, problem)
            if number % _LINES_PER_STEP == 0:
                progress.advance(file.position - reached)
                reached = file.position
                await asyncio.sleep(0)  # so that Ctrl-C ends it
        progress.advance(file.size - reached)


@contextmanager
def _progress(unit: str, total: int, refusals: Refusals, *, quiet: bool) -> Iterator[Progress]:
    """Show progress, and refused lines above it."""
    with Progress(unit, total=total, quiet=quiet) as progress:
        refusals.say, say = progress.say, refusals.say
        try:
            yield progress
        finally:
            refusals.say = say


async def _run(options: Namespace) -> Exit:
    counts = Counts()
    async with AsyncExitStack() as close:
        file = close.enter_context(File(options.file, dict(options.map), options.encoding))
        service = None if options.dry_run else await close.enter_async_context(connect(options))
        valid = close.enter_context(Valid())
        refusals = Refusals(file, options.rejects)
        close.callback(refusals.close)
        if file.source.left_out:
            refusals.say(f"Not imported, because a customer has no such property: {', '.join(file.source.left_out)}.")
        try:
            await check(file, valid, refusals, quiet=options.quiet)
            counts.rejected = refusals.number
            if service is None:
                print(f"{valid.number} could be added, {counts.rejected} rejected. Nothing was sent.")
            else:
                with _progress("customers", valid.number, refusals, quiet=options.quiet) as progress:
                    work = Import(service, refusals, counts, progress, skip_known=options.skip_known)
                    await _send(work, valid, counts)
        except UnicodeError as error:
            raise UsageError(f"{options.file} is not encoded in {options.encoding}: {error}.") from None
    return Exit.SOME_WRONG if counts.rejected else Exit.DONE


async def _send(work: Import, valid: Valid, counts: Counts) -> None:
    """Send all valid lines, and print the outcome, also if it ends early."""
    rest = " The rest was not sent, or its outcome is not known."
    try:
        await work.send(valid)
        rest = ""
    finally:
        print(f"{counts}.{rest}", flush=True)


def _mapping(text: str) -> tuple[str, str]:
    column, equals, target = text.rpartition("=")
    if not equals or not column:
        raise ValueError
    return column, target


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="CSV, NDJSON or a JSON array")
    add_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="only check the file; send nothing")
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        type=_mapping,
        metavar="'COLUMN=PROPERTY'",
        help="which property a column of a CSV file gives; may be repeated",
    )
    parser.add_argument(
        "--skip-known", action="store_true", help="leave out lines whose e-mail address the business has"
    )
    parser.add_argument("--rejects", type=Path, metavar="FILE", help="the file to write rejected lines to")
    parser.add_argument(
        "--encoding", default=DEFAULT_ENCODING, help="of a file that is not in UTF-8, such as windows-1252"
    )


IMPORT = Command(
    name="import",
    summary="add the customers of a CSV, NDJSON or JSON file to a business",
    description="""\
Add the customers of a file to a business. The whole file is checked before anything is sent. Each rejected line
is reported, and written to the file of --rejects, in the format of FILE with the reason before it: correct it there,
and import that file.

The same command again, after an error or Ctrl-C, continues and adds nobody twice. A customer with an id keeps it;
else the id is derived from the whole line. So two equal lines are one customer, and a line that was edited
after it was imported is another one, unless it has an id: then it is rejected, because import never changes a customer.

CSV: a header row, with commas, semicolons or tabs. Columns are named by the property that they give, without regard
to case: displayName, emailAddress, id, phone, phones[0].number, phones[mobile].number, addresses[0].street, ….
Exports of Outlook and Square are recognised. Name other columns with --map:

  --map 'Full name=displayName' --map 'Work phone=phones[business].number'
  --map 'First=displayName' --map 'Last=displayName'   joined, with a space between
  --map 'Company=displayName?'                         only where nothing else gives it
  --map 'Notes=' --map '*='                            left out: this one, and all others that are unknown

An apostrophe before = + - @, by which spreadsheets mark text, is not part of the text.

NDJSON, or a JSON array: customers as the service has them. Names with @ are ignored, in any form.

Exit code: 0 all are there; 1 some were rejected; 2 wrong arguments, file or columns; 3 the service cannot be reached
or refuses; 130 interrupted.
""",
    example="TOKEN=… python -m customers import customers.csv --business Contoso@contoso.onmicrosoft.com \\\n"
    "           --url https://contoso.azurewebsites.net --rejects rejects.csv",
    add_arguments=_add_arguments,
    run=_run,
)
