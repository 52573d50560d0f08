"""The keys of a customer: business id (PartitionKey) and customer id (RowKey)."""

import re
import secrets
import time
from datetime import UTC, datetime
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from customers.surface import CASTS, TYPE_NAME, TYPE_NAMESPACE, is_cast

MAX_KEY_LENGTH = 255
"""In characters. Table Storage takes 512 UTF-16 code units, so 255 characters of two units each fit."""

CONTROL_CHARACTERS = r"\x00-\x1f\x7f-\x9f"
"""For a character class of a regular expression, in Python's language and in JavaScript's."""

_SEPARATORS = r"/\\#?%"
# The last range is the lone surrogates, which UTF-8 cannot encode.
_FORBIDDEN = re.compile(rf"[{_SEPARATORS}{CONTROL_CHARACTERS}\ud800-\udfff]")

# A URL with one of these addresses something else: a segment of the collection, or another path.
_UNREACHABLE = frozenset({"$ref", "$count", ".", ".."})


def check_key(value: str) -> str:
    """Return ``value`` if it is a valid key, else raise PydanticCustomError (a ValueError).

    Source: "Understanding the Table service data model", characters disallowed in key fields. ``%`` is refused too,
    because ``%2F`` reaches the app undecoded in a route value.
    """
    if not 1 <= len(value) <= MAX_KEY_LENGTH:
        raise PydanticCustomError("key_length", f"must have 1 to {MAX_KEY_LENGTH} characters")
    if _FORBIDDEN.search(value):
        raise PydanticCustomError("key_character", "must not contain / \\ # ? % or control characters")
    if value[0] == " " or value[-1] == " ":
        raise PydanticCustomError("key_space", "must not begin or end with a space")
    if value.lower() in _UNREACHABLE:
        raise PydanticCustomError("key_reserved", "is reserved; choose another id")
    if value.lower().startswith(TYPE_NAMESPACE) or is_cast(value.partition("(")[0]):
        raise PydanticCustomError("key_reserved", f"must not be the name of a type; customers are {TYPE_NAME}")
    return value


def is_key(value: str) -> bool:
    """Whether ``value`` is a valid key."""
    try:
        check_key(value)
    except PydanticCustomError:
        return False
    return True


def _in_any_case(word: str) -> str:
    """A regular expression for a word in any case: JSON Schema has no flags."""
    return "".join(f"[{c.upper()}{c.lower()}]" if c.isalpha() else re.escape(c) for c in word)


def _pattern() -> str:
    """What check_key takes, but for the length, as a regular expression of JavaScript, which JSON Schema uses."""
    whole = "|".join(_in_any_case(word) for word in sorted(_UNREACHABLE))
    casts = "|".join(_in_any_case(word) for word in sorted(CASTS))
    not_reserved = rf"(?!(?:{whole})$)(?!{_in_any_case(TYPE_NAMESPACE)})(?!(?:{casts})(?:\(|$))"
    allowed = rf"{_SEPARATORS}{CONTROL_CHARACTERS}"
    return rf"^{not_reserved}(?! )[^{allowed}]*[^ {allowed}]$"


KEY_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH, "pattern": _pattern()}
"""A valid key, in JSON Schema."""

type Key = Annotated[str, AfterValidator(check_key), WithJsonSchema(KEY_SCHEMA)]


def guid(version: int, milliseconds: int, first: int, rest: int) -> str:
    """Build a UUID that sorts by time (RFC 9562, 5.7): Unix milliseconds, 12 bits, the low 62 bits of ``rest``."""
    bits = milliseconds << 80 | version << 76 | first << 64 | 0b10 << 62 | rest & (1 << 62) - 1
    digits = f"{bits:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


class NewId(NamedTuple):
    """A new customer id and its creation time (UTC, whole milliseconds), which the id begins with."""

    id: str
    created_at: datetime


class IdGenerator:
    """Makes ids that sort by creation time: version 7 UUIDs.

    The twelve bits after the milliseconds hold the fraction of the millisecond (in 1/4096), so that ids made one
    after the other sort in that order; within one such tick, the generator counts up. For one event loop; not
    thread-safe. Source: RFC 9562, 5.7 and 6.2, method 3.
    """

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> NewId:
        """Return a new id, which sorts after all earlier ids of this generator."""
        nanoseconds = time.time_ns()
        tick = nanoseconds // 1_000_000 << 12 | (nanoseconds % 1_000_000 << 12) // 1_000_000
        self._last = tick = max(tick, self._last + 1)
        milliseconds, fraction = tick >> 12, tick & 0xFFF
        created_at = datetime.fromtimestamp(milliseconds // 1000, UTC).replace(microsecond=milliseconds % 1000 * 1000)
        return NewId(guid(7, milliseconds, fraction, secrets.randbits(62)), created_at)
