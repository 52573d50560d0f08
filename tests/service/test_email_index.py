"""Finding customers by their e-mail address: through the index, which never disagrees with the customers."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any
from uuid import uuid4

import httpx
import pytest
from azure.data.tables import TableClient, UpdateMode
from hypothesis import given
from hypothesis import strategies as st

from customers.email_index import MARK, fold, index_row, index_row_of
from customers.keys import is_key
from customers.partition import LEAST_CUSTOMER, is_index_row
from infra.local.issuer import Issuer
from infra.local.run import connection_string
from tests.conftest import StartService, Storage, rows
from tests.support.graph import BETA, DOCUMENTED, assert_customer, assert_error
from tests.support.index import index_faults
from tests.support.proxy import FaultProxy, late, nothing_yet
from tests.support.reads import QUERIES, Reads, fill, row_keys


def add(client: httpx.Client, business: str, own: str, address: str) -> dict[str, Any]:
    """Add a customer with that id and address."""
    body = {"id": own, "displayName": own, "emailAddress": address}
    return assert_customer(client.post(BETA.format(business), json=body))


def find(client: httpx.Client, business: str, text: str, **options: str) -> list[str]:
    """The ids of the customers that a filter finds, over all pages."""
    url: str | None = str(httpx.URL(BETA.format(business), params={"$filter": text, **options}))
    found: list[str] = []
    while url:
        response = client.get(url)
        assert response.status_code == 200, response.text
        found += [customer["id"] for customer in response.json()["value"]]
        url = response.json().get("@odata.nextLink")
    return found


def test_customers_are_found_by_their_address_exactly_or_without_case(client: httpx.Client, table: TableClient) -> None:
    business = str(uuid4())
    for own, address in (("a", "Ada@x.com"), ("b", "ada@x.com"), ("c", "ada@x.co"), ("d", "ADA@X.COM")):
        add(client, business, own, address)
    assert find(client, business, "emailAddress eq 'ada@x.com'") == ["b"]
    assert find(client, business, "tolower(emailAddress) eq 'ada@X.com'") == ["a", "b", "d"]
    assert find(client, business, "tolower(emailAddress) eq 'ada@x.com'", **{"$top": "1"}) == ["a", "b", "d"]
    assert find(client, business, "tolower(emailAddress) eq 'ada@x.com' and displayName gt 'a'") == ["b", "d"]
    assert find(client, business, "tolower(emailAddress) eq 'ada@x.com' and emailAddress eq 'Ada@x.com'") == ["a"]
    assert find(client, business, "emailAddress eq 'nobody'") == []
    for text, count in (("emailAddress eq 'ada@x.com'", 1), ("tolower(emailAddress) eq 'ADA@x.com' and id ne 'a'", 2)):
        assert client.get(f"{BETA.format(business)}/$count", params={"$filter": text}).text == str(count)
        page = client.get(BETA.format(business), params={"$filter": text, "$count": "true", "$select": "id"}).json()
        assert page["@odata.count"] == count
    assert index_faults(table, business) == []


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("Straße@x", "STRASSE@X"),
        ("ΣΊΣΥΦΟΣ@x", "σίσυφος@x"),
        ("ǅ@x", "ǆ@x"),
        ("\U00010400@x", "\U00010428@x"),
        ("ﬁ@x", "FI@x"),
    ],
)
def test_case_is_ignored_beyond_ascii(client: httpx.Client, stored: str, asked: str) -> None:
    business = str(uuid4())
    add(client, business, "x", stored)
    assert find(client, business, f"tolower(emailAddress) eq '{asked}'") == ["x"]
    assert find(client, business, f"emailAddress eq '{asked}'") == []


def test_the_index_follows_changes_and_deletes(client: httpx.Client, table: TableClient) -> None:
    business = str(uuid4())
    add(client, business, "x", "old@x")
    url = f"{BETA.format(business)}/x"
    for address in ("new@x", "NEW@x", "new@x"):
        assert_customer(client.patch(url, json={"emailAddress": address}), 200)
        assert find(client, business, f"emailAddress eq '{address}'") == ["x"]
        assert find(client, business, "tolower(emailAddress) eq 'old@x'") == []
        assert index_faults(table, business) == []
    assert client.delete(url).status_code == 204
    assert find(client, business, "emailAddress eq 'new@x'") == []
    assert list(table.query_entities("PartitionKey eq @b", parameters={"b": business})) == []


@pytest.mark.parametrize("own", ["!", "\U0001f600" * 255, "é" * 255, "a" * 255, "\U0001f600" * 240])
def test_any_id_is_indexed_and_no_list_shows_the_index(client: httpx.Client, table: TableClient, own: str) -> None:
    business = str(uuid4())
    add(client, business, own, "x@x")
    assert find(client, business, "emailAddress eq 'x@x'") == [own]
    for text in ("id ge ' '", "not (displayName eq 'y')", "not (id eq '')"):
        assert find(client, business, text) == [own]
    assert client.get(f"{BETA.format(business)}/$count").text == "1"
    assert index_faults(table, business) == []
    hidden = index_row_of(rows(table, business)[0])["RowKey"]
    assert_error(client.get(f"{BETA.format(business)}/{hidden.replace(' ', '%20')}"), 400, "badRequest")


@given(st.text(min_size=1, max_size=255).filter(is_key), st.text(max_size=320))
def test_every_customer_sorts_after_every_index_row(own: str, address: str) -> None:
    assert own >= LEAST_CUSTOMER
    row = index_row("b", own, address)
    assert is_index_row(row)
    assert not is_key(row["RowKey"])
    assert len(row["RowKey"].encode("utf-16-le")) <= 1024
    assert row["RowKey"] == index_row("b", own, fold(address))["RowKey"] or fold(fold(address)) != fold(address)


def unindexed(table: TableClient, client: httpx.Client, business: str, **addresses: str) -> None:
    """Add customers, then take away what came with the index."""
    for own, address in addresses.items():
        add(client, business, own, address)
        table.delete_entity(index_row(business, own, address))
    table.delete_entity(MARK)


def run_reindex(settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command with these settings only."""
    return subprocess.run(
        [sys.executable, "-m", "customers", "reindex"], env=settings, capture_output=True, text=True, check=False
    )


