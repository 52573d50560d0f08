"""OData's other spellings of a path: keys in parentheses, and casts to the customers' own type."""

from collections.abc import Callable
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from tests.support.graph import BETA, DOCUMENTED, SURFACES, assert_customer, assert_error

_CAST = "microsoft.graph.bookingCustomer"


def _in_parentheses(key: str) -> str:
    return f"('{quote(key.replace(chr(39), chr(39) * 2), safe=chr(39))}')"


def _as_segment(key: str) -> str:
    return f"/{quote(key, safe='')}"


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("business_key", [_in_parentheses, _as_segment])
@pytest.mark.parametrize("customer_key", [_in_parentheses, _as_segment])
@pytest.mark.parametrize("cast", ["", f"/{_CAST}", "/graph.bookingCustomer"])
def test_every_operation_takes_every_spelling(
    client: httpx.Client,
    surface: str,
    business_key: Callable[[str], str],
    customer_key: Callable[[str], str],
    cast: str,
) -> None:
    business, own = f"O'Brien & Söhne@{uuid4()}", "('it''s') + 1"
    plain = surface.format(quote(business, safe=""))
    collection = surface.replace("/{}", business_key(business)) + cast
    one = collection + customer_key(own)
    added = assert_customer(client.post(collection, json={**DOCUMENTED, "id": own}))
    assert_error(client.post(f"{collection}/$ref", json={**DOCUMENTED, "id": own}), 409, "conflict")
    got = client.get(one)
    assert assert_customer(got, 200) == added
    assert added == assert_customer(client.get(plain + _as_segment(own)), 200)
    assert assert_customer(client.patch(one + cast, json={"displayName": "New"}), 200)["displayName"] == "New"
    listed = client.get(collection, params={"$top": "1"}).json()
    assert [customer["id"] for customer in listed["value"]] == [own]
    assert client.get(f"{collection}/$count").text == "1"
    assert client.delete(one).status_code == 204
    assert_error(client.get(one), 404, "notFound", says="no customer with this id")


def test_the_links_have_the_plain_spelling(client: httpx.Client) -> None:
    business = str(uuid4())
    collection = BETA.replace("/{}", f"('{business}')")
    response = client.post(collection, json={**DOCUMENTED, "id": "a"})
    assert response.headers["Location"].endswith(f"{BETA.format(business)}/a")
    client.post(collection, json={**DOCUMENTED, "id": "b"})
    page = client.get(f"{collection}/{_CAST}", params={"$top": "1"}).json()
    assert f"{BETA.format(business)}?" in page["@odata.nextLink"]
    assert page["@odata.context"].endswith(f"#bookingBusinesses('{business}')/customers")


@pytest.mark.parametrize(
    ("path", "status"),
    [("/microsoft.graph.bookingPerson", 400), ("/x/microsoft.graph.bookingPerson", 404), ("/x/y", 404)],
)
def test_another_type_is_refused_by_name(client: httpx.Client, path: str, status: int) -> None:
    code = {400: "badRequest", 404: "notFound"}[status]
    assert_error(client.get(BETA.format("b") + path), status, code, says=_CAST)


def test_the_name_of_a_type_is_no_id(client: httpx.Client) -> None:
    for name in (_CAST, "graph.bookingCustomer", "Microsoft.Graph.Other"):
        response = client.post(BETA.format(uuid4()), json={**DOCUMENTED, "id": name})
        assert_error(response, 400, "badRequest", target="id", says="type")


def test_other_spellings_need_the_same_token_and_get_the_same_errors(
    client: httpx.Client, anonymous: httpx.Client
) -> None:
    path = BETA.replace("/{}", "('b')")
    assert_error(anonymous.get(path), 401, "InvalidAuthenticationToken")
    assert_error(client.put(path), 405, "methodNotAllowed")
    assert_error(client.get(f"{path}('a%5Cb')"), 400, "badRequest", target="id")
    assert_error(client.get(f"{path}?$skip=1"), 400, "badRequest", target="$skip")


def test_nulls_that_say_nothing_are_accepted(client: httpx.Client) -> None:
    collection = BETA.format(uuid4())
    nothing = {"@odata.type": None, "id": None, "addresses": None, "phones": None}
    added = assert_customer(client.post(collection, json={**DOCUMENTED, **nothing}))
    assert (added["addresses"], added["phones"]) == ([], [])
    url = f"{collection}/{added['id']}"
    client.patch(url, json={"phones": [{"number": "1"}], "addresses": [{}]})
    emptied = assert_customer(client.patch(url, json=nothing), 200)
    assert (emptied["addresses"], emptied["phones"], emptied["displayName"]) == ([], [], added["displayName"])
    for name in ("displayName", "emailAddress"):
        assert_error(client.patch(url, json={name: None}), 400, "badRequest", target=name)
