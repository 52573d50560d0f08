"""Many clients that add customers and repeat as the Graph SDKs do, while storage misbehaves; and the law that holds.

The law: at the end the table holds exactly the customers that the clients were told of, each once, as they were sent.

Usage: ``exactly_once.py [SECONDS]`` soaks a service of its own for that long (60) and prints the figures.
"""

import asyncio
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
from aiohttp import web
from azure.data.tables.aio import TableClient
from graph import BETA
from issuer import Issuer, new_key
from proxy import Fault, FaultProxy, commit_late, cut_after, cut_before, half_a_response, hang, late, pass_on, status
from run import app_settings, azurite, connection_string, functions_host, make_table

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
IMPATIENT = {"STORAGE_CONNECT_TIMEOUT": "0.4", "STORAGE_READ_TIMEOUT": "0.4", "STORAGE_BUDGET": "2"}
"""Settings of a service that meets these faults in a test's time."""


@dataclass
class Figures:
    """What happened."""

    answers: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    told: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    duplicates: int = 0
    losses: int = 0
    altered: int = 0

    def lines(self) -> list[str]:
        """The figures for a person."""
        return [
            f"customers told of {len(self.told)}, requests {self.answers.total()}, faults {self.faults.total()}",
            f"duplicates {self.duplicates}, losses {self.losses}, altered {self.altered}, 500s {self.answers['500']}",
            "answers: " + ", ".join(f"{name} {number}" for name, number in sorted(self.answers.items())),
            "faults: " + ", ".join(f"{name} {number}" for name, number in sorted(self.faults.items())),
        ]


def misbehave(proxy: FaultProxy, figures: Figures, chance: random.Random, *, share: float = 0.3) -> None:
    """Let the proxy make a random fault of that share of the requests."""

    async def fault(of: FaultProxy, request: web.Request) -> web.Response:
        if chance.random() >= share:
            return await pass_on(of, request)
        name = chance.choice(list(FAULTS))
        figures.faults[name] += 1
        return await FAULTS[name](of, request)

    proxy.always = fault


async def refuse_now_and_then(proxy: FaultProxy, figures: Figures, chance: random.Random) -> None:
    """Close the proxy's port for a moment, again and again."""
    while True:
        await asyncio.sleep(chance.uniform(0.5, 2))
        figures.faults["refuse"] += 1
        await proxy.stop()
        await asyncio.sleep(0.2)
        await proxy.start()


async def add_until(
    done: Callable[[], bool], base: str, token: str, figures: Figures, chance: random.Random, *, clients: int
) -> None:
    """Let clients add customers, and repeat each request until it is answered for good."""
    businesses = [f"Contoso {chance.getrandbits(64):x}" for _ in range(3)]
    headers = {"Authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=30)

    async def client(session: aiohttp.ClientSession) -> None:
        while not done():
            business = chance.choice(businesses)
            body = {"displayName": f"{chance.getrandbits(64):x} é'\U0001f600", "emailAddress": "a@example.com"}
            repeatable = {
                "Repeatability-Request-ID": str(UUID(int=chance.getrandbits(128))),
                "Repeatability-First-Sent": datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
            }
            while True:
                try:
                    async with session.post(BETA.format(business), json=body, headers=repeatable) as response:
                        answer = await response.json()
                        figures.answers[str(response.status)] += 1
                        if response.status == 201:
                            assert (business, answer["id"]) not in figures.told
                            figures.told[business, answer["id"]] = body
                            break
                        assert response.status in (429, 503), answer
                except (aiohttp.ClientError, TimeoutError) as error:
                    figures.answers[type(error).__name__] += 1
                await asyncio.sleep(chance.uniform(0.01, 0.1))

    async with aiohttp.ClientSession(base, headers=headers, timeout=timeout) as session, asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client(session))


async def hold_against_the_law(storage: str, figures: Figures) -> None:
    """Compare the table with what the clients were told."""
    async with TableClient.from_connection_string(storage, "customers") as table:
        found = Counter[tuple[str, str]]()
        for business in {business for business, _ in figures.told}:
            async for row in table.query_entities("PartitionKey eq @b", parameters={"b": business}):
                key = (row["PartitionKey"], row["RowKey"])
                found[key] += 1
                sent = figures.told.get(key)
                figures.altered += sent is not None and {name: row[name] for name in sent} != sent
    figures.duplicates = found.total() - len(figures.told.keys() & found.keys())
    figures.losses = len(figures.told.keys() - found.keys())


def assert_the_law(figures: Figures) -> None:
    """Nothing doubled, nothing lost, nothing altered, and no fault of ours."""
    told = json.dumps(figures.lines(), indent=1)
    assert (figures.duplicates, figures.losses, figures.altered, figures.answers["500"]) == (0, 0, 0, 0), told


def peak_memory(pid: int) -> int:
    """The most memory that a process has had, in MiB (proc(5), VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    return 0


@asynccontextmanager
async def misbehaving_service(folder: Path) -> AsyncGenerator[tuple[str, str, FaultProxy, str, int]]:
    """A whole service behind a proxy: its base URL, a token, the proxy, the storage behind it, and its process."""
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
        settings = app_settings(storage=connection_string(proxy.port), metadata_url=metadata_url) | IMPATIENT
        log = stack.enter_context((folder / "service.log").open("w"))
        process = await stack.enter_async_context(functions_host(port, settings, output=log))
        yield f"http://127.0.0.1:{port}", issuer.token(), proxy, storage, process.pid


async def soak(seconds: float) -> Figures:
    """Misbehave for that long, then hold the table against the law."""
    chance, figures = random.Random(), Figures()
    with tempfile.TemporaryDirectory() as folder:
        async with misbehaving_service(Path(folder)) as (base, token, proxy, storage, pid):
            misbehave(proxy, figures, chance)
            refusing = asyncio.create_task(refuse_now_and_then(proxy, figures, chance))
            end = time.monotonic() + seconds
            await add_until(lambda: time.monotonic() > end, base, token, figures, chance, clients=32)
            refusing.cancel()
            await asyncio.sleep(3)  # for what comes late
            await hold_against_the_law(storage, figures)
            print(*figures.lines(), f"peak memory of the service {peak_memory(pid)} MiB", sep="\n")
    return figures


if __name__ == "__main__":
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it tells of each connection that the proxy cuts
    assert_the_law(asyncio.run(soak(float(sys.argv[1]) if len(sys.argv) > 1 else 60)))
