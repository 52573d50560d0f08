"""The JSON of a batch, split into its requests.

Each value comes with its text, so that a body is later read exactly as if it had come alone.
"""

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from customers.errors import BadRequest, Detail

# Numbers mean nothing here, and Python refuses to convert very long ones to int.
_decode = json.JSONDecoder(parse_int=float).raw_decode
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"[ \t\r\n]*")
_COLON = re.compile(r"[ \t\r\n]*:[ \t\r\n]*")
_NEXT = re.compile(r"[ \t\r\n]*([,\]}])[ \t\r\n]*")


class Value(NamedTuple):
    """A value, and its text."""

    value: Any
    text: str

    @property
    def has_lone_surrogate(self) -> bool:
        """Whether it has text that UTF-8 cannot encode."""
        return "\\u" in self.text and bool(_LONE_SURROGATE.search(str(self.value)))


def split(body: bytes) -> list[list[tuple[str, Value]]]:
    """The properties of each request of a batch. Raises BadRequest."""
    try:
        text = body.decode()
        start = _skip(text, 0)
        if text[start : start + 1] != "{":
            raise BadRequest('The body must be an object such as {"requests": […]}.')
        properties, end = _object(text, start, _value_or_members)
        _expect(end == len(text))
    except (ValueError, RecursionError):
        raise BadRequest("The body must be valid JSON in UTF-8.") from None
    unknown = [name for name, _ in properties if name != "requests" and "@" not in name]
    if unknown:
        raise BadRequest.because([Detail("extra_forbidden", name[:128], "must be left out") for name in unknown])
    found = [value for name, value in properties if name == "requests"]
    if len(found) != 1 or not isinstance(found[0], _Members):
        raise BadRequest.because([Detail("missing", "requests", "must be an array of requests, given exactly once")])
    return found[0].members


class _Members(NamedTuple):
    """The properties of each member."""

    members: list[list[tuple[str, Value]]]


def _value_or_members(name: str, text: str, at: int) -> tuple[Value | _Members, int]:
    if name != "requests" or text[at : at + 1] != "[":
        return _value(name, text, at)
    members: list[list[tuple[str, Value]]] = []
    at = _skip(text, at + 1)
    if text[at : at + 1] == "]":
        return _Members(members), at + 1
    while True:
        if text[at : at + 1] != "{":
            raise BadRequest.because([Detail("invalidRequest", f"requests/{len(members)}", "must be an object")])
        member, at = _object(text, at, _value)
        members.append(member)
        mark, at = text[at : at + 1], _skip(text, at + 1)
        if mark == "]":
            return _Members(members), at
        _expect(mark == ",")


def _object[Read](
    text: str, at: int, read: Callable[[str, str, int], tuple[Read, int]]
) -> tuple[list[tuple[str, Read]], int]:
    """Read the object that begins there: its names and values; and where the next thing begins."""
    found: list[tuple[str, Read]] = []
    at = _skip(text, at + 1)
    if text[at : at + 1] == "}":
        return found, _skip(text, at + 1)
    while True:
        name, at = _decode(text, at)
        colon = _COLON.match(text, at)
        if not (isinstance(name, str) and colon) or _LONE_SURROGATE.search(name):
            raise ValueError
        value, at = read(name, text, colon.end())
        found.append((name, value))
        following = _NEXT.match(text, at)
        if following is None or following[1] == "]":
            raise ValueError
        at = following.end()
        if following[1] == "}":
            return found, at


def _value(_: str, text: str, at: int) -> tuple[Value, int]:
    value, end = _decode(text, at)
    return Value(value, text[at:end]), end


def _expect(valid: bool) -> None:  # noqa: FBT001 - what is expected
    if not valid:
        raise ValueError


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at
