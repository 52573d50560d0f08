"""The files that customers are imported from, read record by record: CSV, NDJSON, or one JSON array.

However long the file, only one record is in memory. A record that cannot be decoded has its line in the error. Each
form can also write refused records, with the line and the reason before each: import ignores these two, as it ignores
all names that begin with ``@``.
"""

import codecs
import csv
import io
import json
import os
import re
import stat
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn, Protocol, Self

from customers.cli.columns import Columns
from customers.cli.command import UsageError
from customers.errors import BadRequest

MAX_LENGTH = 1 << 20
"""The most characters that a line, or a customer in a JSON array, may have."""

LINE, REASON = "@import.line", "@import.error"
"""What is written before each refused record."""

DEFAULT_ENCODING = "utf-8"

_DELIMITERS = (",", ";", "\t")
# A byte that is no text is read as one of these (PEP 383), and written as that byte again.
_NO_TEXT = re.compile("[\udc80-\udcff]")
_ANNOTATED = re.compile(rf'\{{"{LINE}": \d+, "{REASON}": "(?:[^"\\]|\\.)*"(?:, )?')
_SPACE = " \t\r\n"


class Record(NamedTuple):
    """A record of a file: where it begins, its text, and the customer, or the problem that it is none.

    The customer is JSON, or what JSON would have.
    """

    line: int
    text: str
    customer: bytes | dict[str, Any] = b""
    problem: str = ""
    row: Sequence[str] = ()


class Source(Protocol):
    """A file of customers. ``left_out`` are the names of columns that are known and not imported."""

    left_out: Sequence[str]

    def records(self) -> Iterator[Record]:
        """All records, from the beginning of the file. Raises UsageError where the rest cannot be read."""
        ...

    def explain(self, record: Record, error: BadRequest) -> str:
        """What is wrong with a customer, in the words of the file."""
        ...

    def refused(self, file: IO[str], record: Record, reason: str, *, first: bool) -> None:
        """Write a refused record and why."""
        ...

    def end(self, file: IO[str]) -> None:
        """Write what comes after the last refused record."""
        ...


