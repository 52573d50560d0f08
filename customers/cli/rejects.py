"""Refused lines of an import: shown, and written into a file to correct and import."""

import sys
from pathlib import Path
from typing import IO

from customers.cli.command import UsageError
from customers.cli.records import File, Record

_MAX_SHOWN = 10
"""How many refused lines are shown where a file has all of them."""


class Rejects:
    """The file of refused records, made when there is one. An older file of that name gets ``.old`` after its name."""

    def __init__(self, path: Path | None, file: File) -> None:
        self._path = path
        self._source = file.source
        self._encoding = file.encoding
        self._open: IO[str] | None = None
        if path is None:
            return
        try:
            if path.exists():
                if path.samefile(file.path):
                    raise UsageError(f"--rejects must not name the file to import, {path}.")
                path.replace(path.with_name(f"{path.name}.old"))
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}.") from None

    def add(self, record: Record, reason: str) -> None:
        """Write a record and why it was refused."""
        if self._path is None:
            return
        first = self._open is None
        if self._open is None:
            try:
                self._open = self._path.open("w", encoding=self._encoding, errors="surrogateescape", newline="")
            except OSError as error:
                raise UsageError(f"{self._path} cannot be written: {error.strerror}.") from None
        self._source.refused(self._open, record, reason, first=first)

    def close(self) -> None:
        """End the file."""
        if self._open is not None:
            self._source.end(self._open)
            self._open.close()
            self._open = None


def _say(message: str) -> None:
    print(message, file=sys.stderr)


class Refusals:
    """Shows refused lines, and writes them into the file of rejects."""

    def __init__(self, file: File, path: Path | None) -> None:
        self._file = file
        self._path = path
        self._rejects = Rejects(path, file)
        self.number = 0
        self.say = _say

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
