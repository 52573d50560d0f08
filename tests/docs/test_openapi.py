"""The description is valid, the service keeps to it exactly, and clients are generated from it."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from infra.local.issuer import Issuer
from tests.conftest import Service

HERE = Path(__file__).parent
TOP = HERE.parents[1]
NODE_MODULES = HERE / "node_modules"

CUSTOMERS = "/beta/bookingBusinesses/{businessId}/customers"

type Document = dict[str, Any]
type Hold = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def document(service: Service) -> Document:
    """The description that the service gives."""
    found: Document = httpx.get(f"{service.base}/openapi.json").raise_for_status().json()
    return found


def test_it_is_valid(document: Document) -> None:
    validate(document, cls=OpenAPIV31SpecValidator)


def run(*line: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program."""
    return subprocess.run(  # noqa: S603
        line, cwd=folder, env={**os.environ, **environ}, capture_output=True, text=True, check=False
    )


@pytest.fixture
def schemathesis(service: Service, issuer: Issuer, tmp_path: Path) -> Hold:
    """Hold the service to a document, with every check."""

    def hold(document: Document, *options: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "openapi.json").write_text(json.dumps(document))
        return run(
            *(str(Path(sys.executable).with_name("st")), "run", "openapi.json", "--url", service.base, "--no-color"),
            *("--header", f"Authorization: Bearer {issuer.token()}", "--warnings", "off", "--workers", "2"),
            *("--generation-deterministic", "--continue-on-failure", *options),
            folder=tmp_path,
            PYTHONPATH=str(TOP),
            SCHEMATHESIS_HOOKS="tests.docs.hooks",
        )

    return hold


def test_the_service_keeps_to_it(schemathesis: Hold, document: Document) -> None:
    ended = schemathesis(
        document,
        *("--include-tag", "beta", "--include-tag", "service"),
        *("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "10"),
    )
    assert ended.returncode == 0, ended.stdout


def test_so_it_does_at_its_other_places(schemathesis: Hold, document: Document) -> None:
    ended = schemathesis(document, "--exclude-tag", "beta", "--exclude-tag", "service", "--phases", "examples")
    assert ended.returncode == 0, ended.stdout


def a_longer_name(document: Document) -> None:
    document["components"]["schemas"]["NewCustomer"]["properties"]["displayName"]["maxLength"] += 1


def a_smaller_page(document: Document) -> None:
    (top,) = [one for one in document["paths"][CUSTOMERS]["get"]["parameters"] if one["name"] == "$top"]
    top["schema"]["maximum"] -= 1


def a_missing_status(document: Document) -> None:
    del document["paths"][f"{CUSTOMERS}/{{customerId}}"]["delete"]["responses"]["404"]


def another_type(document: Document) -> None:
    document["components"]["schemas"]["BookingCustomer"]["properties"]["id"] = {"type": "integer"}


@pytest.mark.parametrize(
    ("mistake", "operation", "phase"),
    [
        (a_longer_name, "betaAdd", "coverage"),
        (a_smaller_page, "betaList", "coverage"),
        (a_missing_status, "betaDelete", "examples"),
        (another_type, "betaAdd", "examples"),
    ],
)
def test_a_mistake_in_it_is_found(
    schemathesis: Hold, document: Document, mistake: Callable[[Document], None], operation: str, phase: str
) -> None:
    wrong = copy.deepcopy(document)
    mistake(wrong)
    ended = schemathesis(wrong, "--include-operation-id", operation, "--phases", phase, "--max-failures", "1")
    assert ended.returncode == 1, ended.stdout
    assert "1 failure" in ended.stdout


PYTHON_EXAMPLE = """
import os
from booking.api.beta import beta_add, beta_get
from booking.client import AuthenticatedClient
from booking.models import BookingCustomer, NewCustomer, SelectedCustomer

client = AuthenticatedClient(os.environ["SERVICE"], os.environ["TOKEN"])
business = "Contoso@contoso.onmicrosoft.com"
added = beta_add.sync(
    business,
    client=client,
    body=NewCustomer(display_name="Display Name value", email_address="Email Address value"),
)
assert isinstance(added, BookingCustomer)
found = beta_get.sync(business, added.id, client=client)
assert isinstance(found, SelectedCustomer)
print(found.display_name, found.email_address, found.addresses)
"""


def test_a_python_client_is_generated_checked_and_run(
    service: Service, issuer: Issuer, document: Document, tmp_path: Path
) -> None:
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    tool = str(Path(sys.executable).with_name("openapi-python-client"))
    made = run(
        *(
            tool,
            "generate",
            "--path",
            "openapi.json",
            "--meta",
            "none",
            "--output-path",
            "booking",
            "--fail-on-warning",
        ),
        folder=tmp_path,
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # it formats with ruff
    )
    assert made.returncode == 0, made.stdout + made.stderr
    (tmp_path / "example.py").write_text(PYTHON_EXAMPLE)
    # The client's module is the same for every description, and has a mistake of the generator's own.
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = True\n[mypy-booking.client]\ndisable_error_code = arg-type\n")
    checked = run(sys.executable, "-m", "mypy", "example.py", folder=tmp_path)
    assert checked.returncode == 0, checked.stdout
    ended = run(sys.executable, "example.py", folder=tmp_path, SERVICE=service.base, TOKEN=issuer.token())
    assert ended.stdout == "Display Name value Email Address value []\n", ended.stderr


TYPESCRIPT_EXAMPLE = """
import createClient from "openapi-fetch";
import type { paths } from "./openapi.js";

const { SERVICE, TOKEN } = process.env;
const client = createClient<paths>({ baseUrl: SERVICE!, headers: { Authorization: `Bearer ${TOKEN}` } });
const businessId = "Contoso@contoso.onmicrosoft.com";
const customers = "/beta/bookingBusinesses/{businessId}/customers";
const { data: added, error } = await client.POST(customers, {
  params: { path: { businessId } },
  body: {
    "@odata.type": "#microsoft.graph.bookingCustomer",
    displayName: "Display Name value",
    emailAddress: "Email Address value",
  },
});
if (!added) throw new Error(error?.error.message);
const { data: found } = await client.GET(`${customers}/{customerId}`, {
  params: { path: { businessId, customerId: added.id } },
});
console.log(found?.displayName, found?.emailAddress, found?.addresses?.length);
"""


def test_a_typescript_client_is_generated_compiled_and_run(
    service: Service, issuer: Issuer, document: Document, tmp_path: Path
) -> None:
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "example.ts").write_text(TYPESCRIPT_EXAMPLE)
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    tools = NODE_MODULES / ".bin"
    made = run(str(tools / "openapi-typescript"), "openapi.json", "-o", "openapi.ts", folder=tmp_path)
    assert made.returncode == 0, made.stdout + made.stderr
    options = ["--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom", "--types", "node"]
    compiled = run(str(tools / "tsc"), *options, "example.ts", folder=tmp_path)
    assert compiled.returncode == 0, compiled.stdout
    ended = run("node", "example.js", folder=tmp_path, SERVICE=service.base, TOKEN=issuer.token())
    assert ended.stdout == "Display Name value Email Address value 0\n", ended.stderr
