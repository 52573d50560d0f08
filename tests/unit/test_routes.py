"""The table of routes: what it promises to its readers, and that its paths match as the host matches them."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from customers.auth import Permission
from customers.route import Route
from customers.routes import ROUTES, match, resolve
from infra.local.routing import Route as HostRoute
from infra.local.routing import Routes

HOST = Routes(HostRoute(route.name, route.template) for route in ROUTES)

_segments = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "beta",
                "v1.0",
                "V1.0",
                "solutions",
                "bookingBusinesses",
                "BOOKINGBUSINESSES",
                "customers",
                "$count",
                "$batch",
                "$Ref",
            ]
        ),
        st.sampled_from(
            ["%24count", "%24ref", "a%2Fb", "%2f", "%ff", "a+b", "healthz", "Contoso@contoso.com", "é", ""]
        ),
        st.text("abc%é +", max_size=4).map(quote),
    ),
    max_size=7,
)


@given(_segments)
def test_a_path_matches_the_route_that_the_host_finds(segments: list[str]) -> None:
    path = "/" + "/".join(segments)
    route, values = match(path)
    found = HOST.find("GET", path)
    assert found is not None
    assert found == (route.name, values)


@pytest.mark.parametrize("route", [route for route in ROUTES if route.surface], ids=lambda route: route.name)
def test_the_url_of_each_route_matches_it(route: Route) -> None:
    template = route.template
    path = "/" + template.replace("{businessId}", "a%20b").replace("{customerId}", "c%2Bd")
    found, values = match(path)
    assert found is route
    assert values == {"businessId": "a b", **({"customerId": "c+d"} if "{customerId}" in template else {})}


def test_every_operation_on_customers_needs_a_permission() -> None:
    for route in ROUTES:
        for operation in route.operations.values():
            assert (operation.permission is None) == (route.name in ("docs", "docs_file", "healthz", "openapi"))
            assert (operation.permission is Permission.BATCH) == route.template.endswith("/$batch")
            assert not (operation.permission and operation.permission.value) or route.surface is not None


def test_the_routes_are_in_the_order_in_which_the_host_tries_them() -> None:
    names = [route.name for route in ROUTES]
    assert names == sorted(names, key=str.lower)
    assert len(set(names)) == len(names)


_CAST = "microsoft.graph.bookingCustomer"


@pytest.mark.parametrize("entity_set", ["beta/bookingBusinesses", "v1.0/solutions/bookingBusinesses"])
@pytest.mark.parametrize(
    ("spelling", "plain"),
    [
        ("('b')/customers", "/b/customers"),
        ("(id='b')/customers", "/b/customers"),
        ("('o''b%20''')/CUSTOMERS('''')", "/o'b%20'/customers/'"),
        ("('b')/customers/c", "/b/customers/c"),
        ("/b/customers('c')", "/b/customers/c"),
        ("/b/customers('%C3%A9(''x'')')", "/b/customers/%C3%A9('x')"),
        ("('b')/customers/$count", "/b/customers/$count"),
        ("('b')/customers/%24ref", "/b/customers/$ref"),
        (f"/b/customers/{_CAST}", "/b/customers"),
        (f"/b/customers/{_CAST}/$count", "/b/customers/$count"),
        ("/b/customers/graph.BookingCustomer/c", "/b/customers/c"),
        (f"('b')/customers/{_CAST}('c')", "/b/customers/c"),
        (f"/b/customers/c/{_CAST}", "/b/customers/c"),
        (f"('b')/customers('c')/{_CAST}/", "/b/customers/c"),
        ("('customers')/customers('c')", "/customers/customers/c"),
    ],
)
def test_odatas_other_spellings_mean_the_same_route(entity_set: str, spelling: str, plain: str) -> None:
    assert resolve(*match(f"/{entity_set}{spelling}")) == match(f"/{entity_set}{plain}")


@pytest.mark.parametrize(
    "path",
    [
        "/beta/bookingBusinesses(b)/customers",
        '/beta/bookingBusinesses("b")/customers',
        "/beta/bookingBusinesses('b'b')/customers",
        "/beta/bookingBusinesses('b')('b')/customers",
        "/beta/bookingBusinesses('')/customers",
        "/beta('b')/bookingBusinesses/b/customers",
        f"/beta/{_CAST}/bookingBusinesses/b/customers",
        f"/beta/bookingBusinesses/b/customers/$count/{_CAST}",
        "/beta/bookingBusinesses/b/customers/c/microsoft.graph.bookingPerson",
        "/beta//bookingBusinesses('b')/customers",
        "/",
    ],
)
def test_other_paths_stay_unknown(path: str) -> None:
    route, _ = resolve(*match(path))
    assert not route.operations


@given(_segments)
def test_a_path_that_the_host_finds_means_itself(segments: list[str]) -> None:
    found = match("/" + "/".join(segments))
    if found[0].operations:
        assert resolve(*found) == found
