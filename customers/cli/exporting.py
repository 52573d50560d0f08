"""Writes the customers of a business into a file that ``import`` reads: NDJSON, or CSV.

With ``-o`` the customers are collected in a file beside it, which takes its name at the end, and from whose last
customer an export that was interrupted continues.
"""

import csv
import json
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from yarl import URL

from customers.cli.columns import cells, in_order
from customers.cli.command import Command, Exit, Unreachable, UsageError
from customers.cli.progress import Progress
from customers.cli.service import Service, add_arguments, connect
from customers.model import PROPERTIES

_PAGE = 500
_NAMES = ("id", *(name for name in PROPERTIES if name != "id"))
_FOR_ITS_OWNER = 0o600  # personal data
_ENDINGS = (".csv", ".ndjson", ".jsonl")


async def customers(service: Service, after: str | None) -> AsyncIterator[list[dict[str, Any]]]:
    """All customers in the order of their ids, those after one id if one is given, page by page. Raises Unreachable."""
    options = {"$top": str(_PAGE)}
    if after is not None:
        quoted = after.replace("'", "''")
        options["$filter"] = f"id gt '{quoted}'"
    url: URL | None = service.pages(options)
    while url is not None:
        result = await service.page(url)
        if result.status != 200:
            raise Unreachable(f"The service refuses to list: {result.message}")
        yield [{name: one.get(name) for name in _NAMES} for one in result.body["value"]]
        link = result.body.get("@odata.nextLink")
        url = URL(link, encoded=True) if link else None


def _line(customer: Mapping[str, Any]) -> str:
    return json.dumps(customer, ensure_ascii=False, separators=(",", ":")) + "\n"


def _read(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield json.loads(line)


class Part:
    """The customers that are there so far, one on each line.

    Its name has a digest of the business and the service, so that an export of another one does not continue it.
    """

    def __init__(self, target: Path, options: Namespace) -> None:
        digest = sha256(f"{options.url.rstrip('/')} {options.business}".encode()).hexdigest()[:8]
        self.path = target.with_name(f"{target.name}.{digest}.part")
        self._target = target
        self.number = 0
        self.last: str | None = None

    def open(self) -> IO[str]:
        """Open it to append, without a last line that is not whole. Raises UsageError."""
        try:
            self.path.touch(_FOR_ITS_OWNER)
            whole = 0
            with self.path.open("r+b") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    whole += len(line)
                    self.number += 1
                    self.last = json.loads(line)["id"]
                file.truncate(whole)
            return self.path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written: {error.strerror}.") from None
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{self.path} is not an export that can be continued. Delete it.") from None

    def finish(self) -> None:
        """Make it the exported file."""
        if self._target.suffix.lower() == ".csv":
            _to_csv(self.path, self._target)
            self.path.unlink()
        else:
            self.path.replace(self._target)


def _to_csv(source: Path, target: Path) -> None:
    """Write the customers as CSV: a column for each property that any of them has."""
    columns = in_order({name for customer in _read(source) for name in cells(customer)} | {"id"})
    draft = source.with_name(f"{source.name}.csv")
    draft.touch(_FOR_ITS_OWNER)
    with draft.open("w", encoding="utf-8-sig", newline="") as file:
        rows = csv.DictWriter(file, columns, quoting=csv.QUOTE_ALL)
        rows.writeheader()
        for customer in _read(source):
            rows.writerow(cells(customer))
    draft.replace(target)


async def _export(service: Service, file: IO[str], part: Part | None, *, quiet: bool) -> int:
    """Write all customers that are not there yet; return how many there are."""
    number = part.number if part else 0
    with Progress("customers", total=await service.count(), quiet=quiet) as progress:
        progress.advance(number)
        async for page in customers(service, part.last if part else None):
            file.writelines(map(_line, page))
            file.flush()
            number += len(page)
            progress.advance(len(page))
    return number


async def _run(options: Namespace) -> Exit:
    target: Path | None = options.output
    if target and target.suffix.lower() not in _ENDINGS:
        raise UsageError(f"-o must name a file that ends in {', '.join(_ENDINGS)}, not {target.name}")
    async with connect(options) as service:
        if target is None:
            try:
                await _export(service, sys.stdout, None, quiet=options.quiet)
            except BrokenPipeError:
                # Whoever reads has enough; Python would complain when it flushes at its end.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return Exit.DONE
        part = Part(target, options)
        with ExitStack() as close:
            file = close.enter_context(part.open())
            if part.number:
                since = datetime.fromtimestamp(part.path.stat().st_mtime, UTC)
                print(
                    f"Continues {part.path}, which has {part.number} customers, as they were before {since:%F %T} UTC. "
                    "To start over, delete it.",
                    file=sys.stderr,
                )
            number = await _export(service, file, part, quiet=options.quiet)
        part.finish()
    print(f"{number} customers are in {target}.")
    return Exit.DONE


def _add_arguments(parser: ArgumentParser) -> None:
    add_arguments(parser)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help=f"a file that ends in {', '.join(_ENDINGS)}; else stdout"
    )


EXPORT = Command(
    name="export",
    summary="write the customers of a business as import reads them",
    description="""\
Write all customers of a business in the order of their ids, as CSV or as NDJSON (a JSON object on each line), by the
ending of the file; on stdout as NDJSON. import reads both, and keeps the ids.

With -o, the same command again continues an export that was interrupted. Until it is whole, the customers are in a
file beside FILE that ends in .part.

In CSV, an apostrophe is before what a spreadsheet would take for a formula, such as +49 30 1. What is null or empty in
an address or phone is not in CSV.

Exit code: 0 all are there; 2 wrong arguments; 3 the service cannot be reached or refuses; 130 interrupted.
""",
    example="TOKEN=… python -m customers export --business Contoso@contoso.onmicrosoft.com \\\n"
    "           --url https://contoso.azurewebsites.net -o customers.csv",
    add_arguments=_add_arguments,
    run=_run,
)
