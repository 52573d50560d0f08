"""Ids: what they may hold, and how new ones sort."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from customers.keys import IdGenerator, check_key


@pytest.mark.parametrize(
    "key",
    [
        "a",
        "é" * 255,
        "\U0001f600" * 255,
        "Contoso@contoso.onmicrosoft.com",
        "a b",
        "AAMk=+&;'\"",
        "$refs",
        "...",
        "graph.smith",
    ],
)
def test_a_key_of_allowed_characters_and_length_is_accepted(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key",
    [
        "",
        "a" * 256,
        *(f"a{c}b" for c in "/\\#?%\0\n\x1f\x7f\x9f\ud800"),
        " a",
        "a ",
        " ",
        "$ref",
        "$COUNT",
        ".",
        "..",
        "Microsoft.Graph.x",
        "graph.bookingCustomer",
    ],
)
def test_any_other_key_is_refused(key: str) -> None:
    with pytest.raises(PydanticCustomError):
        check_key(key)


@given(st.text(min_size=1, max_size=255))
def test_a_key_that_is_accepted_holds_nothing_that_table_storage_refuses(key: str) -> None:
    try:
        check_key(key)
    except PydanticCustomError:
        return
    assert not set(key) & set("/\\#?%")
    assert all(ord(c) >= 32 and not 127 <= ord(c) < 160 for c in key)
    assert len(key.encode("utf-16-le")) <= 1024


def test_new_ids_are_version_7_uuids_that_sort_as_they_were_made() -> None:
    generator = IdGenerator()
    ids = [generator.next().id for _ in range(10_000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    for text in ids[:100]:
        uuid = UUID(text)
        assert (str(uuid), uuid.version, uuid.variant) == (text, 7, "specified in RFC 4122")


def test_a_new_id_begins_with_its_creation_time() -> None:
    new = IdGenerator().next()
    assert new.created_at == datetime.fromtimestamp((UUID(new.id).int >> 80) / 1000, UTC)
    assert abs(datetime.now(UTC) - new.created_at) < timedelta(minutes=1)