def reindex(storage: Storage, table: TableClient) -> tuple[int, str]:
    """Run the command on a table; its exit code and what it prints."""
    ended = run_reindex({"CUSTOMERS_STORAGE": storage.connection_string, "CUSTOMERS_TABLE": table.table_name})
    return ended.returncode, ended.stdout + ended.stderr


def test_customers_from_before_the_index_are_found_changed_deleted_and_indexed(
    start_service: StartService, issuer: Issuer, storage: Storage, own_table: TableClient
) -> None:
    business, headers = str(uuid4()), {"Authorization": f"Bearer {issuer.token()}"}
    named = {"CUSTOMERS_TABLE": own_table.table_name}
    with start_service(**named) as writer, httpx.Client(base_url=writer.base, headers=headers) as client:
        unindexed(own_table, client, business, a="a@x", b="A@x", c="c@x", d="d@x", e="e@x")
    own_table.create_entity(index_row(business, "nobody", "a@x"))
    with start_service(**named) as service, httpx.Client(base_url=service.base, headers=headers) as client:
        assert find(client, business, "tolower(emailAddress) eq 'a@x'", **{"$top": "1"}) == ["a", "b"]
        assert find(client, business, "emailAddress eq 'A@x' and id ne 'c'") == ["b"]
        counted = {"$filter": "tolower(emailAddress) eq 'A@X'"}
        assert client.get(f"{BETA.format(business)}/$count", params=counted).text == "2"
        assert_customer(client.patch(f"{BETA.format(business)}/c", json={"emailAddress": "new@x"}), 200)
        assert client.delete(f"{BETA.format(business)}/d").status_code == 204
        code, said = reindex(storage, own_table)
        assert (code, said[:69]) == (0, "4 customers. Index rows: 3 added, 0 corrected, 1 removed. 0 customers")
        assert index_faults(own_table, business) == []
        assert reindex(storage, own_table)[0] == 0
        assert_customer(client.patch(f"{BETA.format(business)}/e", json={"emailAddress": "E@x"}), 200)
        assert find(client, business, "tolower(emailAddress) eq 'a@x'") == ["a", "b"]
        assert index_faults(own_table, business) == []


