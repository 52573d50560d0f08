"""Reads rows, one by its keys or some by a filter.

Sources: "Table Service REST API", Query Entities; "Query timeout and pagination"; "Payload format for Table service
operations".
"""

import asyncio
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import UUID

from azure.core.exceptions import ServiceRequestError, ServiceResponseError
from azure.data.tables import EdmType, EntityProperty, TableErrorCode
from pydantic_core import from_json

from customers.direct import TRANSIENT, Direct, Response, entity_url

_PAUSES = (0.05, 0.2)
"""In seconds: a read that failed in a transient way is made again after each."""

_PARAMETER = re.compile(r"@(\w+)")

type FilterValue = str | datetime


class Keys(NamedTuple):
    """Where a query continues, as storage wrote it: opaque."""

    partition_key: str
    row_key: str | None


class Row(dict[str, Any]):
    """The columns of an entity, and its ETag where the storage client has it, too."""

    def __init__(self, columns: Mapping[str, Any], etag: str | None) -> None:
        super().__init__(columns)
        self.metadata = {"etag": etag}


class Read:
    """Reads rows of the table. A read that fails in a transient way is made again, at most twice."""

    def __init__(self, direct: Direct) -> None:
        self._direct = direct

    async def get(self, partition_key: str, row_key: str) -> Row | None:
        """Return the row with these keys, or None if the table has no such row.

        Raises ResourceNotFoundError if there is no table, and what else the storage client raises.
        """
        response = await self._send(entity_url(self._direct.table_url, partition_key, row_key))
        if response.status_code == 404 and TableErrorCode.TABLE_NOT_FOUND not in response.text():
            return None
        return _row(self._parse(response))

    async def query(
        self,
        where: str,
        parameters: Mapping[str, FilterValue],
        *,
        top: int,
        select: Sequence[str] = (),
        continuation: Keys | None = None,
    ) -> tuple[list[Row], Keys | None]:
        """Return at most ``top`` rows for which a filter is true, perhaps none, and where the query continues.

        The values of ``parameters`` stand in place of each ``@name``. Raises what the storage client raises.
        """
        text = _PARAMETER.sub(lambda name: _literal(parameters[name[1]]), where)
        options = {"$filter": text, "$top": str(top), **({"$select": ",".join(select)} if select else {})}
        if continuation is not None:
            options["NextPartitionKey"] = continuation.partition_key
            if continuation.row_key is not None:
                options["NextRowKey"] = continuation.row_key
        response = await self._send(
            f"{self._direct.table_url}()",
            "&".join(f"{name}={quote(value, safe='')}" for name, value in options.items()),
        )
        found = self._parse(response).get("value")
        if not isinstance(found, list):
            raise ServiceResponseError("the response has no rows")
        partition_key = response.headers.get("x-ms-continuation-NextPartitionKey")
        row_key = response.headers.get("x-ms-continuation-NextRowKey")
        return [_row(entity) for entity in found], Keys(partition_key, row_key) if partition_key else None

    async def _send(self, url: str, query: str = "") -> Response:
        for pause in _PAUSES:
            try:
                response = await self._direct.send("GET", url, {}, query=query)
            except ServiceRequestError:
                pass
            else:
                if response.status_code not in TRANSIENT or "Retry-After" in response.headers:
                    return response
            await asyncio.sleep(pause)
        return await self._direct.send("GET", url, {}, query=query)

    def _parse(self, response: Response) -> dict[str, Any]:
        if response.status_code != 200:
            raise self._direct.error(response)
        try:
            parsed = from_json(response.body)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            raise ServiceResponseError("the response cannot be read")
        return parsed


def _literal(value: FilterValue) -> str:
    """A value as a filter has it ("Querying tables and entities")."""
    if isinstance(value, datetime):
        return f"datetime'{value.astimezone(UTC).strftime('%Y-%m-%dT%H:%M:%S.%fZ')}'"
    return "'" + value.replace("'", "''") + "'"


def _row(entity: Mapping[str, Any]) -> Row:
    """An entity of a response, its columns of the types that the storage client gives and takes."""
    columns = {}
    for name, value in entity.items():
        if "odata." in name or name == "Timestamp":
            continue
        kind = entity.get(f"{name}@odata.type")
        columns[name] = value if kind is None else _typed(kind, value)
    return Row(columns, entity.get("odata.etag"))


def _typed(kind: str, value: Any) -> Any:
    match kind:
        case EdmType.DATETIME:
            # More than microseconds are kept as they are.
            return (
                datetime.fromisoformat(value)
                if len(value) <= len("2026-11-23T12:00:00.123456Z")
                else EntityProperty(value, kind)
            )
        case EdmType.GUID:
            return UUID(value)
        case EdmType.BINARY:
            return b64decode(value)
        case _:
            return EntityProperty(value, EdmType(kind))
