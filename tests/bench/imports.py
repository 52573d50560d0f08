"""The import of a file beside batches alone, and the memory that it and the service take, however long the file.

The same customers in both: ``LINES`` of them, by the load of the benchmark in batches of 20 at 8 clients, and by
``python -m customers import`` from a CSV file, its own start and its check of the file included.
"""

import asyncio
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from customers.batch import MAX_REQUESTS
from customers.docs import EXAMPLE_BUSINESS
from tests.bench.contenders import (
    RESULTS,
    Contender,
    Surroundings,
    empty_table,
    measure,
    request,
    running,
    surroundings,
)
from tests.bench.load import KEY, Load

_CLIENTS = 8
_PATIENCE = 600.0
_COLLECTION = f"/solutions/bookingBusinesses/{EXAMPLE_BUSINESS}/customers"


def _customer(own: str) -> list[str]:
    return [f"Customer {own}", f"{own}@example.com", "+49 30 1234567", "Hauptstraße 1", "Berlin"]


def write_file(lines: int) -> Path:
    """Write a file of so many customers."""
    path = RESULTS / "import.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["displayName", "emailAddress", "phone", "addresses[home].street", "addresses[home].city"])
        writer.writerows(_customer(f"{number:035}") for number in range(lines))
    return path


def batch_request(token: str) -> str:
    """The same customers in a batch, as the load sends it."""

    def add(number: int) -> dict[str, Any]:
        name, address, phone, street, city = _customer(f"{number:02}-{KEY}")
        body = {
            "displayName": name,
            "emailAddress": address,
            "phones": [{"number": phone}],
            "addresses": [{"type": "home", "street": street, "city": city}],
        }
        headers = {"Content-Type": "application/json", "Prefer": "return=minimal"}
        return {"id": str(number), "method": "POST", "url": _COLLECTION, "headers": headers, "body": body}

    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps({"requests": [add(number) for number in range(MAX_REQUESTS)]})
    return request("POST", "/v1.0/$batch", headers, body)


def _peak_mib(pid: int) -> float:
    """The most memory that a process has held since ``_forget_peak`` (proc_pid_status(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc_pid_clear_refs(5)


async def import_file(lines: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure imports of so many lines against batches alone, and the memory for half and for five times as many."""
    async with surroundings("import") as place, running("service", place, "import") as service:
        compared = []
        for number in range(rounds):
            compared.append(await _against_batches(place, service, lines))
            say(f"imported {lines} lines, round {number + 1} of {rounds}")
        memory = [await _memory(place, service, size) for size in (lines // 2, lines * 5)]
        return {"rounds": compared, "memory": memory}


async def _against_batches(place: Surroundings, service: Contender, lines: int) -> dict[str, Any]:
    await empty_table(place.storage)
    alone = await measure(
        Load(
            service.port,
            batch_request(place.token),
            _CLIENTS,
            _PATIENCE,
            warm_up=0,
            count=lines // MAX_REQUESTS,
            made='"status":204',
        )
    )
    await empty_table(place.storage)
    seconds, _ = await asyncio.to_thread(_import, write_file(lines), service.port, place.token)
    return {
        "import_per_second": lines / seconds,
        "batches_per_second": alone["adds"] / alone["seconds"],
        "failed": alone["requests"] * MAX_REQUESTS - alone["adds"] + alone["lost"],
    }


async def _memory(place: Surroundings, service: Contender, lines: int) -> dict[str, Any]:
    assert service.pid
    path = write_file(lines)
    await empty_table(place.storage)
    _forget_peak(service.pid)
    _, importing = await asyncio.to_thread(_import, path, service.port, place.token)
    return {"lines": lines, "import_mib": importing, "service_mib": _peak_mib(service.pid)}


def _import(path: Path, port: int, token: str) -> tuple[float, float]:
    """Import a file: the seconds that it takes, and the most memory, in MiB."""
    arguments = [str(path), "--business", EXAMPLE_BUSINESS, "--url", f"http://127.0.0.1:{port}", "--quiet"]
    began = time.perf_counter()
    child = subprocess.Popen(  # noqa: S603 - our own
        [sys.executable, "-m", "customers", "import", *arguments],
        env={**os.environ, "TOKEN": token},
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"the import ended with {child.returncode}")
    return time.perf_counter() - began, used.ru_maxrss / 1024
