"""Getting a customer over HTTP, and the health of the service."""

from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from customers.keys import check_key
from customers.model import MAX_DISPLAY_NAME, MAX_EMAIL_ADDRESS, MAX_TEXT, Phone, PhysicalAddress
from tests.support.graph import BETA, DOCUMENTED, assert_common_headers, assert_customer, assert_error

COLLECTION = BETA.format("Contoso@contoso.onmicrosoft.com")


def _is_key(value: str) -> bool:
    try:
        check_key(value)
    except PydanticCustomError:
        return False
    return True


def _text(least: int, most: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=least, max_size=most)


_keys = _text(1, 255).filter(_is_key)
_nested = st.none() | _text(0, MAX_TEXT)


def _objects(model: type[PhysicalAddress | Phone]) -> st.SearchStrategy[dict[str, str | None]]:
    properties = model.model_json_schema()["properties"]
    types = properties["type"]["anyOf"][0]["enum"]
    strategies = {name: _nested for name in properties if name != "type"}
    return st.fixed_dictionaries({}, optional={**strategies, "type": st.sampled_from([None, *types])})


_customers = st.fixed_dictionaries(
    {"id": _keys, "displayName": _text(1, MAX_DISPLAY_NAME), "emailAddress": _text(1, MAX_EMAIL_ADDRESS)},
    optional={
        "addresses": st.lists(_objects(PhysicalAddress), max_size=3),
        "phones": st.lists(_objects(Phone), max_size=3),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(business=_keys, body=_customers)
def test_any_customer_that_validates_comes_back_from_storage_exactly_equal(
    client: httpx.Client, business: str, body: dict[str, object]
) -> None:
    # Each example has a business of its own, since hypothesis repeats examples.
    own = f"{business[:219]}{uuid4()}"
    response = client.post(BETA.format(quote(own, safe="")), json=body)
    customer = assert_customer(response)
    assert {name: customer[name] for name in ("id", "displayName", "emailAddress")}.items() <= body.items()
    for array, model in (("addresses", PhysicalAddress), ("phones", Phone)):
        sent: list[dict[str, object]] = body.get(array, [])  # type: ignore[assignment]
        blank = dict.fromkeys(model.model_json_schema()["properties"])
        assert customer[array] == [{**blank, **item} for item in sent]
    assert assert_customer(client.get(response.headers["Location"]), 200) == customer


def test_a_customer_that_is_not_there_is_a_404(client: httpx.Client) -> None:
    assert_error(client.get(f"{COLLECTION}/{uuid4()}"), 404, "notFound")


@pytest.mark.parametrize("customer", ["a%2Fb", "%20a", "x" * 256, "a%25"])
def test_a_bad_id_is_refused(client: httpx.Client, customer: str) -> None:
    assert_error(client.get(f"{COLLECTION}/{customer}"), 400, "badRequest", target="id")


def test_a_query_option_is_refused_by_name(client: httpx.Client) -> None:
    assert_error(client.get(f"{COLLECTION}/x?$expand=y"), 400, "badRequest", target="$expand")


def test_another_business_does_not_see_the_customer(client: httpx.Client) -> None:
    customer = assert_customer(client.post(COLLECTION, json=DOCUMENTED))
    assert_error(client.get(f"{BETA.format('Fabrikam')}/{customer['id']}"), 404, "notFound")


def test_the_service_is_healthy_without_a_token(anonymous: httpx.Client) -> None:
    response = anonymous.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "healthy"})
    assert_common_headers(response)
