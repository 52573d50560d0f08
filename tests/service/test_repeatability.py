"""Repeatable adds over HTTP: one customer and equal answers, however often and whenever a request is repeated."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from azure.data.tables import TableClient

from infra.local.issuer import Issuer
from tests.conftest import Service, rows
from tests.support.graph import BETA, DOCUMENTED, SURFACES, assert_customer, assert_error


def http_date(moment: datetime) -> str:
    """An IMF-fixdate."""
    return moment.strftime("%a, %d %b %Y %H:%M:%S GMT")


def repeatable(*, ago: float = 0, request_id: str | None = None) -> dict[str, str]:
    """The headers of a request first sent so many seconds ago."""
    return {
        "Repeatability-Request-ID": request_id or str(uuid4()),
        "Repeatability-First-Sent": http_date(datetime.now(UTC) - timedelta(seconds=ago)),
    }


def add(
    client: httpx.Client, business: str, headers: dict[str, str], surface: str = BETA, **more: object
) -> httpx.Response:
    """Add the documented customer."""
    return client.post(surface.format(business), json={**DOCUMENTED, **more}, headers=headers)


def assert_accepted(response: httpx.Response) -> dict[str, Any]:
    """The add was accepted as repeatable."""
    assert response.headers["Repeatability-Result"] == "accepted"
    customer = assert_customer(response)
    return {name: value for name, value in customer.items() if name != "@odata.context"}


def assert_rejected(response: httpx.Response, status: int, code: str, *, says: str = "") -> None:
    """The headers were refused."""
    assert_error(response, status, code, says=says)
    assert response.headers["Repeatability-Result"] == "rejected"


def test_every_repeat_gets_the_first_response(client: httpx.Client, table: TableClient) -> None:
    business, headers = str(uuid4()), repeatable()
    first = add(client, business, headers)
    customer = assert_accepted(first)
    assert UUID(customer["id"]).version == 8
    for surface in SURFACES:
        for suffix in ("", "/$ref"):
            repeat = client.post(surface.format(business) + suffix, json=DOCUMENTED, headers=headers)
            assert assert_accepted(repeat) == customer
            assert client.get(repeat.headers["Location"]).status_code == 200
    assert len(rows(table, business)) == 1


def test_letter_case_of_the_id_and_spaces_of_the_body_do_not_matter(client: httpx.Client, table: TableClient) -> None:
    business, headers = str(uuid4()), repeatable()
    customer = assert_accepted(add(client, business, headers))
    headers["Repeatability-Request-ID"] = headers["Repeatability-Request-ID"].upper()
    body = b'{ "emailAddress": "Email Address value" ,"displayName": "Display Name value", "@x": 1}'
    repeat = client.post(BETA.format(business), content=body, headers={**headers, "Content-Type": "application/json"})
    assert assert_accepted(repeat) == customer
    assert len(rows(table, business)) == 1


def test_a_repeat_returns_the_customer_as_first_returned_even_after_updates(client: httpx.Client) -> None:
    business, headers = str(uuid4()), repeatable()
    phones = [{"number": "1"}]
    first = add(client, business, headers, phones=phones)
    customer = assert_accepted(first)
    for change in ({"displayName": "New", "phones": []}, {"emailAddress": "new"}):
        assert_customer(client.patch(first.headers["Location"], json=change), 200)
    assert assert_accepted(add(client, business, headers, phones=phones)) == customer
    now = assert_customer(client.get(first.headers["Location"]), 200)
    assert (now["displayName"], now["emailAddress"], now["phones"]) == ("New", "new", [])


def test_a_repeat_after_a_delete_adds_the_customer_again(client: httpx.Client) -> None:
    business, headers = str(uuid4()), repeatable()
    first = add(client, business, headers)
    client.delete(first.headers["Location"])
    assert assert_accepted(add(client, business, headers))["id"] == assert_accepted(first)["id"]


def test_a_minimal_response_is_repeatable_too(client: httpx.Client, table: TableClient) -> None:
    business, headers = str(uuid4()), {**repeatable(), "Prefer": "return=minimal"}
    answers = [add(client, business, headers) for _ in range(2)]
    assert [(answer.status_code, answer.headers["Repeatability-Result"]) for answer in answers] == [
        (204, "accepted")
    ] * 2
    assert answers[0].headers["Location"] == answers[1].headers["Location"]
    assert len(rows(table, business)) == 1


def test_concurrent_repeats_add_one_customer_and_get_equal_responses(
    service: Service, issuer: Issuer, table: TableClient
) -> None:
    business, headers = str(uuid4()), {**repeatable(), "Authorization": f"Bearer {issuer.token()}"}

    async def at_once() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=service.base, headers=headers) as client:
            return await asyncio.gather(*(client.post(BETA.format(business), json=DOCUMENTED) for _ in range(20)))

    answers = [assert_accepted(response) for response in asyncio.run(at_once())]
    assert answers == [answers[0]] * 20
    assert len(rows(table, business)) == 1


def test_the_same_id_with_another_body_is_rejected(client: httpx.Client, table: TableClient) -> None:
    business, headers = str(uuid4()), repeatable()
    customer = assert_accepted(add(client, business, headers))
    others: list[dict[str, Any]] = [{"displayName": "other"}, {"phones": [{"number": "1"}]}, {"addresses": [{}]}]
    for more in others:
        assert_rejected(add(client, business, headers, **more), 400, "badRequest", says="another body")
    assert [row["RowKey"] for row in rows(table, business)] == [customer["id"]]
    assert rows(table, business)[0]["displayName"] == DOCUMENTED["displayName"]


def test_the_same_id_of_another_caller_or_business_is_another_request(
    anonymous: httpx.Client, issuer: Issuer, table: TableClient
) -> None:
    business, headers = str(uuid4()), repeatable()
    added = []
    for claims in ({"azp": "a"}, {"azp": "b"}, {"azp": None, "appid": "c"}):
        anonymous.headers["Authorization"] = f"Bearer {issuer.token(claims)}"
        added.append(assert_accepted(add(anonymous, business, headers))["id"])
    added.append(assert_accepted(add(anonymous, business, {**headers, "Repeatability-Client-ID": "x"}))["id"])
    assert len({*added}) == len(rows(table, business)) == 4
    assert_accepted(add(anonymous, str(uuid4()), headers))


def test_a_clients_own_id_is_kept_and_repeats_are_recognised(client: httpx.Client, table: TableClient) -> None:
    business, headers = str(uuid4()), repeatable()
    customer = assert_accepted(add(client, business, headers, id="own"))
    assert customer["id"] == "own"
    assert assert_accepted(add(client, business, headers, id="own")) == customer
    assert_rejected(add(client, business, headers, id="own", displayName="other"), 400, "badRequest")
    assert_error(add(client, business, repeatable(), id="own"), 409, "conflict")
    assert_error(add(client, business, {}, id="own"), 409, "conflict")
    assert len(rows(table, business)) == 1


def test_ids_sort_by_the_first_sending_beside_the_ones_that_the_service_makes(client: httpx.Client) -> None:
    business = str(uuid4())
    now = assert_customer(add(client, business, {}))["id"]
    earlier = [assert_accepted(add(client, business, repeatable(ago=ago)))["id"] for ago in (60, 3600, 7200)]
    listed = [customer["id"] for customer in client.get(BETA.format(business)).json()["value"]]
    assert listed == [*reversed(earlier), now]


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"Repeatability-Request-ID": str(uuid4())}, "or neither"),
        ({"Repeatability-First-Sent": http_date(datetime.now(UTC))}, "or neither"),
        ({**repeatable(), "Repeatability-Request-ID": "x"}, "GUID"),
        ({**repeatable(), "Repeatability-Request-ID": ""}, "GUID"),
        ({**repeatable(), "Repeatability-Request-ID": f"{{{uuid4()}}}"}, "GUID"),
        ({**repeatable(), "Repeatability-Request-ID": f"{uuid4()},{uuid4()}"}, "GUID"),
        ({**repeatable(), "Repeatability-First-Sent": "now"}, "date"),
        ({**repeatable(), "Repeatability-First-Sent": ""}, "date"),
        ({**repeatable(), "Repeatability-First-Sent": "2026-11-23T12:00:00Z"}, "date"),
        ({**repeatable(), "Repeatability-First-Sent": "Mon, 30 Feb 2026 12:00:00 GMT"}, "date"),
        ({**repeatable(), "Repeatability-First-Sent": "Mon, 23 Nov 2026 12:00:00 +0000"}, "date"),
        ({**repeatable(), "Repeatability-First-Sent": "Sun, 23 Nov 2026 12:00:00 GMT"}, "date"),
        ({**repeatable(), "Repeatability-First-Sent": "mon, 23 nov 2026 12:00:00 gmt"}, "date"),
        ({**repeatable(), "Repeatability-First-Sent": "Mon, 23 Nov 2026 12:00:0 GMT"}, "date"),
        ({**repeatable(), "Repeatability-First-Sent": f"Mon, 23 Nov {'9' * 20} 12:00:00 GMT"}, "date"),
        ({**repeatable(), "Repeatability-First-Sent": "Mon,  23 Nov 2026 12:00:00 GMT"}, "date"),
    ],
)
def test_headers_that_are_malformed_or_alone_are_rejected(
    client: httpx.Client, table: TableClient, headers: dict[str, str], says: str
) -> None:
    business = str(uuid4())
    assert_rejected(add(client, business, headers), 400, "badRequest", says=says)
    assert rows(table, business) == []


@pytest.mark.parametrize("ago", [24 * 3600 + 60, 48 * 3600, -600, -365 * 24 * 3600])
def test_a_request_outside_the_window_is_rejected(client: httpx.Client, table: TableClient, ago: float) -> None:
    business = str(uuid4())
    assert_rejected(add(client, business, repeatable(ago=ago)), 412, "preconditionFailed", says="24 hours")
    assert rows(table, business) == []


@pytest.mark.parametrize("ago", [24 * 3600 - 60, 5, -3])
def test_a_request_inside_the_window_is_accepted(client: httpx.Client, ago: float) -> None:
    assert_accepted(add(client, str(uuid4()), repeatable(ago=ago)))


def test_a_body_that_is_refused_is_not_accepted(client: httpx.Client) -> None:
    response = client.post(BETA.format("x"), json={}, headers=repeatable())
    assert_error(response, 400, "badRequest", target="displayName")
    assert "Repeatability-Result" not in response.headers
