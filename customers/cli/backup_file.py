"""The file of a backup: gzip, with one JSON object in each line.

The first line says what was backed up. Then come the rows in the order of the table, as Table Storage writes them in
JSON: the columns, and ``NAME@odata.type`` where the type does not show. After each page of rows stands a checkpoint:
how many rows came before it, and where the table continues; null at the end. A file without that end is not complete.
Each page is a gzip member of its own, so that an unfinished file can be continued after its last whole one.

Sources: "Payload format for Table service operations"; RFC 1952, 2.2.
"""

import gzip
import json
import os
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from azure.data.tables import EdmType, EntityProperty, TableEntity
from pydantic_core import from_json

from customers.cli.command import UsageError
from customers.storage import etag_of

type Columns = dict[str, Any]
"""A row's columns as Table Storage has them in JSON, with their types, without its ETag and timestamp."""

type Place = Mapping[str, str | None]
"""Where a table continues, as the storage client has it."""

_KIND, _VERSION = "booking-customers", 1
_TYPE = "@odata.type"
_TIMESTAMP, _ETAG = "Timestamp", "odata.etag"
_FLOATS = {float("inf"): "Infinity", float("-inf"): "-Infinity"}


class Row(NamedTuple):
    """A row of a backup."""

    columns: Columns
    timestamp: str
    etag: str
    size: int
    """In bytes, as a line of the file."""

    @property
    def key(self) -> tuple[str, str]:
        """PartitionKey and RowKey."""
        return self.columns["PartitionKey"], self.columns["RowKey"]


def to_columns(entity: Mapping[str, Any]) -> Columns:
    """The columns of a row as the storage client returns it."""
    columns: Columns = {}
    for name, value in entity.items():
        edm_type, columns[name] = _to_json(value)
        if edm_type:
            columns[name + _TYPE] = edm_type.value
    return columns


def to_entity(columns: Columns) -> dict[str, Any]:
    """A row as the storage client takes it."""
    entity = {}
    for name, value in columns.items():
        if not name.endswith(_TYPE):
            edm_type = columns.get(name + _TYPE)
            plain = b64decode(value) if edm_type == EdmType.BINARY else value
            entity[name] = EntityProperty(plain, EdmType(edm_type)) if edm_type else plain
    return entity


def timestamp_of(entity: TableEntity) -> str:
    """When storage last wrote a row, in its own format."""
    timestamp: Any = entity.metadata["timestamp"]
    return str(timestamp.tables_service_value)


def ticks(timestamp: str) -> int:
    """A timestamp of Table Storage in units of 100 ns, its precision, which is ten times that of Python."""
    whole, _, fraction = timestamp.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(f"{whole}Z").timestamp()) * 10**7 + int(f"{fraction:0<7}"[:7])


def _to_json(value: Any) -> tuple[EdmType | None, Any]:
    match value:
        case EntityProperty():
            return EdmType(value.edm_type), str(value.value)
        case float():
            return EdmType.DOUBLE, value if isfinite(value) else _FLOATS.get(value, "NaN")
        case datetime():
            return EdmType.DATETIME, value.tables_service_value  # type: ignore[attr-defined]
        case UUID():
            return EdmType.GUID, str(value)
        case bytes():
            return EdmType.BINARY, b64encode(value).decode()
        case _:
            return None, value


