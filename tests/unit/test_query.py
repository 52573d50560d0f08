"""The query options of reads, and the tokens of pages."""

from base64 import urlsafe_b64encode
from collections.abc import Mapping
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from customers.errors import BadRequest
from customers.lists import Condition, Continuation
from customers.query import Option, Query, _digest

PLACE = Continuation("1!8!Yg--", "1!8!eQ==")


def read(business_id: str, options: Mapping[str, str]) -> Query:
    """Parse options that are all supported."""
    return Query.parse(urlencode(options, errors="surrogatepass"), Option, business_id)


def test_the_defaults() -> None:
    query = read("b", {})
    assert (query.top, query.counted, query.select, query.condition, query.continuation) == (
        100,
        False,
        (),
        Condition(),
        None,
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("top", value) for value in ("0", "1000", "-1", "", "x", "1.5", "٣", "1_0", "9" * 5000)),
        *(("count", value) for value in ("", "yes", "1")),
        *(("orderby", value) for value in ("", "displayName", "id desc", "id asc, displayName", "ID")),
        *(
            ("select", value)
            for value in (
                "",
                "nonsense",
                "id,",
                "id displayName",
                "@odata.etag",
                "*",
                "microsoft.graph.bookingPerson/id",
            )
        ),
        *(("skiptoken", value) for value in ("", "x", "é", "=", "AAAA", "A" * 5000, "AAAAAAAAAAAAAAAAW10")),
    ],
)
def test_a_bad_value_is_refused_by_name(option: str, value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read("b", {option: value})
    assert [detail.target for detail in caught.value.details] == [f"${option}"]


def test_one_error_names_every_bad_option() -> None:
    bad = {
        "top": "0",
        "filter": "nonsense",
        "count": "x",
        "$select": "x",
        "orderby": "x",
        "skiptoken": "x",
        "$skip": "1",
    }
    with pytest.raises(BadRequest) as caught:
        read("b", bad)
    targets = ["$skip", "$top", "$filter", "$count", "$select", "$orderby", "$skiptoken"]
    assert sorted(detail.target for detail in caught.value.details) == sorted(targets)


def test_an_option_of_another_operation_is_not_supported() -> None:
    with pytest.raises(BadRequest, match=r"\$top: is not supported here"):
        Query.parse("$top=1", (Option.FILTER,), "b")


@pytest.mark.parametrize("orderby", ["id", "id asc", " id  asc "])
def test_the_order_of_every_list_may_be_asked_for(orderby: str) -> None:
    read("b", {"orderby": orderby})


@pytest.mark.parametrize("indexed", [True, False])
def test_a_token_says_whether_the_list_is_one_of_index_rows(*, indexed: bool) -> None:
    place = PLACE._replace(indexed=indexed)
    assert read("b", {"skiptoken": read("b", {}).next_page(place)["$skiptoken"]}).continuation == place


def test_a_token_leads_on_for_its_business_and_query_only() -> None:
    options = {"filter": "id gt 'a'", "top": "5", "select": "id", "count": "true"}
    following = read("b", options).next_page(PLACE)
    token = following.pop("$skiptoken")
    assert following == {"$filter": "id gt 'a'", "$top": "5", "$select": "id"}
    assert quote(token, safe="") == token
    bare = {name: value for name, value in options.items() if name != "count"}
    assert read("b", {**bare, "skiptoken": token}).continuation == PLACE
    assert read("b", {**bare, "top": "6", "skiptoken": token}).continuation == PLACE
    for business, changed in (
        ("c", bare),
        ("b", {**bare, "filter": "id gt 'b'"}),
        ("b", {**bare, "select": "id,phones"}),
        ("b", {}),
    ):
        with pytest.raises(BadRequest):
            read(business, {**changed, "skiptoken": token})


@pytest.mark.parametrize(
    "place",
    [
        *(
            "5",
            '"x"',
            "{}",
            "[]",
            '["a"]',
            '["a", 1]',
            '["a", "b", false]',
            '["a", "b", true, true]',
            '[null, "a"]',
            "[" * 3000,
            "x",
        ),
        *(['["1!8!eA--", "a"]', '["eA==", null]']),  # another partition
        *(['["Yg==", "\\ud800"]', '["é", "a"]']),  # no header can have these
    ],
)
def test_a_token_that_was_made_up_is_refused(place: str) -> None:
    raw = place.encode()
    token = urlsafe_b64encode(_digest(raw, ["b", "", "", ""]) + raw).rstrip(b"=").decode()
    with pytest.raises(BadRequest):
        read("b", {"skiptoken": token})


@given(st.data())
def test_an_altered_token_is_refused(data: st.DataObject) -> None:
    token = read("b", {}).next_page(PLACE)["$skiptoken"]
    index = data.draw(st.integers(0, len(token)))
    character = data.draw(st.sampled_from("ABCabc019-_=+/. é"))
    for altered in (
        token[:index] + character + token[index + 1 :],
        token[:index] + character + token[index:],
        token[:index],
    ):
        if altered != token:
            with pytest.raises(BadRequest):
                read("b", {"skiptoken": altered})
