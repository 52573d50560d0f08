"""The benchmark: this service beside others that do the same, in interleaved rounds of one run.

Usage: ``python -m tests.bench.bench``, in the top folder. Variables: ROUNDS (5) and DURATION (2 seconds) of each
measurement; STARTS (7) of each app; ROWS (100000) of the full table, and of the largest business; a 0 leaves that part
out. AGAINST names folders of other checkouts of this service, separated by spaces, to be measured too.
FUNCTIONS_HOST=func measures under Azure's own host, without the starts. It makes figures.json and figures.png in
``.local/bench-results/``.
"""

import asyncio
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

from infra.local.run import ENVIRONMENT, app_settings, is_core_tools, process
from tests.bench import report, starts
from tests.bench.contenders import (
    BATCH,
    BENCH,
    OWN_SOURCES,
    PACKAGE,
    RESULTS,
    SERVICE,
    Contender,
    Surroundings,
    app_command,
    bare_insert,
    batch_request,
    empty_table,
    free_port,
    measure,
    measure_rate,
    running,
    surroundings,
)
from tests.bench.load import Load
from tests.bench.lookups import SIZES, lookups

CLIENTS = (1, 8, 32)
GROWTH_CLIENTS = 8
_FILL_STEPS = 10
_FILL_PATIENCE = 120.0


async def compare(rounds: int, seconds: float, against: Sequence[str]) -> list[dict[str, Any]]:
    """Measure all contenders in interleaved rounds, each round beginning with another one."""
    figures = []
    names = ["service", *against, "client_per_request", "global_client", "fastapi_app"]
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(surroundings("compare"))
        port = free_port()
        noop = [sys.executable, str(BENCH / "noop.py"), str(port)]
        await stack.enter_async_context(process("The no-op server", noop, end_with=signal.SIGTERM))
        contenders = [
            Contender("noop", port, place.add),
            Contender("bare_inserts", place.storage_port, bare_insert(place.storage)),
            *[await stack.enter_async_context(running(name, place, "compare")) for name in names],
        ]
        (service,) = (contender for contender in contenders if contender.name == "service")
        contenders.append(
            service._replace(name=report.BATCHES, request=batch_request(place.token), made='"status":201', each=BATCH)
        )
        for contender in contenders:
            await measure_rate(contender, place.storage_pid, 8, 1)
        for number in range(rounds):
            await empty_table(place.storage)
            for clients in CLIENTS:
                turn = number % len(contenders)
                for contender in contenders[turn:] + contenders[:turn]:
                    measured = await measure_rate(contender, place.storage_pid, clients, seconds)
                    figures.append({"round": number, **measured})
            _say(f"round {number + 1} of {rounds}")
    return figures


async def _fill(place: Surroundings, rows: int) -> dict[str, Any]:
    insert = bare_insert(place.storage)
    return await measure(Load(place.storage_port, insert, GROWTH_CLIENTS, _FILL_PATIENCE, warm_up=0, count=rows))


async def grow(rows: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure the service and bare inserts with a full table and with an empty one, in interleaved rounds."""
    figures: list[dict[str, Any]] = []
    curve = []
    async with AsyncExitStack() as stack:
        places = {name: await stack.enter_async_context(surroundings(name)) for name in ("empty", "full")}
        step_rows = rows // _FILL_STEPS
        # The storage of the empty table is warmed up by one step, too.
        await _fill(places["empty"], step_rows)
        for step in range(_FILL_STEPS):
            filled = await _fill(places["full"], step_rows)
            curve.append(
                {
                    "rows": step_rows * (step + 1),
                    "adds_per_second": filled["adds"] / filled["seconds"],
                    "p99": filled["p99"],
                }
            )
        _say(f"{rows} rows are there")
        measured = {
            name: [
                Contender("bare_inserts", place.storage_port, bare_insert(place.storage)),
                await stack.enter_async_context(running("service", place, name)),
            ]
            for name, place in places.items()
        }
        for number in range(rounds):
            await empty_table(places["empty"].storage)
            order = list(places) if number % 2 else list(reversed(places))
            for position in range(2):
                for name in order:
                    one = await measure_rate(
                        measured[name][position], places[name].storage_pid, GROWTH_CLIENTS, seconds
                    )
                    figures.append({"round": number, "table": name, **one})
    return {"curve": curve, "rounds": figures}


async def start(times: int) -> list[dict[str, Any]]:
    """Measure the starts of the service, of its package, and of the least app, in turns."""
    figures = []
    async with surroundings("starts") as place:
        for number in range(times + 1):
            for pyc in (True, False):
                # Without .pyc files, the package is no other than the service.
                for name in ("service", "bare_imports", *((PACKAGE, OWN_SOURCES) if pyc else ())):
                    for kind in starts.Kind:
                        port = free_port()
                        app = app_command(name, port)
                        app = app._replace(settings={**ENVIRONMENT, **place.settings, **app.settings})
                        seconds = await starts.first_add(kind, app, port, place.add, pyc=pyc)
                        # The first time writes the .pyc files.
                        if number:
                            figures.append({"app": name, "kind": kind.value, "pyc": pyc, "seconds": seconds})
            _say(f"start {number} of {times}")
    return figures


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


async def main(environ: Mapping[str, str]) -> None:
    """Run all parts and report."""
    rounds, seconds = int(environ.get("ROUNDS") or 5), float(environ.get("DURATION") or 2)
    times, rows = int(environ.get("STARTS") or 7), int(environ.get("ROWS") or 100_000)
    if is_core_tools():
        times = 0  # its starts are not the app's
    RESULTS.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "rounds": await compare(rounds, seconds, environ.get("AGAINST", "").split()) if rounds else [],
        # What a full table changes is little beside what the neighbours change: it takes more rounds to see.
        "lookups": await lookups([size for size in SIZES if size <= rows], seconds, _say) if rows else None,
        "growth": await grow(rows, max(2 * rounds, 1), seconds) if rows else None,
        "starts": await start(times) if times else [],
        "imports": await starts.imports(SERVICE, app_settings(storage="UseDevelopmentStorage=true", metadata_url=""))
        if times
        else {},
    }
    (RESULTS / "figures.json").write_text(json.dumps(figures, indent=1))
    print(report.text(figures))
    report.plot(figures, RESULTS / "figures.png")
    print(f"\nThe figures are in {RESULTS}/figures.json and figures.png.")


if __name__ == "__main__":
    asyncio.run(main(os.environ))
