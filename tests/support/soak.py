"""A load of adds, alone and in batches, with retries as the Graph SDKs make them, and of deletes, while storage fails.

What must hold: at the end, the table contains exactly the customers that were acknowledged and not deleted, each once,
as it was sent. Of the deletes of one customer whose write storage got once and answered, at most one is a success. The
clients act for a user who is a member of their businesses; another user, who is not, gets nowhere whatever fails.

Usage: ``python -m tests.support.soak [SECONDS]`` runs it against a service of its own (60 seconds) and prints a report;
with FUNCTIONS_HOST=func under Azure's own host.
"""

import asyncio
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import aiohttp
from aiohttp import web
from azure.data.tables.aio import TableClient

from customers.batch import MAX_REQUESTS
from customers.email_index import INDEXED
from customers.members import Role
from customers.partition import is_customer_row
from infra.local.issuer import USER, Issuer, new_key
from infra.local.run import app_settings, azurite, connection_string, functions_host, make_table
from tests.support.graph import BETA
from tests.support.index import faults_among
from tests.support.members import DELEGATED, add_members
from tests.support.processes import app_process, memory
from tests.support.proxy import (
    Fault,
    FaultProxy,
    commit_late,
    cut_after,
    cut_before,
    half_a_response,
    hang,
    late,
    pass_on,
    status,
)

FAULTS: dict[str, Fault] = {
    "cut before the request": cut_before,
    "cut after the commit": cut_after,
    "commit after the budget": commit_late(2.5),
    "half a response": half_a_response,
    "delay": late(0.2),
    "answer after the timeout": late(0.8),
    "accept and hang": hang,
    "429 with Retry-After": status(429, retry_after=1),
    "503 with Retry-After": status(503, retry_after=1),
    "503 after the commit": status(503, committed=True),
    "503 with Retry-After after the commit": status(503, retry_after=1, committed=True),
    "500": status(500),
    "500 after the commit": status(500, committed=True),
}
_BATCHED = 0.1
"""How often a client sends a batch of adds instead of one."""

_MOVED = 0.2
"""The share of the customers whose address is changed."""

_DELETED = 0.1
"""The share of the customers that are deleted again."""

SHORT_TIMEOUTS = {"STORAGE_CONNECT_TIMEOUT": "0.4", "STORAGE_READ_TIMEOUT": "0.4", "STORAGE_BUDGET": "2"}
"""Settings with which these faults take effect within the time of a test."""


@dataclass
class Figures:
    """What happened."""

    answers: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    acknowledged: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    duplicates: int = 0
    losses: int = 0
    altered: int = 0
    deleted: set[tuple[str, str]] = field(default_factory=set)
    """Customers that were deleted, or may have been."""
    deletes: Counter[str] = field(default_factory=Counter)
    second_winners: int = 0
    """Deletes that succeeded although another delete of the same customer did."""
    moved: set[tuple[str, str]] = field(default_factory=set)
    """Customers whose address was changed, or may have been."""
    index_faults: int = 0
    strangers: Counter[str] = field(default_factory=Counter)
    """Responses to a user who is no member."""
    disturbed: set[str] = field(default_factory=set)
    """The request-ids of the deletes into which a fault was injected."""
    interruptions: int = 0
    """How often storage went away or came back; odd while it is away."""

    def lines(self) -> list[str]:
        """The report."""
        return [
            f"acknowledged {len(self.acknowledged)}, requests {self.answers.total()}, batches {self.batches}",
            f"duplicates {self.duplicates}, losses {self.losses}, altered {self.altered}, 500s {self.answers['500']}",
            f"index rows missing or wrong {self.index_faults}, addresses changed {len(self.moved)}",
            f"deleted {len(self.deleted)}, successes too many {self.second_winners}, responses to deletes: "
            + ", ".join(f"{name} {number}" for name, number in sorted(self.deletes.items())),
            "responses to a stranger: "
            + ", ".join(f"{name} {number}" for name, number in sorted(self.strangers.items())),
            "answers: " + ", ".join(f"{name} {number}" for name, number in sorted(self.answers.items())),
            f"faults {self.faults.total()}: "
            + ", ".join(f"{name} {number}" for name, number in sorted(self.faults.items())),
        ]


