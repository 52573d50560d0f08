"""The benchmark: this service beside others that do the same, in interleaved rounds of one run.

Usage: ``python -m tests.bench.bench``, in the top folder. Variables: ROUNDS (5) and DURATION (2 seconds) of each
measurement; STARTS (7) of each app; ROWS (100000) of the full table; LINES (20000) of an imported file; a 0 leaves that
part out. AGAINST names folders of other checkouts of this service, separated by spaces, to be measured too. It makes
figures.json and figures.png in ``.local/bench-results/``.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any, NamedTuple

from azure.data.tables.aio import TableClient

from customers.email_index import index_row
from customers.insert import TRANSACTION_TYPE, transaction, transaction_part
from infra.local.issuer import TENANT, Issuer, new_key
from infra.local.run import (
    BUSINESS,
    ENVIRONMENT,
    app_settings,
    azurite,
    command,
    connection_string,
    make_table,
    process,
)
from tests.bench import imports, report, starts
from tests.bench.load import KEY, Load

CLIENTS = (1, 8, 32)
GROWTH_CLIENTS = 8
RESULTS = Path(".local/bench-results")
BENCH = Path(__file__).parent.resolve()
SERVICE = Path.cwd()
_TABLE = "customers"
_SUCCESSES = ("200", "201", "202", "204")  # of a batch, an add, a transaction, and an insert
_BATCH = 20
_CUSTOMER = {
    "@odata.type": "#microsoft.graph.bookingCustomer",
    "displayName": "Display Name value",
    "emailAddress": "Email Address value",
}
_FILL_STEPS = 10
_FILL_PATIENCE = 120.0


class Contender(NamedTuple):
    """Something that takes adds: where, the request, and the process that is measured, if it is an app."""

    name: str
    port: int
    request: str
    pid: int | None = None
    made: str = ""
    """What a response has once for each customer, if it can be for several."""
    each: int = 1
    """The customers in a request."""


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _request(path: str, headers: dict[str, str], body: str) -> str:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", body])


def add_request(token: str) -> str:
    """The add of the README."""
    return _request(
        f"/beta/bookingBusinesses/{BUSINESS}/customers",
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        json.dumps(_CUSTOMER),
    )


def batch_request(token: str) -> str:
    """As many of these adds as a batch may have."""
    add = {
        "method": "POST",
        "url": f"/bookingBusinesses/{BUSINESS}/customers",
        "headers": {"Content-Type": "application/json"},
        "body": _CUSTOMER,
    }
    requests = [{"id": str(number), **add} for number in range(_BATCH)]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    return _request("/beta/$batch", headers, json.dumps({"requests": requests}))


def bare_insert(storage: str) -> str:
    """A transaction of the two rows that the service makes of it, signed beforehand.

    Source: "Authorize with Shared Key", Shared Key Lite for the Table service: only the date and the path are signed.
    """
    parts = dict(part.partition("=")[::2] for part in storage.rstrip(";").split(";"))
    account, path = parts["AccountName"], f"/{parts['AccountName']}/$batch"
    date = format_datetime(datetime.now(UTC), usegmt=True)
    digest = hmac.digest(base64.b64decode(parts["AccountKey"]), f"{date}\n/{account}{path}".encode(), hashlib.sha256)
    table = f"{parts['TableEndpoint'].rstrip('/')}/{_TABLE}"
    timestamp = datetime(2026, 11, 23, 12, tzinfo=UTC)
    row: dict[str, Any] = {
        "PartitionKey": BUSINESS,
        "RowKey": KEY,
        "displayName": "Display Name value",
        "emailAddress": "Email Address value",
        "addresses": "[]",
        "phones": "[]",
        "createdDateTime": timestamp,
        "lastUpdatedDateTime": timestamp,
        "operationId": "365982fb-eba2-4f44-a760-e525af46333e",
    }
    headers = {
        "Authorization": f"SharedKeyLite {account}:{base64.b64encode(digest).decode()}",
        "x-ms-date": date,
        "x-ms-version": "2019-02-02",
        "DataServiceVersion": "3.0",
        "Accept": "application/json;odata=minimalmetadata",
        "Content-Type": TRANSACTION_TYPE,
    }
    hidden = index_row(BUSINESS, KEY, row["emailAddress"])
    return _request(path, headers, transaction([transaction_part(table, row, hidden)]).decode())


async def measure(load: Load) -> dict[str, Any]:
    """Run the load in its own process."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(BENCH / "load.py"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        output, _ = await child.communicate(json.dumps(load._asdict()).encode())
    except asyncio.CancelledError:
        child.kill()
        raise
    figures: dict[str, Any] = json.loads(output)
    return figures


