"""A version of the service with one more optional property meets what the version before it stored and promised."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from azure.data.tables import TableClient

from infra.local.issuer import Issuer
from tests.conftest import StartService, rows
from tests.support.graph import BETA, DOCUMENTED, assert_customer, assert_error

TOP = Path(__file__).parents[2]
# The one edit that CONTRIBUTING.md asks for.
BEFORE = "    phones: Annotated[tuple[Phone, ...]"
ADDED = "    notes: _Text | None = None\n    tags: tuple[Phone, ...] = ()\n"


@pytest.fixture(scope="module")
def newer(
    start_service: StartService, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of the newer version, which serves the same table."""
    folder = tmp_path_factory.mktemp("newer")
    for name in ("function_app.py", "host.json"):
        shutil.copy(TOP / name, folder)
    shutil.copytree(TOP / "customers", folder / "customers", ignore=shutil.ignore_patterns("__pycache__"))
    model = folder / "customers" / "model.py"
    text = model.read_text()
    assert text.count(BEFORE) == 1
    model.write_text(text.replace(BEFORE, ADDED + BEFORE))
    with (
        start_service(folder=folder) as service,
        httpx.Client(base_url=service.base, headers={"Authorization": f"Bearer {issuer.token()}"}) as client,
    ):
        yield client


@pytest.fixture
def path() -> str:
    """The customers of a new business."""
    return BETA.format(f"b-{uuid4()}")


def read(response: httpx.Response, status: int = 200) -> dict[str, Any]:
    """The customer of a response."""
    assert response.status_code == status, response.text
    customer: dict[str, Any] = response.json()
    return customer


def test_a_customer_stored_before_has_the_default(client: httpx.Client, newer: httpx.Client, path: str) -> None:
    before = assert_customer(client.post(path, json=DOCUMENTED))
    expected = {**before, "notes": None, "tags": []}
    found = read(newer.get(f"{path}/{before['id']}"))
    assert found == {**expected, "@odata.context": found["@odata.context"]}
    assert read(newer.get(path))["value"][0]["notes"] is None


def test_a_repeat_in_flight_is_recognised(client: httpx.Client, newer: httpx.Client, path: str) -> None:
    now = client.get("/healthz").headers["Date"]
    headers = {"Repeatability-Request-ID": str(uuid4()), "Repeatability-First-Sent": now}
    body = {**DOCUMENTED, "phones": [{"number": "1"}]}
    first = assert_customer(client.post(path, json=body, headers=headers))
    again = newer.post(path, json=body, headers=headers)
    assert again.headers["Repeatability-Result"] == "accepted"
    assert read(again, 201)["id"] == first["id"]
    assert_error(newer.post(path, json={**body, "notes": "x"}, headers=headers), 400, "badRequest", says="another body")
    assert client.get(f"{path}/$count").text == "1"


def test_a_repeat_after_updates_gets_the_first_response(client: httpx.Client, newer: httpx.Client, path: str) -> None:
    now = client.get("/healthz").headers["Date"]
    headers = {"Repeatability-Request-ID": str(uuid4()), "Repeatability-First-Sent": now}
    first = read(newer.post(path, json={**DOCUMENTED, "notes": "a"}, headers=headers), 201)
    read(newer.patch(f"{path}/{first['id']}", json={"notes": None, "tags": [{"number": "1"}]}))
    assert read(newer.post(path, json={**DOCUMENTED, "notes": "a"}, headers=headers), 201) == first

    old = {"Repeatability-Request-ID": str(uuid4()), "Repeatability-First-Sent": now}
    before = assert_customer(client.post(path, json=DOCUMENTED, headers=old))
    read(newer.patch(f"{path}/{before['id']}", json={"notes": "b", "displayName": "changed"}))
    again = read(newer.post(path, json=DOCUMENTED, headers=old), 201)
    assert (again["notes"], again["tags"], again["displayName"]) == (None, [], before["displayName"])


def test_it_is_written_read_selected_and_filtered(
    client: httpx.Client, newer: httpx.Client, path: str, table: TableClient
) -> None:
    assert_customer(client.post(path, json={**DOCUMENTED, "id": "before"}))
    without = read(newer.post(path, json={**DOCUMENTED, "id": "without"}), 201)
    assert (without["notes"], without["tags"]) == (None, [])
    null = read(newer.post(path, json={**DOCUMENTED, "id": "null", "notes": None}), 201)
    assert null["notes"] is None
    with_it = read(newer.post(path, json={**DOCUMENTED, "id": "with", "notes": "null", "tags": [{}]}), 201)
    assert with_it["notes"] == "null"
    stored = {row["RowKey"]: row for row in rows(table, path.split("/")[3])}
    assert stored["with"]["notes"] == "null"
    assert not any("notes" in stored[name] for name in ("before", "without", "null"))

    assert read(newer.get(f"{path}/with", params={"$select": "notes"}))["notes"] == "null"
    found = read(newer.get(path, params={"$filter": "notes eq 'null'"}))["value"]
    assert [customer["id"] for customer in found] == ["with"]
    listed = read(newer.get(path, params={"$select": "id,notes"}))["value"]
    assert {customer["id"]: customer["notes"] for customer in listed} == {
        "before": None,
        "without": None,
        "null": None,
        "with": "null",
    }


def test_an_update_sets_and_clears_it(client: httpx.Client, newer: httpx.Client, path: str, table: TableClient) -> None:
    url = f"{path}/{assert_customer(client.post(path, json=DOCUMENTED))['id']}"
    assert read(newer.patch(url, json={"notes": "x", "tags": [{"number": "1"}]}))["notes"] == "x"
    assert read(newer.get(url))["tags"][0]["number"] == "1"
    assert read(newer.patch(url, json={"notes": None}))["notes"] is None
    assert "notes" not in rows(table, path.split("/")[3])[0]
    assert read(newer.get(url))["notes"] is None


def test_the_version_before_keeps_what_it_does_not_know(client: httpx.Client, newer: httpx.Client, path: str) -> None:
    added = read(newer.post(path, json={**DOCUMENTED, "notes": "x", "tags": [{"number": "1"}]}), 201)
    assert_customer(client.patch(f"{path}/{added['id']}", json={"displayName": "changed"}), 200)
    found = read(newer.get(f"{path}/{added['id']}"))
    assert (found["notes"], found["tags"], found["displayName"]) == ("x", added["tags"], "changed")
