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
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from customers.batch import MAX_REQUESTS
from infra.local.run import BUSINESS
from tests.bench.load import KEY, Load

_CLIENTS = 8
_PATIENCE = 600.0
_COLLECTION = f"/solutions/bookingBusinesses/{BUSINESS}/customers"


class Place(NamedTuple):
    """The service that is measured: its port, its process, a token; and what empties its table."""

    port: int
    pid: int
    token: str
    empty: Callable[[], Awaitable[None]]


def _customer(own: str) -> list[str]:
    return [f"Customer {own}", f"{own}@example.com", "+49 30 1234567", "Hauptstraße 1", "Berlin"]


def write_file(path: Path, lines: int) -> None:
    """Write a file of so many customers."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["displayName", "emailAddress", "phone", "addresses[home].street", "addresses[home].city"])
        writer.writerows(_customer(f"{number:035}") for number in range(lines))


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

    body = json.dumps({"requests": [add(number) for number in range(MAX_REQUESTS)]}, ensure_ascii=True)
    lines = ["POST /v1.0/$batch HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"Authorization: Bearer {token}", "Content-Type: application/json", "", body]
    return "\r\n".join(lines)


def _peak_mib(pid: int) -> float:
    """The most memory that a process has held since ``_forget_peak`` (proc_pid_status(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc_pid_clear_refs(5)


def _import(path: Path, place: Place) -> tuple[float, float]:
    """Import a file: the seconds that it takes, and the most memory, in MiB."""
    arguments = [str(path), "--business", BUSINESS, "--url", f"http://127.0.0.1:{place.port}", "--quiet"]
    began = time.perf_counter()
    child = subprocess.Popen(  # noqa: S603 - our own
        [sys.executable, "-m", "customers", "import", *arguments],
        env={**os.environ, "TOKEN": place.token},
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"the import ended with {child.returncode}")
    return time.perf_counter() - began, used.ru_maxrss / 1024


async def against_batches(
    place: Place, lines: int, rounds: int, folder: Path, measure: Callable[[Load], Awaitable[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """The seconds of an import and of batches alone, in each round."""
    path = folder / "import.csv"
    write_file(path, lines)
    load = Load(
        place.port,
        batch_request(place.token),
        _CLIENTS,
        _PATIENCE,
        warm_up=0,
        count=lines // MAX_REQUESTS,
        made='"status":204',
    )
    figures = []
    for number in range(rounds):
        await place.empty()
        alone = await measure(load)
        await place.empty()
        seconds, _ = await asyncio.to_thread(_import, path, place)
        figures.append(
            {
                "round": number,
                "import_per_second": lines / seconds,
                "batches_per_second": alone["adds"] / alone["seconds"],
                "failed": alone["requests"] * MAX_REQUESTS - alone["adds"] + alone["lost"],
            }
        )
    return figures


async def memory(place: Place, sizes: tuple[int, ...], folder: Path) -> list[dict[str, Any]]:
    """The most memory that the import and the service take for files of these lengths."""
    path = folder / "import.csv"
    figures = []
    for lines in sizes:
        write_file(path, lines)
        await place.empty()
        _forget_peak(place.pid)
        _, importing = await asyncio.to_thread(_import, path, place)
        figures.append({"lines": lines, "import_mib": importing, "service_mib": _peak_mib(place.pid)})
    return figures