class File:
    """A file to import, opened and recognised by how it begins. Use it as a context manager.

    ``source`` reads it. Raises UsageError if it cannot be read, is not a file of customers, or its columns are unknown.
    """

    source: Source

    def __init__(self, path: Path, mapping: Mapping[str, str], encoding: str = DEFAULT_ENCODING) -> None:
        self.path = path
        self._mapping = mapping
        self._encoding = encoding
        self._close = ExitStack()

    def __enter__(self) -> Self:
        """Open it."""
        try:
            self._bytes = self._close.enter_context(self.path.open("rb"))
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read: {error.strerror}.") from None
        with ExitStack() as closing:
            closing.enter_context(self._close)
            status = os.fstat(self._bytes.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{self.path} must be a regular file.")
            self.size = status.st_size
            self.source = self._recognise()
            self._close = closing.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._close.close()

    @property
    def position(self) -> int:
        """How many bytes have been read."""
        return self._bytes.tell()

    def _recognise(self) -> Source:
        self._text = self._decoded()
        first = ""
        while not first and (part := self._text.read(4096)):
            first = part.lstrip(_SPACE)[:1]
        if not first:
            raise UsageError(f"{self.path} is empty.")
        if first not in ("[", "{"):
            if self.path.suffix.lower() in (".json", ".ndjson", ".jsonl"):
                raise UsageError(f"{self.path} is neither a JSON array nor a JSON object on each line.")
            return CsvRows(self, self._mapping)
        if self._mapping:
            raise UsageError("--map is for CSV files only: in JSON, the properties have the names of a customer's.")
        return JsonArray(self) if first == "[" else JsonLines(self)

    def _decoded(self) -> IO[str]:
        start = self._bytes.read(4)
        self._bytes.seek(0)
        if start == b"PK\x03\x04":
            raise UsageError(f"{self.path} is an Excel workbook. In Excel, save it as 'CSV UTF-8', and import that.")
        if self._encoding == DEFAULT_ENCODING:
            if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise UsageError(f"{self.path} is encoded in UTF-16, not in UTF-8. Add --encoding utf-16.")
            self._encoding = "utf-8-sig" if start.startswith(codecs.BOM_UTF8) else DEFAULT_ENCODING
        try:
            return io.TextIOWrapper(self._bytes, encoding=self._encoding, errors="surrogateescape", newline="")
        except LookupError:
            raise UsageError(f"There is no encoding {self._encoding}. Try windows-1252 or utf-16.") from None

    def text(self) -> IO[str]:
        """Its text, from the beginning."""
        self._text.seek(0)
        return self._text

    def lines(self) -> "Lines":
        """Its lines, from the first."""
        return Lines(self.text(), self.path.name)

    @property
    def encoding(self) -> str:
        """How it is encoded, with the mark at its beginning."""
        return self._encoding


class Lines:
    """Lines of a file with their ends. What has been taken since a line can be given back, but for that line."""

    def __init__(self, text: IO[str], name: str) -> None:
        self._text = text
        self._name = name
        self._again: deque[str] = deque()
        self.number = 0
        self.taken: list[str] = []

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> str:
        """The next line. Raises UsageError if it is too long."""
        line = self._again.popleft() if self._again else self._text.readline(MAX_LENGTH)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) == MAX_LENGTH:
            raise UsageError(f"{self._name}, line {self.number}: is longer than {MAX_LENGTH} characters.")
        self.taken.append(line)
        return line

    def give_back(self) -> None:
        """Give back all that was taken but its first line."""
        self._again.extendleft(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1
        del self.taken[1:]


def _no_text(text: str, encoding: str) -> str:
    """The problem that bytes are no text in the encoding, if it is so."""
    if not _NO_TEXT.search(text):
        return ""
    return (
        f"is not encoded in {encoding.removesuffix('-sig')}. Save the file as 'CSV UTF-8', or name its encoding: "
        "for older Windows programs, --encoding windows-1252"
    )


class CsvRows:
    """A CSV file with a header row; commas, semicolons or tabs between the columns (RFC 4180)."""

    def __init__(self, file: File, mapping: Mapping[str, str]) -> None:
        self._file = file
        lines = file.lines()
        line = next(lines)
        declared = re.fullmatch(r"sep=(.)", line.strip())  # Excel's own way to say it
        self._skipped = 0
        if declared:
            self._skipped, line = 1, next(lines, "")
        while line and not line.strip():
            self._skipped, line = self._skipped + 1, next(lines, "")
        if problem := _no_text(line, file.encoding):
            raise UsageError(f"{file.path.name}, line {lines.number}: {problem}.")
        self.delimiter = declared[1] if declared else max(_DELIMITERS, key=lambda one: len(_split(line, one)))
        self._header = line
        header = _split(line, self.delimiter)
        self.columns = Columns(header, mapping)
        self.left_out: Sequence[str] = self.columns.left_out
        self._annotated = header[:2] == [LINE, REASON]

    def records(self) -> Iterator[Record]:
        """All rows but the header and empty ones."""
        lines = self._file.lines()
        for _ in range(self._skipped + 1):
            next(lines)
        # Not what csv says, but what people mean: "Ada, ada@example.com".
        reader = csv.reader(lines, delimiter=self.delimiter, strict=True, skipinitialspace=True)
        width = len(self.columns.names)
        while True:
            lines.taken.clear()
            number = lines.number + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error:
                # An unclosed quotation mark takes the following rows with it, so these are read again.
                lines.give_back()
                yield Record(number, lines.taken[0], problem="has a quotation mark that is not closed or not doubled")
                continue
            if not any(row):
                continue
            text = "".join(lines.taken)
            problem = _no_text(text, self._file.encoding)
            if len(row) < width or any(row[width:]):
                problem = problem or (
                    f"has {len(row)} values for {width} columns; a value that contains '{self.delimiter}' must be in "
                    "quotation marks"
                )
            customer = b"" if problem else self.columns.customer(row)
            yield Record(number, text, customer, problem, row)

    def explain(self, record: Record, error: BadRequest) -> str:
        """Name the columns instead of the properties."""
        return "; ".join(
            f"{self.columns.source_of(record.row, detail.target)}: {detail.message}" for detail in error.details
        )

    def refused(self, file: IO[str], record: Record, reason: str, *, first: bool) -> None:
        """Write the row as it stands, after two more columns."""
        if first:
            prefix = "" if self._annotated else self._row([LINE, REASON]) + self.delimiter
            file.write(prefix + _ended(self._header))
        prefix = self._row([str(record.line), reason])
        if not self._annotated:
            file.write(prefix + self.delimiter + _ended(record.text))
        elif record.row:
            file.write(self._row([str(record.line), reason, *record.row[2:]]) + "\n")
        else:
            file.write(_ended(record.text))

    def end(self, file: IO[str]) -> None:
        """Nothing comes after the last row."""

    def _row(self, values: Sequence[str]) -> str:
        text = io.StringIO()
        csv.writer(text, delimiter=self.delimiter, quoting=csv.QUOTE_ALL, lineterminator="").writerow(values)
        return text.getvalue()


def _split(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])


def _ended(line: str) -> str:
    return line if line.endswith(("\n", "\r")) else f"{line}\n"


