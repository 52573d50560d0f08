"""The local Functions host treats HTTP as the real one does, which some apps would be surprised by."""

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
