"""The load: clients that each send the same request over and over on a connection of their own.

In a process of its own, and as lean as Python can be, so that what is measured is the server. One JSON object on stdin
says what to do (see ``Load``), and one on stdout has the results. ``KEY`` in a request is replaced by a new key of as
many characters each time.
"""

import asyncio
import json
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

KEY = "0" * 15 + "KEY" + "0" * 14
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_MOST_LOST = 1000
_PATIENCE = 10.0


class Load(NamedTuple):
    """What to do: warm up, then measure for so many seconds, or until so many requests were answered.

    With ``then``, a second request follows the response to each, and both count as one.
    """

    port: int
    request: str
    clients: int
    seconds: float
    warm_up: float = 0.5
    count: int | None = None
    then: str | None = None
    made: str = ""
    """What a response has once for each customer that was added, if it can be for more than one."""
    watched: dict[str, int] = {}  # noqa: RUF012 - read only
    """Processes whose CPU time is measured, with those that they started: name and id."""


class _Run:
    """The state that all clients share."""

    def __init__(self, load: Load) -> None:
        self._parts = [
            request.encode().split(KEY.encode()) for request in (load.request, load.then) if request is not None
        ]
        self._made = 0
        self._origin = time.time_ns()
        self.load = load
        self.measuring = False
        self.stopping = False
        self.latencies: list[float] = []
        self.adds = 0
        self._made_mark = load.made.encode()
        self.statuses: Counter[str] = Counter()
        self.lost = 0
        self.under_way = 0
        self.enough = asyncio.Event()

    def next(self) -> list[bytes]:
        """The next request, and the one that follows it if there is any, the last one first."""
        self._made += 1
        key = b"%016x%016x" % (self._origin, self._made)
        return [key.join(parts) for parts in reversed(self._parts)]

    def answered(self, response: bytes, seconds: float) -> None:
        """Note an answer."""
        if self.measuring:
            self.latencies.append(seconds)
            self.statuses[response[9:12].decode()] += 1
            self.adds += response.count(self._made_mark) if self._made_mark else 1
            if len(self.latencies) == self.load.count:
                self.measuring = False
                self.enough.set()

    def broken(self) -> None:
        """Note a connection that was lost with a request under way."""
        self.lost += 1
        if self.lost == _MOST_LOST:
            self.enough.set()


class _Client(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._buffer = b""
        self._to_send: list[bytes] = []
        self._sent = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._run.under_way += 1
        self._send()

    def _send(self) -> None:
        self._to_send = self._run.next()
        self._sent = time.perf_counter()
        self._transport.write(self._to_send.pop())

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        if not _is_whole(data):
            self._buffer = data
            return
        self._buffer = b""
        if self._to_send and data[9:12] == b"200":
            self._transport.write(self._to_send.pop())
            return
        self._run.answered(data, time.perf_counter() - self._sent)
        if self._run.stopping:
            self._run.under_way -= 1
            self._sent = 0.0
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, _: Exception | None) -> None:
        if not self._sent:
            return
        self._run.under_way -= 1
        self._run.broken()
        if not self._run.stopping and self._run.lost < _MOST_LOST:
            asyncio.get_running_loop().create_task(_connect(self._run))


def _is_whole(data: bytes) -> bool:
    """Whether these bytes are a whole response."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return False
    if data[9:12] == b"204":
        return True
    if length := _LENGTH.search(data, 0, head):
        return len(data) >= head + 4 + int(length[1])
    return data.endswith(b"\r\n0\r\n\r\n")


async def _connect(run: _Run) -> None:
    try:
        await asyncio.get_running_loop().create_connection(lambda: _Client(run), "127.0.0.1", run.load.port)
    except OSError:
        run.broken()


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process with its threads, and of those that it started in its session (proc(5))."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if pid in (int(stat.parent.name), int(fields[3])):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def _perform(load: Load) -> dict[str, Any]:
    run = _Run(load)
    await asyncio.gather(*(_connect(run) for _ in range(load.clients)))
    await asyncio.sleep(load.warm_up)
    watched = {**load.watched, "load": os.getpid()}
    before = {name: _cpu_seconds(pid) for name, pid in watched.items()}
    began, run.measuring = time.perf_counter(), True
    try:
        async with asyncio.timeout(load.seconds):
            await run.enough.wait()
    except TimeoutError:
        pass
    run.measuring = False
    seconds = time.perf_counter() - began
    cpu = {name: _cpu_seconds(pid) - before[name] for name, pid in watched.items()}
    run.stopping = True
    deadline = time.perf_counter() + _PATIENCE
    while run.under_way and time.perf_counter() < deadline:  # noqa: ASYNC110 - nothing is measured any more
        await asyncio.sleep(0.005)
    ordered = sorted(run.latencies) or [float("nan")]
    return {
        "adds": run.adds,
        "requests": len(run.latencies),
        "seconds": seconds,
        "p50": ordered[len(ordered) // 2] * 1000,
        "p99": ordered[len(ordered) * 99 // 100] * 1000,
        "statuses": run.statuses,
        "lost": run.lost,
        "cpu": cpu,
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_perform(Load(**json.load(sys.stdin))))))
