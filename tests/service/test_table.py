"""Storage that is down, slow, throttling, or that loses the answer: the contract's answer, nothing lost or doubled."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from typing import NamedTuple
from uuid import uuid4

import httpx
import pytest
from aiohttp import ClientSession, web
from anyio.from_thread import BlockingPortal
from azure.data.tables import TableClient
from azure.data.tables.aio import TableClient as AsyncTableClient

from infra.local.issuer import Issuer
from infra.local.run import connection_string
from tests.conftest import Service, StartService, rows
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
    no_etag_after,
    nonsense_after,
    nothing_yet,
    pass_on,
    status,
)

BUDGET = 2.0


class Faulty(NamedTuple):
    """A service whose storage is behind a proxy that makes faults."""

    client: httpx.Client
    proxy: FaultProxy


@pytest.fixture(scope="module")
def behind_proxy(
    start_service: StartService, start_proxy: Callable[[], AbstractContextManager[FaultProxy]], issuer: Issuer
) -> Iterator[Faulty]:
    """A service with a small budget, behind a proxy."""
    with (
        start_proxy() as proxy,
        start_service(
            CUSTOMERS_STORAGE=connection_string(proxy.port),
            STORAGE_CONNECT_TIMEOUT="0.5",
            STORAGE_READ_TIMEOUT="0.6",
            STORAGE_BUDGET=str(BUDGET),
        ) as service,
        httpx.Client(base_url=service.base, headers={"Authorization": f"Bearer {issuer.token()}"}) as client,
    ):
        yield Faulty(client, proxy)


@pytest.fixture
def faulty(behind_proxy: Faulty) -> Iterator[Faulty]:
    """The same, without plans left from another test."""
    behind_proxy.proxy.reset()
    yield behind_proxy
    behind_proxy.proxy.reset()


def assert_health(client: httpx.Client, status: int) -> None:
    """The health check has this status as soon as the last result is forgotten."""
    for _ in range(30):
        if client.get("/healthz").status_code == status:
            return
        time.sleep(0.1)
    assert client.get("/healthz").status_code == status


def add(faulty: Faulty, business: str, **more: object) -> httpx.Response:
    """Add the documented customer; the answer comes within the budget, or little later."""
    started = time.monotonic()
    response = faulty.client.post(BETA.format(business), json={**DOCUMENTED, **more})
    assert time.monotonic() - started < BUDGET + 1
    return response


def test_an_add_is_exactly_one_storage_operation(faulty: Faulty) -> None:
    assert_customer(add(faulty, "one"))
    assert [(call.method, call.path.partition("?")[0]) for call in faulty.proxy.passed] == [
        ("POST", "/devstoreaccount1/$batch")
    ]


def test_a_get_is_exactly_one_storage_operation(faulty: Faulty) -> None:
    assert_error(faulty.client.get(f"{BETA.format('one')}/none"), 404, "notFound")
    assert [call.method for call in faulty.proxy.passed] == ["GET"]


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    "fault",
    [
        cut_after,
        half_a_response,
        late(0.9),
        status(500, committed=True),
        status(503, committed=True),
        status(503, retry_after=30, committed=True),
        status(429, retry_after=30, committed=True),
        status(504, committed=True),
        nonsense_after,
        no_etag_after,
    ],
    ids=[
        "cut",
        "half a response",
        "late",
        "500",
        "503",
        "503 and Retry-After",
        "429 and Retry-After",
        "504",
        "nonsense",
        "no ETag",
    ],
)
def test_a_response_lost_after_the_commit_is_still_a_201_and_one_row(
    faulty: Faulty, table: TableClient, fault: Fault, *, own: bool
) -> None:
    business = str(uuid4())
    faulty.proxy.plan.append(fault)
    customer = assert_customer(add(faulty, business, **({"id": "own"} if own else {})))
    assert [row["RowKey"] for row in rows(table, business)] == [customer["id"]]
    assert assert_customer(faulty.client.get(f"{BETA.format(business)}/{customer['id']}"), 200) == customer


@pytest.mark.parametrize("fault", [cut_before, hang, status(500), status(503), status(429)])
def test_one_fault_before_the_commit_is_repaired(faulty: Faulty, table: TableClient, fault: Fault) -> None:
    business = str(uuid4())
    faulty.proxy.plan.append(fault)
    assert_customer(add(faulty, business))
    assert len(rows(table, business)) == 1


@pytest.mark.parametrize("then", [cut_before, status(429, retry_after=1), status(503, retry_after=9), busy(), hang])
def test_a_write_is_read_back_until_storage_responds(faulty: Faulty, table: TableClient, then: Fault) -> None:
    business = str(uuid4())
    faulty.proxy.plan.extend([status(503, retry_after=1, committed=True), then, then])
    customer = assert_customer(add(faulty, business))
    assert [row["RowKey"] for row in rows(table, business)] == [customer["id"]]


def then(fault: Fault, *, another: Callable[[FaultProxy], Awaitable[object]]) -> Fault:
    """A fault after which another client does something before the service asks again."""

    async def both(proxy: FaultProxy, request: web.Request) -> web.Response:
        response = await fault(proxy, request)
        await another(proxy)
        return response

    return both


def made_late() -> list[Fault]:
    """A write that storage makes after it said that it failed, and that there is no such row."""
    held: list[web.Request] = []

    async def hold(_: FaultProxy, request: web.Request) -> web.Response:
        held.append(request)
        return web.Response(status=500)

    async def make(proxy: FaultProxy) -> None:
        await proxy.forward(held.pop())

    return [hold, then(pass_on, another=make)]


def test_a_write_that_storage_makes_late_is_still_a_201_and_one_row(faulty: Faulty, table: TableClient) -> None:
    business = str(uuid4())
    faulty.proxy.plan.extend(made_late())
    customer = assert_customer(add(faulty, business))
    assert [row["RowKey"] for row in rows(table, business)] == [customer["id"]]


def test_a_conflict_that_could_not_be_looked_into_is_a_503(faulty: Faulty) -> None:
    business = str(uuid4())
    faulty.proxy.plan.extend([*made_late(), pass_on])
    faulty.proxy.always = hang
    assert_error(add(faulty, business), 503, "serviceUnavailable")


LOST_ANSWERS = [
    cut_after,
    half_a_response,
    late(0.9),
    status(500, committed=True),
    status(503, committed=True),
    nonsense_after,
]


@pytest.mark.parametrize("fault", LOST_ANSWERS, ids=["cut", "half a response", "late", "500", "503", "nonsense"])
@pytest.mark.parametrize("stale", [True, False])
def test_an_update_whose_response_is_lost_is_still_a_200(faulty: Faulty, fault: Fault, *, stale: bool) -> None:
    url = f"{BETA.format(uuid4())}/x"
    before = assert_customer(faulty.client.post(url.removesuffix("/x"), json={**DOCUMENTED, "id": "x"}))
    faulty.proxy.plan.extend([pass_on, fault])
    headers = {"If-Match": before["@odata.etag"]} if stale else {}
    after = assert_customer(faulty.client.patch(url, json={"displayName": "New"}, headers=headers), 200)
    assert after["displayName"] == "New"
    assert assert_customer(faulty.client.get(url), 200) == after


@pytest.mark.parametrize("fault", LOST_ANSWERS, ids=["cut", "half a response", "late", "500", "503", "nonsense"])
def test_a_delete_whose_response_is_lost_is_still_a_204(faulty: Faulty, fault: Fault) -> None:
    collection = BETA.format(uuid4())
    faulty.client.post(collection, json={**DOCUMENTED, "id": "x"})
    faulty.proxy.plan.extend([pass_on, fault])
    assert faulty.client.delete(f"{collection}/x").status_code == 204
    assert_error(faulty.client.get(f"{collection}/x"), 404, "notFound")


@pytest.mark.parametrize(
    ("fault", "expected"), [(cut_before, 503), (hang, 503), (status(500), 503), (status(429, retry_after=7), 429)]
)
def test_a_change_that_was_not_made_is_not_reported_as_made(faulty: Faulty, fault: Fault, expected: int) -> None:
    collection = BETA.format(uuid4())
    before = assert_customer(faulty.client.post(collection, json={**DOCUMENTED, "id": "x"}))
    for method in ("PATCH", "DELETE"):
        faulty.proxy.plan.append(pass_on)
        faulty.proxy.always = fault
        response = faulty.client.request(method, f"{collection}/x", json={"displayName": "New"})
        assert response.status_code == expected
        faulty.proxy.reset()
        assert assert_customer(faulty.client.get(f"{collection}/x"), 200) == before


def test_a_missing_row_that_could_not_be_looked_into_is_a_503(faulty: Faulty) -> None:
    collection = BETA.format(uuid4())
    assert_customer(faulty.client.post(collection, json={**DOCUMENTED, "id": "x"}))
    for method in ("PATCH", "DELETE"):
        faulty.proxy.plan.extend([pass_on, inside(404, committed=False)])
        faulty.proxy.always = cut_before
        response = faulty.client.request(method, f"{collection}/x", json={"displayName": "New"})
        assert_error(response, 503, "serviceUnavailable")
        faulty.proxy.reset()


def test_storage_operations_are_few(faulty: Faulty) -> None:
    collection = BETA.format(uuid4())
    customer = assert_customer(faulty.client.post(collection, json={**DOCUMENTED, "id": "x"}))
    held = {"If-Match": customer["@odata.etag"]}
    for methods, method, path, headers in (
        (["GET"], "GET", f"{collection}?$filter=startswith(displayName,'D')", {}),
        (["GET"], "GET", f"{collection}/$count", {}),
        (["GET"], "GET", f"{collection}/x", {}),
        (["GET", "POST"], "PATCH", f"{collection}/x", {}),
        (["GET", "GET"], "GET", f"{collection}?$filter=emailAddress eq 'Email Address value'", {}),
        (
            ["GET", "GET"],
            "GET",
            f"{collection}?$filter=tolower(emailAddress) eq 'email address VALUE' and id ne 'y'",
            {},
        ),
        (["GET"], "GET", f"{collection}/$count?$filter=tolower(emailAddress) eq 'email address VALUE'", {}),
        (["GET"], "DELETE", f"{collection}/x", held),
        (["GET", "POST"], "DELETE", f"{collection}/x", {}),
    ):
        faulty.proxy.passed.clear()
        faulty.client.request(method, path, headers=headers, json={"displayName": "a"})
        assert [call.method for call in faulty.proxy.passed] == methods


def test_two_writers_do_not_undo_each_other(faulty: Faulty) -> None:
    collection = BETA.format(uuid4())
    faulty.client.post(collection, json={**DOCUMENTED, "id": "x"})

    async def another_writer_comes_first(proxy: FaultProxy, request: web.Request) -> web.Response:
        # By hand, past the service: what another writer would do between the read and the write.
        headers = {k: v for k, v in faulty.client.headers.items() if k.lower() == "authorization"}
        async with (
            ClientSession(str(faulty.client.base_url), headers=headers) as session,
            session.patch(f"{collection}/x", json={"emailAddress": "new@example.com"}) as response,
        ):
            assert response.status == 200
        return await proxy.forward(request)

    faulty.proxy.plan.extend([pass_on, another_writer_comes_first])
    after = assert_customer(faulty.client.patch(f"{collection}/x", json={"displayName": "New"}), 200)
    assert (after["displayName"], after["emailAddress"]) == ("New", "new@example.com")


def test_an_empty_response_of_storage_with_a_continuation_is_not_an_empty_page(faulty: Faulty) -> None:
    business = str(uuid4())
    collection = BETA.format(business)
    faulty.client.post(collection, json={**DOCUMENTED, "id": "x"})

    faulty.proxy.plan.append(nothing_yet())
    page = faulty.client.get(collection).json()
    assert [call.path.count("NextRowKey") for call in faulty.proxy.passed][-2:] == [0, 1]
    assert [customer["id"] for customer in page["value"]] == ["x"]
    assert "@odata.nextLink" not in page


@pytest.mark.parametrize("code", [414, 431])
@pytest.mark.parametrize("path", ["", "/$count"])
def test_a_filter_that_is_too_long_for_storage_is_a_400_that_says_so(faulty: Faulty, code: int, path: str) -> None:
    faulty.proxy.plan.append(status(code))
    response = faulty.client.get(f"{BETA.format(uuid4())}{path}", params={"$filter": "displayName eq 'x'"})
    assert_error(response, 400, "badRequest", says="$filter is too long for storage")


@pytest.mark.parametrize("fault", [cut_after, status(500, committed=True)])
def test_an_id_that_is_taken_stays_a_409_under_faults(faulty: Faulty, table: TableClient, fault: Fault) -> None:
    business = str(uuid4())
    assert_customer(add(faulty, business, id="own"))
    faulty.proxy.plan.append(fault)
    assert_error(add(faulty, business, id="own", displayName="other"), 409, "conflict")
    assert [row["displayName"] for row in rows(table, business)] == [DOCUMENTED["displayName"]]


@pytest.mark.parametrize(
    ("fault", "expected", "code", "retry_after"),
    [
        (cut_before, 503, "serviceUnavailable", None),
        (hang, 503, "serviceUnavailable", None),
        (late(5), 503, "serviceUnavailable", None),
        (status(500), 503, "serviceUnavailable", None),
        (status(503), 503, "serviceUnavailable", None),
        (status(503, retry_after=7), 503, "serviceUnavailable", "7"),
        (status(429), 429, "tooManyRequests", None),
        (status(429, retry_after=7), 429, "tooManyRequests", "7"),
        (busy(), 429, "tooManyRequests", None),
        (busy(retry_after=7), 429, "tooManyRequests", "7"),
    ],
    ids=[
        "cut",
        "hang",
        "slow",
        "500",
        "503",
        "503 and Retry-After",
        "429",
        "429 and Retry-After",
        "busy",
        "busy and Retry-After",
    ],
)
def test_a_lasting_fault_is_reported_within_the_budget(
    faulty: Faulty, fault: Fault, expected: int, code: str, retry_after: str | None
) -> None:
    faulty.proxy.always = fault
    for response in (add(faulty, str(uuid4())), faulty.client.get(f"{BETA.format('x')}/y")):
        assert_error(response, expected, code, says="storage")
        if retry_after:
            assert response.headers["Retry-After"] == retry_after
    assert_error(faulty.client.get("/healthz"), 503, "serviceUnavailable")
    faulty.proxy.reset()
    assert_health(faulty.client, 200)


def test_storage_that_throttled_the_write_and_did_nothing_holds_nothing(faulty: Faulty, table: TableClient) -> None:
    business = str(uuid4())
    faulty.proxy.plan.append(status(429, retry_after=7))
    assert_error(add(faulty, business), 429, "tooManyRequests")
    assert rows(table, business) == []


MALFORMED = {"odata.error": {"code": "x", "message": "plain text"}}


@pytest.mark.parametrize(
    ("fault", "repeated"),
    [
        (partial(status, 400, body=MALFORMED), False),
        # Writes are repeated; the storage client itself would fail on that pause.
        (partial(status, 500, retry_after="soon"), True),
    ],
    ids=["an error that the client cannot parse", "a pause that the client cannot parse"],
)
@pytest.mark.parametrize("committed", [True, False])
def test_a_malformed_response_of_storage_gets_the_true_outcome(
    faulty: Faulty, table: TableClient, fault: Callable[..., Fault], *, repeated: bool, committed: bool
) -> None:
    business = str(uuid4())
    faulty.proxy.plan.append(fault(committed=committed))
    response = add(faulty, business)
    assert response.status_code == (201 if committed or repeated else 500)
    assert len(rows(table, business)) == (response.status_code == 201)
    url = f"{BETA.format(business)}/x"
    assert_customer(faulty.client.post(BETA.format(business), json={**DOCUMENTED, "id": "x"}))
    for method, success in (("PATCH", 200), ("DELETE", 204)):
        faulty.proxy.plan.extend([pass_on, fault(committed=committed)])
        response = faulty.client.request(method, url, json={"displayName": "New"})
        assert response.status_code == (success if committed or repeated else 500)
    assert len([row for row in rows(table, business) if row["RowKey"] == "x"]) == (0 if committed or repeated else 1)
    assert_health(faulty.client, 200)


@asynccontextmanager
async def past_the_service(proxy: FaultProxy) -> AsyncGenerator[AsyncTableClient]:
    """The table, as another instance of the service would change it."""
    async with AsyncTableClient.from_connection_string(connection_string(proxy.target_port), "customers") as table:
        yield table


def test_a_repeated_delete_does_not_take_somebody_elses_new_customer(faulty: Faulty, table: TableClient) -> None:
    business = str(uuid4())
    faulty.client.post(BETA.format(business), json={**DOCUMENTED, "id": "x"})
    theirs = {**rows(table, business)[0], "operationId": "theirs", "displayName": "Theirs"}

    async def add_theirs(proxy: FaultProxy) -> None:
        async with past_the_service(proxy) as other:
            await other.create_entity(theirs)

    faulty.proxy.plan.extend([pass_on, then(status(500, committed=True), another=add_theirs)])
    assert faulty.client.delete(f"{BETA.format(business)}/x").status_code == 204
    assert [row["displayName"] for row in rows(table, business)] == ["Theirs"]


@pytest.mark.parametrize("guarded", [True, False])
def test_an_update_that_was_made_is_a_200_also_when_another_came_after_it(
    faulty: Faulty, table: TableClient, *, guarded: bool
) -> None:
    business = str(uuid4())
    added = assert_customer(faulty.client.post(BETA.format(business), json={**DOCUMENTED, "id": "x"}))

    async def rename(proxy: FaultProxy) -> None:
        ours = rows(table, business)[0]["updateOperationIds"]
        async with past_the_service(proxy) as other:
            row = {
                "PartitionKey": business,
                "RowKey": "x",
                "displayName": "Later",
                "updateOperationIds": f"theirs {ours}",
            }
            await other.update_entity(row)

    faulty.proxy.plan.extend([pass_on, then(status(500, committed=True), another=rename)])
    headers = {"If-Match": added["@odata.etag"]} if guarded else {}
    response = faulty.client.patch(f"{BETA.format(business)}/x", json={"emailAddress": "mine"}, headers=headers)
    after = assert_customer(response, 200)
    assert (after["displayName"], after["emailAddress"]) == ("Later", "mine")


def test_a_write_is_not_begun_when_there_is_no_time_to_find_out(faulty: Faulty) -> None:
    collection = BETA.format(uuid4())
    before = assert_customer(faulty.client.post(collection, json={**DOCUMENTED, "id": "x"}))
    for method in ("PATCH", "DELETE"):
        faulty.proxy.plan.extend([hang, hang, pass_on])
        response = faulty.client.request(method, f"{collection}/x", json={"displayName": "New"})
        assert_error(response, 503, "serviceUnavailable", says="storage is slow")
        assert assert_customer(faulty.client.get(f"{collection}/x"), 200) == before


def test_a_customer_that_is_deleted_in_the_way_of_an_add_makes_way(faulty: Faulty, table: TableClient) -> None:
    business = str(uuid4())
    faulty.client.post(BETA.format(business), json={**DOCUMENTED, "id": "x"})

    async def delete(proxy: FaultProxy) -> None:
        async with past_the_service(proxy) as other:
            await other.delete_entity(business, "x")

    faulty.proxy.plan.append(then(pass_on, another=delete))
    assert_customer(add(faulty, business, id="x", displayName="New"))
    assert [row["displayName"] for row in rows(table, business)] == ["New"]


def test_a_filter_or_token_that_storage_does_not_take_is_the_callers(faulty: Faulty) -> None:
    refusal = status(400, body={"odata.error": {"code": "InvalidInput", "message": {"lang": "", "value": "no"}}})
    faulty.proxy.plan.append(refusal)
    response = faulty.client.get(BETA.format("x"), params={"$filter": "displayName eq '\0'"})
    assert_error(response, 400, "badRequest", says="$filter")
    faulty.proxy.plan.append(refusal)
    assert_error(faulty.client.get(BETA.format("x")), 500, "internalServerError")


def test_a_list_with_its_count_takes_one_budget(faulty: Faulty) -> None:
    faulty.proxy.always = hang
    started = time.monotonic()
    response = faulty.client.get(BETA.format("x"), params={"$count": "true"})
    assert_error(response, 503, "serviceUnavailable", says="in time")
    assert time.monotonic() - started < BUDGET + 1


def test_a_request_that_storage_refuses_is_a_fault_of_ours(faulty: Faulty) -> None:
    faulty.proxy.plan.append(status(403))
    error = assert_error(add(faulty, "x"), 500, "internalServerError")
    assert "403" not in error["message"].replace(error["innerError"]["request-id"], "")


def test_storage_that_nothing_listens_for_is_a_503(faulty: Faulty, portal: BlockingPortal) -> None:
    portal.call(faulty.proxy.stop)
    try:
        assert_error(add(faulty, "x"), 503, "serviceUnavailable", says="storage")
        assert_error(faulty.client.get(f"{BETA.format('x')}/y"), 503, "serviceUnavailable", says="storage")
    finally:
        portal.call(faulty.proxy.start)
    assert_customer(add(faulty, "x"))


def test_the_columns_can_be_read_by_a_person(client: httpx.Client, table: TableClient) -> None:
    business = str(uuid4())
    phones = [{"type": "mobile", "number": "+39 'ü'"}]
    response = client.post(BETA.format(business), json={**DOCUMENTED, "phones": phones})
    customer = assert_customer(response)
    (row,) = rows(table, business)
    assert row.pop("createdDateTime").isoformat(timespec="milliseconds") == customer["createdDateTime"].replace(
        "Z", "+00:00"
    )
    assert row.pop("lastUpdatedDateTime")
    assert row == {
        "PartitionKey": business,
        "RowKey": customer["id"],
        "displayName": DOCUMENTED["displayName"],
        "emailAddress": DOCUMENTED["emailAddress"],
        "addresses": "[]",
        "phones": """[{"type":"mobile","number":"+39 'ü'"}]""",
        "operationId": response.headers["request-id"],
    }


@pytest.mark.parametrize("conditional", [True, False])
def test_a_delete_that_finds_its_customer_just_deleted_is_not_a_success(faulty: Faulty, *, conditional: bool) -> None:
    business = str(uuid4())
    added = assert_customer(faulty.client.post(BETA.format(business), json={**DOCUMENTED, "id": "x"}))

    async def delete(proxy: FaultProxy) -> None:
        async with past_the_service(proxy) as other:
            await other.delete_entity(business, "x")

    faulty.proxy.plan.append(then(pass_on, another=delete))
    response = faulty.client.delete(
        f"{BETA.format(business)}/x", headers={"If-Match": added["@odata.etag"]} if conditional else {}
    )
    if conditional:
        assert_error(response, 412, "preconditionFailed", says="deleted")
    else:
        assert_error(response, 404, "notFound")


@pytest.mark.parametrize("code", [404, 412])
def test_a_lost_delete_that_could_not_be_looked_into_is_a_503(faulty: Faulty, code: int) -> None:
    url = f"{BETA.format(uuid4())}/x"
    faulty.client.post(url.removesuffix("/x"), json={**DOCUMENTED, "id": "x"})
    faulty.proxy.plan.extend([pass_on, inside(code, committed=False)])
    faulty.proxy.always = hang
    assert_error(faulty.client.delete(url), 503, "serviceUnavailable")


def test_a_delete_leaves_the_customer_that_was_added_in_place_of_its_own(faulty: Faulty, table: TableClient) -> None:
    business = str(uuid4())
    faulty.client.post(BETA.format(business), json={**DOCUMENTED, "id": "x"})

    async def replace(proxy: FaultProxy) -> None:
        async with past_the_service(proxy) as other:
            row = {**rows(table, business)[0], "operationId": "theirs"}
            await other.delete_entity(business, "x")
            await other.create_entity(row)

    faulty.proxy.plan.append(then(pass_on, another=replace))
    assert_error(faulty.client.delete(f"{BETA.format(business)}/x"), 404, "notFound")
    assert [row["operationId"] for row in rows(table, business)] == ["theirs"]


@pytest.mark.parametrize("conditional", [True, False])
def test_of_the_deletes_of_one_customer_at_once_one_is_a_204(
    service: Service, issuer: Issuer, *, conditional: bool
) -> None:
    collection = f"{service.base}{BETA.format(uuid4())}"

    async def delete_at_once(number: int) -> list[int]:
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {issuer.token()}"}) as client:
            added = assert_customer(await client.post(collection, json={**DOCUMENTED, "id": f"x{number}"}))
            headers = {"If-Match": added["@odata.etag"]} if conditional else {}
            url = f"{collection}/x{number}"
            deletes = await asyncio.gather(*(client.delete(url, headers=headers) for _ in range(3)))
            return sorted(response.status_code for response in deletes)

    for number in range(10):
        first, *others = asyncio.run(delete_at_once(number))
        assert first == 204
        assert set(others) <= {404, 412}


# An error that another request must have caused, or that cannot be understood, is not one to repeat.
@pytest.mark.parametrize(
    ("code", "committed"),
    [*((code, True) for code in (404, 409, 412, 500, 503, 0)), *((code, False) for code in (409, 500, 503))],
)
def test_an_error_inside_a_transaction_gets_the_true_outcome(
    faulty: Faulty, table: TableClient, code: int, *, committed: bool
) -> None:
    business = str(uuid4())
    url = f"{BETA.format(business)}/x"
    fault = inside(code, committed=committed)
    faulty.proxy.plan.append(fault)
    assert_customer(add(faulty, business, id="x"))
    faulty.proxy.plan.extend([pass_on, fault])
    assert_customer(faulty.client.patch(url, json={"emailAddress": "new@x"}), 200)
    assert index_faults(table, business) == []
    faulty.proxy.plan.extend([pass_on, fault])
    # Storage says that it found nothing, or another version: then another request was the one that deleted it.
    assert faulty.client.delete(url).status_code == (404 if code in (404, 412) else 204)
    assert index_faults(table, business) == []
    assert rows(table, business) == []
