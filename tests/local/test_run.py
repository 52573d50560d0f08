"""The local start: one command brings everything up, and a signal leaves nothing running and nothing lost."""

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest

from infra.local.issuer import Issuer, load_key
from infra.local.run import ENVIRONMENT, TOP, command
from tests.conftest import free_port
from tests.support.graph import assert_customer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout of its own, so that a service that runs from this one is not disturbed."""
    for name in ("function_app.py", "customers", "host.json"):
        (tmp_path / name).symlink_to(TOP / name)
    return tmp_path


def started(folder: Path, *arguments: str, **environ: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """Start it, and end it afterwards in any case."""
    return start(folder, arguments, environ, hangup=signal.SIG_DFL)


@contextmanager
def start(
    folder: Path, arguments: Sequence[str], environ: Mapping[str, str], *, hangup: signal.Handlers
) -> Iterator[subprocess.Popen[str]]:
    """Start it with this disposition of SIGHUP."""
    # A program inherits an ignored SIGHUP: set it here, because the tests may themselves run under nohup.
    before = signal.signal(signal.SIGHUP, hangup)
    process = subprocess.Popen(  # noqa: S603
        command("infra.local.run", *arguments),
        cwd=folder,
        env={**os.environ, **ENVIRONMENT, "ISSUER_PORT": "", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGHUP, before)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def wait_for(process: subprocess.Popen[str], says: str) -> str:
    """Read its output until a line says that."""
    assert process.stdout
    for line in process.stdout:
        if says in line:
            return line
    assert process.stderr
    raise AssertionError(process.stderr.read())


def in_the_group_of(folder: Path) -> list[str]:
    """The processes that work in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").resolve() == folder.resolve():
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("end_with", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_prints_a_line_that_works_ends_cleanly_and_keeps_the_data(folder: Path, end_with: signal.Signals) -> None:
    ports = {"PORT": str(free_port()), "TABLE_PORT": str(free_port())}
    with started(folder, **ports) as process:
        line = wait_for(process, "curl ")
        assert httpx.get(f"http://127.0.0.1:{ports['PORT']}/healthz").status_code == 200
        answer = subprocess.run(shlex.split(line), capture_output=True, text=True, check=True).stdout  # noqa: S603
        assert answer.startswith("HTTP/1.1 201")
        process.send_signal(end_with)
        assert process.wait(30) == 0
    assert in_the_group_of(folder) == []
    location = next(part.split()[1] for part in answer.splitlines() if part.lower().startswith("location:"))
    # Another port: the table is of this folder, whatever the ports are.
    others = {"PORT": str(free_port()), "TABLE_PORT": str(free_port())}
    with started(folder, **others) as process:
        wait_for(process, "curl ")
        token = Issuer(load_key(folder / ".local/issuer/key.pem")).token()
        url = location.replace(ports["PORT"], others["PORT"])
        assert_customer(httpx.get(url, headers={"Authorization": f"Bearer {token}"}), 200)


def test_an_ignored_hangup_stays_ignored(folder: Path) -> None:
    ports = {"PORT": str(free_port()), "TABLE_PORT": str(free_port())}
    with start(folder, [], ports, hangup=signal.SIG_IGN) as process:
        wait_for(process, "curl ")
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert in_the_group_of(folder) == []


def test_an_interrupt_ends_it_even_if_a_shell_had_it_ignored(folder: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a child inherits it
    try:
        with started(folder, PORT=str(free_port()), TABLE_PORT=str(free_port())) as process:
            wait_for(process, "curl ")
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert in_the_group_of(folder) == []


def test_a_second_run_from_the_same_folder_is_refused_in_one_line(folder: Path) -> None:
    with started(folder, PORT=str(free_port()), TABLE_PORT=str(free_port())) as process:
        wait_for(process, "curl ")
        with started(folder, PORT=str(free_port()), TABLE_PORT=str(free_port())) as second:
            assert second.wait(30) == 1
            assert second.stderr
            assert "already running from this folder" in second.stderr.read()


@pytest.mark.parametrize("variable", ["PORT", "TABLE_PORT", "ISSUER_PORT"])
def test_one_line_reports_a_port_in_use(folder: Path, variable: str) -> None:
    ports = {"PORT": str(free_port()), "TABLE_PORT": str(free_port())}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with started(folder, **{**ports, variable: port}) as process:
            assert process.wait(30) == 1
            assert process.stderr
            lines = process.stderr.read().strip().splitlines()
    assert len(lines) == 1
    assert port in lines[0]
    assert f"{variable}=" in lines[0]


@pytest.mark.parametrize(
    ("port", "says"),
    [
        ("http", "PORT must be a port number from 1 to 65535, not http."),
        ("0", "PORT must be a port number from 1 to 65535, not 0."),
        ("40001", "must differ"),
    ],
)
def test_one_line_reports_an_invalid_port(folder: Path, port: str, says: str) -> None:
    with started(folder, PORT=port, TABLE_PORT="40001") as process:
        assert process.wait(30) == 1
        assert process.stderr
        lines = process.stderr.read().strip().splitlines()
    assert len(lines) == 1
    assert says in lines[0]


def test_it_makes_the_table_that_the_app_uses(folder: Path) -> None:
    with started(folder, PORT=str(free_port()), TABLE_PORT=str(free_port()), CUSTOMERS_TABLE="other") as process:
        wait_for(process, "curl ")


def test_one_line_reports_that_azurite_does_not_start(folder: Path) -> None:
    (folder / "node").write_text("#!/bin/sh\necho out of coffee >&2\nexit 1\n")
    (folder / "node").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    with started(folder, PORT=str(free_port()), TABLE_PORT=str(free_port()), PATH=path) as process:
        assert process.wait(30) == 1
        assert process.stderr
        lines = process.stderr.read().strip().splitlines()
    assert len(lines) == 1
    assert "Azurite did not start" in lines[0]
    assert "out of coffee" in lines[0]


def test_a_part_that_ends_by_itself_ends_the_rest(folder: Path) -> None:
    with started(folder, PORT=str(free_port()), TABLE_PORT=str(free_port())) as process:
        wait_for(process, "curl ")
        host = next(
            int(entry.name)
            for entry in Path("/proc").glob("[0-9]*")
            if (entry / "cwd").resolve() == folder.resolve() and b"infra.local.host" in (entry / "cmdline").read_bytes()
        )
        os.kill(host, signal.SIGKILL)
        assert process.wait(30) == 1
        assert process.stderr
        assert "The Functions host stopped by itself" in process.stderr.read()
    time.sleep(0.1)
    assert in_the_group_of(folder) == []


def test_the_services_alone_are_for_func_start(folder: Path) -> None:
    issuer_port = str(free_port())
    ports = {"PORT": str(free_port()), "TABLE_PORT": str(free_port()), "ISSUER_PORT": issuer_port}
    with started(folder, "--services", **ports) as process:
        wait_for(process, "func start")
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{ports['PORT']}/healthz")
        with socket.create_connection(("127.0.0.1", int(issuer_port))):
            pass