class Writer:
    """Writes a backup beside its final name, and gives it that name when it is complete.

    What an interrupted run left there is continued. Raises UsageError if there is a file with the final name, or if
    the unfinished one is of another backup.
    """

    def __init__(self, path: Path, subject: Mapping[str, str | None], *, began: str) -> None:
        if path.exists():
            raise UsageError(f"{path} exists. Choose another file name, or delete it first.")
        self._path = path
        self.unfinished = path.with_name(f"{path.name}.unfinished")
        self.rows = 0
        self.place: Place | None = None
        self.complete = False
        end = 0
        if self.unfinished.exists():
            end = self._resume(subject)
        # Readable by its owner only: it holds customers.
        descriptor = os.open(self.unfinished, os.O_RDWR | os.O_CREAT, 0o600)
        self._file = os.fdopen(descriptor, "r+b")
        self._file.truncate(end)
        self._file.seek(end)
        if end == 0:
            self._write([{"backup": _KIND, "version": _VERSION, **subject, "began": began}])

    def _resume(self, subject: Mapping[str, str | None]) -> int:
        """Go back to the last checkpoint and return where it ends in the file; 0 if there is none."""
        end = 0
        for number, (line, member_end) in enumerate(_last_lines(self.unfinished)):
            if number == 0 and not (_is_head(line) and all(line.get(name) == value for name, value in subject.items())):
                raise UsageError(f"{self.unfinished} is of another backup. Choose another file name, or delete it.")
            if number == 0 or "next" in line:
                end = member_end
                self.rows, self.place = line.get("rows", 0), line.get("next")
                self.complete = number > 0 and self.place is None
        return end

    def page(self, entities: Sequence[TableEntity], next_place: Place | None) -> None:
        """Write a page of rows and its checkpoint."""
        self.rows += len(entities)
        self.place, self.complete = next_place, next_place is None
        rows = (
            {
                **to_columns(entity),
                _TIMESTAMP: timestamp_of(entity),
                _ETAG: etag_of(entity.metadata),
            }
            for entity in entities
        )
        self._write([*rows, {"rows": self.rows, "next": next_place}])

    def _write(self, objects: Sequence[Mapping[str, Any]]) -> None:
        self._file.write(gzip.compress(b"".join(json.dumps(one).encode() + b"\n" for one in objects), 6))
        self._file.flush()

    def finish(self) -> None:
        """Give the file its name, when everything is on the disk."""
        os.fsync(self._file.fileno())
        self._file.close()
        self.unfinished.rename(self._path)

    def close(self) -> None:
        """Leave what there is to the next run."""
        self._file.close()


def _is_head(line: Any) -> bool:
    """Whether it is the first line of a backup that this version can read."""
    return isinstance(line, dict) and (line.get("backup"), line.get("version")) == (_KIND, _VERSION)


def _last_lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """The last line of each whole member of a gzip file, and where the member ends."""
    with path.open("rb") as file:
        member, text = zlib.decompressobj(wbits=31), b""
        while chunk := file.read(1 << 20):
            while chunk:
                try:
                    text += member.decompress(chunk)
                except zlib.error:
                    return
                chunk = member.unused_data
                if member.eof:
                    yield from_json(text.rstrip().rpartition(b"\n")[2]), file.tell() - len(chunk)
                    member, text = zlib.decompressobj(wbits=31), b""


class Backup(NamedTuple):
    """What a whole backup has: the rows of which business, or of all, and how many."""

    business: str | None
    rows: int


def check(path: Path) -> Backup:
    """Read a backup to its end. Raises UsageError if it is damaged or incomplete."""
    rows = sum(1 for _ in read(path))
    with gzip.open(path, "rb") as file:
        return Backup(from_json(file.readline()).get("business"), rows)


def read(path: Path) -> Iterator[Row]:
    """The rows of a backup. Raises UsageError if it is damaged or incomplete, at the end at the latest."""
    number, rows, complete = 0, 0, False
    try:
        with gzip.open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                value = from_json(line)
                if number == 1:
                    if not _is_head(value):
                        raise UsageError(f"{path} is not a backup that this version can read.")
                elif "PartitionKey" in value:
                    rows += 1
                    yield _row(value, len(line))
                elif value["rows"] != rows:
                    raise UsageError(
                        f"{path} is damaged: line {number} counts {value['rows']} rows, but it has {rows}."
                    )
                else:
                    complete = value["next"] is None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        complete = False
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{path} is damaged: line {number} is not of a backup.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    if not complete:
        raise UsageError(f"{path} is not complete: its end is missing. Make the backup again, or use an older one.")


def _row(value: Any, size: int) -> Row:
    """The row of a line. Raises KeyError or TypeError if it is none."""
    if not (isinstance(value, dict) and isinstance(value["PartitionKey"], str) and isinstance(value["RowKey"], str)):
        raise TypeError
    timestamp, etag = value.pop(_TIMESTAMP), value.pop(_ETAG)
    return Row(value, timestamp, etag, size)
