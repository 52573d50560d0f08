"""The bodies of bookingCustomer: what is read, what is refused, and that all violations are told at once."""

import json
from typing import Any

import pytest
from pydantic_core import to_json

from customers import model
from customers.errors import BadRequest
from customers.model import CustomerUpdate, NewCustomer, Phone, PhysicalAddress

GOOD = {"displayName": "Ada", "emailAddress": "ada@example.com"}


def read(body: Any, *, email_address_check: str = "none") -> NewCustomer:
    """Read a body, given as bytes or as what they stand for."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return NewCustomer.from_json(raw, email_address_check=email_address_check)


def targets(body: Any, **options: str) -> list[str]:
    """The targets of all violations of a body."""
    with pytest.raises(BadRequest) as caught:
        read(body, **options)
    return [detail.target for detail in caught.value.details]


def test_the_documented_body_is_valid() -> None:
    customer = read(
        {
            "@odata.type": "#microsoft.graph.bookingCustomer",
            "displayName": "Display Name value",
            "emailAddress": "Email Address value",
        }
    )
    assert (customer.display_name, customer.email_address) == ("Display Name value", "Email Address value")
    assert (customer.id, customer.addresses, customer.phones) == ("", (), ())


def test_text_is_kept_exactly() -> None:
    customer = read({"displayName": "  Zoë \U0001f600 O'Brien  ", "emailAddress": " x "})
    assert (customer.display_name, customer.email_address) == ("  Zoë \U0001f600 O'Brien  ", " x ")


def test_one_error_names_every_violation() -> None:
    body = {
        "@odata.type": "#microsoft.graph.user",
        "id": "a/b",
        "displayName": "",
        "addresses": [{"type": "castle", "street": 1}, None],
        "phones": [{"nummer": "1"}],
        "age": 3,
    }
    assert sorted(targets(body)) == [
        "@odata.type",
        "addresses/0/street",
        "addresses/0/type",
        "addresses/1",
        "age",
        "displayName",
        "emailAddress",
        "id",
        "phones/0/nummer",
    ]


def test_the_message_names_the_property_and_says_what_to_do() -> None:
    with pytest.raises(BadRequest, match=r"^emailAddress: Field required$") as caught:
        read({"displayName": "a"})
    assert caught.value.details[0] == ("missing", "emailAddress", "Field required")


def test_an_unknown_property_is_named_and_to_be_left_out() -> None:
    with pytest.raises(BadRequest, match=r"^phones/0/nummer: There is no such property; leave it out$"):
        read({**GOOD, "phones": [{"nummer": "1"}]})


@pytest.mark.parametrize("name", ["id", "displayName", "emailAddress", "addresses", "phones", "@odata.type"])
@pytest.mark.parametrize("value", [1, True, {}])
def test_a_property_of_another_type_is_refused(name: str, value: object) -> None:
    assert targets({**GOOD, name: value}) == [name]


@pytest.mark.parametrize("name", ["displayName", "emailAddress"])
def test_a_null_is_refused_where_a_value_is_required(name: str) -> None:
    assert targets({**GOOD, name: None}) == [name]


def test_a_null_means_absent_or_empty_where_a_value_is_optional() -> None:
    customer = read({**GOOD, "@odata.type": None, "id": None, "addresses": None, "phones": None})
    assert customer == read({**GOOD, "addresses": [], "phones": []})
    assert customer.sent == read(GOOD).sent


def test_a_null_in_an_update_empties_a_collection_and_leaves_the_rest() -> None:
    body = b'{"@odata.type": null, "id": null, "addresses": null, "phones": null}'
    update = CustomerUpdate.from_json(body, email_address_check="none")
    assert "id" not in update.model_fields_set
    assert update.changes == {"addresses": (), "phones": ()}


@pytest.mark.parametrize("odata_type", ["#microsoft.graph.bookingCustomer", "#Microsoft.Graph.BOOKINGCUSTOMER"])
def test_the_odata_type_ignores_case(odata_type: str) -> None:
    read({**GOOD, "@odata.type": odata_type})


def test_annotations_are_passed_over_at_every_level() -> None:
    customer = read(
        {
            **GOOD,
            "@odata.etag": 1,
            "@odata.context": "x",
            "emailAddress@odata.type": "String",
            "phones": [{"@odata.type": "#microsoft.graph.phone", "number@x": [], "number": "1"}],
            "addresses": [{"@odata.type": "#microsoft.graph.physicalAddress", "type@odata.type": "#x"}],
        }
    )
    assert customer.phones == (Phone(number="1"),)
    assert customer.addresses == (PhysicalAddress(),)


def test_what_the_service_sets_is_ignored() -> None:
    read({**GOOD, "createdDateTime": "nonsense", "lastUpdatedDateTime": None})


def test_python_names_are_not_wire_names() -> None:
    assert targets({**GOOD, "display_name": "b"}) == ["display_name"]


@pytest.mark.parametrize(
    ("name", "limit"), [("displayName", model.MAX_DISPLAY_NAME), ("emailAddress", model.MAX_EMAIL_ADDRESS), ("id", 255)]
)
def test_each_length_limit_holds_at_and_one_past_it(name: str, limit: int) -> None:
    read({**GOOD, name: "é" * limit})
    assert targets({**GOOD, name: "é" * (limit + 1)}) == [name]


NESTED = [
    *(("addresses", name) for name in PhysicalAddress.model_json_schema()["properties"] if name != "type"),
    *(("phones", name) for name in Phone.model_json_schema()["properties"] if name != "type"),
]


@pytest.mark.parametrize(("array", "name"), NESTED)
def test_each_nested_length_limit_holds_at_and_one_past_it(array: str, name: str) -> None:
    read({**GOOD, array: [{name: "é" * model.MAX_TEXT}, {name: None}]})
    assert targets({**GOOD, array: [{name: "é" * (model.MAX_TEXT + 1)}]}) == [f"{array}/0/{name}"]


@pytest.mark.parametrize(("array", "limit"), [("addresses", model.MAX_ADDRESSES), ("phones", model.MAX_PHONES)])
def test_each_count_limit_holds_at_and_one_past_it(array: str, limit: int) -> None:
    read({**GOOD, array: [{}] * limit})
    assert targets({**GOOD, array: [{}] * (limit + 1)}) == [array]


@pytest.mark.parametrize("worst", ['"', "\\", "\U0001f600"])
def test_the_largest_customer_fits_the_columns_of_an_entity(worst: str) -> None:
    text = worst * model.MAX_TEXT
    names = {
        "addresses": "post_office_box street city state country_or_region postal_code",
        "phones": "number language region",
    }
    addresses = (PhysicalAddress(type="business", **_all(names["addresses"], text)),) * model.MAX_ADDRESSES
    phones = (Phone(type="businessFax", **_all(names["phones"], text)),) * model.MAX_PHONES
    for column in (to_json(addresses, by_alias=True), to_json(phones, by_alias=True)):
        assert len(column.decode().encode("utf-16-le")) <= 65_536


def _all(names: str, text: str) -> dict[str, Any]:
    aliases = [name.split("_")[0] + "".join(part.title() for part in name.split("_")[1:]) for name in names.split()]
    return dict.fromkeys(aliases, text)


@pytest.mark.parametrize("character", ["\0", "\n", "\t", "\x1f", "\x7f", "\x85", "\x9f"])
def test_control_characters_are_refused_everywhere(character: str) -> None:
    text = f"a{character}b"
    body = {
        "displayName": text,
        "emailAddress": text,
        "id": text,
        "phones": [{"number": text}],
        "addresses": [{"city": text}],
    }
    assert sorted(targets(body)) == ["addresses/0/city", "displayName", "emailAddress", "id", "phones/0/number"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"null",
        b'"text"',
        b"1",
        b"{",
        b'{"displayName": "a", "emailAddress": "b",}',
        b'{"displayName": "a", "emailAddress": "b"} x',
        b'{"displayName": "\xff", "emailAddress": "b"}',
        b'{"displayName": "\\ud800", "emailAddress": "b"}',
        b'{"displayName": "\xed\xa0\x80", "emailAddress": "b"}',
        b'{"displayName": NaN, "emailAddress": "b"}',
        b'{"displayName": "a", "emailAddress": "b", "@x": NaN}',
        b'{"displayName": "a", "emailAddress": "b", "@x": [-Infinity]}',
        b"[" * 10_000 + b"]" * 10_000,
        b'{"displayName": "a", "emailAddress": "b", "@x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b"\xef\xbb\xbf{}",
        '{"displayName": "a", "emailAddress": "b"}'.encode("utf-16"),
    ],
)
def test_what_is_not_a_json_object_is_refused(body: bytes) -> None:
    assert targets(body)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"displayName": "a", "displayName": "b", "emailAddress": "c"}', ["displayName"]),
        (b'{"displayName": "a", "\\u0064isplayName": "a", "emailAddress": "c"}', ["displayName"]),
        (b'{"displayName": "a", "emailAddress": "c", "phones": [{"number": "1", "number": "2"}]}', ["number"]),
        (b'{"displayName": "a", "emailAddress": "c", "@x": {"y": 1, "y": 1}}', ["y"]),
        (b'{"displayName": "a", "displayName": "b"}', ["emailAddress", "displayName"]),
    ],
)
def test_duplicate_names_are_refused(body: bytes, names: list[str]) -> None:
    assert targets(body) == names


def test_long_numbers_in_annotations_do_no_harm() -> None:
    read(b'{"displayName": "a", "emailAddress": "b", "@x": ' + b"9" * 4_300 + b', "@y": 1e999}')
    assert targets(b'{"displayName": "a", "emailAddress": "b", "@x": ' + b"9" * 100_000 + b"}") == [""]


def test_a_body_full_of_mistakes_does_not_get_a_larger_response() -> None:
    with pytest.raises(BadRequest) as caught:
        read({f"{'x' * 1000}{n}": 1 for n in range(190)})
    assert len(caught.value.details) == 50
    assert caught.value.message.endswith("and 182 more")
    assert len(caught.value.message) < 3000


@pytest.mark.parametrize(
    "body",
    [
        {f"x{n}": 1 for n in range(50_000)},
        {**GOOD, **{f"@{n}": 1 for n in range(50_000)}},
        {**GOOD, "phones": [0] * 500_000},
        {**GOOD, "phones": [{"a": 1}] * 100_000},
        {**GOOD, "addresses": [{f"x{n}": 1 for n in range(50_000)}]},
    ],
    ids=["names", "annotations", "numbers", "objects", "nested names"],
)
def test_what_is_too_many_is_refused_before_it_is_looked_at(body: dict[str, Any]) -> None:
    assert len(targets(body)) == 1


@pytest.mark.parametrize("address", ["Email Address value", "a@", "@b.com", "a@b..com"])
def test_an_address_is_an_opaque_string_unless_the_settings_ask_for_more(address: str) -> None:
    read({**GOOD, "emailAddress": address})
    assert targets({**GOOD, "emailAddress": address}, email_address_check="smtp") == ["emailAddress"]


@pytest.mark.parametrize("address", ["ada@example.com", "Ada.O'Brien+x@EXAMPLE.com", "zoë@exämple.com"])
def test_a_checked_address_is_kept_as_given(address: str) -> None:
    assert read({**GOOD, "emailAddress": address}, email_address_check="smtp").email_address == address


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "displayName: String should have at least 1 character"),
        ("x" * 257, "displayName: String should have at most 256 characters"),
    ],
)
def test_a_string_of_the_wrong_length_is_told_in_characters(text: str, says: str) -> None:
    body = json.dumps({"displayName": text, "emailAddress": "a"}).encode()
    with pytest.raises(BadRequest) as refused:
        NewCustomer.from_json(body, email_address_check="none")
    assert refused.value.message == says
