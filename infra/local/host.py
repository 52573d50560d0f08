"""A small Functions host for development without Core Tools (``func start``). Not for production.

It loads the real ``function_app.py`` through the library that runs it in Azure (``azure-functions-runtime``) and
treats HTTP as the Functions host does; ``web_server.py`` has the rules of what is read at all, ``routing.py`` those of
paths. Compatible: what is refused before the app, any method, route order and templates, ``routePrefix``, bodies,
headers, and what makes an empty 401, 404 or 500. Not supported: triggers other than HTTP, keys, what is under
``/admin``, CORS, scaling, reloading, levels of logs. It listens on 127.0.0.1 only.

Usage: ``python -m infra.local.host [--port 7071]``, in the folder of ``host.json``. It reads ``local.settings.json`` if
there is one; as with Core Tools, environment variables take precedence over it.
"""

import argparse
import asyncio
import json
import logging
import os
import re
import signal
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, quote

import azure_functions_runtime as worker
from aiohttp import web

from infra.local.routing import Route, RouteError, Routes, is_reserved
from infra.local.web_server import WebServer, method_of

_BODY_LIMIT = 104_857_600
_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")


class HostError(Exception):
    """The app cannot be served; the message says why in one line."""


class _Message(SimpleNamespace):
    """Stands for any of the protobuf messages that the host and the worker exchange over gRPC."""

    def WhichOneof(self, _: str) -> str | None:  # noqa: N802 - protobuf's name
        return next(iter(self.__dict__), None)


class _Protos:
    """Stands for the module of those messages."""

    class BindingInfo(_Message):
        undefined, out, inout = 0, 1, 2

    class StatusResult(_Message):
        Failure, Success = 0, 1

    def __getattr__(self, name: str) -> type[_Message]:
        return _Message


_PROTOS = _Protos()


class FunctionsApp:
    """A loaded function app."""

    def __init__(self, routes: Routes, functions: Mapping[str, tuple[str, str]]) -> None:
        self._routes = routes
        self._functions = functions  # name: (id, parameter of the trigger)

    @classmethod
    async def load(cls, folder: Path) -> "FunctionsApp":
        """Load ``function_app.py``. Raises HostError with the worker's reason."""
        settings = json.loads((folder / "host.json").read_text())
        prefix = settings.get("extensions", {}).get("http", {}).get("routePrefix", "api").strip("/")
        sys.path.insert(0, str(folder))
        worker.start_threadpool_executor()
        response = await worker.worker_init_request(
            SimpleNamespace(
                request=SimpleNamespace(
                    worker_init_request=SimpleNamespace(capabilities={}, function_app_directory=str(folder))
                ),
                properties={"host": "127.0.0.1", "protos": _PROTOS},
            )
        )
        if response.result.status != _PROTOS.StatusResult.Success:
            # Only the message: the stack trace is internal to the worker.
            raise HostError(response.result.exception.message)
        found = (await worker.functions_metadata_request(None)).function_metadata_results or []
        routes, functions = [], {}
        for function in found:
            trigger = _http_trigger(function)
            template = f"{prefix}/{trigger.get('route') or function.name}".lstrip("/")
            routes.append(Route(function.name, template, trigger.get("methods") or ()))
            functions[function.name] = (function.function_id, trigger["name"])
        return cls(Routes(routes), functions)

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer one HTTP request."""
        method = method_of(request)
        host = request.headers.get("Host", "")
        if not _HOST.fullmatch(host):
            return web.Response(status=400)
        raw_path, _, query = request.raw_path.partition("?")
        if not raw_path.startswith("/"):  # the absolute form, RFC 9112, 3.2.2
            raw_path = "/" + raw_path.partition("://")[2].partition("/")[2]
        if is_reserved(raw_path.removeprefix("/")):
            return web.Response(status=401)  # the host's own, which takes a key
        found = self._routes.find(method, raw_path)
        if found is None and raw_path == "/":
            return web.Response(text="The local Functions host is running.\n")
        if found is None:
            return web.Response(status=404)
        name, route_values = found
        length = request.content_length or 0
        if length > int(os.environ.get("FUNCTIONS_REQUEST_BODY_SIZE_LIMIT", _BODY_LIMIT)):
            return web.Response(status=500)  # the web server's own failure
        # As in the host, a body is passed on only if its length is declared.
        body = await request.content.read() if length else b""
        url_path = quote(raw_path, safe="/%:@!$&'()*+,;=~", errors="surrogateescape")
        http = _Message(
            method=method,
            url=f"{request.scheme}://{host}{url_path}" + (f"?{query}" if query else ""),
            headers=_join(request.headers.items(), lower=True),
            params=route_values,
            query=_join(pair for pair in parse_qsl(query, errors="replace") if pair[1]),
            body=_Message(bytes=body),
        )
        return _to_http(await self._invoke(name, http))

    async def _invoke(self, name: str, http: _Message) -> Any:
        function_id, parameter = self._functions[name]
        response = await worker.invocation_request(
            SimpleNamespace(
                request=SimpleNamespace(
                    invocation_request=SimpleNamespace(
                        invocation_id=str(uuid.uuid4()),
                        function_id=function_id,
                        input_data=[_Input(parameter, http)],
                        trigger_metadata={},
                        trace_context=SimpleNamespace(trace_parent="", trace_state="", attributes={}),
                        retry_context=SimpleNamespace(retry_count=0, max_retry_count=0, exception=None),
                    )
                )
            )
        )
        if response.result.status != _PROTOS.StatusResult.Success:
            logging.getLogger("host").error("%s: %s", name, response.result.exception.stack_trace)
            return None
        return response.return_value


class _Input:
    """A binding's value on its way in."""

    def __init__(self, name: str, http: _Message) -> None:
        self.name = name
        self.data = _Message(http=http)

    def WhichOneof(self, _: str) -> str:  # noqa: N802 - protobuf's name
        return "data"