def inject_faults(proxy: FaultProxy, figures: Figures, rng: random.Random, *, share: float = 0.3) -> None:
    """Make a random fault in that share of the requests to storage."""

    async def fault(of: FaultProxy, request: web.Request) -> web.Response:
        if rng.random() >= share:
            return await pass_on(of, request)
        name = rng.choice(list(FAULTS))
        figures.faults[name] += 1
        figures.disturbed.add(request.headers.get("x-ms-client-request-id", ""))
        return await FAULTS[name](of, request)

    proxy.always = fault


async def refuse_connections(proxy: FaultProxy, figures: Figures, rng: random.Random) -> None:
    """Refuse connections for 0.2 seconds, repeatedly."""
    while True:
        await asyncio.sleep(rng.uniform(0.5, 2))
        figures.faults["refuse"] += 1
        figures.interruptions += 1
        await proxy.stop()
        await asyncio.sleep(0.2)
        await proxy.start()
        figures.interruptions += 1


def some_businesses(rng: random.Random) -> list[str]:
    """The ids of new businesses."""
    return [f"Contoso {rng.getrandbits(64):x}" for _ in range(3)]


async def add_until(  # noqa: PLR0913 - who adds what where, and for how long
    done: Callable[[], bool],
    base: str,
    token: str,
    figures: Figures,
    rng: random.Random,
    *,
    clients: int,
    businesses: Sequence[str] = (),
) -> None:
    """Add customers from several clients, and retry each request until its response is final."""
    businesses = businesses or some_businesses(rng)
    headers = {"Authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=30)

    async def client(session: aiohttp.ClientSession) -> None:
        while not done():
            number = rng.randint(2, MAX_REQUESTS) if rng.random() < _BATCHED else 1
            adds = [_Add.random(rng.choice(businesses), rng) for _ in range(number)]
            send = add_together if number > 1 else add_alone
            left = adds
            while left:
                try:
                    left = await send(session, left, figures)
                except (aiohttp.ClientError, TimeoutError) as error:
                    figures.answers[type(error).__name__] += 1
                if left:
                    await asyncio.sleep(rng.uniform(0.01, 0.1))
            one = rng.choice(adds)
            await change(session, one.business, one.customer_id, figures, rng)

    async with aiohttp.ClientSession(base, headers=headers, timeout=timeout) as session, asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client(session))


@dataclass
class _Add:
    """A customer to be added to a business; and its id, when it is acknowledged."""

    business: str
    body: dict[str, str]
    headers: dict[str, str]
    customer_id: str = ""

    @classmethod
    def random(cls, business: str, rng: random.Random) -> "_Add":
        body = {"displayName": f"{rng.getrandbits(64):x} é'\U0001f600", "emailAddress": "a@example.com"}
        headers = {
            "Content-Type": "application/json",
            "Repeatability-Request-ID": str(UUID(int=rng.getrandbits(128))),
            "Repeatability-First-Sent": datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
        }
        return cls(business, body, headers)

    def is_left(self, status: int, answer: dict[str, Any], figures: Figures) -> bool:
        """Whether this answer is one to repeat the add for; else it is noted as acknowledged."""
        figures.answers[str(status)] += 1
        if status != 201:
            assert status in (429, 503), answer
            return True
        self.customer_id = answer["id"]
        assert (self.business, self.customer_id) not in figures.acknowledged
        figures.acknowledged[self.business, self.customer_id] = self.body
        return False


async def add_alone(session: aiohttp.ClientSession, adds: list[_Add], figures: Figures) -> list[_Add]:
    """Send one add, and return it if it is to be repeated."""
    (one,) = adds
    async with session.post(BETA.format(one.business), json=one.body, headers=one.headers) as response:
        return adds if one.is_left(response.status, await response.json(), figures) else []


