"""What is measured: the apps, their storage and issuer, their request, and one measurement of one of them."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from azure.data.tables.aio import TableClient

from customers.docs import EXAMPLE, EXAMPLE_BUSINESS
from customers.email_index import index_row
from customers.insert import TRANSACTION_TYPE, transaction, transaction_part
from infra import package
from infra.local.issuer import TENANT, Issuer, new_key
from infra.local.run import (
    ENVIRONMENT,
    app_settings,
    azurite,
    connection_string,
    host_command,
    make_table,
    process,
)
from tests.bench import starts
from tests.bench.load import KEY, Load

RESULTS = Path(".local/bench-results")
BENCH = Path(__file__).parent.resolve()
SERVICE = Path.cwd()
TABLE = "customers"
_SUCCESSES = ("200", "201", "202", "204")  # of a batch or a read, an add, a transaction, and an insert
BATCH = 20
PACKAGE = "package"
"""The service from the package that Azure runs."""
OWN_SOURCES = "package_with_own_sources"
"""The same without .pyc files of the app's own modules, which a build in Azure does not compile."""


class Contender(NamedTuple):
    """Something that takes adds: where, the request, and the process that is measured, if it is an app."""

    name: str
    port: int
    request: str
    pid: int | None = None
    then: str | None = None
    """A second request, which follows the response to each."""
    made: str = ""
    """What a response has once for each customer, if it can be for several."""
    each: int = 1
    """The customers in a request."""


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def request(method: str, path: str, headers: dict[str, str], body: str = "") -> str:
    """A request as it is sent."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *([f"Content-Length: {len(body)}"] if body else [])]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", body])


def signed(storage: str, path: str) -> dict[str, str]:
    """The headers of a request to storage, for any query string, good for some minutes.

    Source: "Authorize with Shared Key", Shared Key Lite for the Table service: only the date and the path are signed.
    """
    parts = dict(part.partition("=")[::2] for part in storage.rstrip(";").split(";"))
    account, date = parts["AccountName"], format_datetime(datetime.now(UTC), usegmt=True)
    digest = hmac.digest(base64.b64decode(parts["AccountKey"]), f"{date}\n/{account}{path}".encode(), hashlib.sha256)
    return {
        "Authorization": f"SharedKeyLite {account}:{base64.b64encode(digest).decode()}",
        "x-ms-date": date,
        "x-ms-version": "2019-02-02",
        "DataServiceVersion": "3.0",
        "Accept": "application/json;odata=minimalmetadata",
    }


def add_request(token: str) -> str:
    """The add of the README."""
    return request(
        "POST",
        f"/beta/bookingBusinesses/{EXAMPLE_BUSINESS}/customers",
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        json.dumps(EXAMPLE),
    )


def batch_request(token: str) -> str:
    """As many of these adds as a batch may have."""
    add = {
        "method": "POST",
        "url": f"/bookingBusinesses/{EXAMPLE_BUSINESS}/customers",
        "headers": {"Content-Type": "application/json"},
        "body": EXAMPLE,
    }
    requests = [{"id": str(number), **add} for number in range(BATCH)]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    return request("POST", "/beta/$batch", headers, json.dumps({"requests": requests}))


def bare_insert(storage: str) -> str:
    """A transaction of the two rows that the service makes of it, signed beforehand."""
    endpoint = urlsplit(storage.partition("TableEndpoint=")[2].rstrip(";"))
    path = f"{endpoint.path.rstrip('/')}/$batch"
    timestamp = datetime(2026, 11, 23, 12, tzinfo=UTC)
    row: dict[str, Any] = {
        "PartitionKey": EXAMPLE_BUSINESS,
        "RowKey": KEY,
        "displayName": "Display Name value",
        "emailAddress": "Email Address value",
        "addresses": "[]",
        "phones": "[]",
        "createdDateTime": timestamp,
        "lastUpdatedDateTime": timestamp,
        "operationId": "365982fb-eba2-4f44-a760-e525af46333e",
    }
    headers = {**signed(storage, path), "Content-Type": TRANSACTION_TYPE}
    hidden = index_row(EXAMPLE_BUSINESS, KEY, row["emailAddress"])
    part = transaction_part(f"{endpoint.geturl().rstrip('/')}/{TABLE}", row, hidden)
    return request("POST", path, headers, transaction([part]).decode())


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


async def measure_rate(contender: Contender, storage_pid: int, clients: int, seconds: float) -> dict[str, Any]:
    watched = {"storage": storage_pid} | ({} if contender.pid is None else {"app": contender.pid})
    figures = await measure(
        Load(
            contender.port,
            contender.request,
            clients,
            seconds,
            then=contender.then,
            made=contender.made,
            watched=watched,
        )
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
    """A storage, and the settings and the token of the apps that use it."""

    storage: str
    storage_port: int
    storage_pid: int
    settings: dict[str, str]
    token: str

    @property
    def add(self) -> str:
        """The add of the README."""
        return add_request(self.token)


@asynccontextmanager
async def surroundings(name: str) -> AsyncGenerator[Surroundings]:
    """Run an Azurite in memory, with an empty table, and an issuer."""
    port, issuer = free_port(), Issuer(new_key())
    storage = connection_string(port)
    runner, metadata_url = await issuer.serve()
    try:
        async with azurite(port, None, RESULTS / f"azurite-{name}.log") as child:
            await make_table(storage, TABLE)
            settings = {
                **app_settings(storage=storage, metadata_url=metadata_url),
                "TOKEN_KEYS_URL": f"{metadata_url.partition(TENANT)[0]}{TENANT}/discovery/v2.0/keys",
            }
            yield Surroundings(storage, port, child.pid, settings, issuer.token())
    finally:
        await runner.cleanup()


async def empty_table(storage: str) -> None:
    """Empty the table, so that every round has the same conditions and Azurite's memory stays small."""
    async with TableClient.from_connection_string(storage, TABLE) as table:
        await table.delete_table()
        await table.create_table()


def app_command(name: str, port: int) -> starts.Command:
    """The command of an app: the service or its package, a folder of another checkout, or a file beside this one."""
    if name in {PACKAGE, OWN_SOURCES}:
        return packaged(name, port)
    host = host_command(port)
    if name == "fastapi_app":
        return starts.Command([sys.executable, "-m", "uvicorn", "fastapi_app:app", "--port", str(port)], BENCH)
    if name == "service" or "/" in name:
        return starts.Command(host.line, SERVICE if name == "service" else Path(name).resolve(), host.environ)
    return starts.Command(host.line, BENCH, {**host.environ, "PYTHON_SCRIPT_FILE_NAME": f"{name}.py"})


def packaged(name: str, port: int) -> starts.Command:
    """The command of the service as it is in Azure: from the package, whose modules come first."""
    folder = package.FOLDER
    if name == OWN_SOURCES:
        folder = (RESULTS / name).resolve()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(package.FOLDER, folder)
        for own in (folder, folder / "customers"):
            shutil.rmtree(own / "__pycache__")
    path = os.pathsep.join([str(folder / package.PACKAGES), ENVIRONMENT["PYTHONPATH"]])
    settings = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    return starts.Command(host_command(port).line, folder, settings)


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
