"""Adds in a batch are one storage operation; whatever becomes of it, each add gets its own true outcome."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import pytest
from azure.data.tables import TableClient

from infra.local.issuer import Issuer
from infra.local.run import connection_string
from tests.conftest import StartService, rows
from tests.support.batch import add, customers, get, send
from tests.support.graph import BETA, DOCUMENTED, assert_customer, assert_error
from tests.support.index import index_faults
from tests.support.proxy import (
    Fault,
    FaultProxy,
    busy,
    cut_after,
    cut_before,
    half_a_response,
    hang,
    inside,
    late,
    nonsense_after,
    pass_on,
    status,
)

BUDGET = 2.0


class Faulty(NamedTuple):
    """A service whose storage is behind a proxy that makes faults, and a business."""

    client: httpx.Client
    proxy: FaultProxy
    business: str
    url: str

    def transactions(self) -> list[bytes]:
        """The transactions that storage was sent."""
        return [call.body for call in self.proxy.passed if call.path.endswith("/$batch")]


@pytest.fixture(scope="module")
def behind_proxy(
    start_service: StartService, start_proxy: Callable[[], AbstractContextManager[FaultProxy]], issuer: Issuer
) -> Iterator[tuple[httpx.Client, FaultProxy]]:
    """A service with a small budget, behind a proxy."""
    with (
        start_proxy() as proxy,
        start_service(
            CUSTOMERS_STORAGE=connection_string(proxy.port),
            STORAGE_CONNECT_TIMEOUT="0.5",
            STORAGE_READ_TIMEOUT="0.6",
            STORAGE_BUDGET=str(BUDGET),
        ) as service,
        httpx.Client(
            base_url=service.base, headers={"Authorization": f"Bearer {issuer.token()}"}, timeout=30
        ) as client,
    ):
        yield client, proxy


@pytest.fixture
def faulty(behind_proxy: tuple[httpx.Client, FaultProxy]) -> Iterator[Faulty]:
    """The same with a business of its own, without plans left from another test."""
    client, proxy = behind_proxy
    proxy.reset()
    business = str(uuid4())
    yield Faulty(client, proxy, business, customers(business))
    proxy.reset()


def twenty(faulty: Faulty) -> list[dict[str, Any]]:
    """A full batch of adds, with ids of the client's own."""
    return [add(f"r{number}", faulty.url, id=f"x{number:02}", displayName=f"Ada {number}") for number in range(20)]


def assert_each_is_there_once(faulty: Faulty, table: TableClient, responses: dict[str, httpx.Response]) -> None:
    """Each response is the customer as the table has it, and the table has no other."""
    assert len({assert_customer(response)["id"] for response in responses.values()}) == len(responses)
    for response in responses.values():
        added = response.json()
        got = assert_customer(faulty.client.get(f"{BETA.format(faulty.business)}/{added['id']}"), 200)
        assert {**got, "@odata.context": ""} == {**added, "@odata.context": ""}
    assert len(rows(table, faulty.business)) == len(responses)
    assert index_faults(table, faulty.business) == []


def test_twenty_adds_are_one_storage_operation(faulty: Faulty, table: TableClient) -> None:
    responses = send(faulty.client, *(add(str(number), faulty.url) for number in range(20)))
    assert [call.path for call in faulty.proxy.passed] == ["/devstoreaccount1/$batch"]
    assert_each_is_there_once(faulty, table, responses)


def test_adds_of_each_business_are_one_transaction_while_others_are_read(faulty: Faulty, table: TableClient) -> None:
    other = str(uuid4())
    requests = [add(f"{url}{number}", url) for number in range(3) for url in (faulty.url, customers(other))]
    reference = add("reference", f"{faulty.url}/$ref", dependsOn=["list"])
    responses = send(faulty.client, *requests, get("list", faulty.url), reference)
    assert Counter(call.method for call in faulty.proxy.passed) == {"POST": 3, "GET": 1}
    assert Counter(response.status_code for response in responses.values()) == {201: 7, 200: 1}
    assert [len(rows(table, business)) for business in (faulty.business, other)] == [4, 3]


def test_an_id_that_is_taken_costs_its_own_add_only(faulty: Faulty, table: TableClient) -> None:
    faulty.client.post(BETA.format(faulty.business), json={**DOCUMENTED, "id": "x07"})
    faulty.proxy.passed.clear()
    responses = send(faulty.client, *twenty(faulty))
    assert Counter(call.method for call in faulty.proxy.passed) == {"POST": 2, "GET": 1}
    assert_error(responses.pop("r7"), 409, "conflict")
    assert {response.status_code for response in responses.values()} == {201}
    names = {row["RowKey"]: row["displayName"] for row in rows(table, faulty.business)}
    assert names == {f"x{n:02}": DOCUMENTED["displayName"] if n == 7 else f"Ada {n}" for n in range(20)}
    assert index_faults(table, faulty.business) == []


@pytest.mark.parametrize("taken", [range(0, 20, 2), range(20)])
def test_however_many_ids_are_taken_the_others_are_added(faulty: Faulty, table: TableClient, taken: range) -> None:
    requests = twenty(faulty)
    send(faulty.client, *(requests[number] for number in taken))
    faulty.proxy.passed.clear()
    responses = send(faulty.client, *requests)
    expected = {f"r{number}": 409 if number in taken else 201 for number in range(20)}
    assert {name: response.status_code for name, response in responses.items()} == expected
    assert len(faulty.proxy.passed) <= 2 * 20
    assert len(rows(table, faulty.business)) == 20
    assert index_faults(table, faulty.business) == []


