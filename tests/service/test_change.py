"""Updating and deleting over HTTP, preconditions, and the whole service held against a dictionary."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest
from azure.data.tables import EdmType, EntityProperty, TableClient, UpdateMode
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from infra.local.issuer import Issuer
from tests.conftest import Service, rows
from tests.support.graph import BETA, DOCUMENTED, SURFACES, assert_customer, assert_error
from tests.support.index import index_faults

COLLECTION = BETA.format("Contoso")
STALE = "W/\"datetime'2020-01-01T00%3A00%3A00.0000000Z'\""


def add(client: httpx.Client, **more: object) -> tuple[str, dict[str, Any]]:
    """Add a customer; return its URL and what was answered."""
    response = client.post(COLLECTION, json={**DOCUMENTED, **more})
    return response.headers["Location"], assert_customer(response)


@pytest.mark.parametrize("surface", SURFACES)
def test_an_update_changes_what_was_sent_and_nothing_else(client: httpx.Client, surface: str) -> None:
    phones = [{"type": "mobile", "number": "1", "language": None, "region": None}]
    url, before = add(client, phones=phones)
    response = client.patch(f"{surface.format('Contoso')}/{before['id']}", json={"displayName": "New"})
    after = assert_customer(response, 200)
    assert "Location" not in response.headers
    assert after["lastUpdatedDateTime"] >= before["lastUpdatedDateTime"]
    changing = {"@odata.context", "@odata.etag", "lastUpdatedDateTime"}
    unchanged = {k: v for k, v in before.items() if k not in changing}
    assert {k: v for k, v in after.items() if k not in changing} == {**unchanged, "displayName": "New"}
    assert after["@odata.etag"] != before["@odata.etag"]
    assert {**assert_customer(client.get(url), 200), "@odata.context": ""} == {**after, "@odata.context": ""}


def test_every_property_can_be_changed_and_arrays_are_replaced(client: httpx.Client) -> None:
    url, before = add(client, addresses=[{"city": "Rome"}, {"city": "Turin"}])
    body = {
        "@odata.type": "#microsoft.graph.bookingCustomer",
        "id": before["id"],
        "displayName": "a",
        "emailAddress": "b",
        "addresses": [],
        "phones": [{"number": "1"}],
        "createdDateTime": "2000-01-01T00:00:00Z",
        "@odata.etag": "x",
    }
    after = assert_customer(client.patch(url, json=body), 200)
    assert (after["displayName"], after["emailAddress"], after["addresses"]) == ("a", "b", [])
    assert after["phones"][0]["number"] == "1"
    assert after["createdDateTime"] == before["createdDateTime"]


def test_an_update_of_nothing_changes_nothing(client: httpx.Client) -> None:
    url, before = add(client)
    assert assert_customer(client.patch(url, json={}), 200) == before


@pytest.mark.parametrize(
    ("body", "target"),
    [
        ({"displayName": None}, "displayName"),
        ({"displayName": ""}, "displayName"),
        ({"emailAddress": None}, "emailAddress"),
        ({"vip": True}, "vip"),
        ({"id": "another"}, "id"),
        ({"@odata.type": "#microsoft.graph.user"}, "@odata.type"),
    ],
)
def test_a_bad_update_is_refused_and_changes_nothing(client: httpx.Client, body: dict[str, Any], target: str) -> None:
    url, before = add(client)
    assert_error(client.patch(url, json=body), 400, "badRequest", target=target)
    assert assert_customer(client.get(url), 200) == before


def test_updates_and_deletes_take_no_query_options(client: httpx.Client) -> None:
    url, _ = add(client)
    assert_error(client.patch(f"{url}?$select=id", json={}), 400, "badRequest", target="$select")
    assert_error(client.delete(f"{url}?x"), 400, "badRequest", target="x")


def test_an_update_can_return_a_minimal_response(client: httpx.Client) -> None:
    url, _ = add(client)
    response = client.patch(url, json={"displayName": "New"}, headers={"Prefer": "return=minimal"})
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["Location"] == response.headers["OData-EntityId"] == url
    assert response.headers["Preference-Applied"] == "return=minimal"
    assert response.headers["ETag"] == client.get(url).headers["ETag"]


def test_what_is_not_there_is_a_404(client: httpx.Client) -> None:
    url = f"{COLLECTION}/{uuid4()}"
    for headers in ({}, {"If-Match": STALE}, {"If-Match": "*"}):
        assert_error(client.patch(url, json={"displayName": "a"}, headers=headers), 404, "notFound")
        assert_error(client.delete(url, headers=headers), 404, "notFound")


def test_a_delete_is_a_204_once(client: httpx.Client) -> None:
    url, customer = add(client, id=str(uuid4()))
    response = client.delete(url)
    assert (response.status_code, response.content) == (204, b"")
    assert_error(client.delete(url), 404, "notFound")
    assert_error(client.get(url), 404, "notFound")
    add(client, id=customer["id"])


def test_the_etag_is_the_same_everywhere(client: httpx.Client) -> None:
    business = str(uuid4())
    response = client.post(BETA.format(business), json=DOCUMENTED)
    customer = assert_customer(response)
    got = client.get(response.headers["Location"])
    listed = client.get(BETA.format(business)).json()["value"][0]
    assert customer["@odata.etag"] == got.headers["ETag"] == got.json()["@odata.etag"] == listed["@odata.etag"]
    updated = assert_customer(client.patch(response.headers["Location"], json={"displayName": "New"}), 200)
    assert client.get(response.headers["Location"]).headers["ETag"] == updated["@odata.etag"]


@pytest.mark.parametrize("if_match", [STALE, '"x"', "x", 'W/"x", "y"', ""])
def test_a_stale_if_match_changes_nothing(client: httpx.Client, if_match: str) -> None:
    url, before = add(client)
    headers = {"If-Match": if_match}
    assert_error(client.patch(url, json={"displayName": "a"}, headers=headers), 412, "preconditionFailed")
    assert_error(client.patch(url, json={}, headers=headers), 412, "preconditionFailed")
    assert_error(client.delete(url, headers=headers), 412, "preconditionFailed")
    assert assert_customer(client.get(url), 200) == before


@pytest.mark.parametrize("form", ["{}", "*", '{}, W/"x"', 'W/"x",{}'])
def test_an_if_match_that_holds_lets_the_change_through(client: httpx.Client, form: str) -> None:
    url, before = add(client)
    response = client.patch(url, json={"displayName": "a"}, headers={"If-Match": form.format(before["@odata.etag"])})
    after = assert_customer(response, 200)
    assert client.delete(url, headers={"If-Match": form.format(after["@odata.etag"])}).status_code == 204


def test_a_customer_that_the_client_has_is_not_sent_again(client: httpx.Client) -> None:
    url, customer = add(client)
    for held in (customer["@odata.etag"], "*", f'"x", {customer["@odata.etag"]}'):
        response = client.get(url, headers={"If-None-Match": held})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["ETag"] == customer["@odata.etag"]
    assert_customer(client.get(url, headers={"If-None-Match": STALE}), 200)
    assert_error(client.get(f"{COLLECTION}/{uuid4()}", headers={"If-None-Match": "*"}), 404, "notFound")


def test_updates_of_different_properties_at_once_all_stay(
    service: Service, client: httpx.Client, issuer: Issuer
) -> None:
    url, _ = add(client)
    changes: list[dict[str, Any]] = [
        {"displayName": "New"},
        {"emailAddress": "new@example.com"},
        {"phones": [{"number": "5"}]},
        {"addresses": [{"city": "Rome"}]},
    ]

    async def all_at_once() -> list[httpx.Response]:
        headers = {"Authorization": f"Bearer {issuer.token()}"}
        async with httpx.AsyncClient(base_url=service.base, headers=headers, timeout=30) as at_once:
            return await asyncio.gather(*(at_once.patch(url, json=change) for change in changes))

    for response in asyncio.run(all_at_once()):
        assert_customer(response, 200)
    after = assert_customer(client.get(url), 200)
    assert (after["displayName"], after["emailAddress"]) == ("New", "new@example.com")
    assert (after["phones"][0]["number"], after["addresses"][0]["city"]) == ("5", "Rome")


class Contoso(RuleBasedStateMachine):
    """The service beside a dictionary; the class is given its client by the test."""

    client: httpx.Client
    table: TableClient

    def __init__(self) -> None:
        super().__init__()
        self.business = str(uuid4())
        self.collection = BETA.format(self.business)
        self.expected: dict[str, dict[str, Any]] = {}

    ids = st.sampled_from(["a", "A", "b'", "é", "\U0001f600"])
    names = st.sampled_from(["Ada", "ada", "O'Brien"])

    @rule(own=ids, name=names)
    def add(self, own: str, name: str) -> None:
        """Add."""
        response = self.client.post(self.collection, json={**DOCUMENTED, "id": own, "displayName": name})
        if own in self.expected:
            assert_error(response, 409, "conflict")
        else:
            self.expected[own] = assert_customer(response)

    @rule(own=ids, name=names, fresh=st.sampled_from([None, True, False]))
    def update(self, own: str, name: str, fresh: bool | None) -> None:  # noqa: FBT001 - hypothesis passes by name
        """Update, perhaps with a precondition."""
        held = self.expected.get(own, {}).get("@odata.etag", STALE) if fresh else STALE
        headers = {} if fresh is None else {"If-Match": held}
        response = self.client.patch(f"{self.collection}/{own}", json={"displayName": name}, headers=headers)
        if own not in self.expected:
            assert_error(response, 404, "notFound")
        elif fresh is False:
            assert_error(response, 412, "preconditionFailed")
        else:
            after = assert_customer(response, 200)
            expected = {**self.expected[own], "displayName": name}
            for name_of_changed in ("@odata.etag", "lastUpdatedDateTime"):
                expected[name_of_changed] = after[name_of_changed]
            assert after == expected
            self.expected[own] = after

    @rule(own=ids, address=st.sampled_from(["a@x", "A@x", "b@x"]))
    def move(self, own: str, address: str) -> None:
        """Change the address."""
        response = self.client.patch(f"{self.collection}/{own}", json={"emailAddress": address})
        if own in self.expected:
            self.expected[own] = assert_customer(response, 200)
        else:
            assert_error(response, 404, "notFound")

    @rule(address=st.sampled_from(["a@x", "A@x", "b@x"]), exact=st.booleans())
    def look_up(self, address: str, exact: bool) -> None:  # noqa: FBT001 - hypothesis passes by name
        """Find the customers with an address."""
        text = f"emailAddress eq '{address}'" if exact else f"tolower(emailAddress) eq '{address}'"
        found = self.client.get(self.collection, params={"$filter": text}).json()["value"]
        of = {own: customer["emailAddress"] for own, customer in self.expected.items()}
        assert [customer["id"] for customer in found] == [
            own for own in self._in_order() if of[own] == address or (not exact and of[own].lower() == address.lower())
        ]

    @rule(own=ids)
    def delete(self, own: str) -> None:
        """Delete."""
        response = self.client.delete(f"{self.collection}/{own}")
        if self.expected.pop(own, None) is None:
            assert_error(response, 404, "notFound")
        else:
            assert response.status_code == 204

    @rule(own=ids)
    def get(self, own: str) -> None:
        """Get."""
        response = self.client.get(f"{self.collection}/{own}")
        if own in self.expected:
            assert assert_customer(response, 200) == self.expected[own]
        else:
            assert_error(response, 404, "notFound")

    @rule(name=names, top=st.sampled_from(["1", "2", "100"]))
    def find(self, name: str, top: str) -> None:
        """List the ones of a name, page by page."""
        quoted = name.replace("'", "''")
        url: str | None = f"{self.collection}?$top={top}&$filter=displayName eq '{quoted}'"
        found: list[str] = []
        while url:
            page = self.client.get(url).json()
            found += [customer["id"] for customer in page["value"]]
            url = page.get("@odata.nextLink")
        assert found == [own for own in self._in_order() if self.expected[own]["displayName"] == name]

    @invariant()
    def the_index_agrees(self) -> None:
        """Each customer has one index row, and no index row is without its customer."""
        assert index_faults(self.table, self.business) == []

    @invariant()
    def the_list_agrees(self) -> None:
        """The whole list is what is expected, in its order."""
        listed = self.client.get(self.collection).json()["value"]
        expected = [{k: v for k, v in self.expected[own].items() if k != "@odata.context"} for own in self._in_order()]
        assert listed == expected
        assert self.client.get(f"{self.collection}/$count").text == str(len(expected))

    def _in_order(self) -> list[str]:
        return sorted(self.expected, key=lambda own: own.encode("utf-16-be"))


def test_the_service_agrees_with_a_dictionary(client: httpx.Client, table: TableClient) -> None:
    machine = type("Contoso", (Contoso,), {"client": client, "table": table})
    run_state_machine_as_test(machine, settings=settings(max_examples=25, stateful_step_count=20, deadline=None))


def test_an_update_and_its_row_keep_the_columns(client: httpx.Client, table: TableClient) -> None:
    business = str(uuid4())
    response = client.post(BETA.format(business), json=DOCUMENTED)
    updated = client.patch(response.headers["Location"], json={"phones": [{"number": "1"}]})
    (row,) = rows(table, business)
    assert row["phones"] == '[{"number":"1"}]'
    assert row["operationId"] == response.headers["request-id"]
    assert row["updateOperationIds"] == updated.headers["request-id"]


def test_an_update_keeps_columns_of_every_type_that_the_service_does_not_know(
    client: httpx.Client, table: TableClient
) -> None:
    business = str(uuid4())
    url = client.post(BETA.format(business), json=DOCUMENTED).headers["Location"]
    (row,) = rows(table, business)
    others = {
        "text": "o'é\U0001f600@name",
        "yes": True,
        "int32": -7,
        "int64": EntityProperty(1 << 62, EdmType.INT64),
        "double": 2.5,
        "whole": 3.0,
        "not_a_number": EntityProperty("NaN", EdmType.DOUBLE),
        "guid": uuid4(),
        "binary": b"\0\xff",
        "date": datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC),
        "ticks": EntityProperty("2026-11-23T12:00:00.1234567Z", EdmType.DATETIME),
    }
    table.update_entity({**row, **others}, mode=UpdateMode.MERGE)
    before = _as_sent(table, row)
    assert_customer(client.patch(url, json={"displayName": "New"}), 200)
    after = _as_sent(table, row)
    assert {name: after[name] for name in after if name.partition("@")[0] in others} == {
        name: before[name] for name in before if name.partition("@")[0] in others
    }
    assert after["displayName"] == "New"


def _as_sent(table: TableClient, row: dict[str, Any]) -> dict[str, Any]:
    """A row as storage sends it, with the types of its columns."""
    sent: list[dict[str, Any]] = []
    table.get_entity(
        row["PartitionKey"],
        row["RowKey"],
        raw_response_hook=lambda response: sent.append(json.loads(response.http_response.text())),
    )
    return sent[0]
