"""``$filter`` in Table Storage's language: what is translated, and what is refused and how."""

import sys
from contextlib import suppress
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from customers.email_index import Address
from customers.errors import BadRequest
from customers.filter import MAX_COMPARISONS, MAX_DEPTH, MAX_LENGTH, translate


@pytest.mark.parametrize(
    ("text", "translated", "values"),
    [
        ("displayName eq 'O''Brien'", "( displayName eq @p0 )", ["O'Brien"]),
        (
            "emailAddress gt 'a' or emailAddress eq 'b'",
            "( ( emailAddress gt @p0 ) or ( emailAddress eq @p1 ) )",
            ["a", "b"],
        ),
        ("not (emailAddress eq 'a')", "( not ( emailAddress eq @p0 ) )", ["a"]),
        ("id ne 'a'", "( RowKey ne @p0 )", ["a"]),
        ("'a' lt displayName", "( displayName gt @p0 )", ["a"]),
        ("startswith(displayName,'ab')", "( displayName ge @p0 and displayName lt @p1 )", ["ab", "ac"]),
        ("startswith(displayName, '')", "( displayName ge @p0 )", [""]),
        (
            "not (id eq 'a') and id eq 'b' or id eq 'c'",
            "( ( ( not ( RowKey eq @p0 ) ) and ( RowKey eq @p1 ) ) or ( RowKey eq @p2 ) )",
            ["a", "b", "c"],
        ),
        ("NOT(startswith(id, 'a'))", "( not ( RowKey ge @p0 and RowKey lt @p1 ) )", ["a", "b"]),
        ("displayName eq 'not(x'", "( displayName eq @p0 )", ["not(x"]),
        ("((id eq 'a'))", "( RowKey eq @p0 )", ["a"]),
        ("id EQ'a'", "( RowKey eq @p0 )", ["a"]),
        ("microsoft.graph.bookingCustomer/id eq 'a'", "( RowKey eq @p0 )", ["a"]),
        ("startswith(graph.BookingCustomer/id,'a')", "( RowKey ge @p0 and RowKey lt @p1 )", ["a", "b"]),
        (
            "id eq 'a' or id eq 'b' or id eq 'c' and id ne 'd'",
            "( ( RowKey eq @p0 ) or ( RowKey eq @p1 ) or ( ( RowKey eq @p2 ) and ( RowKey ne @p3 ) ) )",
            ["a", "b", "c", "d"],
        ),
        (
            "createdDateTime ge 2026-11-23T12:00:00.5+02:00",
            "( createdDateTime ge @p0 )",
            [datetime(2026, 11, 23, 10, 0, 0, 500_000, tzinfo=UTC)],
        ),
        (
            "lastUpdatedDateTime lt 2026-11-23T12:00:00.1234560Z",
            "( lastUpdatedDateTime lt @p0 )",
            [datetime(2026, 11, 23, 12, 0, 0, 123_456, tzinfo=UTC)],
        ),
        ("createdDateTime gt 1000-01-01T00:00:00Z", "( createdDateTime gt @p0 )", [datetime(1601, 1, 1, tzinfo=UTC)]),
    ],
)
def test_a_filter_is_translated_with_its_values_apart(text: str, translated: str, values: list[object]) -> None:
    addresses, found = translate(text)
    assert found
    assert (addresses, found.text, list(found.parameters.values())) == ((), translated, values)


@pytest.mark.parametrize(
    ("text", "addresses", "translated"),
    [
        ("emailAddress eq 'o''brien@x.com'", [Address("o'brien@x.com", exact=True)], None),
        ("('a' eq microsoft.graph.bookingCustomer/emailAddress)", [Address("a", exact=True)], None),
        ("toLower(emailAddress) eq 'A'", [Address("A", exact=False)], None),
        ("'A' eq tolower( microsoft.graph.bookingCustomer/emailAddress )", [Address("A", exact=False)], None),
        ("emailAddress eq 'a' and id gt 'b'", [Address("a", exact=True)], "( RowKey gt @p0 )"),
        (
            "id gt 'b' and (tolower(emailAddress) eq 'a' and (id lt 'c' or id eq 'd'))",
            [Address("a", exact=False)],
            "( ( RowKey gt @p0 ) and ( ( RowKey lt @p1 ) or ( RowKey eq @p2 ) ) )",
        ),
        (
            "emailAddress eq 'a' and tolower(emailAddress) eq 'b'",
            [Address("a", exact=True), Address("b", exact=False)],
            None,
        ),
    ],
)
def test_a_condition_on_the_address_is_left_to_the_index(
    text: str, addresses: list[Address], translated: str | None
) -> None:
    found = translate(text)
    assert (list(found.addresses), found.where and found.where.text) == (addresses, translated)


