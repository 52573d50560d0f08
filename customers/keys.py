"""The two keys of a customer: the business id (PartitionKey) and the customer id (RowKey)."""

import re
import secrets
import time
from datetime import UTC, datetime
from typing import Annotated, NamedTuple

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

MAX_KEY_LENGTH = 255
"""In characters. Table Storage takes 512 UTF-16 units, so even 255 characters of two units each fit."""

# The last range is the lone surrogates, which no UTF-8 can carry.
_FORBIDDEN = re.compile(r"[/\\#?%\x00-\x1f\x7f-\x9f\ud800-\udfff]")

# These would be an action of the collection, or a step in the path, so nothing could be read under them.
_UNREACHABLE = frozenset({"$ref", "$count", ".", ".."})


def check_key(value: str) -> str:
    """Return ``value`` if it may be a key.

    Raises PydanticCustomError (a ValueError) otherwise. Source: "Understanding the Table service data model",
    characters disallowed in key fields; ``%`` besides, since a route value may arrive with ``%2F`` undecoded.
    """
    if not 1 <= len(value) <= MAX_KEY_LENGTH:
        raise PydanticCustomError("key_length", "An id has 1 to 255 characters")
    if _FORBIDDEN.search(value):
        raise PydanticCustomError("key_character", "An id contains none of / \\ # ? % and no control characters")
    if value[0] == " " or value[-1] == " ":
        raise PydanticCustomError("key_space", "An id has no space at either end")
    if value.lower() in _UNREACHABLE:
        raise PydanticCustomError("key_reserved", "This id is reserved: no URL could lead to it")
    return value


type Key = Annotated[str, AfterValidator(check_key)]


def guid(version: int, milliseconds: int, first: int, rest: int) -> str:
    """Lay out a UUID that sorts by time (RFC 9562, 5.7): Unix time, 12 bits, and the low 62 bits of ``rest``."""
    bits = milliseconds << 80 | version << 76 | first << 64 | 0b10 << 62 | rest & (1 << 62) - 1
    digits = f"{bits:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


class Birth(NamedTuple):
    """The id of a new customer, and the moment it was made (UTC, whole milliseconds) that the id begins with."""

    id: str
    at: datetime


class Births:
    """Makes ids that sort by creation time: UUIDs of version 7 with a finer clock.

    Source: RFC 9562, 5.7 and 6.2, method 3: the twelve bits after the milliseconds hold the fraction of the
    millisecond (in 1/4096), so that ids made one after the other sort so; within one tick, a process counts on.
    For one event loop, not for threads.
    """

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> Birth:
        """Return a new id; each sorts after the ones made before it in this process."""
        nanoseconds = time.time_ns()
        tick = nanoseconds // 1_000_000 << 12 | (nanoseconds % 1_000_000 << 12) // 1_000_000
        self._last = tick = max(tick, self._last + 1)
        milliseconds, fraction = tick >> 12, tick & 0xFFF
        at = datetime.fromtimestamp(milliseconds // 1000, UTC).replace(microsecond=milliseconds % 1000 * 1000)
        return Birth(guid(7, milliseconds, fraction, secrets.randbits(62)), at)
