"""A proxy before Azurite, or before the service, that injects faults and records the requests."""

import asyncio
import json
from base64 import b64encode
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ssl import SSLContext
from typing import NamedTuple

import aiohttp
from aiohttp import web
from yarl import URL


class Passed(NamedTuple):
    """One request that reached the proxy."""

    method: str
    path: str
    body: bytes


type Fault = Callable[["FaultProxy", web.Request], Awaitable[web.Response]]


class FaultProxy:
    """Forwards requests, except those for which ``plan`` has a fault; ``always`` applies after the plan.

    With ``tls`` it listens for https.
    """

    def __init__(self, target: str, *, tls: SSLContext | None = None) -> None:
        self._target = target
        self._tls = tls
        self.target_port = int(target.rpartition(":")[2])
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self.port = 0
        self.plan: deque[Fault] = deque()
        self.always: Fault = pass_on
        self.passed: list[Passed] = []
        self._later: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen on 127.0.0.1, on a free port at first, on the same one later."""
        # No connection is reused: Azurite may close one just when a request is sent.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True), auto_decompress=False
        )
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls).start()
        self.port = int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Finish the delayed work, then close everything."""
        await asyncio.gather(*self._later)
        if self._runner:
            await self._runner.cleanup()
        if self._session:
            await self._session.close()

    def reset(self) -> None:
        """Clear the plan and the record."""
        self.plan.clear()
        self.always = pass_on
        self.passed.clear()

    async def _handle(self, request: web.Request) -> web.Response:
        self.passed.append(Passed(request.method, request.raw_path, await request.read()))
        fault = self.plan.popleft() if self.plan else self.always
        return await fault(self, request)

    def later(self, seconds: float, work: Callable[[], Awaitable[object]]) -> None:
        """Do something after that time, and ignore connection errors."""

        async def wait() -> None:
            await asyncio.sleep(seconds)
            with suppress(aiohttp.ClientError):
                await work()

        task = asyncio.create_task(wait())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def forward(self, request: web.Request) -> web.Response:
        """Let the real storage answer."""
        assert self._session
        async with self._session.request(
            request.method,
            URL(self._target + request.raw_path, encoded=True),
            headers={name: value for name, value in request.headers.items() if name.lower() != "host"},
            data=await request.read() or None,
            skip_auto_headers=["Content-Type"],  # it is signed
        ) as answer:
            body = await answer.read()
            dropped = ("transfer-encoding", "content-length", "connection", "keep-alive")
            headers = {name: value for name, value in answer.headers.items() if name.lower() not in dropped}
            return web.Response(status=answer.status, body=body, headers=headers)


async def pass_on(proxy: FaultProxy, request: web.Request) -> web.Response:
    """No fault."""
    return await proxy.forward(request)


def _cut(request: web.Request) -> web.Response:
    if request.transport:
        request.transport.abort()
    return web.Response()


async def cut_before(_: FaultProxy, request: web.Request) -> web.Response:
    """Drop the connection; storage never sees the request."""
    return _cut(request)


async def cut_after(proxy: FaultProxy, request: web.Request) -> web.Response:
    """Let storage do its work, then drop the connection instead of answering."""
    await proxy.forward(request)
    return _cut(request)


def commit_late(seconds: float) -> Fault:
    """Drop the connection, but let storage do its work after that time."""

    async def fault(proxy: FaultProxy, request: web.Request) -> web.Response:
        await request.read()
        proxy.later(seconds, lambda: proxy.forward(request))
        return _cut(request)

    return fault


async def half_a_response(proxy: FaultProxy, request: web.Request) -> web.Response:
    """Let storage do its work, then send the beginning of an answer and drop the connection."""
    await proxy.forward(request)
    assert request.transport
    request.transport.write(b"HTTP/1.1 204 No Content\r\nContent-Le")
    await asyncio.sleep(0.05)
    return _cut(request)


async def hang(_: FaultProxy, request: web.Request) -> web.Response:
    """Accept the request and stay silent for a minute."""
    await asyncio.sleep(60)
    return _cut(request)


def late(seconds: float) -> Fault:
    """Delay the response by that time."""

    async def fault(proxy: FaultProxy, request: web.Request) -> web.Response:
        response = await proxy.forward(request)
        await asyncio.sleep(seconds)
        return response

    return fault


async def nonsense_after(proxy: FaultProxy, request: web.Request) -> web.Response:
    """Let storage do its work, then answer as some gateway might."""
    await proxy.forward(request)
    return web.Response(text="<html>all is well</html>", content_type="text/html")


async def no_etag_after(proxy: FaultProxy, request: web.Request) -> web.Response:
    """Let storage do its work, then answer without saying which version of the row there is now."""
    await proxy.forward(request)
    return web.Response(status=204)


def busy(*, retry_after: int | None = None) -> Fault:
    """Throttle as Table Storage does."""
    body = {"odata.error": {"code": "ServerBusy", "message": {"lang": "en-us", "value": "The server is busy."}}}
    return status(503, retry_after=retry_after, body=body)


def status(code: int, *, retry_after: int | str | None = None, committed: bool = False, body: object = None) -> Fault:
    """Answer with that status, before or after storage did its work."""

    async def fault(proxy: FaultProxy, request: web.Request) -> web.Response:
        if committed:
            await proxy.forward(request)
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if body is not None:
            return web.json_response(body, status=code, headers=headers)
        return web.Response(status=code, headers=headers)

    return fault


def nothing_yet(seconds: float = 0) -> Fault:
    """Answer a query as storage does that has found nothing so far, after that time; it goes on with the next key."""

    async def fault(_: FaultProxy, request: web.Request) -> web.Response:
        await asyncio.sleep(seconds)
        business = request.query["$filter"].split("'")[1]
        keys = {"NextPartitionKey": business, "NextRowKey": "!"}
        place = {f"x-ms-continuation-{name}": b64encode(key.encode()).decode() for name, key in keys.items()}
        return web.json_response({"value": []}, headers=place)

    return fault


def inside(code: int, *, committed: bool) -> Fault:
    """Answer a transaction with a 202 and that status inside; 0 is a body that is cut in the middle."""
    error = {"odata.error": {"code": "Forged", "message": {"lang": "en-US", "value": "0:Forged."}}}
    part = f"HTTP/1.1 {code} Forged\r\nContent-Type: application/json\r\n\r\n{json.dumps(error)}"
    head = "--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\nContent-Type: application/http\r\n"
    body = f"{head}\r\n{part}\r\n--c--\r\n--b--\r\n" if code else head[:70]

    async def fault(proxy: FaultProxy, request: web.Request) -> web.Response:
        if committed:
            await proxy.forward(request)
        return web.Response(status=202, text=body, headers={"Content-Type": "multipart/mixed; boundary=b"})

    return fault
