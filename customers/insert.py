"""Inserts customers, each with its index row.

Sources: "Table Service REST API", Insert Entity; "Performing entity group transactions".
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from azure.core.exceptions import ResourceExistsError, ServiceResponseError
from pydantic_core import to_json

from customers.direct import Direct, Response, entity_url

# The rows are JSON in ASCII on one line, so no line of them can be a boundary.
_BATCH, _CHANGESET = "batch_customers", "changeset_customers"
TRANSACTION_TYPE = f"multipart/mixed; boundary={_BATCH}"
_PART_HEADERS = (
    "Content-Type: application/json;odata=nometadata\r\nAccept: application/json;odata=minimalmetadata\r\n"
    "Prefer: return-no-content\r\nDataServiceVersion: 3.0\r\n"
)
_RESPONSE = re.compile(rb"^HTTP/1\.1 ([0-9]{3}) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n", re.MULTILINE)
_OPERATION = re.compile(rb'"value" *: *"([0-9]+):')
_ETAG = re.compile(rb"^ETag: ([^\r\n]+)", re.MULTILINE | re.IGNORECASE)

MAX_PARTS = 50
"""A transaction may have 100 operations."""

MAX_BYTES = 3_900_000
"""A transaction may have 4 MiB, the operations of all its parts and what is around them."""

type _Row = Mapping[str, str | datetime]


class Insert:
    """Inserts rows into the table. It never retries; the caller decides that."""

    def __init__(self, direct: Direct) -> None:
        self._direct = direct

    async def __call__(self, row: _Row, index_row: _Row, *, operation_id: str) -> str:
        """Insert a row, and its index row in place of an older one if there is any, and return the row's ETag.

        Both are inserted or none. Raises what the storage client raises: ResourceExistsError for a taken key,
        ServiceRequestError for a connection fault, ServiceResponseError for a response that cannot be read, and so on.
        """
        (etag,) = await self.all([self.part(row, index_row)], operation_id=operation_id)
        return etag

    def part(self, row: _Row, index_row: _Row) -> bytes:
        """The part of a transaction that inserts a row, and its index row."""
        return transaction_part(self._direct.table_url, row, index_row)

    async def all(self, parts: Sequence[bytes], *, operation_id: str) -> list[str]:
        """Insert the rows of all parts or none, at most ``MAX_PARTS`` and ``MAX_BYTES``, and return their ETags.

        Raises as the insert of one does. ``refused_part`` tells which part had the taken key.
        """
        headers = {"Content-Type": TRANSACTION_TYPE, "x-ms-client-request-id": operation_id}
        response = await self._direct.send("POST", f"{self._direct.url}/$batch", headers, transaction(parts))
        if response.status_code == 202:
            # Inside is the response to each operation, or to the one that failed.
            found = [(int(status), head) for status, head in _RESPONSE.findall(response.body)]
            if len(found) == 2 * len(parts) and all(status == 204 for status, _ in found):
                etags = [_ETAG.search(head) for _, head in found[::2]]
                if all(etags):
                    return [etag[1].decode("ascii") for etag in etags if etag]
            if len(found) != 1:
                raise ServiceResponseError("the response to the transaction cannot be read")
            response = response._replace(status_code=found[0][0], reason=None)
        raise self._direct.error(response)


def refused_part(error: ResourceExistsError) -> int | None:
    """The position of the part whose key was taken; None if storage did not say.

    The message begins with the number of the operation, of which a part has two.
    """
    number = _OPERATION.search(error.response.body) if isinstance(error.response, Response) else None
    return int(number[1]) // 2 if number else None


def transaction(parts: Iterable[bytes]) -> bytes:
    """The body of a transaction of these parts."""
    start = f"--{_BATCH}\r\nContent-Type: multipart/mixed; boundary={_CHANGESET}\r\n\r\n"
    return b"".join([start.encode(), *parts, f"--{_CHANGESET}--\r\n--{_BATCH}--\r\n".encode()])


def transaction_part(table_url: str, row: _Row, index_row: _Row) -> bytes:
    """What inserts a row, and its index row in place of an older one if there is any."""
    index_url = entity_url(table_url, str(index_row["PartitionKey"]), str(index_row["RowKey"]))
    operations = (("POST", table_url, row), ("PUT", index_url, index_row))
    return b"".join(
        f"--{_CHANGESET}\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n"
        f"{method} {url} HTTP/1.1\r\n{_PART_HEADERS}\r\n".encode()
        + _to_entity(row)
        + b"\r\n"
        for method, url, row in operations
    )


def _to_entity(row: _Row) -> bytes:
    """A row as JSON; strings need no type annotation, timestamps do."""
    types = {f"{name}@odata.type": "Edm.DateTime" for name, value in row.items() if isinstance(value, datetime)}
    entity = to_json({**row, **types})
    # Azurite decodes each chunk of a body by itself, which destroys a character that two of them share.
    return entity if entity.isascii() else json.dumps(json.loads(entity)).encode()
