"""Starts the whole service on this machine: Azurite, the token issuer, the table, and the Functions host.

Usage: ``python -m infra.local.run [--services|--storage]``, in the top folder. ``--services`` leaves out the host, for
``func start``; ``--storage`` starts nothing, and prints the connection string of the Azurite that another run started.
Variables: PORT (7071) for the host, TABLE_PORT (10002) for Azurite, ISSUER_PORT (any free one; with ``--services``
7072); FUNCTIONS_HOST=func for Azure's own host, which comes with Core Tools, instead of ``host.py``. It runs until
SIGINT or SIGTERM, then stops what it started, the host first.
"""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import aiohttp
from azure.core.exceptions import AzureError, ResourceExistsError
from azure.data.tables.aio import TableClient

from customers.docs import EXAMPLE, EXAMPLE_BUSINESS
from infra.local.issuer import AUDIENCE, AUTHORITY, KEY_PATH, LIFETIME, TENANT, Issuer, load_key

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
STATE = Path(".local")
# Azurite's account, the same everywhere: "Use the Azurite emulator for local Azure Storage development".
_ACCOUNT = "devstoreaccount1"
_ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_PATIENCE = 60.0


class StartError(Exception):
    """Something cannot be started; the message says in one line what to do."""


def connection_string(table_port: int) -> str:
    """The connection string of an Azurite on this machine."""
    return (
        f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={_ACCOUNT_KEY};"
        f"TableEndpoint=http://127.0.0.1:{table_port}/{_ACCOUNT};"
    )


def app_settings(*, storage: str, metadata_url: str, table: str = "customers") -> dict[str, str]:
    """The settings of an app that trusts the local issuer."""
    return {
        "CUSTOMERS_STORAGE": storage,
        "CUSTOMERS_TABLE": table,
        "TOKEN_TENANT_ID": TENANT,
        "TOKEN_AUDIENCE": AUDIENCE,
        "TOKEN_AUTHORITY": AUTHORITY,
        "TOKEN_METADATA_URL": metadata_url,
    }