def test_a_table_whose_first_requests_are_adds_is_marked_while_one_page_shows_it_to_be_complete(
    start_service: StartService, issuer: Issuer, own_table: TableClient
) -> None:
    def is_marked_by_a_start() -> bool:
        with start_service(CUSTOMERS_TABLE=own_table.table_name):  # whose health check looks for the mark
            return MARK in [{name: row[name] for name in MARK} for row in own_table.list_entities()]

    business, headers = str(uuid4()), {"Authorization": f"Bearer {issuer.token()}"}
    with (
        start_service(CUSTOMERS_TABLE=own_table.table_name) as service,
        httpx.Client(base_url=service.base, headers=headers) as client,
    ):
        for own in "abc":
            add(client, business, own, f"{own}@x")
    own_table.delete_entity(MARK)
    assert is_marked_by_a_start()
    own_table.delete_entity(MARK)
    own_table.delete_entity(index_row(business, "b", "b@x"))
    assert not is_marked_by_a_start()
    own_table.create_entity(index_row(business, "b", "b@x"))
    fill(own_table, own_table.get_entity(business, "a"), range(500))
    assert not is_marked_by_a_start()


def test_reindex_repairs_and_tells_of_what_was_wrong(
    start_service: StartService, issuer: Issuer, storage: Storage, own_table: TableClient
) -> None:
    business, headers = str(uuid4()), {"Authorization": f"Bearer {issuer.token()}"}
    with (
        start_service(CUSTOMERS_TABLE=own_table.table_name) as service,
        httpx.Client(base_url=service.base, headers=headers) as client,
    ):
        for own in "abc":
            add(client, business, own, f"{own}@x")
        own_table.delete_entity(index_row(business, "a", "a@x"))
        own_table.upsert_entity({**index_row(business, "b", "b@x"), "emailAddress": "B@x"}, mode=UpdateMode.REPLACE)
        own_table.create_entity(index_row(business, "c", "other@x"))
        own_table.create_entity({"PartitionKey": business, "RowKey": " nonsense"})
        code, said = reindex(storage, own_table)
        assert code == 1
        assert "1 added, 1 corrected, 2 removed" in said
        assert index_faults(own_table, business) == []
        assert find(client, business, "emailAddress eq 'a@x'") == ["a"]


def test_reindex_says_what_is_missing_or_unreachable(storage: Storage) -> None:
    for settings, code, says in (
        ({}, 2, "CUSTOMERS_STORAGE"),
        ({"CUSTOMERS_STORAGE": storage.connection_string, "CUSTOMERS_TABLE": "nosuchtable"}, 3, "table"),
    ):
        ended = run_reindex(settings)
        assert ended.returncode == code, ended.stderr
        assert says in ended.stderr
        assert "Traceback" not in ended.stderr