def _http_trigger(function: Any) -> dict[str, Any]:
    for raw in function.raw_bindings:
        binding: dict[str, Any] = json.loads(raw)
        if binding["type"] == "httpTrigger":
            return binding
    raise HostError(f"{function.name}: this local host runs HTTP triggers only")


def _join(pairs: Any, *, lower: bool = False) -> dict[str, str]:
    """Join the values of one name with commas; names ignore case."""
    joined: dict[str, tuple[str, list[str]]] = {}
    for name, value in pairs:
        joined.setdefault(name.lower(), (name.lower() if lower else name, []))[1].append(value)
    return {name: ",".join(values) for name, values in joined.values()}


def _to_http(value: Any) -> web.Response:
    kind = value.WhichOneof("data") if value is not None else None
    if kind == "string":
        return _from_text(value.string)
    if kind != "http":
        return web.Response(status=500)
    http = value.http
    status, body = int(http.status_code), http.body.bytes
    headers = {name.lower(): text for name, text in http.headers.items()}
    if not all(text.isascii() for text in headers.values()) or (body and status in (204, 304)):
        return web.Response(status=500)  # the web server's own failure
    return web.Response(status=status, body=body, headers=headers)


def _from_text(text: str) -> web.Response:
    """A ``str`` is parsed as JSON, and an object with ``body`` in it is taken for a response."""
    try:
        value = json.loads(text)
    except ValueError:
        return web.Response(text=text)
    if isinstance(value, dict) and "body" in value:
        body = value["body"]
        return web.Response(
            status=int(value.get("status") or value.get("statusCode") or 200),
            text=body if isinstance(body, str) else json.dumps(body),
            headers={str(name): str(item) for name, item in (value.get("headers") or {}).items()},
        )
    return web.Response(text=text, content_type="application/json")


def read_local_settings(folder: Path) -> None:
    """Set the variables that ``local.settings.json`` names and the environment does not."""
    path = folder / "local.settings.json"
    if path.exists():
        for name, value in json.loads(path.read_text()).get("Values", {}).items():
            os.environ.setdefault(name, str(value))


async def serve(folder: Path, port: int) -> None:
    """Serve the app in ``folder`` on 127.0.0.1 until SIGINT or SIGTERM, then finish the requests in progress."""
    app = await FunctionsApp.load(folder)
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    runner = web.ServerRunner(WebServer(app.handle, access_log=None, auto_decompress=False), shutdown_timeout=15)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await stop.wait()
    await runner.cleanup()


def main() -> int:
    """Run the host. Returns 1, after one line on stderr, if it cannot start."""
    parser = argparse.ArgumentParser(description="A small Functions host for development.")
    parser.add_argument("--port", type=int, default=7071)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # The worker logs two lines per request, and stack traces of what is one line here.
    logging.getLogger("azure.functions").setLevel(logging.CRITICAL)
    read_local_settings(Path.cwd())
    try:
        asyncio.run(serve(Path.cwd(), arguments.port))
    except (HostError, RouteError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