async def _measure(contender: Contender, storage_pid: int, clients: int, seconds: float) -> dict[str, Any]:
    watched = {"storage": storage_pid} | ({} if contender.pid is None else {"app": contender.pid})
    figures = await measure(
        Load(contender.port, contender.request, clients, seconds, made=contender.made, watched=watched)
    )
    adds = figures["adds"] or float("nan")
    return {
        "contender": contender.name,
        "clients": clients,
        "adds_per_second": figures["adds"] / figures["seconds"],
        "p50": figures["p50"],
        "p99": figures["p99"],
        "app_cpu_ms": figures["cpu"]["app"] / adds * 1000 if "app" in figures["cpu"] else None,
        "storage_cpu_share": figures["cpu"]["storage"] / figures["seconds"],
        "load_cpu_share": figures["cpu"]["load"] / figures["seconds"],
        "failed": sum(n for status, n in figures["statuses"].items() if status not in _SUCCESSES)
        + figures["requests"] * contender.each
        - figures["adds"]
        + figures["lost"],
    }


class Surroundings(NamedTuple):
    """A storage, and the settings and the request of the apps that use it."""

    storage: str
    storage_port: int
    storage_pid: int
    settings: dict[str, str]
    add: str
    batch: str
    token: str


@asynccontextmanager
async def surroundings(name: str) -> AsyncGenerator[Surroundings]:
    """Run an Azurite in memory, with an empty table, and an issuer."""
    port, issuer = free_port(), Issuer(new_key())
    storage = connection_string(port)
    runner, metadata_url = await issuer.serve()
    try:
        async with azurite(port, None, RESULTS / f"azurite-{name}.log") as child:
            await make_table(storage, _TABLE)
            settings = {
                **app_settings(storage=storage, metadata_url=metadata_url),
                "TOKEN_KEYS_URL": f"{metadata_url.partition(TENANT)[0]}{TENANT}/discovery/v2.0/keys",
            }
            token = issuer.token()
            yield Surroundings(storage, port, child.pid, settings, add_request(token), batch_request(token), token)
    finally:
        await runner.cleanup()


async def empty_table(storage: str) -> None:
    """Empty the table, so that every round has the same conditions and Azurite's memory stays small."""
    async with TableClient.from_connection_string(storage, _TABLE) as table:
        await table.delete_table()
        await table.create_table()


def app_command(name: str, port: int) -> starts.Command:
    """The command of an app: ``service``, a folder of another checkout of it, or a file beside this one."""
    host = command("infra.local.host", "--port", str(port))
    if name == "fastapi_app":
        return starts.Command([sys.executable, "-m", "uvicorn", "fastapi_app:app", "--port", str(port)], BENCH)
    if name == "service" or "/" in name:
        return starts.Command(host, SERVICE if name == "service" else Path(name).resolve())
    return starts.Command(host, BENCH, {"PYTHON_SCRIPT_FILE_NAME": f"{name}.py"})


@asynccontextmanager
async def running(name: str, place: Surroundings, part: str) -> AsyncGenerator[Contender]:
    """Run an app until it answers an add."""
    port = free_port()
    app = app_command(name, port)
    environ = {**os.environ, **ENVIRONMENT, **place.settings, **app.settings}
    label = Path(name).name
    with (RESULTS / f"{part}-{label}.log").open("w") as output:
        async with process(
            name, app.line, end_with=signal.SIGTERM, output=output, env=environ, cwd=app.folder
        ) as child:
            await starts.until_added(port, place.add)
            yield Contender(label, port, place.add, child.pid)


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
        contenders.append(service._replace(name=report.BATCHES, request=place.batch, made='"status":201', each=_BATCH))
        for contender in contenders:
            await _measure(contender, place.storage_pid, 8, 1)
        for number in range(rounds):
            await empty_table(place.storage)
            for clients in CLIENTS:
                turn = number % len(contenders)
                for contender in contenders[turn:] + contenders[:turn]:
                    measured = await _measure(contender, place.storage_pid, clients, seconds)
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
                    one = await _measure(measured[name][position], places[name].storage_pid, GROWTH_CLIENTS, seconds)
                    figures.append({"round": number, "table": name, **one})
    return {"curve": curve, "rounds": figures}


async def import_file(lines: int, rounds: int) -> dict[str, Any]:
    """Measure the import of a file against batches alone, and its memory for half and for five times as many lines."""
    async with surroundings("import") as place, running("service", place, "import") as service:
        of = imports.Place(service.port, service.pid or 0, place.token, lambda: empty_table(place.storage))
        compared = await imports.against_batches(of, lines, rounds, RESULTS, measure)
        _say(f"imported {lines} lines {rounds} times")
        return {"rounds": compared, "memory": await imports.memory(of, (lines // 2, lines * 5), RESULTS)}


async def start(times: int) -> list[dict[str, Any]]:
    """Measure the starts of the service and of the least app, in turns."""
    figures = []
    async with surroundings("starts") as place:
        for number in range(times + 1):
            for pyc in (True, False):
                for name in ("service", "bare_imports"):
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
    lines = int(environ.get("LINES") or 20_000)
    RESULTS.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "rounds": await compare(rounds, seconds, environ.get("AGAINST", "").split()) if rounds else [],
        # What a full table changes is little beside what the neighbours change: it takes more rounds to see.
        "growth": await grow(rows, max(2 * rounds, 1), seconds) if rows else None,
        "import_file": await import_file(lines, max(rounds, 1)) if lines else None,
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
