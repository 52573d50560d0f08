"""Adds the customers of a file to a business, so that the same command again adds nobody twice.

A customer without an ``id`` gets one that is derived from what the file says of it. So a repeat finds it there, however
the first run ended, and lines that say the same are one customer.

All of the file is checked before anything is sent; what is valid waits in a temporary file.
"""

import asyncio
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple, Self

from pydantic import ValidationError
from pydantic_core import to_json

from customers.batch import MAX_REQUESTS
from customers.cli.command import Command, Exit, UsageError
from customers.cli.progress import Progress
from customers.cli.records import DEFAULT_ENCODING, File, Record, Rejects
from customers.cli.service import Result, Service, add_arguments, connect
from customers.email_index import fold
from customers.errors import BadRequest
from customers.keys import guid
from customers.model import CustomerProperties, NewCustomer

_BATCHES_AT_ONCE = 8
_LOOKUPS_AT_ONCE = 2
"""Batches of lookups by address: each is a query of storage, which takes more than an add."""

_MAX_SHOWN = 10
"""How many refused lines are shown where a file has all of them."""

_LARGEST_BATCH = 600_000
"""In characters of customers, so that twenty large ones stay below the usual limit of a body."""

_LINES_PER_STEP = 1000

_NAMES = tuple(str(one.alias) for one in CustomerProperties.model_fields.values())


class Line(NamedTuple):
    """A valid customer of the file, as it is sent."""

    record: Record
    body: str
    id: str
    is_own_id: bool
    address: str

    @classmethod
    def read(cls, record: Record) -> "Line":
        """Validate a record as the service would. Raises BadRequest.

        The service may be set to demand valid e-mail addresses, too; that is left to it.
        """
        new = _validated(record.customer)
        sent = new.sent
        own = new.id or derived_id(sent)
        body = json.dumps({**sent, "id": own}, ensure_ascii=False)
        return cls(record._replace(customer=b""), body, own, bool(new.id), new.email_address)


def _validated(customer: bytes | dict[str, Any]) -> NewCustomer:
    if isinstance(customer, dict):
        try:
            return NewCustomer.model_validate(customer)
        except ValidationError:
            customer = to_json(customer)  # to have the service's own words
    return NewCustomer.from_json(customer, email_address_check="none")


def derived_id(sent: Mapping[str, Any]) -> str:
    """The id of a customer that has none: a version 8 UUID (RFC 9562, 5.8) of what is said of it."""
    digest = sha256(json.dumps(sent, sort_keys=True).encode()).digest()
    first, rest = int.from_bytes(digest[:8]), int.from_bytes(digest[8:16])
    return guid(8, first >> 16, first & 0xFFF, rest)


@dataclass
class Counts:
    """What became of the customers of a file."""

    added: int = 0
    there: int = 0
    changed: int = 0
    known: int = 0
    rejected: int = 0

    def __str__(self) -> str:
        """One line for a person or a script."""
        changed = f" ({self.changed} changed since)" if self.changed else ""
        return (
            f"{self.added} added, {self.there} already there{changed}, {self.known} skipped as known, "
            f"{self.rejected} rejected"
        )


class Refusals:
    """Tells of refused lines, and puts them into the file of rejects."""

    def __init__(self, file: File, path: Path | None) -> None:
        self._file = file
        self._path = path
        self._rejects = Rejects(path, file)
        self.number = 0
        self.say: Callable[[str], None] = lambda message: print(message, file=sys.stderr)

    def refuse(self, record: Record, reason: str) -> None:
        """Note a line that is not imported, and why."""
        self.number += 1
        self._rejects.add(record, reason)
        if self._path is None or self.number <= _MAX_SHOWN:
            self.say(f"line {record.line}: {reason}")

    def close(self) -> None:
        """End the file, and say where it is."""
        self._rejects.close()
        if self._path is not None and self.number:
            more = f" {self.number - _MAX_SHOWN} more." if self.number > _MAX_SHOWN else ""
            self.say(f"{more} All rejected lines are in {self._path}.".strip())


