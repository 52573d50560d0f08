"""Listing and counting over HTTP: pages, options, and filters held against a plain evaluation in Python."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from uuid import uuid4

import httpx
import pytest
from azure.data.tables import TableClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.local.issuer import Issuer
from tests.conftest import Service
from tests.support.graph import BETA, DOCUMENTED, SURFACES, assert_common_headers, assert_customer, assert_error


def add(client: httpx.Client, business: str, **more: object) -> dict[str, Any]:
    """Add a customer."""
    return assert_customer(client.post(BETA.format(quote(business, safe="")), json={**DOCUMENTED, **more}))


def assert_page(response: httpx.Response) -> dict[str, Any]:
    """The answer is a page of whole customers."""
    assert response.status_code == 200, response.text
    assert_common_headers(response)
    assert response.headers["Content-Type"] == "application/json"
    page: dict[str, Any] = response.json()
    assert {"@odata.context", "value"} <= set(page) <= {"@odata.context", "value", "@odata.count", "@odata.nextLink"}
    assert page["value"] or "@odata.nextLink" not in page
    for customer in page["value"]:
        assert customer["@odata.type"] == "#microsoft.graph.bookingCustomer"
        assert customer["@odata.etag"]
    return page


def pages(client: httpx.Client, url: str, **options: str) -> Iterator[dict[str, Any]]:
    """Follow a list to its end."""
    page = assert_page(client.get(url, params=options))
    yield page
    while "@odata.nextLink" in page:
        page = assert_page(client.get(page["@odata.nextLink"]))
        yield page


def ids(client: httpx.Client, business: str, **options: str) -> list[str]:
    """The ids of a whole list."""
    url = BETA.format(quote(business, safe=""))
    return [customer["id"] for page in pages(client, url, **options) for customer in page["value"]]


@pytest.fixture(scope="module")
def seven(service: Service, issuer: Issuer) -> tuple[str, list[dict[str, Any]]]:
    """A business with seven customers, and these."""
    business = f"Seven {uuid4()}"
    with httpx.Client(base_url=service.base, headers={"Authorization": f"Bearer {issuer.token()}"}) as client:
        return business, [add(client, business, displayName=f"d{n}") for n in range(7)]


type Seven = tuple[str, list[dict[str, Any]]]


@pytest.mark.parametrize("surface", SURFACES)
def test_a_list_holds_whole_customers_oldest_first(
    client: httpx.Client, seven: Seven, surface: str, service: Service
) -> None:
    business, customers = seven
    page = assert_page(client.get(surface.format(business)))
    assert page["value"] == [{k: v for k, v in c.items() if k != "@odata.context"} for c in customers]
    version, _, entity_set = surface.split("/{}", maxsplit=1)[0].removeprefix("/").partition("/")
    assert page["@odata.context"] == (f"{service.base}/{version}/$metadata#{entity_set}('{quote(business)}')/customers")
    assert "@odata.count" not in page


def test_a_list_of_nothing_is_empty(client: httpx.Client) -> None:
    assert assert_page(client.get(BETA.format("Empty")))["value"] == []
    assert client.get(f"{BETA.format('Empty')}/$count").text == "0"


@pytest.mark.parametrize("top", [1, 2, 3, 6, 7, 8, 999])
@pytest.mark.parametrize("surface", SURFACES)
def test_pages_hold_each_customer_once(client: httpx.Client, seven: Seven, top: int, surface: str) -> None:
    business, customers = seven
    found = [page["value"] for page in pages(client, surface.format(business), **{"$top": str(top)})]
    assert [c["id"] for page in found for c in page] == [c["id"] for c in customers]
    assert all(len(page) <= top for page in found)


def test_the_next_link_keeps_the_query_and_the_place(client: httpx.Client, seven: Seven, service: Service) -> None:
    business, customers = seven
    options = {
        "$top": "2",
        "$filter": "displayName ge 'd2'",
        "$select": "displayName",
        "$count": "true",
        "$orderby": "id asc",
    }
    first, *rest = pages(client, BETA.format(business), **options)
    assert first["@odata.count"] == 5
    assert all("@odata.count" not in page for page in rest)
    collection = BETA.format(quote(business))
    assert first["@odata.nextLink"].startswith(f"{service.base}{collection}?")
    query = parse_qs(urlsplit(first["@odata.nextLink"]).query)
    assert {name: values[0] for name, values in query.items() if name != "$skiptoken"} == {
        name: value for name, value in options.items() if name != "$count"
    }
    found = [customer["displayName"] for page in (first, *rest) for customer in page["value"]]
    assert found == ["d2", "d3", "d4", "d5", "d6"]
    assert len(customers) == 7


def test_a_token_of_another_query_or_business_is_refused(client: httpx.Client, seven: Seven) -> None:
    business, _ = seven
    page = assert_page(client.get(BETA.format(business), params={"$top": "2"}))
    token = parse_qs(urlsplit(page["@odata.nextLink"]).query)["$skiptoken"][0]
    for other, options in ((business, {"$filter": "id gt 'a'"}), ("Another", {})):
        response = client.get(BETA.format(other), params={**options, "$skiptoken": token})
        assert_error(response, 400, "badRequest", target="$skiptoken")


@pytest.mark.parametrize("dollar", ["$", ""])
def test_select_gives_those_properties_the_key_and_the_annotations(
    client: httpx.Client, seven: Seven, dollar: str
) -> None:
    business, customers = seven
    collection = BETA.format(business)
    page = assert_page(client.get(collection, params={f"{dollar}select": "displayName, phones", f"{dollar}top": "1"}))
    assert set(page["value"][0]) == {"@odata.type", "@odata.etag", "id", "displayName", "phones"}
    assert page["@odata.context"].endswith("/customers(displayName,phones)")
    cast = {f"{dollar}select": "microsoft.graph.bookingCustomer/displayName"}
    one = client.get(f"{collection}/{customers[0]['id']}", params=cast).json()
    assert set(one) == {"@odata.context", "@odata.type", "@odata.etag", "id", "displayName"}
    assert one["@odata.context"].endswith("/customers(displayName)/$entity")


def test_the_count_is_of_all_that_match(client: httpx.Client, seven: Seven) -> None:
    business, _ = seven
    page = assert_page(client.get(BETA.format(business), params={"$count": "true", "$top": "2"}))
    assert page["@odata.count"] == 7
    for surface in SURFACES:
        response = client.get(f"{surface.format(business)}/$count", params={"$filter": "displayName lt 'd3'"})
        assert (response.status_code, response.text) == (200, "3")
        assert response.headers["Content-Type"].startswith("text/plain")
        assert_common_headers(response)


@pytest.mark.parametrize(
    ("path", "options", "target"),
    [
        ("", "$expand=x", "$expand"),
        ("", "$search=", "$search"),
        ("", "$skip=1", "$skip"),
        ("", "foo", "foo"),
        ("", "$top=1&top=2", "top"),
        ("", "$top=1000", "$top"),
        ("", "$orderby=displayName", "$orderby"),
        ("", "$orderby=id%20desc", "$orderby"),
        ("", "$select=nonsense", "$select"),
        ("", "$filter=", "$filter"),
        ("", "$filter=nonsense", "$filter"),
        ("", "$skiptoken=x", "$skiptoken"),
        ("", "$top=1&$filter=%FF", ""),
        ("/$count", "$top=1", "$top"),
        ("/$count", "$count=true", "$count"),
        ("/$count", "$filter=x", "$filter"),
        ("/x", "$filter=x", "$filter"),
        ("/x", "$select=x", "$select"),
    ],
)
def test_a_bad_option_is_refused_by_name(client: httpx.Client, path: str, options: str, target: str) -> None:
    assert_error(client.get(f"{BETA.format('x')}{path}?{options}"), 400, "badRequest", target=target)


def test_a_customer_is_found_by_the_address(client: httpx.Client) -> None:
    business = str(uuid4())
    wanted = add(client, business, emailAddress="o'brien@x.com")
    add(client, business, emailAddress="O'brien@x.com")
    assert ids(client, business, **{"$filter": "emailAddress eq 'o''brien@x.com'"}) == [wanted["id"]]
    assert ids(client, business, filter="startswith(emailAddress,'o''')") == [wanted["id"]]


@pytest.mark.parametrize(
    "value", ["' or PartitionKey ne '", "x' or '1' eq '1", "@business", "@p0 ) or ( PartitionKey ne @p0", "''", "%27"]
)
def test_a_value_stays_inside_itself_and_the_business(client: httpx.Client, value: str) -> None:
    mine, other = str(uuid4()), str(uuid4())
    add(client, other, displayName=value)
    add(client, mine, displayName="innocent")
    quoted = value.replace("'", "''")
    assert ids(client, mine, **{"$filter": f"displayName eq '{quoted}'"}) == []
    wanted = add(client, mine, displayName=value)
    assert ids(client, mine, **{"$filter": f"displayName eq '{quoted}'"}) == [wanted["id"]]


@pytest.mark.parametrize("business", ["' or PartitionKey ne '", "O'Brien", "@business", "x' or RowKey ne '"])
def test_a_business_id_stays_inside_itself(client: httpx.Client, business: str) -> None:
    add(client, "Somebody else")
    own = f"{business}{uuid4()}"
    assert ids(client, own) == []
    wanted = add(client, own)
    assert ids(client, own) == [wanted["id"]]


# Filters as nested tuples, rendered in OData and evaluated in Python.

_VALUES = st.text(st.sampled_from("aAb'é%@ \ue000\uffff\U0001f600"), min_size=1, max_size=3)
_IDS = st.text(st.sampled_from("aAb'é@~\ue000\U0001f600"), min_size=1, max_size=3)
_TEXTS = ("id", "displayName", "emailAddress")
_TIMES = ("createdDateTime", "lastUpdatedDateTime")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
_leaves = (
    st.tuples(st.sampled_from(list(_COMPARE)), st.sampled_from(_TEXTS), _VALUES)
    # The moment of one of the customers, by its place in the list.
    | st.tuples(st.sampled_from(list(_COMPARE)), st.sampled_from(_TIMES), st.integers(0, 4))
    | st.tuples(st.just("startswith"), st.sampled_from(_TEXTS), st.text(st.sampled_from("aA'é\U0001f600"), max_size=2))
)
_filters = st.recursive(
    _leaves,
    lambda inner: st.tuples(st.just("not"), inner) | st.tuples(st.sampled_from(["and", "or"]), inner, inner),
    max_leaves=6,
)


def _quoted(text: str) -> str:
    escaped = text.replace("'", "''")
    return f"'{escaped}'"


def render(node: Any, moments: list[str]) -> str:
    """A filter in OData's language."""
    match node:
        case ("not", inner):
            return f"not ({render(inner, moments)})"
        case (("and" | "or") as word, left, right):
            return f"({render(left, moments)}) {word} ({render(right, moments)})"
        case ("startswith", name, prefix):
            return f"startswith({name},{_quoted(prefix)})"
        case (operator, name, int() as index):
            return f"{name} {operator} {moments[index % len(moments)]}"
        case (operator, name, text):
            return f"{name} {operator} {_quoted(text)}"
    raise AssertionError(node)


