"""The query options of reads, and the tokens of pages."""

from base64 import urlsafe_b64encode
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from customers.errors import BadRequest
from customers.query import Query, _digest

PLACE: dict[str, str | None] = {"PartitionKey": "1!8!eA==", "RowKey": "1!8!eQ=="}


def test_the_defaults() -> None:
    query = Query.read("b", {})
    assert (query.top, query.counted, query.select, query.filter, query.continuation) == (100, False, (), None, None)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("top", value) for value in ("0", "1000", "-1", "", "x", "1.5", "٣", "1_0", "9" * 5000)),
        *(("count", value) for value in ("", "yes", "1")),
        *(("orderby", value) for value in ("", "displayName", "id desc", "id asc, displayName", "ID")),
        *(("select", value) for value in ("", "nonsense", "id,", "id displayName", "@odata.etag", "*")),
        *(("skiptoken", value) for value in ("", "x", "é", "=", "AAAA", "A" * 5000, "AAAAAAAAAAAAAAAAW10")),
    ],
)
def test_a_bad_value_is_refused_by_name(option: str, value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        Query.read("b", {option: value})
    assert [detail.target for detail in caught.value.details] == [f"${option}"]


def test_all_bad_values_are_told_at_once() -> None:
    with pytest.raises(BadRequest) as caught:
        Query.read("b", {"top": "x", "count": "x", "select": "x", "orderby": "x", "skiptoken": "x"})
    assert len(caught.value.details) == 5


@pytest.mark.parametrize("orderby", ["id", "id asc", " id  asc "])
def test_the_order_of_every_list_may_be_asked_for(orderby: str) -> None:
    Query.read("b", {"orderby": orderby})


def test_a_token_leads_on_for_its_business_and_query_only() -> None:
    options = {"filter": "id gt 'a'", "top": "5", "select": "id", "count": "true"}
    following = Query.read("b", options).next_page(PLACE)
    token = following.pop("$skiptoken")
    assert following == {"$filter": "id gt 'a'", "$top": "5", "$select": "id"}
    assert quote(token, safe="") == token
    bare = {name: value for name, value in options.items() if name != "count"}
    assert Query.read("b", {**bare, "skiptoken": token}).continuation == PLACE
    assert Query.read("b", {**bare, "top": "6", "skiptoken": token}).continuation == PLACE
    for business, changed in (
        ("c", bare),
        ("b", {**bare, "filter": "id gt 'b'"}),
        ("b", {**bare, "select": "id,phones"}),
        ("b", {}),
    ):
        with pytest.raises(BadRequest):
            Query.read(business, {**changed, "skiptoken": token})


@pytest.mark.parametrize("place", ["5", '"x"', "{}", "[]", '["a"]', '["a", 1]', '[null, "a"]', "[" * 3000, "x"])
def test_a_token_that_was_made_up_is_refused(place: str) -> None:
    raw = place.encode()
    token = urlsafe_b64encode(_digest(raw, ["b", "", "", ""]) + raw).rstrip(b"=").decode()
    with pytest.raises(BadRequest):
        Query.read("b", {"skiptoken": token})


@given(st.data())
def test_an_altered_token_is_refused(data: st.DataObject) -> None:
    token = Query.read("b", {}).next_page(PLACE)["$skiptoken"]
    index = data.draw(st.integers(0, len(token)))
    character = data.draw(st.sampled_from("ABCabc019-_=+/. é"))
    for altered in (
        token[:index] + character + token[index + 1 :],
        token[:index] + character + token[index:],
        token[:index],
    ):
        if altered != token:
            with pytest.raises(BadRequest):
                Query.read("b", {"skiptoken": altered})
