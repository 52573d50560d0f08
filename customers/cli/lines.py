"""The valid lines of a file: what is sent for each, and where they wait until the whole file is checked."""

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple, Self

from pydantic import ValidationError
from pydantic_core import to_json

from customers.cli.records import Record
from customers.keys import guid
from customers.model import NewCustomer


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
    """The id of a customer that has none: a version 8 UUID (RFC 9562, 5.8) of its properties."""
    digest = sha256(json.dumps(sent, sort_keys=True).encode()).digest()
    first, rest = int.from_bytes(digest[:8]), int.from_bytes(digest[8:16])
    return guid(8, first >> 16, first & 0xFFF, rest)


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
