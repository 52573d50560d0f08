"""Columns: which property each gives, by its own name, by --map, or by the layout of another program."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from customers.cli.columns import Columns, cells, in_order, read_target
from customers.cli.command import UsageError
from tests.support.layouts import OUTLOOK, SQUARE


def row(header: list[str], **values: str) -> list[str]:
    """A row with these cells; spaces in the names are written as underscores, other characters left out."""

    def plain(name: str) -> str:
        return "".join(character for character in name.replace(" ", "_") if character.isalnum() or character == "_")

    assert set(values) <= {plain(name) for name in header}
    return [values.get(plain(name), "") for name in header]


def test_a_column_is_named_by_what_it_gives_without_regard_to_case() -> None:
    columns = Columns(
        ["ID", "displayname", " EmailAddress ", "phone", "phones[1].Type", "phones[1].number", "addresses[home].city"]
    )
    assert columns.customer(["7", "Ada", "a@x", "1", "mobile", "2", "London"]) == {
        "id": "7",
        "displayName": "Ada",
        "emailAddress": "a@x",
        "phones": [{"number": "1"}, {"type": "mobile", "number": "2"}],
        "addresses": [{"type": "home", "city": "London"}],
    }
    assert columns.customer(["", "Ada", "a@x", "", "", "2", ""]) == {
        "displayName": "Ada",
        "emailAddress": "a@x",
        "phones": [{"number": "2"}],
    }


def test_what_the_service_sets_and_annotations_are_left_out() -> None:
    columns = Columns(["@odata.etag", "displayName", "emailAddress", "createdDateTime", ""])
    assert columns.customer(["e", "Ada", "a@x", "2026", "x"]) == {"displayName": "Ada", "emailAddress": "a@x"}


def test_an_export_of_outlook() -> None:
    columns = Columns(OUTLOOK)
    assert columns.layout == "Outlook"
    assert "Birthday" in columns.left_out
    person = row(
        OUTLOOK,
        Title="Ms",
        First_Name="Ada",
        Middle_Name="B.",
        Last_Name="Lovelace",
        Business_Street="1 Main Street",
        Business_Street_2="Floor 2",
        Business_CountryRegion="United Kingdom",
        Home_City="London",
        Mobile_Phone="+44 1",
        Business_Phone="2",
        Business_Phone_2="3",
        Home_Fax="4",
        Email_Address="ada@x.com",
        Email_2_Address="other@x.com",
        Company="Analytical",
        Notes="first\nsecond",
    )
    assert columns.customer(person) == {
        "displayName": "Ada B. Lovelace",
        "emailAddress": "ada@x.com",
        "addresses": [
            {"type": "business", "street": "1 Main Street, Floor 2", "countryOrRegion": "United Kingdom"},
            {"type": "home", "city": "London"},
        ],
        "phones": [
            {"type": "business", "number": "2"},
            {"type": "business", "number": "3"},
            {"type": "homeFax", "number": "4"},
            {"type": "mobile", "number": "+44 1"},
        ],
    }
    company = columns.customer(row(OUTLOOK, Company="Analytical", Email_2_Address="second@x.com"))
    assert company == {"displayName": "Analytical", "emailAddress": "second@x.com"}


def test_an_export_of_square() -> None:
    columns = Columns(SQUARE)
    assert columns.layout == "Square"
    assert columns.left_out[:2] == ["Reference ID", "Birthday"]
    person = row(
        SQUARE,
        First_Name="Ada",
        Last_Name="Lovelace",
        Email_Address="ada@x.com",
        Phone_Number="'+1 415 555 0100",
        Street_Address_1="1 Main Street",
        Street_Address_2="Apt 2",
        City="Oakland",
        State="CA",
        Postal_Code="94601",
        Square_Customer_ID="QYT0",
    )
    assert columns.customer(person) == {
        "id": "QYT0",
        "displayName": "Ada Lovelace",
        "emailAddress": "ada@x.com",
        "phones": [{"number": "+1 415 555 0100"}],
        "addresses": [{"street": "1 Main Street, Apt 2", "city": "Oakland", "state": "CA", "postalCode": "94601"}],
    }
    assert columns.customer(row(SQUARE, Nickname="Ada", Email_Address="a@x"))["displayName"] == "Ada"
    elsewhere = ["Surname" if name == "Last Name" else name for name in SQUARE]
    named = row(elsewhere, First_Name="Ada", Surname="Lovelace", Email_Address="a@x")
    assert Columns(elsewhere).customer(named)["displayName"] == "Ada Lovelace"


def test_columns_are_mapped_joined_and_left_out() -> None:
    columns = Columns(
        ["Vorname", "Nachname", "Firma", "Mail", "Tel", "Notiz", "Alter"],
        {
            "vorname": "displayName",
            "Nachname": "displayName",
            "Firma": "displayName?",
            "Mail": "emailaddress",
            "Tel": "phones[mobile].number",
            "Notiz": "",
            "*": "",
        },
    )
    both = columns.customer(["Ada", "Lovelace", "X", "a@x", "1", "n", "3"])
    assert both["displayName"] == "Ada Lovelace"
    assert both["phones"] == [{"type": "mobile", "number": "1"}]
    assert columns.customer(["", "", "X", "a@x", "", "", ""])["displayName"] == "X"
    assert columns.source_of(["Ada", "", "", "a@x", "1", "", ""], "phones/0/number") == "Tel"
    assert columns.source_of(["", "", "", "", "", "", ""], "displayName") == "Vorname and Nachname"


@pytest.mark.parametrize(
    ("header", "mapping", "says"),
    [
        (["displayName", "emailAddress", "Alter", "Notiz"], {}, ["'Alter'", "'Notiz'", "--map 'Alter='"]),
        (["displayName"], {}, ["No column gives emailAddress"]),
        (["emailAddress"], {}, ["No column gives displayName"]),
        (["displayName", "emailAddress", "phone", "phones[0].number"], {}, ["'phone', 'phones[0].number' all give"]),
        (["displayName", "emailAddress"], {"Nme": "displayName"}, ["no column 'nme'"]),
        (["displayName", "Mail"], {"Mail": "email"}, ["--map 'Mail=email'", "addresses[0].street", "phone"]),
        (["displayName", "Mail"], {"Mail": "phones[landline].number"}, ["phones[landline].number"]),
    ],
)
def test_an_error_says_what_to_change(header: list[str], mapping: dict[str, str], says: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        Columns(header, mapping)
    for words in says:
        assert words in str(error.value)


def test_an_apostrophe_before_a_formula_is_the_spreadsheets() -> None:
    columns = Columns(["displayName", "emailAddress"])
    assert columns.customer(["'=1+1", "'a@x"]) == {"displayName": "=1+1", "emailAddress": "'a@x"}
    assert cells({"displayName": "=1+1"}) == {"displayName": "'=1+1"}
    assert cells({"displayName": "'=1+1"}) == {"displayName": "''=1+1"}
    wide = {"displayName": "\uff1d1+1"}
    assert cells(wide) == {"displayName": "'\uff1d1+1"}
    assert columns.customer(["'\uff1d1+1", ""]) == wide


texts = st.text(max_size=5) | st.sampled_from(["=1", "'=1", "''-", "+49", "@", "'"])
filled = st.text(min_size=1, max_size=5) | st.sampled_from(["=1", "'=1", "''-", "+49", "@", "'"])
items = st.lists(st.dictionaries(st.sampled_from(["number", "language"]), filled, min_size=1), max_size=3)
exported = st.fixed_dictionaries({"displayName": filled, "emailAddress": filled}, optional={"id": filled})


@given(exported, items)
def test_the_columns_of_an_export_give_the_same_customer(
    customer: dict[str, Any], phones: list[dict[str, str]]
) -> None:
    whole = customer | ({"phones": phones} if phones else {})
    flat = cells(whole)
    header = in_order(flat)
    assert Columns(header).customer([flat[name] for name in header]) == whole


@given(st.text(max_size=20))
def test_any_text_is_a_target_or_is_not(text: str) -> None:
    target = read_target(text)
    assert target is None or read_target(str(target)) == target._replace(otherwise=False)