def holds(node: Any, customer: dict[str, Any], moments: list[str]) -> bool:
    """Whether a filter holds for a customer; texts compare as Table Storage does, by UTF-16 units."""
    match node:
        case ("not", inner):
            return not holds(inner, customer, moments)
        case ("and", left, right):
            return holds(left, customer, moments) and holds(right, customer, moments)
        case ("or", left, right):
            return holds(left, customer, moments) or holds(right, customer, moments)
        case ("startswith", name, prefix):
            return str(customer[name]).startswith(prefix)
        case (operator, name, int() as index):
            moment = datetime.fromisoformat(moments[index % len(moments)])
            return _COMPARE[operator](datetime.fromisoformat(customer[name]), moment)
        case (operator, name, text):
            return _COMPARE[operator](customer[name].encode("utf-16-be"), text.encode("utf-16-be"))
    raise AssertionError(node)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bodies=st.lists(st.tuples(_IDS, _VALUES, _VALUES), min_size=1, max_size=5, unique_by=lambda body: body[0]),
    filters=st.lists(_filters, min_size=1, max_size=4),
    top=st.integers(1, 4),
)
def test_a_filtered_list_is_what_plain_python_makes_of_it(
    client: httpx.Client, bodies: list[tuple[str, str, str]], filters: list[Any], top: int
) -> None:
    business = str(uuid4())
    customers = [add(client, business, id=own, displayName=name, emailAddress=address) for own, name, address in bodies]
    moments = [customer["createdDateTime"] for customer in customers]
    customers.sort(key=lambda customer: str(customer["id"]).encode("utf-16-be"))
    for tree in filters:
        text = render(tree, moments)
        expected = [customer["id"] for customer in customers if holds(tree, customer, moments)]
        assert ids(client, business, **{"$filter": text, "$top": str(top)}) == expected, text
        assert client.get(f"{BETA.format(business)}/$count", params={"$filter": text}).text == str(len(expected))