@given(st.text(max_size=100))
def test_a_value_is_always_a_parameter(value: str) -> None:
    quoted = value.replace("'", "''")
    _, found = translate(f"displayName eq '{quoted}'")
    assert found
    assert (found.text, found.parameters) == ("( displayName eq @p0 )", {"p0": value})


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-be", "surrogatepass")


_character = st.sampled_from("a\ud7ff\ue000\ufffe\uffff\U00010000\U0010ffff~")
_text = st.text(_character, max_size=5)


@given(_text, _text)
def test_the_range_of_a_prefix_contains_exactly_the_strings_with_it(prefix: str, text: str) -> None:
    quoted = prefix.replace("'", "''")
    _, found = translate(f"startswith(id,'{quoted}')")
    assert found
    values = [str(value) for value in found.parameters.values()]
    inside = _utf16(values[0]) <= _utf16(text) and (len(values) == 1 or _utf16(text) < _utf16(values[1]))
    assert inside == text.startswith(prefix)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "ends too soon"),
        ("displayName", "A property without a comparison is not supported"),
        ("true", "A literal without a comparison is not supported"),
        ("displayName eq", "ends too soon"),
        ("displayName eq 'a", "from character 16 on"),
        ("displayName eq 'a' id eq 'b'", "from character 20"),
        ("displayName eq 'a') or (id eq 'b'", "from character 19"),
        ("' or PartitionKey ne '", "A literal without a comparison is not supported"),
        ("'a' eq 'b'", "A comparison of two literals is not supported"),
        ("displayName = 'a'", "from character 13"),
        ("PartitionKey eq 'a'", "no property PartitionKey"),
        ("addresses eq 'a'", "no property addresses"),
        ("a.displayName eq 'a'", "no property a.displayName"),
        ("phones/number eq 'a'", "The path phones/number is not supported"),
        ("$it/id eq 'a'", r"The path \$it/id is not supported"),
        ("phones/any(p:p/number eq '1')", "The function phones/any is not supported"),
        ("phones/all(p: p/number eq '1')", "The function phones/all is not supported"),
        ("displayName eq null", "string in single quotes"),
        ("displayName eq 5", "string in single quotes"),
        ("displayName eq emailAddress", "string in single quotes"),
        ("id eq 3f2504e0-4f89-11d3-9a0c-0305e82c3301", "string in single quotes"),
        ("emailAddress in ('x')", "The operator in is not supported"),
        ("emailAddress IN ('x','y')", "The operator IN is not supported"),
        ("emailAddress in ['x']", "The operator in is not supported"),
        ("emailAddress in @p", "The operator in is not supported"),
        ("emailAddress eq ['x']", r"The literal \['x'\] is not supported"),
        ('emailAddress eq {"a":1}', 'The literal {"a":1} is not supported'),
        ("createdDateTime gt duration'P1D'", "The literal duration'P1D' is not supported"),
        ("createdDateTime gt now() sub duration'P1D'", "The operator sub is not supported"),
        ("case(id eq 'a':true,true:false)", "The function case is not supported"),
        ("Namespace.Function(a='x')", "The function Namespace.Function is not supported"),
        ("null eq displayName", "displayName must be compared with a string"),
        ("microsoft.graph.bookingPerson/id eq 'a'", "The path microsoft.graph.bookingPerson/id is not supported"),
        *(
            (text, "alone or joined to the rest by and")
            for text in (
                "tolower(emailAddress) eq 'a' or id eq 'b'",
                "not (tolower(emailAddress) eq 'a')",
                "tolower(emailAddress) ne 'a'",
                "tolower(displayName) eq 'a'",
                "tolower(emailAddress) eq displayName",
                "tolower('a') eq 'a'",
                "tolower(emailAddress)",
            )
        ),
        (" and ".join(["emailAddress eq 'a'"] * (MAX_COMPARISONS + 1)), "comparisons"),
        ("emailAddress has 'x'", "The operator has is not supported"),
        ("displayName add 'x' eq 'y'", "The operator add is not supported"),
        ("createdDateTime sub 5 eq 'y'", "The operator sub is not supported"),
        ("-1 eq displayName", "The operator - is not supported"),
        ("emailAddress eq @p", "The parameter alias @p is not supported"),
        ("@p", "The parameter alias @p is not supported"),
        ("createdDateTime eq '2026-11-23T12:00:00Z'", "timestamp"),
        ("createdDateTime eq 2026-11-23", "timestamp"),
        ("createdDateTime eq 2026-11-23T12:00:00", "offset"),
        ("createdDateTime eq 2026-02-30T12:00:00Z", "timestamp"),
        ("createdDateTime eq 2026-11-23T12:00:00.1234567Z", "six decimals"),
        ("createdDateTime eq 9999-12-31T23:59:59-10:00", "timestamp"),
        ("contains(displayName,'a')", "The function contains is not supported"),
        ("endswith(displayName,'a') eq true", "The function endswith is not supported"),
        ("length(displayName) gt 5", "The function length is not supported"),
        ("nonsense(displayName,'a')", "The function nonsense is not supported"),
        ("now() eq createdDateTime", "The function now is not supported"),
        ("startswith(displayName)", "a property and a string"),
        ("startswith('a',displayName)", "a property and a string"),
        ("startswith(createdDateTime,'a')", "one of id, displayName"),
        ("startswith(nonsense,'a')", "no property"),
        ("startswith(displayName,'a') eq true", "The function startswith is not supported"),
        ("(id eq 'a') eq 'b'", "A comparison of conditions is not supported"),
        ("not displayName eq 'a'", "not without parentheses is not supported"),
        ("x" * (MAX_LENGTH + 1), "characters"),
        (" or ".join(["id eq 'a'"] * (MAX_COMPARISONS + 1)), "comparisons"),
        ("not (" * MAX_DEPTH + "id eq 'a'" + ")" * MAX_DEPTH, "levels"),
        ("(" * MAX_DEPTH + "id eq 'a'" + ")" * MAX_DEPTH, "levels"),
        ("not " * 400 + "(id eq 'a')", "levels"),
    ],
)
def test_anything_else_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(BadRequest, match=f"(?i){says}") as caught:
        translate(text)
    assert caught.value.details[0].target == "$filter"