def command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this checkout from any folder; it needs the variables of ``ENVIRONMENT``."""
    return [sys.executable, "-P", "-m", module, *arguments]


ENVIRONMENT = {"PYTHONPATH": str(TOP)}


@asynccontextmanager
async def process(
    name: str,
    line: Sequence[str],
    *,
    end_with: signal.Signals,
    output: IO[str] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run a program in a session of its own, so that Ctrl-C does not reach it directly, and stop it at the exit."""
    child = await asyncio.create_subprocess_exec(
        *line,
        stdout=output,
        stderr=output,
        stdin=asyncio.subprocess.DEVNULL,
        env=env,
        cwd=cwd,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        # With what it started itself: the func of npm is a wrapper, and may be gone before the host is.
        with suppress(ProcessLookupError):
            os.killpg(child.pid, end_with)
            try:
                async with asyncio.timeout(20):
                    await child.wait()
                    while True:
                        os.killpg(child.pid, 0)
                        await asyncio.sleep(0.05)
            except TimeoutError:
                print(f"{name} did not stop within 20 seconds; killing it.", file=sys.stderr)
                os.killpg(child.pid, signal.SIGKILL)
                await child.wait()


@asynccontextmanager
async def azurite(port: int, location: Path | None, log: Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run Azurite's table service, with its data in ``location`` or in memory. Raises StartError if it can't start."""
    node = shutil.which("node")
    program = HERE / "node_modules" / "azurite" / "dist" / "src" / "table" / "main.js"
    if node is None or not program.exists():
        raise StartError(
            "Azurite is not installed. Run make node; it needs Node.js 20 or newer with npm, from https://nodejs.org"
        )
    line = [node, str(program), "--tablePort", str(port), "--tableHost", "127.0.0.1", "--disableTelemetry", "--silent"]
    line += ["--location", str(location)] if location else ["--inMemoryPersistence"]
    with log.open("w") as output:
        # Azurite saves its data on SIGINT only.
        async with process("Azurite", line, end_with=signal.SIGINT, output=output) as child:
            if not await _until(child, lambda: _accepts(port)):
                last = (log.read_text().strip().splitlines() or ["its log is empty"])[-1]
                raise StartError(f"Azurite did not start on port {port}: {last}")
            yield child


async def make_table(storage: str, table: str = "customers") -> None:
    """Create the table if it does not exist."""
    async with TableClient.from_connection_string(storage, table, retry_total=3) as client:
        try:
            await client.create_table()
        except ResourceExistsError:
            pass
        except AzureError as error:
            raise StartError(f"The table cannot be created: {str(error).splitlines()[0]}") from None


async def _until(child: asyncio.subprocess.Process, ready: Callable[[], Awaitable[bool]]) -> bool:
    """Wait until something is ready; False if the process ends or the time is over."""
    try:
        async with asyncio.timeout(_PATIENCE):
            while child.returncode is None:
                if await ready():
                    return True
                await asyncio.sleep(0.05)
    except TimeoutError:
        pass
    return False


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def _is_healthy(base: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{base}/healthz") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


class HostCommand(NamedTuple):
    """How a Functions host is started: the command, and the variables that it needs."""

    line: list[str]
    environ: dict[str, str]


def is_core_tools() -> bool:
    """Whether FUNCTIONS_HOST names Azure's own host. Raises StartError if it names none that there is."""
    name = os.environ.get("FUNCTIONS_HOST") or "local"
    if name not in ("local", "func"):
        raise StartError(f"FUNCTIONS_HOST must be local or func, not {name}.")
    return name == "func"


def host_command(port: int) -> HostCommand:
    """The Functions host of FUNCTIONS_HOST for the app in the current folder. Raises StartError if it is not there."""
    if not is_core_tools():
        return HostCommand(command("infra.local.host", "--port", str(port)), ENVIRONMENT)
    func = shutil.which("func")
    if func is None:
        raise StartError(
            "Azure Functions Core Tools is not installed. Run npm install -g azure-functions-core-tools@4, or leave "
            "FUNCTIONS_HOST out"
        )
    return HostCommand([func, "start", "--port", str(port)], _CORE_TOOLS)


# As local.settings.json has them, over which the environment takes precedence; not every folder has that file. Core
# Tools takes the first Python on the PATH that it supports, and reads under just this name which one to take instead.
_CORE_TOOLS = {
    "FUNCTIONS_WORKER_RUNTIME": "python",
    "AzureWebJobsSecretStorageType": "files",
    "languageWorkers:python:defaultExecutablePath": sys.executable,
    "FUNCTIONS_CORE_TOOLS_TELEMETRY_OPTOUT": "1",
}


@asynccontextmanager
async def functions_host(
    port: int, settings: Mapping[str, str], *, output: IO[str] | None = None, folder: Path | None = None
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run the Functions host on the app in ``folder``, or in the current one, with these settings.

    Raises StartError if it is not healthy in time.
    """
    host = host_command(port)
    env = {**os.environ, **host.environ, **settings}
    async with process(
        "The Functions host", host.line, end_with=signal.SIGTERM, output=output, env=env, cwd=folder
    ) as child:
        if not await _until(child, lambda: _is_healthy(f"http://127.0.0.1:{port}")):
            raise StartError(f"The Functions host did not become healthy on port {port}. Its last lines say why.")
        yield child


def _port(variable: str, default: int) -> int:
    """Read a port from the environment and make sure that it is free."""
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise StartError(f"{variable} must be a port number from 1 to 65535, not {text}.")
    port = int(text)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StartError(
                f"Port {port} cannot be used ({error.strerror}). Choose another one with {variable}=…"
            ) from None
    return port


def _lock() -> IO[str]:
    """Make sure that no other start from this folder uses the same data."""
    STATE.mkdir(exist_ok=True)
    lock = (STATE / "running").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise StartError("The service is already running from this folder. Stop it first.") from None
    return lock


def welcome(base: str, token: str) -> str:
    """What is said when the service is ready: where it is, and how to call it."""
    return (
        f"\nThe service is ready: {base}\n\nTry it in a browser: {base}/docs\n\n"
        f"Or add a customer (the token is good for {LIFETIME // 3600} hours):\n\n"
        f"curl -i {base}/beta/bookingBusinesses/{EXAMPLE_BUSINESS}/customers "
        f"-H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' -d '{json.dumps(EXAMPLE)}'\n\n"
        "Ctrl-C stops it.\n"
    )


async def run(*, services_only: bool) -> None:
    """Start everything and run until a signal. Raises StartError if a part cannot start or stops by itself."""
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # An ignored SIGHUP is nohup's and stays so. A shell ignores SIGINT for background jobs, which must not stay so.
        if name != signal.SIGHUP or signal.getsignal(name) != signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
    async with AsyncExitStack() as running:
        running.enter_context(_lock())
        ports = _port("PORT", 7071), _port("TABLE_PORT", 10002)
        if ports[0] == ports[1]:
            raise StartError(f"PORT and TABLE_PORT must differ; both are {ports[0]}.")
        issuer = Issuer(load_key(KEY_PATH))
        # func start reads the issuer's address from a file; otherwise any port will do.
        fixed = services_only or bool(os.environ.get("ISSUER_PORT"))
        runner, metadata_url = await issuer.serve(_port("ISSUER_PORT", 7072) if fixed else 0, service_port=ports[0])
        running.push_async_callback(runner.cleanup)
        children = {
            "Azurite": await running.enter_async_context(azurite(ports[1], STATE / "azurite", STATE / "azurite.log"))
        }
        storage = connection_string(ports[1])
        table = os.environ.get("CUSTOMERS_TABLE") or "customers"
        await make_table(storage, table)
        if services_only:
            print("\nAzurite and the issuer are ready for func start. Ctrl-C stops them.\n", flush=True)
        else:
            settings = app_settings(storage=storage, metadata_url=metadata_url, table=table)
            children["The Functions host"] = await running.enter_async_context(functions_host(ports[0], settings))
            print(welcome(f"http://127.0.0.1:{ports[0]}", issuer.token()), flush=True)
        await _stopped(stop, children)


async def _stopped(stop: asyncio.Event, children: Mapping[str, asyncio.subprocess.Process]) -> None:
    """Wait for a signal. Raises StartError if a process stops before it."""
    waiting = {asyncio.create_task(child.wait()): name for name, child in children.items()}
    stopping = asyncio.create_task(stop.wait())
    done, pending = await asyncio.wait({stopping, *waiting}, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    if stopping not in done:
        names = " and ".join(name for task, name in waiting.items() if task in done)
        raise StartError(f"{names} stopped by itself. Its last lines say why.")


def main() -> int:
    """Run. Returns 1, after one line on stderr, if something cannot be started."""
    try:
        if "--storage" in sys.argv[1:]:
            print(connection_string(int(os.environ.get("TABLE_PORT") or 10002)))
            return 0
        asyncio.run(run(services_only="--services" in sys.argv[1:]))
    except (StartError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
