"""The table of routes: what it promises to its readers, and that its paths match as the host matches them."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from customers.routes import ROUTES, Route, match
from infra.local.routing import Route as HostRoute
from infra.local.routing import Routes, split_path

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
    if split_path(path) is None:  # two slashes in a row, which only a catch-all takes
        assert route.name == "zz_not_found"
    else:
        assert found is not None
        name, host_values = found
        assert route.name == name
        assert name == "zz_not_found" or values == host_values


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
            assert (operation.permission is None) == (route.surface is None)


def test_the_routes_are_in_the_order_in_which_the_host_tries_them() -> None:
    names = [route.name for route in ROUTES]
    assert names == sorted(names, key=str.lower)
    assert len(set(names)) == len(names)
