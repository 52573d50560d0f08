"""The README's examples for the Graph SDKs run as written, and add exactly once while their requests are repeated."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest
from anyio.from_thread import BlockingPortal

from infra.local.issuer import Issuer
from tests.conftest import Service
from tests.support.proxy import FaultProxy, status
from tests.support.tls import tls

PROGRAMS = {"python": [sys.executable, "-"], "js": ["node", "--input-type=module", "-"]}
SERVICE = "http://127.0.0.1:7071"


class Example(NamedTuple):
    """An example of the README, the service that it talks to, and the proxy between them."""

    language: str
    script: str
    environment: dict[str, str]
    proxy: FaultProxy

    def run(self, script: str = "") -> list[str]:
        """Run the example, or another version of it, and return the last word of each line that it prints."""
        ended = subprocess.run(  # noqa: S603
            PROGRAMS[self.language],
            input=script or self.script,
            env=self.environment,
            cwd=Path(__file__).parent,  # where node finds its packages
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return [line.split()[-1] for line in ended.stdout.splitlines()]


@pytest.fixture(params=PROGRAMS)
def example(
    request: pytest.FixtureRequest, service: Service, issuer: Issuer, portal: BlockingPortal, tmp_path: Path
) -> Iterator[Example]:
    """Each example, with a proxy that speaks https before the service where the SDK sends no token otherwise."""
    language: str = request.param
    (script,) = re.findall(rf"```{language}\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    certificate = tmp_path / "certificate.pem"
    proxy = FaultProxy(service.base, tls=tls(certificate) if language == "js" else None)
    with ExitStack() as stack:
        stack.callback(portal.call, proxy.stop)
        portal.call(proxy.start)
        environment = {
            **os.environ,
            "TOKEN": issuer.token(),
            "SERVICE": f"https://127.0.0.1:{proxy.port}/",
            "NODE_EXTRA_CA_CERTS": str(certificate),
        }
        script = script.replace(SERVICE, f"http://127.0.0.1:{proxy.port}")
        yield Example(language, script, environment, proxy)


def test_an_example_runs_as_written(example: Example) -> None:
    assert example.run() == ["ada@example.com", "1"]


@pytest.mark.parametrize("code", [429, 503])
def test_an_example_adds_once_while_the_sdk_repeats_its_add(example: Example, code: int) -> None:
    example.proxy.plan.extend(status(code, retry_after=1, committed=committed) for committed in (True, False, True))
    assert example.run() == ["ada@example.com", "1"]
    assert [sent.method for sent in example.proxy.passed] == ["POST"] * 4 + ["GET"] * 2


def test_the_readme_names_the_versions_that_are_tested() -> None:
    readme = Path("README.md").read_text()
    packages = json.loads(Path(__file__).with_name("package.json").read_text())["dependencies"]
    for name in ("msgraph-beta-sdk", "msgraph-sdk"):
        packages[name] = version(name)
    assert [name for name, number in packages.items() if f"{name} {number}" not in readme] == []


def test_without_the_middleware_the_sdk_makes_duplicates(example: Example) -> None:
    script = re.sub(r"(new )?ExactlyOnce\(\), ", "", example.script)
    assert script != example.script
    example.proxy.plan.append(status(503, retry_after=1, committed=True))
    assert example.run(script) == ["ada@example.com", "2"]
