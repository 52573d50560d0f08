"""What a request asks of storage, and how many rows Table Storage reads for that.

Table Storage reads the rows of a range of keys, and evaluates the rest of a filter on each of them ("Design for
querying", Azure Table Storage). Azurite reads the whole table for every query, so its time cannot show the difference.
"""

import re
from base64 import b64decode
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import batched
from typing import Any, NamedTuple

from aiohttp import web
from azure.data.tables import TableClient

from customers.email_index import index_row
from tests.support.proxy import FaultProxy

ROWS_A_SECOND = 2000
"""What one partition delivers ("Scalability and performance targets for Table storage": entities of 1 KiB)."""

QUERIES = {
    "get": "/000007",
    "emailAddress eq": "?$filter=emailAddress eq '7@x.com'",
    "tolower(emailAddress) eq": "?$filter=tolower(emailAddress) eq '7@X.com' and displayName ne ''",
    "nobody's address": "?$filter=emailAddress eq 'nobody@x.com'",
    "page": "?$top=50",
    "range of ids": "?$filter=id ge '000010' and id lt '000030'",
    "$count": "/$count",
    "page with $count": "?$top=50&$count=true",
    "any other filter": "?$filter=displayName eq 'nobody'",
}
"""Requests for the customers of ``fill``."""

LOOKUPS = ("emailAddress eq", "tolower(emailAddress) eq", "nobody's address")

_GREATEST = "\uffff"  # no key is greater
_KEY_CONDITION = re.compile(r"[( ]*(PartitionKey|RowKey) (eq|ge|gt|le|lt) '((?:[^']|'')*)'[ )]*(?:and|$)")
_CUSTOMERS_A_TRANSACTION = 50  # with their index rows; a transaction takes 100


class Asked(NamedTuple):
    """One request to storage: a ``get``, a ``query`` or a ``transaction``."""

    kind: str
    entities: int = 1
    """How many a transaction writes."""
    keys: tuple[str, str] | None = None
    """The RowKeys that a query reads: from the first one to before the second one."""

    def rows(self, keys: Sequence[str]) -> int:
        """How many rows are read or written in a business that has these RowKeys, in their order."""
        if self.keys is None:
            return self.entities
        return bisect_left(keys, self.keys[1]) - bisect_left(keys, self.keys[0])


class Reads:
    """Passes requests on to storage, and notes what they ask."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []

    async def __call__(self, proxy: FaultProxy, request: web.Request) -> web.Response:
        """Note one request."""
        response = await proxy.forward(request)
        if request.path.endswith("$batch"):
            self.asked.append(Asked("transaction", (await request.read()).count(b" HTTP/1.1\r\n")))
        elif "$filter" not in request.query:
            self.asked.append(Asked("get"))
        else:
            first, end = _range(request.query["$filter"])
            if place := request.query.get("NextRowKey"):
                first = _key(place)
            if place := response.headers.get("x-ms-continuation-NextRowKey"):
                end = _key(place)
            self.asked.append(Asked("query", keys=(first, end)))
        return response


def _range(text: str) -> tuple[str, str]:
    """The range of RowKeys that a filter's first conditions leave."""
    first, end, position = "", _GREATEST, 0
    while found := _KEY_CONDITION.match(text, position):
        position = found.end()
        name, operator, value = found[1], found[2], found[3].replace("''", "'")
        if name == "RowKey":
            if operator in ("eq", "ge", "gt"):
                first = max(first, value + "\0" if operator == "gt" else value)
            if operator in ("eq", "le", "lt"):
                end = min(end, value if operator == "lt" else value + "\0")
    return first, end


def _key(place: str) -> str:
    return b64decode(place).decode()


def row_keys(table: TableClient, business: str) -> list[str]:
    """The RowKeys of a business, index rows included, in their order."""
    rows = table.query_entities("PartitionKey eq @b", parameters={"b": business}, select=["RowKey"])
    return sorted(row["RowKey"] for row in rows)


def fill(table: TableClient, template: Mapping[str, Any], customers: range) -> None:
    """Add copies of a customer with their index rows, past the service: ``000007`` has the address ``7@x.com``."""
    business = template["PartitionKey"]
    for numbers in batched(customers, _CUSTOMERS_A_TRANSACTION, strict=False):
        rows: list[Mapping[str, Any]] = []
        for number in numbers:
            own, address = f"{number:06}", f"{number}@x.com"
            rows += [{**template, "RowKey": own, "emailAddress": address}, index_row(business, own, address)]
        table.submit_transaction([("create", row) for row in rows])