def test_10000_customers_are_each_listed_once_while_others_come_and_go(
    client: httpx.Client, table: TableClient, service: Service
) -> None:
    business = str(uuid4())
    collection = BETA.format(business)
    lasting = {f"{n:05}" for n in range(10_000)}
    passing = [f"{n:05}x" for n in range(0, 10_000, 100)]
    leaving, coming = passing[::2], passing[1::2]
    add(client, business, id="template")
    template = table.get_entity(business, "template")
    client.delete(f"{collection}/template")
    stored = sorted([*lasting, *leaving])
    for start in range(0, len(stored), 100):
        batch = [("create", {**template, "RowKey": own}) for own in stored[start : start + 100]]
        table.submit_transaction(batch)

    def come_and_go() -> None:
        with httpx.Client(base_url=service.base, headers=client.headers) as another:
            for gone, new in zip(leaving, coming, strict=True):
                assert another.delete(f"{collection}/{gone}").status_code == 204
                add(another, business, id=new)

    with ThreadPoolExecutor() as threads:
        changes = threads.submit(come_and_go)
        found = ids(client, business, **{"$top": "203", "$select": "id"})
        changes.result()
    assert found == sorted(set(found))
    assert lasting <= set(found) <= lasting | set(passing)
    assert client.get(f"{collection}/$count").text == "10050"
    again = ids(client, business, **{"$top": "999"})
    assert again == sorted([*lasting, *coming])
