"""Reading batches: whatever is sent is a batch or a clear error, and each body is passed on as it was sent."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from customers.batch import MAX_REQUESTS, Member, parse
from customers.errors import BadRequest

URL = "/solutions/bookingBusinesses/b/customers"

_texts = st.one_of(
    st.sampled_from(
        ["1", "2", "A", "a", URL, f"{URL}?$top=1", "GET", "POST", "", "/$batch", "https://x", "%", "é", "\x00"]
    ),
    st.text(max_size=5),
)
_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_texts, inner, max_size=3)),
    max_leaves=8,
)
_names = st.sampled_from(["id", "method", "url", "headers", "body", "dependsOn", "depends_on", "x", "@x"])
_like_requests = st.fixed_dictionaries(
    {"id": st.sampled_from("12aA"), "method": st.just("GET"), "url": st.just(URL)},
    optional={"dependsOn": st.lists(st.sampled_from("12aA3"), max_size=2)},
)
_requests = st.one_of(
    _like_requests, st.builds(lambda a, b: {**a, **b}, _like_requests, st.dictionaries(_names, _values))
)
_batches = st.one_of(
    _values,
    st.fixed_dictionaries({"requests": st.lists(_requests, max_size=4)}),
    st.fixed_dictionaries({"requests": _values}, optional={"x": _values}),
)


def read(body: bytes) -> list[list[Member]]:
    """Read a batch."""
    return parse(body, version="v1.0", authorization="Bearer token")


@given(_batches)
def test_any_json_is_a_batch_or_a_clear_error(value: Any) -> None:
    text = json.dumps(value)
    try:
        groups = read(text.encode("utf-8", "surrogatepass"))
    except BadRequest as error:
        assert 0 < len(error.message) < 10_000  # noqa: PT017 - not raised for each value
        return
    members = [member for group in groups for member in group]
    assert 1 <= len(members) <= MAX_REQUESTS
    assert sorted(member.id for member in members) == sorted(request["id"] for request in value["requests"])
    done: set[str] = set()
    for group in groups:
        for member in group:
            assert done.issuperset(member.depends_on)
        done.update(member.id.lower() for member in group)


@given(st.binary(max_size=40), st.integers(0, 200))
def test_any_bytes_are_a_batch_or_a_clear_error(noise: bytes, at: int) -> None:
    good = json.dumps({"requests": [{"id": "1", "method": "GET", "url": URL, "body": {"a": [1, "x"]}}]}).encode()
    for body in (noise, good[:at] + noise + good[at:], good[:at]):
        try:
            read(body)
        except BadRequest as error:
            assert error.message  # noqa: PT017


@pytest.mark.parametrize(
    "body",
    [
        '{ "displayName" : "Ada",\n"displayName":"Eve" }',
        '{"number": 1.0e2, "long": ' + "9" * 5000 + "}",
        "[1,  2]",
        "NaN",
        "{}",
        "0",
        "false",
        '{"a": "\\u00e9é\\ud83d\\ude00\\\\"}',
    ],
)
def test_a_body_is_passed_on_as_it_was_sent(body: str) -> None:
    text = f' {{ "requests" : [ {{"id":"1","method":"POST" , "url":"{URL}", "body" :\t{body} }} ]\n}} '
    assert [member.body.decode() for group in read(text.encode()) for member in group] == [body]


def test_a_body_that_is_null_is_none() -> None:
    ((member,),) = read(f'{{"requests": [{{"id": "1", "method": "get", "url": "{URL}", "body": null}}]}}'.encode())
    assert (member.method, member.body, member.problem) == ("GET", b"", None)


@pytest.mark.parametrize("name", ["id", "url", "x"])
def test_a_lone_surrogate_is_an_error(name: str) -> None:
    request = {"id": "1", "method": "GET", "url": URL} | {name: "\ud800"}
    for sent in (request, {**request, "\ud800": 1}, {**request, "headers": {"a": "\ud800"}}):
        with pytest.raises(BadRequest):
            read(json.dumps({"requests": [sent]}).encode())


def test_an_error_says_how_many_properties_are_unknown() -> None:
    with pytest.raises(BadRequest, match="and 50 more") as error:
        read(json.dumps({f"x{number}": 1 for number in range(60)}).encode())
    assert len(error.value.details) == 50
