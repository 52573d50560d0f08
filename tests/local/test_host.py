"""The local Functions host treats HTTP as the real one does, which some apps would be surprised by."""

import http.client
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import BlockingPortal

from infra.local.run import ENVIRONMENT, TOP, command, process
from tests.conftest import free_port

APP = """
import json
import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

@app.route(route="echo/{value?}")
async def echo(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(json.dumps({
        "method": req.method, "url": req.url, "headers": dict(req.headers), "params": dict(req.params),
        "route": dict(req.route_params), "body": req.get_body().decode(),
    }))

@app.route(route="sync", methods=["GET"])
def sync(req: func.HttpRequest) -> str:
    return '{"body": {"a": 1}, "status": 202, "headers": {"x": "y"}}'

@app.route(route="answer/{kind}")
async def answer(req: func.HttpRequest) -> func.HttpResponse:
    kind = req.route_params["kind"]
    if kind == "raise":
        raise RuntimeError("secret")
    if kind == "none":
        return None
    if kind == "accent":
        return func.HttpResponse(headers={"x": "\\u00e9"})
    return func.HttpResponse(b"x", status_code=204)
"""


@pytest.fixture(scope="module")
def host(portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A host with an app of its own, under the default route prefix."""
    folder, port = tmp_path_factory.mktemp("app"), free_port()
    (folder / "function_app.py").write_text(APP)
    (folder / "host.json").write_text('{"version": "2.0"}')
    line = command("infra.local.host", "--port", str(port))
    env = {**os.environ, **ENVIRONMENT, "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "1000"}
    with (
        (folder / "log").open("w") as output,
        portal.wrap_async_context_manager(
            process("host", line, end_with=signal.SIGTERM, output=output, env=env, cwd=folder)
        ),
    ):
        transport = httpx.HTTPTransport(retries=5)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=transport) as client:
            for _ in range(100):
                try:
                    client.get("/")
                    break
                except httpx.ConnectError:
                    portal.call(_pause)
            yield client


async def _pause() -> None:
    from anyio import sleep  # noqa: PLC0415

    await sleep(0.1)


def echo(response: httpx.Response) -> dict[str, Any]:
    """What the function saw."""
    assert response.status_code == 200, response.text
    seen: dict[str, Any] = response.json()
    return seen


def test_the_prefix_is_api_unless_host_json_says_otherwise(host: httpx.Client) -> None:
    assert echo(host.get("/api/echo"))["route"] == {}
    missed = host.get("/echo")
    assert (missed.status_code, missed.content) == (404, b"")
    assert host.get("/").status_code == 200


def test_a_wrong_method_is_an_empty_404(host: httpx.Client) -> None:
    missed = host.post("/api/sync")
    assert (missed.status_code, missed.content) == (404, b"")


def test_values_of_one_name_are_joined_and_empty_ones_dropped(host: httpx.Client) -> None:
    seen = echo(host.get("/api/echo?a=1&A=2&b=&c=x+y", headers=[("X-Twice", "1"), ("x-twice", "2")]))
    assert seen["params"] == {"a": "1,2", "c": "x y"}
    assert seen["headers"]["x-twice"] == "1,2"
    assert seen["url"].endswith("/api/echo?a=1&A=2&b=&c=x+y")


def test_route_values_are_decoded_once(host: httpx.Client) -> None:
    assert echo(host.get("/api/echo/a%2Fb+c%20d%2520"))["route"] == {"value": "a%2Fb+c d%20"}


def test_a_body_is_passed_only_with_its_length(host: httpx.Client) -> None:
    assert echo(host.post("/api/echo", content=b"abc"))["body"] == "abc"
    assert echo(host.post("/api/echo", content=iter([b"abc"])))["body"] == ""
    too_long = host.post("/api/echo", content=b"x" * 1001)
    assert (too_long.status_code, too_long.content) == (500, b"")


def test_a_string_is_taken_for_json_and_its_body_for_a_response(host: httpx.Client) -> None:
    response = host.get("/api/sync")
    assert (response.status_code, response.json(), response.headers["x"]) == (202, {"a": 1}, "y")


@pytest.mark.parametrize("kind", ["raise", "none", "accent", "body on 204"])
def test_what_the_host_cannot_send_is_an_empty_500(host: httpx.Client, kind: str) -> None:
    response = host.get(f"/api/answer/{kind}")
    assert (response.status_code, response.content) == (500, b"")


def test_a_malformed_host_header_is_a_400(host: httpx.Client) -> None:
    assert host.get("/api/echo", headers={"Host": "a b"}).status_code == 400


def test_the_absolute_form_of_a_target_is_understood(host: httpx.Client) -> None:
    with socket.create_connection(("127.0.0.1", host.base_url.port or 0)) as connection:
        connection.sendall(
            b"GET http://example.com/api/echo/x HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n"
        )
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["url"] == "http://example.com/api/echo/x"


def send(host: httpx.Client, raw: bytes) -> tuple[int, bytes]:
    """Send these bytes on a connection of their own; the status and the body of the response, without its chunks."""
    with socket.create_connection(("127.0.0.1", host.base_url.port or 0), timeout=20) as connection:
        connection.sendall(raw)
        response = http.client.HTTPResponse(connection, method=raw.partition(b" ")[0].decode("latin-1"))
        response.begin()
        return response.status, response.read()


def get(*fields: bytes, target: bytes = b"/api/echo/x", method: bytes = b"GET", body: bytes = b"") -> bytes:
    """A request with these header fields."""
    return b"\r\n".join([method + b" " + target + b" HTTP/1.1", b"Host: x", *fields, b"", body])


@pytest.mark.parametrize("method", ["get", "GET", "PURGE", "MKCOL", "brew", "M-SEARCH", "TRACE", "PRI", "X!~"])
def test_any_method_reaches_the_app_in_upper_case(host: httpx.Client, method: str) -> None:
    status, body = send(host, get(method=method.encode()))
    assert (status, json.loads(body)["method"]) == (200, method.upper())


def test_a_request_with_a_body_is_followed_by_another_on_the_same_connection(host: httpx.Client) -> None:
    with socket.create_connection(("127.0.0.1", host.base_url.port or 0), timeout=20) as connection:
        for method in (b"brew", b"POST", b"get", b"Purge"):
            raw = get(b"Content-Length: 5", method=method, body=b"a\r\n\r\n")
            for part in (raw[:10], raw[10:-3], raw[-3:]):
                connection.sendall(part)
            response = http.client.HTTPResponse(connection)
            response.begin()
            seen = json.loads(response.read())
            assert (seen["method"], seen["body"]) == (method.decode().upper(), "a\r\n\r\n")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (get(target=b"/api/echo/" + b"x" * 8200), 414),
        (b"GET /" + b"x" * 8200, 414),
        (get(b"a: " + b"x" * 32_770), 431),
        (get(*[b"a%d: x" % n for n in range(100)]), 431),
        (get(target="/api/echo/é".encode()), 400),
        (get(target=b"/api/echo/%00"), 400),
        (get(target=b"/api/echo/a\tb"), 400),
        (get(b"a: x", b" folded: y"), 400),
        (get(b"a: x", b"\tfolded"), 400),
        (get(b"a : x"), 400),
        (get(b"no colon"), 400),
        (get(b": x"), 400),
        (get(b"a: \xff"), 400),
        (get(b"a: \0"), 400),
        (get(b"Content-Length: 1", b"Content-Length: 1", body=b"x"), 400),
        (get(b"Content-Length: x"), 400),
        (get(b"Content-Length: -1"), 400),
        (get(b"Host: y"), 400),
        (get(method=b"G(T"), 400),
        (b"GET /api/echo/x HTTP/1.1\r\n\r\n", 400),
        (b"GET /api/echo/x HTTP/1.1\nHost: x\n\n", 400),
        (b"GET  /api/echo/x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /api/echo/x HTTP/1.0\r\n\r\n", 500),
        (get(b"Content-Length: 1001", method=b"POST", body=b"x" * 1001), 500),
    ],
    ids=lambda value: str(value[:24]) if isinstance(value, bytes) else str(value),
)
def test_what_the_web_server_refuses_is_an_empty_response(host: httpx.Client, raw: bytes, status: int) -> None:
    assert send(host, raw) == (status, b"")


def test_what_is_just_within_the_limits_reaches_the_app(host: httpx.Client) -> None:
    longest = b"/api/echo/" + b"x" * (8192 - len(b"GET /api/echo/ HTTP/1.1\r\n"))
    assert send(host, get(target=longest))[0] == 200
    assert send(host, get(*[b"a%d: x" % n for n in range(99)]))[0] == 200
    assert send(host, get(b"a: " + b"x" * 32_700))[0] == 200
    assert send(host, b"GET /api/echo/x HTTP/1.0\r\nHost: x\r\n\r\n")[0] == 200


def test_headers_that_come_twice_are_joined_even_where_there_should_be_one(host: httpx.Client) -> None:
    status, body = send(host, get(b"Content-Type: a/b", b"User-Agent: c", b"content-type: d/e", b"User-Agent: f"))
    headers = json.loads(body)["headers"]
    assert (status, headers["content-type"], headers["user-agent"]) == (200, "a/b,d/e", "c,f")


def test_a_length_beside_chunks_is_ignored_so_the_body_is_empty(host: httpx.Client) -> None:
    raw = get(b"Content-Length: 3", b"Transfer-Encoding: chunked", method=b"POST", body=b"3\r\nabc\r\n0\r\n\r\n")
    status, body = send(host, raw)
    assert (status, json.loads(body)["body"]) == (200, "")


@pytest.mark.parametrize("path", ["/admin", "/Admin/host/status", "/runtime/", "/RUNTIME/webhooks/x"])
def test_the_paths_of_the_host_itself_are_a_401(host: httpx.Client, path: str) -> None:
    response = host.get(path)
    assert (response.status_code, response.content) == (401, b"")
    assert host.get("/administrator").status_code == 404


def start(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Start a host that is expected not to come up."""
    return subprocess.run(  # noqa: S603
        command("infra.local.host", "--port", str(free_port())),
        cwd=folder,
        env={"PATH": os.environ["PATH"], **ENVIRONMENT, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_missing_setting_stops_the_start_with_one_line_that_names_it() -> None:
    ended = start(TOP, CUSTOMERS_STORAGE="x", TOKEN_TENANT_ID="x")  # noqa: S106 - no password
    assert ended.returncode == 1
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "CUSTOMERS_STORAGE" in ended.stderr
    assert "TOKEN_TENANT_ID" in ended.stderr


@pytest.mark.parametrize(
    ("app", "says"),
    [
        (APP + "\nother = func.FunctionApp()\n", "More than one"),
        (APP.replace("def sync(req", "def sync(value, req"), "value"),
        (APP.replace('route="sync"', 'route="admin/sync"'), "admin"),
        ("import nonsense_that_is_not_there", "nonsense_that_is_not_there"),
    ],
)
def test_an_app_that_azure_would_refuse_is_refused(tmp_path: Path, app: str, says: str) -> None:
    (tmp_path / "function_app.py").write_text(app)
    (tmp_path / "host.json").write_text('{"extensions": {"http": {"routePrefix": ""}}}')
    ended = start(tmp_path)
    assert ended.returncode == 1
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
