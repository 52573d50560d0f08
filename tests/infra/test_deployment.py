"""What azd runs, and what infra/README.md has those run who deploy without it, with the real Azure CLI.

The hooks are run as azure.yaml names them, with a stand-in of azd that keeps an environment. ``make test-infra`` sets
the Azure CLI up.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from infra.local import run
from tests.support import bicep
from tests.support.cloud import SUBSCRIPTION, TENANT, Cloud, Graph

AZURE_YAML = Path("azure.yaml").read_text()
AUDIENCE = "0e6fdb1f-8a1c-4a59-8b8e-0a3d4d1a3c55"
UNKNOWN = "00000000-1111-4222-8333-444444444444"
TABLES = "https://stabc.table.core.windows.net"
BASE = "https://func-abc.azurewebsites.net"
# "azd env set" and "azd env get-value", over files.
AZD = """
set -eu
[ "$1" = env ]
case $2 in
set) printf '%s' "$4" >"$AZD_FOLDER/$3" ;;
get-value) cat "$AZD_FOLDER/$3" ;;
*) exit 1 ;;
esac
"""


class Azd:
    """A stand-in of azd: an environment, and hooks that are run in it."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self._cloud = cloud
        self._values = folder / "values"
        self._values.mkdir()
        self._tools = folder / "tools"
        self._tools.mkdir()
        self.tool("azd", AZD)

    def tool(self, name: str, script: str) -> None:
        """Put a program on the path of the hooks, before all others."""
        (self._tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (self._tools / name).chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """The values of the environment."""
        return {path.name: path.read_text() for path in self._values.iterdir()}

    def set(self, **values: str) -> None:
        """Set values."""
        for name, value in values.items():
            (self._values / name).write_text(value)

    def hook(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run a hook as azd does: by its path, in the top folder, with the values as variables."""
        path = f"{self._tools}{os.pathsep}{self._cloud.environment['PATH']}"
        variables = {"PATH": path, "AZD_FOLDER": str(self._values), **self.environment}
        return self._cloud.run(hook(name), variables=variables)


def hook(name: str) -> str:
    """The script of a hook in azure.yaml."""
    found = re.search(rf"^ +{name}:\n +shell: sh\n +run: (\S+)$", AZURE_YAML, re.MULTILINE)
    assert found
    return found[1]


@pytest.fixture
def azd(cloud: Cloud, tmp_path: Path) -> Azd:
    """An environment of azd, of which nothing is known but the subscription."""
    azd = Azd(cloud, tmp_path)
    azd.set(AZURE_SUBSCRIPTION_ID=SUBSCRIPTION)
    return azd


def commands(start: str) -> str:
    """The block of commands in infra/README.md that begins with these words."""
    blocks = re.findall(r"```sh\n(.*?)```", Path("infra/README.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if block.startswith(start)]
    return str(block)


def test_the_api_is_registered_before_the_first_provisioning_and_found_again(azd: Azd, graph: Graph) -> None:
    ended = azd.hook("preprovision")
    assert ended.returncode == 0, ended.stderr
    (app,) = graph.applications
    assert app["uniqueName"] == "booking-customers"
    assert azd.environment["TOKEN_AUDIENCE"] == app["appId"]
    assert ended.stdout == f"Registered the API in the tenant {TENANT}: {app['appId']}\n"
    azd.set(TOKEN_AUDIENCE="")
    azd.hook("preprovision")
    assert azd.environment["TOKEN_AUDIENCE"] == app["appId"]
    assert len(graph.applications) == 1


def test_an_audience_that_is_set_stays_and_entra_is_not_asked(azd: Azd, graph: Graph) -> None:
    azd.set(TOKEN_AUDIENCE=AUDIENCE)
    assert azd.hook("preprovision").returncode == 0
    assert azd.environment["TOKEN_AUDIENCE"] == AUDIENCE
    assert graph.requests == []


def test_without_the_right_to_register_nothing_is_set_and_nothing_provisioned(azd: Azd, graph: Graph) -> None:
    graph.may_write = False
    ended = azd.hook("preprovision")
    assert ended.returncode != 0
    assert "You need the role Cloud Application Administrator" in ended.stderr
    assert "TOKEN_AUDIENCE" not in azd.environment


def test_a_subscription_that_the_azure_cli_does_not_know_stops_it(azd: Azd, graph: Graph) -> None:
    azd.set(AZURE_SUBSCRIPTION_ID=UNKNOWN)
    ended = azd.hook("preprovision")
    assert ended.returncode != 0
    assert UNKNOWN in ended.stderr
    assert graph.applications == []


def test_a_registration_in_another_tenant_than_the_subscription_is_refused(azd: Azd, graph: Graph) -> None:
    azd.tool("az", f"case $* in *--subscription*) echo {UNKNOWN} ;; *) echo {TENANT} ;; esac")
    ended = azd.hook("preprovision")
    assert ended.returncode == 1
    assert ended.stderr == (
        f"The Azure CLI is signed in to the tenant {TENANT}, and the subscription belongs to {UNKNOWN}. "
        f"Run: az account set --subscription {SUBSCRIPTION}\n"
    )
    assert graph.applications == []


def test_azd_has_no_question_about_the_audience_before_the_hook_answers_it() -> None:
    # azd up asks for parameters without a value before it runs any hook (Azure/azure-dev#5806).
    parameters = json.loads(Path("infra/main.parameters.json").read_text())["parameters"]
    found = re.fullmatch(r"\$\{TOKEN_AUDIENCE=(.+)\}", parameters["audience"]["value"])
    assert found
    assert len(found[1]) < len(AUDIENCE)  # no audience, whatever it says


def test_after_the_deployment_the_same_call_as_locally_is_printed(azd: Azd) -> None:
    azd.set(TOKEN_AUDIENCE=f"{AUDIENCE},{UNKNOWN}", baseUrl=BASE, tableServiceUri=TABLES)
    azd.tool("curl", f'[ "$*" != "${{*%{BASE}/healthz}}" ]')
    ended = azd.hook("postdeploy")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"The service is ready: {BASE}\n" in ended.stdout
    printed = next(line for line in ended.stdout.splitlines() if line.startswith("curl"))
    token = f"$(az account get-access-token --scope api://{AUDIENCE}/.default --query accessToken --output tsv)"
    local = next(line for line in run.welcome(BASE, "TOKEN").splitlines() if line.startswith("curl"))
    assert printed == local.replace("'Authorization: Bearer TOKEN'", f'"Authorization: Bearer {token}"')
    assert f"\nCUSTOMERS_STORAGE__tableServiceUri={TABLES} .venv/bin/python -m customers members add" in ended.stdout


def test_after_a_deployment_that_is_not_healthy_a_line_says_so(azd: Azd) -> None:
    azd.set(TOKEN_AUDIENCE=AUDIENCE, baseUrl=BASE, tableServiceUri=TABLES)
    azd.tool("curl", "exit 22")
    ended = azd.hook("postdeploy")
    assert ended.returncode == 0
    assert ended.stderr.startswith(f"The service is not healthy: {BASE}/healthz. ")


def test_the_hooks_and_the_package_are_where_azd_looks() -> None:
    assert Path(hook("prepackage")).samefile("infra/package.sh")
    assert re.search(r"^    dist: \.local/package$", AZURE_YAML, re.MULTILINE)
    assert re.search(r"^    remoteBuild: false\b", AZURE_YAML, re.MULTILINE)
    for name in ("preprovision", "prepackage", "postdeploy"):
        assert os.access(hook(name), os.X_OK), name


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a package, which ``make package`` need not make."""
    folder = tmp_path / "checkout"
    (folder / ".local").mkdir(parents=True)
    (folder / ".local" / "package.zip").write_bytes(b"PK the package")
    shutil.copytree("infra", folder / "infra", ignore=shutil.ignore_patterns("node_modules"))
    return folder


def test_the_commands_without_azd_deploy_the_service(
    cloud: Cloud, graph: Graph, checkout: Path, tmp_path: Path
) -> None:
    site = "resourceGroups/rg-my-customers/providers/Microsoft.Web/sites/func-abc"
    cloud.resource_manager.values |= {
        "functionAppName": "func-abc",
        "resourceGroupName": "rg-my-customers",
        "baseUrl": BASE,
    }
    cloud.resource_manager.sites = {site: cloud.site_host}
    cloud.site.packages.clear()
    cloud.site.statuses = [None, 1, 4]
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "make").write_text('#!/bin/sh\n[ "$*" = package ]\n')
    (tools / "make").chmod(0o755)
    (tools / "bicep").symlink_to(bicep.find())
    script = commands("az login\naudience=").replace("az login\n", "") + commands("make package") + 'echo "$base"\n'
    path = f"{tools}{os.pathsep}{cloud.environment['PATH']}"
    variables = {"PATH": path, "AZURE_BICEP_USE_BINARY_FROM_PATH": "true"}
    ended = cloud.run("sh", "-euc", script, folder=checkout, variables=variables)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == BASE
    assert cloud.site.packages == [("RemoteBuild=false", b"PK the package")]
    (app,) = graph.applications
    parameters = cloud.resource_manager.deployments["my-customers"]["properties"]["parameters"]
    assert parameters["audience"] == {"value": app["appId"]}


@pytest.mark.parametrize(
    ("statuses", "code", "says"),
    [([3], 1, "The deployment failed"), ([0, 6], 1, "The deployment failed"), ([4], 0, "Deployed.")],
)
def test_publishing_ends_as_the_deployment_does(
    cloud: Cloud, checkout: Path, statuses: list[int | None], code: int, says: str
) -> None:
    cloud.resource_manager.sites = {"resourceGroups/rg/providers/Microsoft.Web/sites/app": cloud.site_host}
    cloud.site.statuses = statuses
    ended = cloud.run("infra/publish.sh", "rg", "app", folder=checkout)
    assert ended.returncode == code, ended.stderr
    assert says in ended.stderr


def test_publishing_says_what_is_missing(cloud: Cloud, checkout: Path) -> None:
    ended = cloud.run("infra/publish.sh", "rg", "", folder=checkout)
    assert (ended.returncode, ended.stderr) == (2, "Usage: publish.sh RESOURCE_GROUP FUNCTION_APP\n")
    cloud.resource_manager.sites = {}
    ended = cloud.run("infra/publish.sh", "rg", "app", folder=checkout)
    assert ended.returncode != 0
    assert "NotFound" in ended.stderr
    (checkout / ".local" / "package.zip").unlink()
    ended = cloud.run("infra/publish.sh", "rg", "app", folder=checkout)
    assert (ended.returncode, ended.stderr) == (1, "There is no package. Run: make package\n")