async def add_together(session: aiohttp.ClientSession, adds: list[_Add], figures: Figures) -> list[_Add]:
    """Send adds as a batch, and return those that are to be repeated."""
    requests = [
        {
            "id": str(position),
            "method": "POST",
            "url": BETA.format(quote(one.business)).removeprefix("/beta"),
            "headers": one.headers,
            "body": one.body,
        }
        for position, one in enumerate(adds)
    ]
    async with session.post("/beta/$batch", json={"requests": requests}) as response:
        whole = await response.json()
        assert response.status == 200, whole
    figures.batches += 1
    answers = {int(answer["id"]): answer for answer in whole["responses"]}
    assert len(whole["responses"]) == len(answers) == len(adds)
    return [
        one
        for position, one in enumerate(adds)
        if one.is_left(answers[position]["status"], answers[position]["body"], figures)
    ]


async def change(
    session: aiohttp.ClientSession, business: str, customer_id: str, figures: Figures, rng: random.Random
) -> None:
    """Change the address of some customers, and delete some."""
    if rng.random() < _MOVED:
        # Whether it succeeds or not, the index must agree with the customer.
        figures.moved.add((business, customer_id))
        with suppress(aiohttp.ClientError, TimeoutError):
            address = {"emailAddress": f"{rng.choice('aAb')}@example.com"}
            async with session.patch(f"{BETA.format(business)}/{customer_id}", json=address) as response:
                await response.read()
                assert response.status in (200, 429, 503)
    if rng.random() < _DELETED:
        await delete_at_once(session, business, customer_id, figures)


async def intrude(base: str, token: str, figures: Figures, rng: random.Random, businesses: Sequence[str]) -> None:
    """Read, add and delete without a role, alone and in batches, until cancelled."""
    eve = {"displayName": "Eve", "emailAddress": "eve@example.com"}
    async with aiohttp.ClientSession(base, headers={"Authorization": f"Bearer {token}"}) as session:

        async def send(method: str, path: str, body: object) -> list[int]:
            async with session.request(method, path, json=body) as response:
                answer = await response.json()
                return [member["status"] for member in answer.get("responses", [])] or [response.status]

        while True:
            collection = BETA.format(quote(rng.choice(businesses)))
            one = {"method": "POST", "url": collection.removeprefix("/beta"), "body": eve}
            one["headers"] = {"Content-Type": "application/json"}
            method, path, body = rng.choice(
                [
                    ("GET", collection, None),
                    ("GET", f"{collection}/$count", None),
                    ("POST", collection, eve),
                    ("DELETE", f"{collection}/x", None),
                    ("POST", "/beta/$batch", {"requests": [{"id": "1", **one}, {"id": "2", **one}]}),
                ]
            )
            with suppress(aiohttp.ClientError, TimeoutError):
                figures.strangers.update(map(str, await send(method, path, body)))
            await asyncio.sleep(0.02)


async def delete_at_once(session: aiohttp.ClientSession, business: str, own: str, figures: Figures) -> None:
    """Delete a customer three times at once, without retries."""
    interruptions = figures.interruptions

    async def delete() -> tuple[int, str, float] | None:
        began = time.monotonic()
        try:
            async with session.delete(f"{BETA.format(business)}/{own}") as response:
                await response.read()
                figures.deletes[str(response.status)] += 1
                return response.status, response.headers["request-id"], time.monotonic() - began
        except (aiohttp.ClientError, TimeoutError) as error:
            figures.deletes[type(error).__name__] += 1
            return None

    figures.deleted.add((business, own))
    results = [result for result in await asyncio.gather(*(delete() for _ in range(3))) if result]
    assert {status for status, _, _ in results} <= {204, 404, 429, 503}, results
    if interruptions % 2 == 0 and interruptions == figures.interruptions:
        # On a busy machine, storage may be late without any fault.
        late = float(SHORT_TIMEOUTS["STORAGE_READ_TIMEOUT"])
        sure = [status for status, own_id, took in results if own_id not in figures.disturbed and took < late]
        figures.second_winners += max(0, sure.count(204) - 1)


