"""Cold starts: how long it takes from the start of a process to the first add, and what the imports take of it."""

import asyncio
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

_PATIENCE = 60.0
_IMPORT_RUNS = 5
_IMPORT = re.compile(r"import time: +(\d+) \| +\d+ \| +(\S+)")
_AGAINST_PYC = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
_PARTS_OF_NAMESPACES = {"azure": 2}


class Kind(Enum):
    """What is timed."""

    PROCESS = "process start"
    """From the start of the process."""

    LOAD = "app load"
    """From when a running worker starts to load the app."""


class Command(NamedTuple):
    """How an app is started: the command, its folder, and settings."""

    line: Sequence[str]
    folder: Path
    settings: Mapping[str, str] = {}


async def until_added(port: int, request: str) -> None:
    """Wait until an add is answered with a 201; RuntimeError says what came instead."""
    last: object = "nothing"
    try:
        async with asyncio.timeout(_PATIENCE):
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(request.encode())
                    last = await reader.readline()
                    writer.close()
                    if b" 201 " in last:
                        return
                except OSError as error:
                    last = error
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise RuntimeError(f"No add within {_PATIENCE} s; last: {last}") from None


def _environ_that_keeps_pyc() -> dict[str, str]:
    """The environment, without what may forbid to write .pyc files or to find them: some containers do."""
    return {name: value for name, value in os.environ.items() if name not in _AGAINST_PYC}


async def first_add(kind: Kind, command: Command, port: int, request: str, *, pyc: bool) -> float:
    """Start an app and return the seconds until its first 201."""
    line = list(command.line)
    if kind is Kind.LOAD:
        line[line.index("infra.local.host")] = "tests.bench.placeholder"
    with tempfile.TemporaryDirectory() as nothing:
        without = {} if pyc else {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": nothing}
        environ = {**_environ_that_keeps_pyc(), **command.settings, **without}
        began = time.perf_counter()
        child = await asyncio.create_subprocess_exec(
            *line,
            cwd=command.folder,
            env=environ,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            if kind is Kind.LOAD:
                assert child.stdin
                assert child.stdout
                await child.stdout.readline()
                began = time.perf_counter()
                child.stdin.write(b"\n")
            await until_added(port, request)
            return time.perf_counter() - began
        finally:
            child.send_signal(signal.SIGTERM)
            await child.communicate()


async def imports(folder: Path, settings: Mapping[str, str]) -> dict[str, float]:
    """The milliseconds that importing the service takes, by package: what each package's own modules take."""
    runs: list[Counter[str]] = []
    for number in range(_IMPORT_RUNS + 1):
        child = await asyncio.create_subprocess_exec(
            *[sys.executable, "-X", "importtime", "-c", "import function_app"],
            cwd=folder,
            env={**_environ_that_keeps_pyc(), **settings},
            stderr=asyncio.subprocess.PIPE,
        )
        _, lines = await child.communicate()
        if child.returncode:
            raise RuntimeError(lines.decode())
        if not number:
            continue  # it may have had to write .pyc files
        run: Counter[str] = Counter()
        for microseconds, module in _IMPORT.findall(lines.decode()):
            run[_package(module)] += int(microseconds)
        runs.append(run)
    return {
        package: statistics.median(run[package] for run in runs) / 1000
        for package, _ in sum(runs, Counter()).most_common()
    }


def _package(module: str) -> str:
    parts = module.split(".")
    if parts[0].lstrip("_") in sys.stdlib_module_names or parts[0] in sys.stdlib_module_names:
        return "(standard library)"
    return ".".join(parts[: _PARTS_OF_NAMESPACES.get(parts[0], 1)])