def test_the_limits_hold_at_the_limit() -> None:
    translate(" or ".join(["id eq 'a'"] * MAX_COMPARISONS))
    translate("(" * (MAX_DEPTH - 1) + "id eq 'a'" + ")" * (MAX_DEPTH - 1))
    translate(f"id eq '{'x' * (MAX_LENGTH - 8)}'")


def _steps(text: str) -> int:
    """How many lines and calls of Python a translation takes: a cost that does not depend on the machine."""
    steps = 0

    def count(_frame: FrameType, _event: str, _argument: object) -> Any:
        nonlocal steps
        steps += 1
        return count

    translate("id eq 'a'")  # which makes the parser
    before = sys.gettrace()
    sys.settrace(count)
    try:
        with suppress(BadRequest):
            translate(text)
    finally:
        sys.settrace(before)
    return steps


_hostile = st.lists(
    st.sampled_from(
        ["a/", "a:", "(", ")", "not ", "a(", "id eq 'a' or ", "id eq 'a' and ", "'", "''", "-", "1", ",", "@"]
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=50, deadline=None)
@given(_hostile)
def test_the_cost_of_a_filter_is_bounded(parts: list[str]) -> None:
    unit = "".join(parts)
    assert _steps((unit * MAX_LENGTH)[:MAX_LENGTH]) < 125 * MAX_LENGTH


@given(st.text("()',.:/-@ \t\nabnot eqradliyDTZ0129'", max_size=60))
def test_no_input_raises_any_other_error(text: str) -> None:
    with suppress(BadRequest):
        translate(text)
