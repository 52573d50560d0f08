"""Whatever fails, every acknowledged customer is stored exactly once, and no other."""

import asyncio
import os
import random
import signal
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from customers.members import Role
from infra.local.issuer import USER, Issuer
from infra.local.run import app_settings, azurite, connection_string, functions_host, make_table
from tests.conftest import PublishedIssuer, StartService, Storage, free_port
from tests.support.members import DELEGATED, add_members
from tests.support.proxy import FaultProxy
from tests.support.soak import (
    SHORT_TIMEOUTS,
    Figures,
    add_until,
    assert_invariants,
    check_invariants,
    inject_faults,
    refuse_connections,
    some_businesses,
)


@pytest.mark.parametrize("seed", [1, 2])
def test_500_adds_under_faults_of_every_kind(
    start_service: StartService,
    start_proxy: Callable[[], AbstractContextManager[FaultProxy]],
    storage: Storage,
    issuer: Issuer,
    seed: int,
) -> None:
    rng, figures = random.Random(seed), Figures()
    with (
        start_proxy() as proxy,
        start_service(CUSTOMERS_STORAGE=connection_string(proxy.port), **SHORT_TIMEOUTS) as service,
    ):
        businesses = some_businesses(rng)

        async def scenario() -> None:
            await add_members(storage.connection_string, {business: {USER: Role.SCHEDULER} for business in businesses})
            inject_faults(proxy, figures, rng)
            await add_until(
                lambda: len(figures.acknowledged) >= 500,
                service.base,
                issuer.token(DELEGATED),
                figures,
                rng,
                clients=32,
                businesses=businesses,
            )
            await asyncio.sleep(3)  # for what comes late
            await check_invariants(storage.connection_string, figures)

        asyncio.run(scenario())
    assert figures.faults.total() > 100
    assert figures.batches > 10
    assert_invariants(figures)


def test_a_port_that_is_closed_now_and_then(published: PublishedIssuer, storage: Storage, tmp_path: Path) -> None:
    rng, figures = random.Random(3), Figures()

    async def scenario() -> None:
        proxy = FaultProxy(f"http://127.0.0.1:{storage.port}")
        await proxy.start()
        settings = (
            app_settings(storage=connection_string(proxy.port), metadata_url=published.metadata_url) | SHORT_TIMEOUTS
        )
        port = free_port()
        with (tmp_path / "log").open("w") as log:
            async with functions_host(port, settings, output=log):
                refusing = asyncio.create_task(refuse_connections(proxy, figures, rng))
                token = published.issuer.token()
                await add_until(
                    lambda: figures.faults["refuse"] >= 3, f"http://127.0.0.1:{port}", token, figures, rng, clients=8
                )
                refusing.cancel()
                await check_invariants(storage.connection_string, figures)
        await proxy.stop()

    asyncio.run(scenario())
    assert_invariants(figures)


async def _while_clients_add(
    figures: Figures, base: str, token: str, disturb: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Let 32 clients add until some time after the disturbance."""
    enough = 0

    def done() -> bool:
        return enough > 0 and len(figures.acknowledged) >= enough

    adding = asyncio.create_task(add_until(done, base, token, figures, random.Random(4), clients=32))
    while len(figures.acknowledged) < 200:
        assert not adding.done()
        await asyncio.sleep(0.01)
    await disturb()
    enough = len(figures.acknowledged) + 200
    await adding


def test_the_host_is_killed_in_the_middle_of_32_writers(
    published: PublishedIssuer, storage: Storage, tmp_path: Path
) -> None:
    figures, port = Figures(), free_port()
    settings = app_settings(storage=storage.connection_string, metadata_url=published.metadata_url)

    async def scenario() -> None:
        with (tmp_path / "log").open("w") as log:
            first = functions_host(port, settings, output=log)
            process = await first.__aenter__()
            second = functions_host(port, settings, output=log)

            async def kill_and_restart() -> None:
                os.killpg(process.pid, signal.SIGKILL)  # its worker too, if it has one
                await process.wait()
                await first.__aexit__(None, None, None)
                await second.__aenter__()

            await _while_clients_add(figures, f"http://127.0.0.1:{port}", published.issuer.token(), kill_and_restart)
            await second.__aexit__(None, None, None)
        await check_invariants(storage.connection_string, figures)

    asyncio.run(scenario())
    assert figures.answers.total() > len(figures.acknowledged)
    assert_invariants(figures)


def test_storage_is_stopped_and_started_in_the_middle_of_32_writers(published: PublishedIssuer, tmp_path: Path) -> None:
    figures, port, table_port = Figures(), free_port(), free_port()
    storage = connection_string(table_port)
    settings = app_settings(storage=storage, metadata_url=published.metadata_url) | SHORT_TIMEOUTS

    async def scenario() -> None:
        first = azurite(table_port, tmp_path / "data", tmp_path / "azurite.log")
        await first.__aenter__()
        await make_table(storage)

        async def stop_and_start() -> None:
            await first.__aexit__(None, None, None)  # by SIGINT, on which Azurite saves what it has
            await asyncio.sleep(0.5)
            await second.__aenter__()

        second = azurite(table_port, tmp_path / "data", tmp_path / "azurite.log")
        with (tmp_path / "log").open("w") as log:
            async with functions_host(port, settings, output=log):
                await _while_clients_add(figures, f"http://127.0.0.1:{port}", published.issuer.token(), stop_and_start)
        await check_invariants(storage, figures)
        await second.__aexit__(None, None, None)

    asyncio.run(scenario())
    assert figures.answers["503"] > 0
    assert_invariants(figures)
