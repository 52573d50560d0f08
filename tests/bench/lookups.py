"""Reads as a business grows: what they ask of storage, and how long a lookup takes beside the same bare requests.

Azurite reads the whole table for every query, so its clock cannot show what an index gains. The rows that each request
reads in Azure are counted instead (``tests.support.reads``), and made seconds by what a partition delivers.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
from azure.data.tables import TableClient

from customers.docs import EXAMPLE_BUSINESS
from customers.email_index import index_range
from infra.local.run import connection_string
from tests.bench.contenders import TABLE, Contender, Surroundings, measure_rate, request, running, signed, surroundings
from tests.support.proxy import FaultProxy
from tests.support.reads import LOOKUPS, QUERIES, ROWS_A_SECOND, Reads, fill, row_keys

SIZES = (100, 1_000, 10_000, 100_000)
_COLLECTION = f"/beta/bookingBusinesses/{EXAMPLE_BUSINESS}/customers"
_FOUND = 7  # the customer of QUERIES
_EACH = 3
"""Measurements of one size, of the service and the bare requests in turns."""


async def lookups(sizes: Sequence[int], seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure at each size of the business."""
    asked: list[dict[str, Any]] = []
    timed: list[dict[str, Any]] = []
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(surroundings("lookups"))
        proxy, reads = await stack.enter_async_context(_counting(place.storage_port))
        behind = {**place.settings, "CUSTOMERS_STORAGE": connection_string(proxy.port)}
        counted = await stack.enter_async_context(running("service", place._replace(settings=behind), "counted"))
        service = await stack.enter_async_context(running("service", place, "lookups"))
        table = stack.enter_context(TableClient.from_connection_string(place.storage, TABLE))
        for size in sizes:
            keys = await asyncio.to_thread(_grow_to, table, size)
            asked += [{"customers": size, **one} async for one in _asked(counted, place, reads, keys)]
            looked_up = service._replace(request=_lookup_request(place))
            bare = Contender("bare requests", place.storage_port, *_bare_requests(place))
            for number in range(_EACH):
                for contender in (looked_up, bare) if number % 2 else (bare, looked_up):
                    one = await measure_rate(contender, place.storage_pid, 1, seconds)
                    timed.append({"customers": size, "round": number, **one})
            say(f"lookups among {size} customers")
    return {"asked": asked, "timed": timed}


@asynccontextmanager
async def _counting(storage_port: int) -> AsyncGenerator[tuple[FaultProxy, Reads]]:
    """Put a proxy before storage that notes what is asked."""
    proxy, reads = FaultProxy(f"http://127.0.0.1:{storage_port}"), Reads()
    proxy.always = reads
    await proxy.start()
    try:
        yield proxy, reads
    finally:
        await proxy.stop()


async def _asked(
    service: Contender, place: Surroundings, reads: Reads, keys: Sequence[str]
) -> AsyncGenerator[dict[str, Any]]:
    """What each request of the README's table asks of storage, in a business with these RowKeys."""
    headers = {"Authorization": f"Bearer {place.token}"}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{service.port}", headers=headers) as session:
        for name, query in QUERIES.items():
            reads.asked.clear()
            async with session.get(_COLLECTION + query) as response:
                if response.status not in (200, 400):  # a count of very many is a 400
                    raise RuntimeError(f"{name}: {response.status} {await response.text()}")
            rows = sum(one.rows(keys) for one in reads.asked)
            yield {
                "query": name,
                "requests": len(reads.asked),
                "rows": rows,
                "seconds": rows / ROWS_A_SECOND,
                # Without an index, a lookup was a filter like any other, and there were no index rows.
                "seconds_before": (len(keys) // 2 if name in LOOKUPS else rows) / ROWS_A_SECOND,
            }


def _grow_to(table: TableClient, size: int) -> list[str]:
    """Fill the business up to so many customers, copies of those it has; return its RowKeys, in their order."""
    there = row_keys(table, EXAMPLE_BUSINESS)
    made = sum(len(key) == len("000000") for key in there)  # the others are of the first requests to the apps
    fill(table, table.get_entity(EXAMPLE_BUSINESS, there[-1]), range(made, size - len(there) // 2 + made))
    return row_keys(table, EXAMPLE_BUSINESS)


def _lookup_request(place: Surroundings) -> str:
    options = urlencode({"$filter": f"emailAddress eq '{_FOUND}@x.com'"}, quote_via=quote)
    return request("GET", f"{_COLLECTION}?{options}", {"Authorization": f"Bearer {place.token}"})


def _bare_requests(place: Surroundings) -> tuple[str, None, str]:
    """The two requests that a lookup makes: the index rows of an address, and the customer."""
    path = urlsplit(place.storage.partition("TableEndpoint=")[2].rstrip(";")).path.rstrip("/") + f"/{TABLE}"
    first, end = index_range(f"{_FOUND}@x.com")
    where = f"PartitionKey eq '{EXAMPLE_BUSINESS}' and RowKey ge '{first}' and RowKey lt '{end}'"
    query, entity = f"{path}()", f"{path}(PartitionKey='{quote(EXAMPLE_BUSINESS)}',RowKey='{_FOUND:06}')"
    options = urlencode({"$filter": where, "$top": 100}, quote_via=quote)
    return (
        request("GET", f"{query}?{options}", signed(place.storage, query)),
        None,
        request("GET", entity, signed(place.storage, entity)),
    )
