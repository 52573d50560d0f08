"""FUNCTIONS_HOST=func runs Azure's own host in place of the local one.

Core Tools is too large to be installed for this, so a stand-in is on the PATH: a program that does with its arguments
and variables what ``func`` does, and starts the local host.
"""

import json
import os
import signal
import sys
from pathlib import Path

import httpx
import pytest
from anyio.from_thread import BlockingPortal

from infra.local.run import TOP, StartError, functions_host, host_command
from tests.conftest import free_port
from tests.local.test_run import in_the_group_of

STAND_IN = f"""#!{sys.executable}
import os, subprocess, sys
start, option, port = sys.argv[1:]
assert (start, option, os.environ["FUNCTIONS_WORKER_RUNTIME"]) == ("start", "--port", "python")
python = os.environ["languageWorkers:python:defaultExecutablePath"]
host = [python, "-P", "-m", "infra.local.host", "--port", port]
# Like the func of npm, it waits for a process of its own.
sys.exit(subprocess.call(host, env={{**os.environ, "PYTHONPATH": {str(TOP)!r}, "STARTED_BY": "the stand-in"}}))
"""
APP = """
import json, os, sys
import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

@app.route(route="healthz")
async def healthz(req: func.HttpRequest) -> func.HttpResponse:
    names = ("STARTED_BY", "IN_BOTH", "IN_FILE", "IN_SETTINGS")
    return func.HttpResponse(json.dumps({"python": sys.prefix, **{name: os.environ.get(name) for name in names}}))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An app of its own, and the stand-in first on the PATH."""
    (tmp_path / "function_app.py").write_text(APP)
    (tmp_path / "host.json").write_text('{"extensions": {"http": {"routePrefix": ""}}}')
    values = {"IN_BOTH": "file", "IN_FILE": "file"}
    (tmp_path / "local.settings.json").write_text(json.dumps({"IsEncrypted": False, "Values": values}))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "func").write_text(STAND_IN)
    (tmp_path / "bin" / "func").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FUNCTIONS_HOST", "func")
    return tmp_path


@pytest.mark.parametrize("kill", [False, True])
def test_func_is_started_with_the_settings_and_this_python_and_leaves_nothing_running(
    portal: BlockingPortal, folder: Path, *, kill: bool
) -> None:
    port, settings = free_port(), {"IN_BOTH": "settings", "IN_SETTINGS": "settings"}
    with portal.wrap_async_context_manager(functions_host(port, settings, folder=folder)) as process:
        assert httpx.get(f"http://127.0.0.1:{port}/healthz").json() == {
            "python": sys.prefix,
            "STARTED_BY": "the stand-in",
            "IN_BOTH": "settings",
            "IN_FILE": "file",
            "IN_SETTINGS": "settings",
        }
        if kill:
            os.kill(process.pid, signal.SIGKILL)  # the wrapper alone
            portal.call(process.wait)
    assert in_the_group_of(folder) == []


def test_what_is_missing_or_misspelled_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(StartError, match="npm install -g azure-functions-core-tools@4"):
        host_command(7071)
    monkeypatch.setenv("FUNCTIONS_HOST", "fun")
    with pytest.raises(StartError, match="must be local or func, not fun"):
        host_command(7071)


def test_the_local_host_is_used_unless_another_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "local"):
        monkeypatch.setenv("FUNCTIONS_HOST", value)
        assert "infra.local.host" in host_command(7071).line