async def check_invariants(storage: str, figures: Figures) -> None:
    """Compare the table with what the clients were acknowledged."""
    async with TableClient.from_connection_string(storage, "customers") as table:
        found = Counter[tuple[str, str]]()
        for business in {business for business, _ in figures.acknowledged}:
            rows = [row async for row in table.query_entities("PartitionKey eq @b", parameters={"b": business})]
            figures.index_faults += len(faults_among(rows))
            for row in rows:
                if not is_customer_row(row):
                    continue
                key = (row["PartitionKey"], row["RowKey"])
                if key in figures.deleted:
                    continue  # perhaps not deleted, or written anew by an insert that storage made late
                found[key] += 1
                sent = figures.acknowledged.get(key)
                kept = {**sent, INDEXED: row[INDEXED]} if sent and key in figures.moved else sent
                figures.altered += kept is not None and {name: row[name] for name in kept} != kept
    figures.duplicates = found.total() - len(figures.acknowledged.keys() & found.keys())
    figures.losses = len(figures.acknowledged.keys() - found.keys() - figures.deleted)


def assert_invariants(figures: Figures) -> None:
    """No duplicate, no loss, nothing altered, no delete that succeeded twice, and no internal error."""
    report = json.dumps(figures.lines(), indent=1)
    assert (figures.duplicates, figures.losses, figures.altered, figures.answers["500"]) == (0, 0, 0, 0), report
    assert (figures.second_winners, figures.index_faults) == (0, 0), report
    assert figures.strangers.keys() <= {"403", "429", "503"}, report


@asynccontextmanager
async def faulty_service(folder: Path) -> AsyncGenerator[tuple[str, Issuer, FaultProxy, str, int]]:
    """A whole service behind a proxy: its base URL, the issuer, the proxy, the storage behind it, and its process."""
    async with AsyncExitStack() as stack:
        issuer = Issuer(new_key())
        runner, metadata_url = await issuer.serve()
        stack.push_async_callback(runner.cleanup)
        table_port, port = random.sample(range(20_000, 30_000), 2)
        await stack.enter_async_context(azurite(table_port, None, folder / "azurite.log"))
        storage = connection_string(table_port)
        await make_table(storage)
        proxy = FaultProxy(f"http://127.0.0.1:{table_port}")
        await proxy.start()
        stack.push_async_callback(proxy.stop)
        settings = app_settings(storage=connection_string(proxy.port), metadata_url=metadata_url) | SHORT_TIMEOUTS
        log = stack.enter_context((folder / "service.log").open("w"))
        process = await stack.enter_async_context(functions_host(port, settings, output=log))
        yield f"http://127.0.0.1:{port}", issuer, proxy, storage, app_process(process.pid)


async def soak(seconds: float) -> Figures:
    """Inject faults for that long, then check the invariants."""
    rng, figures = random.Random(), Figures()
    with tempfile.TemporaryDirectory() as folder:
        async with faulty_service(Path(folder)) as (base, issuer, proxy, storage, pid):
            businesses = some_businesses(rng)
            await add_members(storage, {business: {USER: Role.SCHEDULER} for business in businesses})
            token = issuer.token(DELEGATED)
            stranger = issuer.token({**DELEGATED, "oid": str(uuid4())})
            inject_faults(proxy, figures, rng)
            refusing = asyncio.create_task(refuse_connections(proxy, figures, rng))
            intruding = asyncio.create_task(intrude(base, stranger, figures, rng, [*businesses, "Nowhere"]))
            end = time.monotonic() + seconds
            await add_until(
                lambda: time.monotonic() > end, base, token, figures, rng, clients=32, businesses=businesses
            )
            refusing.cancel()
            assert not intruding.done()
            intruding.cancel()
            await asyncio.sleep(3)  # for late commits
            await check_invariants(storage, figures)
            print(*figures.lines(), f"peak memory of the service {memory(pid, peak=True)} MiB", sep="\n")
    return figures


if __name__ == "__main__":
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it logs each connection that the proxy cuts
    assert_invariants(asyncio.run(soak(float(sys.argv[1]) if len(sys.argv) > 1 else 60)))