def test_what_storage_is_asked_does_not_grow_with_the_business(
    start_service: StartService,
    start_proxy: Callable[[], AbstractContextManager[FaultProxy]],
    issuer: Issuer,
    own_table: TableClient,
) -> None:
    business, headers = str(uuid4()), {"Authorization": f"Bearer {issuer.token()}"}
    with (
        start_proxy() as proxy,
        start_service(CUSTOMERS_STORAGE=connection_string(proxy.port), CUSTOMERS_TABLE=own_table.table_name) as service,
        httpx.Client(base_url=service.base + BETA.format(business), headers=headers, timeout=60) as client,
    ):
        client.get("?$filter=emailAddress eq 'x'")  # finds the table empty, and marks it
        asked: dict[str, Any] = {}
        size = 0
        for fill_to in (100, 1_000, 10_000):
            reads = proxy.always = Reads()
            template = assert_customer(client.post("", json={**DOCUMENTED, "id": f"last-{fill_to}"}))
            assert [(one.kind, one.entities) for one in reads.asked] == [("transaction", 2)]
            (row,) = (row for row in rows(own_table, business) if row["RowKey"] == template["id"])
            fill(own_table, row, range(size, fill_to))
            size = fill_to
            keys = row_keys(own_table, business)
            for name, query in QUERIES.items():
                reads.asked.clear()
                assert client.get(query).status_code == 200
                asked[name] = [(one.kind, one.rows(keys)) for one in reads.asked]
            everyone = len(keys) // 2
            counted = sum(number for _, number in asked.pop("$count"))
            page, *counting = asked.pop("page with $count")
            assert counted == sum(number for _, number in counting) == everyone
            assert page == ("query", 50)
            assert asked == {
                "get": [("get", 1)],
                "emailAddress eq": [("query", 1), ("get", 1)],
                "tolower(emailAddress) eq": [("query", 1), ("query", 1)],
                "nobody's address": [("query", 0)],
                "page": [("query", 50)],
                "range of ids": [("query", 20)],
                "any other filter": [("query", everyone)],
            }


@pytest.fixture(scope="module")
def slow(
    start_service: StartService,
    start_proxy: Callable[[], AbstractContextManager[FaultProxy]],
    issuer: Issuer,
) -> Iterator[tuple[httpx.Client, FaultProxy]]:
    """A service with a small budget, behind a proxy that can slow storage down."""
    headers = {"Authorization": f"Bearer {issuer.token()}"}
    with (
        start_proxy() as proxy,
        start_service(CUSTOMERS_STORAGE=connection_string(proxy.port), STORAGE_BUDGET="1") as service,
        httpx.Client(base_url=service.base, headers=headers, timeout=30) as client,
    ):
        yield client, proxy


def test_a_count_that_takes_too_long_is_a_400_that_says_how_to_count(
    slow: tuple[httpx.Client, FaultProxy], table: TableClient
) -> None:
    client, proxy = slow
    business = str(uuid4())
    add(client, business, "template", "x@x")
    (row,) = rows(table, business)
    for start in range(0, 3000, 100):
        table.submit_transaction([("create", {**row, "RowKey": f"{n:06}"}) for n in range(start, start + 100)])
    proxy.always = late(0.4)
    try:
        assert_error(client.get(f"{BETA.format(business)}/$count"), 400, "badRequest", says="$select=id")
        page = client.get(BETA.format(business), params={"$count": "true"})
        assert_error(page, 400, "badRequest", says="$select=id")
        assert len(client.get(BETA.format(business)).json()["value"]) == 100
    finally:
        proxy.reset()


def test_a_list_that_takes_too_long_is_a_page_that_leads_on(slow: tuple[httpx.Client, FaultProxy]) -> None:
    client, proxy = slow
    business = str(uuid4())
    add(client, business, "x", "x@x")

    proxy.plan.extend([nothing_yet(0.4)] * 4)
    url = f"{BETA.format(business)}?$filter=displayName eq 'x'"
    pages = []
    while url:
        response = client.get(url)
        assert response.status_code == 200, response.text
        pages.append([customer["id"] for customer in response.json()["value"]])
        url = response.json().get("@odata.nextLink", "")
    assert pages == [[], ["x"]]


def test_storage_that_does_not_answer_at_all_is_a_503(slow: tuple[httpx.Client, FaultProxy]) -> None:
    client, proxy = slow
    proxy.always = late(2)
    try:
        for path in ("", "/$count", "?$filter=displayName eq 'x'"):
            assert_error(client.get(BETA.format("b") + path), 503, "serviceUnavailable")
    finally:
        proxy.reset()
