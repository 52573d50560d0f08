"""What the READMEs describe exists, and what exists they describe: routes, errors, settings, variables, commands."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from customers import routes
from customers.errors import GraphError
from customers.route import Route
from customers.settings import Settings

README = Path("README.md").read_text()
DEPLOY = Path("infra/README.md").read_text()


def section(title: str, text: str = README) -> str:
    """A section, without its title."""
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def first_column(text: str) -> set[str]:
    """The code in the first column of a section's tables."""
    return {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall("`(.+?)`", row)}


ROUTES = sorted(row for row in first_column(section("Operations")) if re.match("[A-Z]+ […/]", row))
SURFACES = re.findall(r"`(/[\w./]+/\{businessId\})`", section("Operations"))


def test_the_tables_were_found() -> None:
    assert len(ROUTES) == 13
    assert len(SURFACES) == 3


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("route", [route for route in ROUTES if "…" in route])
def test_a_route_is_there_and_takes_a_token(anonymous: httpx.Client, route: str, surface: str) -> None:
    method, path = route.replace("…", surface).replace("{id}", "1").replace("{businessId}", "Contoso").split()
    assert anonymous.request(method, path, json={}).status_code == 401


def test_healthz_is_there(anonymous: httpx.Client) -> None:
    assert "GET /healthz" in ROUTES
    assert anonymous.get("/healthz").status_code == 200


def test_every_url_of_an_example_is_there(anonymous: httpx.Client) -> None:
    paths = set(re.findall(r"curl .*?(?:7071|\$base)(/[^\s\"]+)", README + DEPLOY))
    assert paths == {"/beta/bookingBusinesses/Contoso@contoso.onmicrosoft.com/customers", "/v1.0/\\$batch"}
    for path in paths:
        assert anonymous.post(path.replace("\\", "")).status_code == 401


def test_every_setting_is_described() -> None:
    # What only Azure sets goes by other names, and has no alias.
    read = {field.alias for field in Settings.model_fields.values() if field.alias}
    assert first_column(section("Settings")) == read


def test_every_variable_of_the_deployment_is_described() -> None:
    given = json.loads(Path("infra/main.parameters.json").read_text())["parameters"].values()
    variables = {value["value"].strip("${}").partition("=")[0] for value in given}
    # azd asks for these two itself.
    assert first_column(section("Deploy", DEPLOY)) == variables - {"AZURE_ENV_NAME", "AZURE_LOCATION"}
    defaults = dict(re.findall(r"^\| `([A-Z_]+)` \|.*\| `(.+?)` \|$", section("Deploy", DEPLOY), re.MULTILINE))
    described = {value["value"].strip("${}").partition("=")[::2] for value in given}
    described.remove(("TOKEN_AUDIENCE", "set-by-infra-azd-preprovision"))  # which is no audience
    assert {(name, default) for name, default in described if default} == set(defaults.items())


def test_every_query_of_the_logs_is_described() -> None:
    watch = DEPLOY.partition("\n### Watch\n")[2].partition("\n### ")[0]
    assert first_column(watch) == {path.name for path in Path("infra/queries").iterdir()}


def test_every_command_is_described() -> None:
    made = set(re.findall(r"^([\w-]+):", Path("Makefile").read_text(), re.MULTILINE))
    described = {row.split()[1] for row in first_column(section("Commands")) if row.startswith("make ")}
    assert made - {"python", "node", "docs", "sdk", "bench-packages", "lint", "lock-tools"} == described


def _described_as(route: Route) -> str:
    """The path of a route as the table writes it."""
    if route.surface is None:
        return f"/{route.template}"
    return "…" + route.template.partition("{businessId}")[2].replace("{customerId}", "{id}")


def test_every_operation_is_described() -> None:
    assert set(ROUTES) == {f"{method} {_described_as(route)}" for route in routes.ROUTES for method in route.operations}


def _errors(kind: type[GraphError]) -> Iterator[type[GraphError]]:
    for error in kind.__subclasses__():
        if hasattr(error, "status"):
            yield error
        yield from _errors(error)


def test_every_error_is_described() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", section("Errors"), re.MULTILINE)
    assert {(int(status), code) for status, code in rows} == {
        (error.status, error.code) for error in _errors(GraphError)
    }


def test_every_link_within_the_documentation_leads_somewhere() -> None:
    anchors: dict[Path, set[str]] = {}
    for page in (Path(name) for name in ("README.md", "CONTRIBUTING.md", "infra/README.md", "tests/bench/README.md")):
        headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
        anchors[page] = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for page in anchors:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path, _, anchor = link.partition("#")
            if "://" in path:
                continue
            target = Path(os.path.relpath(page.parent / path)) if path else page
            assert target.exists(), (page, link)
            assert not anchor or anchor in anchors[target], (page, link)