LOST = {
    "cut": cut_after,
    "half a response": half_a_response,
    "late": late(0.9),
    "500": status(500, committed=True),
    "503 and Retry-After": status(503, retry_after=30, committed=True),
    "nonsense": nonsense_after,
    "400": status(400, committed=True),
    "500 inside": inside(500, committed=True),
    "409 inside": inside(409, committed=True),
    "400 inside": inside(400, committed=True),
    "cut inside": inside(0, committed=True),
}
NOT_DONE = {
    "cut": cut_before,
    "hang": hang,
    "500": status(500),
    "429": status(429),
    "400": status(400),
    "413": status(413),
    "409 inside": inside(409, committed=False),
    "400 inside": inside(400, committed=False),
}


@pytest.mark.parametrize("fault", LOST.values(), ids=LOST)
def test_a_response_lost_after_the_commit_is_a_201_for_each(faulty: Faulty, table: TableClient, fault: Fault) -> None:
    faulty.proxy.plan.append(fault)
    with_ids_of_the_service = [add(str(number), faulty.url) for number in range(10)]
    assert_each_is_there_once(faulty, table, send(faulty.client, *twenty(faulty)[:10], *with_ids_of_the_service))


@pytest.mark.parametrize("fault", NOT_DONE.values(), ids=NOT_DONE)
def test_one_fault_before_the_commit_is_repaired_for_each(faulty: Faulty, table: TableClient, fault: Fault) -> None:
    faulty.proxy.plan.append(fault)
    assert_each_is_there_once(faulty, table, send(faulty.client, *twenty(faulty)))


def test_an_add_that_storage_does_not_take_spoils_no_other(faulty: Faulty, table: TableClient) -> None:
    faulty.proxy.plan.extend([status(400), pass_on, status(400)])
    responses = send(faulty.client, *twenty(faulty))
    assert Counter(response.status_code for response in responses.values()) == {201: 19, 500: 1}
    assert len(rows(table, faulty.business)) == 19


@pytest.mark.parametrize(
    ("fault", "expected", "retry_after"),
    [
        (cut_before, 503, None),
        (hang, 503, None),
        (status(500), 503, None),
        (status(503, retry_after=7), 503, "7"),
        (status(429, retry_after=7), 429, "7"),
        (busy(), 429, None),
    ],
    ids=["cut", "hang", "500", "503", "429", "busy"],
)
def test_a_lasting_fault_is_each_adds_own_error_within_the_budget(
    faulty: Faulty, table: TableClient, fault: Fault, expected: int, retry_after: str | None
) -> None:
    faulty.proxy.always = fault
    started = time.monotonic()
    responses = send(faulty.client, *twenty(faulty))
    assert time.monotonic() - started < BUDGET + 2
    for response in responses.values():
        assert_error(response, expected, "tooManyRequests" if expected == 429 else "serviceUnavailable")
        assert retry_after in (None, response.headers["Retry-After"])
    faulty.proxy.reset()
    assert rows(table, faulty.business) == []


def repeatable(adds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The adds with the headers that make them repeatable."""
    sent = format_datetime(datetime.now(UTC).replace(microsecond=0), usegmt=True)
    return [
        {
            **one,
            "headers": {
                **one["headers"],
                "Repeatability-Request-ID": str(uuid4()),
                "Repeatability-First-Sent": sent,
            },
        }
        for one in adds
    ]


@pytest.mark.parametrize("first", [pass_on, status(503, retry_after=1, committed=True)], ids=["seen", "lost"])
def test_a_batch_that_is_repeated_adds_nobody_twice(faulty: Faulty, table: TableClient, first: Fault) -> None:
    requests = repeatable([add(str(number), faulty.url) for number in range(20)])
    faulty.proxy.plan.append(first)
    before = send(faulty.client, *requests[:12])
    after = send(faulty.client, *requests)
    assert_each_is_there_once(faulty, table, after)
    assert all(after[name].json() == response.json() for name, response in before.items())
    assert {response.headers["Repeatability-Result"] for response in after.values()} == {"accepted"}


def test_two_adds_with_one_id_are_one_customer(faulty: Faulty, table: TableClient) -> None:
    first, second = (add(name, faulty.url, id="x", displayName=name) for name in ("first", "second"))
    responses = send(faulty.client, first, second, add("other", faulty.url))
    assert assert_customer(responses["first"])["displayName"] == "first"
    assert_error(responses["second"], 409, "conflict")
    assert_customer(responses["other"])
    assert len(rows(table, faulty.business)) == 2


@pytest.mark.parametrize("fault", [pass_on, cut_after, cut_before, hang], ids=["none", "lost", "cut", "hang"])
def test_two_adds_that_are_one_repeatable_request_are_one_customer(
    faulty: Faulty, table: TableClient, fault: Fault
) -> None:
    (one,) = repeatable([add("first", faulty.url)])
    same, other = {**one, "id": "same"}, {**one, "id": "other", "body": {**DOCUMENTED, "displayName": "Other"}}
    faulty.proxy.plan.append(fault)
    responses = send(faulty.client, one, same)
    assert assert_customer(responses["first"]) == assert_customer(responses["same"])
    assert_error(send(faulty.client, one, other)["other"], 400, "badRequest", says="another body")
    assert len(rows(table, faulty.business)) == 1


def test_adds_that_are_too_large_for_one_transaction_are_several(faulty: Faulty, table: TableClient) -> None:
    # Escaped for storage, each character takes twelve bytes.
    text = "\U0001f600" * 255
    phones = [{"number": text, "language": text, "region": text}] * 20
    responses = send(faulty.client, *(add(str(n), faulty.url, phones=phones) for n in range(20)))
    sizes = [len(body) for body in faulty.transactions()]
    assert len(sizes) > 1
    assert max(sizes) <= 4 * 1024 * 1024
    assert {response.status_code for response in responses.values()} == {201}
    assert len(rows(table, faulty.business)) == 20