class _Json:
    """Objects as the service takes them."""

    left_out: Sequence[str] = ()

    def __init__(self, file: File) -> None:
        self._file = file

    def _record(self, line: int, text: str) -> Record:
        if problem := _no_text(text, self._file.encoding):
            return Record(line, text, problem=problem)
        return Record(line, text, text.encode())

    def explain(self, record: Record, error: BadRequest) -> str:  # noqa: ARG002 - as a Source has it
        """As the service says it."""
        return "; ".join(f"{one.target}: {one.message}" if one.target else one.message for one in error.details)


def _annotate(record: Record, reason: str) -> str:
    """An object with the line and the reason in it; what is no object stays as it is."""
    text = record.text.strip(_SPACE)
    if old := _ANNOTATED.match(text):
        text = "{" + text[old.end() :]
    if not text.startswith("{"):
        return text
    comma = "" if text[1:].lstrip(_SPACE).startswith("}") else ", "
    return f'{{"{LINE}": {record.line}, "{REASON}": {json.dumps(reason, ensure_ascii=False)}{comma}{text[1:]}'


class JsonLines(_Json):
    """A JSON object on each line (NDJSON)."""

    def records(self) -> Iterator[Record]:
        """All lines but empty ones."""
        lines = self._file.lines()
        for line in lines:
            lines.taken.clear()
            if line.strip(_SPACE):
                yield self._record(lines.number, line)

    def refused(self, file: IO[str], record: Record, reason: str, *, first: bool) -> None:  # noqa: ARG002
        """Write the line with the reason in it."""
        file.write(_annotate(record, reason) + "\n")

    def end(self, file: IO[str]) -> None:
        """Nothing comes after the last line."""


class JsonArray(_Json):
    """One JSON array of objects, which may take several lines each."""

    def records(self) -> Iterator[Record]:
        """All items. Raises UsageError where the array is not JSON: what comes after cannot be told apart."""
        text = _Buffer(self._file.text())
        text.expect("[")
        if text.next_is("]"):
            text.expect("]")
            text.expect("")
            return
        while True:
            line, item = text.item()
            yield self._record(line, item)
            if text.expect(",", "]") == "]":
                break
        text.expect("")

    def refused(self, file: IO[str], record: Record, reason: str, *, first: bool) -> None:
        """Write the item with the reason in it."""
        file.write(("[\n" if first else ",\n") + _annotate(record, reason))

    def end(self, file: IO[str]) -> None:
        """Close the array."""
        file.write("\n]\n")


class _Buffer:
    """The text of a JSON array, a part of it at a time."""

    _DECODER = json.JSONDecoder(parse_int=str, parse_float=str)  # a number may be longer than Python converts
    _PART = 1 << 16

    def __init__(self, text: IO[str]) -> None:
        self._rest = text
        self._text = ""
        self._at = 0
        self._line = 1

    def next_is(self, character: str) -> bool:
        """Whether the next character that is no space is this one."""
        self._skip_space()
        return self._text.startswith(character, self._at)

    def expect(self, *characters: str) -> str:
        """Take one of these characters, or the end of the file for an empty one. Raises UsageError."""
        self._skip_space()
        found = self._text[self._at : self._at + 1]
        if found not in characters:
            wanted = " or ".join(f"'{one}'" if one else "the end of the file" for one in characters)
            self._fail(f"expected {wanted}, but there is {f"'{found}'" if found else 'the end of the file'}")
        self._take(self._at + len(found))
        return found

    def item(self) -> tuple[int, str]:
        """Take a JSON value: the line where it begins, and its text. Raises UsageError if it is not JSON."""
        self._skip_space()
        line = self._line
        while True:
            try:
                _, end = self._DECODER.raw_decode(self._text, self._at)
            except (json.JSONDecodeError, RecursionError) as error:
                # Perhaps not the whole item yet.
                if len(self._text) - self._at <= MAX_LENGTH and self._more():
                    continue
                if isinstance(error, json.JSONDecodeError):
                    self._take(error.pos)
                    self._fail(error.msg)
                self._fail("it is nested too deeply")
            # A number continues where another digit follows.
            if end < len(self._text) or not self._more():
                return line, self._take(end)

    def _skip_space(self) -> None:
        while True:
            end = self._at
            while end < len(self._text) and self._text[end] in _SPACE:
                end += 1
            self._take(end)
            if end < len(self._text) or not self._more():
                return

    def _take(self, end: int) -> str:
        taken, self._at = self._text[self._at : end], end
        self._line += taken.count("\n")
        return taken

    def _more(self) -> bool:
        more = self._rest.read(self._PART)
        self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)

    def _fail(self, problem: str) -> NoReturn:
        raise UsageError(f"Line {self._line}: the file is not valid JSON: {problem}.")
