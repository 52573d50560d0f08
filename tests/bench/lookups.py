"""Reads as a business grows: what they ask of storage, and how long a lookup takes beside the same bare requests.

Azurite reads the whole table for every query, so its clock cannot show what an index gains. The rows that each request
reads in Azure are counted instead (``tests.support.reads``), and made seconds by what a partition delivers.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from azure.data.tables import TableClient

from customers.email_index import index_range
from infra.local.run import BUSINESS
from tests.support.proxy import FaultProxy
from tests.support.reads import LOOKUPS, QUERIES, ROWS_A_SECOND, Reads, fill, row_keys

COLLECTION = f"/beta/bookingBusinesses/{BUSINESS}/customers"
SIZES = (100, 1_000, 10_000, 100_000)
LOOKUP = "emailAddress eq"
"""The lookup whose time is measured."""

type Measure = Callable[[], Awaitable[Sequence[dict[str, Any]]]]


def bare_paths(table: str, address: str, customer_id: str) -> tuple[str, str]:
    """The two requests that a lookup makes of storage: the index rows of an address, and the customer."""
    first, end = index_range(address)
    options = {
        "$filter": f"PartitionKey eq '{BUSINESS}' and RowKey ge '{first}' and RowKey lt '{end}'",
        "$top": "100",
    }
    key = f"PartitionKey='{quote(BUSINESS)}',RowKey='{customer_id}'"
    return f"{table}()?{urlencode(options, quote_via=quote)}", f"{table}({key})"


@asynccontextmanager
async def counted(storage_port: int) -> AsyncGenerator[tuple[FaultProxy, Reads]]:
    """Put a proxy before storage that notes what is asked."""
    proxy, reads = FaultProxy(f"http://127.0.0.1:{storage_port}"), Reads()
    proxy.always = reads
    await proxy.start()
    try:
        yield proxy, reads
    finally:
        await proxy.stop()


async def asked(base: str, token: str, reads: Reads, keys: Sequence[str]) -> list[dict[str, Any]]:
    """What each request of the README's table asks of storage, in a business with these RowKeys."""
    figures = []
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(base, headers=headers) as session:
        for name, query in QUERIES.items():
            reads.asked.clear()
            async with session.get(COLLECTION + query) as response:
                if response.status != 200:
                    raise RuntimeError(f"{name}: {response.status} {await response.text()}")
            rows = sum(one.rows(keys) for one in reads.asked)
            # Without an index, a lookup was a filter like any other.
            before = len(keys) // 2 if name in LOOKUPS else rows
            figures.append(
                {
                    "query": name,
                    "requests": len(reads.asked),
                    "rows": rows,
                    "seconds": rows / ROWS_A_SECOND,
                    "rows_before": before,
                    "seconds_before": before / ROWS_A_SECOND,
                }
            )
    return figures


async def grow_to(table: TableClient, size: int) -> list[str]:
    """Fill the business up to so many customers, copies of the one that it has; return its RowKeys, in their order."""

    def work() -> list[str]:
        there = row_keys(table, BUSINESS)
        template = table.get_entity(BUSINESS, there[-1])
        fill(table, template, range(len(there) // 2 - 1, size - 1))
        return row_keys(table, BUSINESS)

    return await asyncio.to_thread(work)