class Valid:
    """The valid lines of a file, in a temporary file that nobody else can open. Use it as a context manager."""

    def __init__(self) -> None:
        self._file: IO[str] = TemporaryFile("w+", encoding="utf-8", newline="\n")  # noqa: SIM115 - it is closed with this
        self.number = 0

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Delete the file."""
        self._file.close()

    def add(self, line: Line) -> None:
        """Add one at the end."""
        record = line.record
        self._file.write(json.dumps([record.line, record.text, record.row, *line[1:]]) + "\n")
        self.number += 1

    def __iter__(self) -> Iterator[Line]:
        """All lines."""
        self._file.seek(0)
        for one in self._file:
            number, text, row, *rest = json.loads(one)
            yield Line(Record(number, text, row=row), *rest)


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


@dataclass(eq=False)
class _Chunk:
    """Lines for one batch, and what must be done before: earlier chunks that concern the same customers."""

    lines: list[Line] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    size: int = 0
    after: list[asyncio.Event] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Import:
    """Sends the valid lines of a file, several batches at a time."""

    def __init__(
        self, service: Service, refusals: Refusals, counts: Counts, progress: Progress, *, skip_known: bool
    ) -> None:
        self._service = service
        self._refusals = refusals
        self._counts = counts
        self._progress = progress
        self._skip_known = skip_known
        # By the ids, and the addresses if known ones are skipped, of the lines that are being sent.
        self._holders: dict[str, _Chunk] = {}
        self._look_first = False
        self._lookups = asyncio.Semaphore(_LOOKUPS_AT_ONCE)

    async def send(self, lines: Iterable[Line]) -> None:
        """Send the lines. Of two that concern one customer, the first is done before the second begins.

        Raises UsageError and Unreachable.
        """
        chunks = self._chunks(lines)

        async def work() -> None:
            for chunk in chunks:
                for earlier in chunk.after:
                    await earlier.wait()
                await self._send(chunk.lines)
                self._release(chunk)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_BATCHES_AT_ONCE):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def _chunks(self, lines: Iterable[Line]) -> Iterator[_Chunk]:
        chunk = _Chunk()
        for line in lines:
            keys = [f"id {line.id}"]
            if self._skip_known:
                keys.append(f"address {fold(line.address)}")
            size = len(line.body)
            full = len(chunk.lines) == MAX_REQUESTS or chunk.size + size > _LARGEST_BATCH
            if chunk.lines and (full or any(self._holders.get(key) is chunk for key in keys)):
                yield chunk
                chunk = _Chunk()
            for key in keys:
                if key in self._holders and self._holders[key] is not chunk:
                    chunk.after.append(self._holders[key].done)
                self._holders[key] = chunk
            chunk.lines.append(line)
            chunk.keys += keys
            chunk.size += size
        if chunk.lines:
            yield chunk

    def _release(self, chunk: _Chunk) -> None:
        for key in chunk.keys:
            if self._holders.get(key) is chunk:
                del self._holders[key]
        chunk.done.set()

    async def _send(self, lines: Sequence[Line]) -> None:
        number = len(lines)
        if self._skip_known:
            lines = await self._leave_out_known(lines)
        if self._look_first:
            lines = await self._leave_out_those_there(lines)
        await self._add(lines)
        self._progress.advance(number)

    async def _leave_out_known(self, lines: Sequence[Line]) -> list[Line]:
        """The lines whose address the business does not have."""
        async with self._lookups:
            results = await self._service.batch([self._service.find(line.address) for line in lines])
        left = []
        for line, result in zip(lines, results, strict=True):
            found = [one["id"] for one in result.body["value"]] if result.status == 200 else None
            if found is None:
                self._refuse(line, result)
            elif line.id in found:
                self._counts.there += 1
            elif found:
                self._counts.known += 1
            else:
                left.append(line)
        return left

    async def _leave_out_those_there(self, lines: Sequence[Line]) -> list[Line]:
        """The lines whose id the business does not have; of a repeat, that is cheaper than to add them in vain."""
        left = await self._compare([(line, False) for line in lines])
        self._look_first = len(left) * 2 < len(lines)
        return left

    async def _add(self, lines: Sequence[Line]) -> None:
        if not lines:
            return
        taken: list[tuple[Line, bool]] = []
        results = await self._service.batch([self._service.add(line.body.encode()) for line in lines])
        for line, result in zip(lines, results, strict=True):
            if result.status in (201, 204):
                self._counts.added += 1
            elif result.status == 409:
                taken.append((line, result.repeated))
            else:
                self._refuse(line, result)
        self._look_first |= len(taken) * 2 > len(lines)
        for line in await self._compare(taken):
            self._refusals.refuse(line.record, "the customer with this id was deleted meanwhile; import it again")
            self._counts.rejected += 1

    async def _compare(self, lines: Sequence[tuple[Line, bool]]) -> list[Line]:
        """Count the lines whose id the business has, and return the others.

        The flag is whether an earlier attempt may have added the customer.
        """
        if not lines:
            return []
        missing = []
        results = await self._service.batch([self._service.get(line.id) for line, _ in lines])
        for (line, may_be_ours), result in zip(lines, results, strict=True):
            if result.status == 404:
                missing.append(line)
            elif result.status != 200:
                self._refuse(line, result)
            elif _said(result.body) == _said(json.loads(line.body)):
                self._counts.added += may_be_ours
                self._counts.there += not may_be_ours
            elif line.is_own_id:
                self._refusals.refuse(
                    line.record, f"the business has another customer with the id {line.id}, which stays as it is"
                )
                self._counts.rejected += 1
            else:
                self._counts.there += 1
                self._counts.changed += 1
        return missing

    def _refuse(self, line: Line, result: Result) -> None:
        self._refusals.refuse(line.record, f"the service refuses it: {result.message}")
        self._counts.rejected += 1


def _said(customer: Mapping[str, Any]) -> Any:
    """What is said of a customer. Null, empty and absent are the same, as they are in a CSV file."""
    return _without_empty({name: customer.get(name) for name in _NAMES})


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: item for name, own in value.items() if (item := _without_empty(own))}
    if isinstance(value, list | tuple):
        return [item for own in value if (item := _without_empty(own))]
    return value


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
    """Send all valid lines, and say what became of them, also if it ends early."""
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
    parser.add_argument("--rejects", type=Path, metavar="FILE", help="where to put the lines that are not imported")
    parser.add_argument(
        "--encoding", default=DEFAULT_ENCODING, help="of a file that is not in UTF-8, such as windows-1252"
    )


IMPORT = Command(
    name="import",
    summary="add the customers of a CSV, NDJSON or JSON file to a business",
    description="""\
Add the customers of a file to a business. The whole file is checked before anything is sent. What is wrong is said
with its line, and put into the file of --rejects, in the form of FILE with a reason before each: correct it there,
and import that file.

The same command again, after an error or Ctrl-C, continues and adds nobody twice. A customer with an id keeps it;
else the id is derived from all that the line says. So two equal lines are one customer, and a line that was edited
after it was imported is another one, unless it has an id: then it is rejected, since import changes nobody.

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
