"""How the Azure Functions host finds the function for a path: ASP.NET Core's route templates, as the host uses them.

Functions are tried in the order of their names; the first whose template and methods fit wins, so a literal segment
has no precedence over a parameter. Understood are ``{id}``, ``{id?}``, ``{id=x}``, ``{*rest}`` and constraints.
A segment that mixes text and parameters (``v{n}``) is refused.
"""

import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

_PARAMETER = re.compile(
    r"\{(?P<catch_all>\*{0,2})(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<constraints>(?::[a-z]+(?:\(.*?\))?)*)"
    r"(?P<optional>\?)?(?:=(?P<default>.*))?\}"
)
_CONSTRAINT = re.compile(r":([a-z]+)(?:\((.*?)\))?(?=:|$)")


def is_reserved(path: str) -> bool:
    """Whether a path, without its first slash, is the host's own."""
    return bool(re.match("(admin|runtime)(/|$)", path, re.IGNORECASE))


class RouteError(Exception):
    """A template that the host would not accept, or that this one does not understand."""


def _is_uuid(value: str) -> bool:
    try:
        uuid.UUID(value)
    except ValueError:
        return False
    return True


def _is_integer(bits: int) -> Callable[[str, str], bool]:
    def check(value: str, _: str) -> bool:
        return bool(re.fullmatch(r"[+-]?[0-9]{1,19}", value)) and -(1 << bits - 1) <= int(value) < 1 << bits - 1

    return check


_is_long = _is_integer(64)

_CONSTRAINTS: dict[str, Callable[[str, str], bool]] = {
    "int": _is_integer(32),
    "long": _is_long,
    "guid": lambda value, _: _is_uuid(value),
    "alpha": lambda value, _: bool(re.fullmatch("[A-Za-z]*", value)),
    "bool": lambda value, _: value.lower() in ("true", "false"),
    "length": lambda value, n: int(n.partition(",")[0]) <= len(value) <= int(n.rpartition(",")[2]),
    "minlength": lambda value, n: len(value) >= int(n),
    "maxlength": lambda value, n: len(value) <= int(n),
    "min": lambda value, n: _is_long(value, "") and int(value) >= int(n),
    "max": lambda value, n: _is_long(value, "") and int(value) <= int(n),
    "range": lambda value, n: (
        _is_long(value, "") and int(n.partition(",")[0]) <= int(value) <= int(n.partition(",")[2])
    ),
    "regex": lambda value, pattern: bool(re.search(pattern, value, re.IGNORECASE)),
    "required": lambda value, _: value != "",
}


class _Literal(NamedTuple):
    text: str


class _Parameter(NamedTuple):
    name: str
    catch_all: bool
    optional: bool
    default: str | None
    constraints: tuple[tuple[str, str], ...]

    def accepts(self, value: str) -> bool:
        return all(_CONSTRAINTS[name](value, argument) for name, argument in self.constraints)


class Route:
    """One function's template and methods; no methods means all."""

    def __init__(self, function: str, template: str, methods: Iterable[str] = ()) -> None:
        if is_reserved(template):
            raise RouteError(f"{function}: the route {template} begins with admin or runtime, which the host keeps")
        self.function = function
        self.methods = frozenset(method.upper() for method in methods)
        self._segments = [_parse(function, part) for part in template.strip("/").split("/") if part]

    def match(self, path: Sequence[str]) -> dict[str, str] | None:
        """Return the values of the parameters if the decoded segments of a path fit."""
        values: dict[str, str] = {}
        for index, segment in enumerate(self._segments):
            if not (isinstance(segment, _Parameter) and segment.catch_all) and index < len(path) and not path[index]:
                return None
            if isinstance(segment, _Literal):
                if index >= len(path) or path[index].lower() != segment.text.lower():
                    return None
                continue
            if segment.catch_all:
                value: str | None = "/".join(path[index:]) or segment.default or ""
                path = path[: index + 1]
            elif index < len(path):
                value = path[index]
            elif segment.optional or segment.default is not None:
                value = segment.default
            else:
                return None
            if value is not None:
                if not segment.accepts(value):
                    return None
                values[segment.name] = value
        return None if len(path) > len(self._segments) else values


def _parse(function: str, part: str) -> _Literal | _Parameter:
    if not part.startswith("{"):
        if "{" in part or "}" in part:
            raise RouteError(f"{function}: the local host does not understand the segment {part}")
        return _Literal(part)
    found = _PARAMETER.fullmatch(part)
    if not found:
        raise RouteError(f"{function}: the local host does not understand the segment {part}")
    constraints = tuple((name, argument or "") for name, argument in _CONSTRAINT.findall(found["constraints"]))
    for name, _ in constraints:
        if name not in _CONSTRAINTS:
            raise RouteError(f"{function}: unknown constraint {name} in {part}")
    return _Parameter(found["name"], bool(found["catch_all"]), bool(found["optional"]), found["default"], constraints)


class Routes:
    """All functions of an app, in the order in which the host tries them."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = sorted(routes, key=lambda route: route.function.lower())

    def find(self, method: str, raw_path: str) -> tuple[str, dict[str, str]] | None:
        """Return the function for a path as sent, and its route values, or None: an empty 404."""
        path = split_path(raw_path)
        for route in self._routes:
            if route.methods and method not in route.methods:
                continue  # a wrong method is a miss, too
            values = route.match(path)
            if values is not None:
                return route.function, values
        return None


def split_path(raw_path: str) -> list[str]:
    """Decode a path into its segments. An empty one, between two slashes in a row, fits a catch-all parameter only.

    Each segment is decoded once, as UTF-8; ``%2F`` and whatever is not UTF-8 stay escaped. Dot segments are resolved.
    """
    segments: list[str] = []
    parts = raw_path.removeprefix("/").split("/")
    if parts[-1] == "":
        parts.pop()  # one trailing slash is ignored
    for part in parts:
        text = _decode(part)
        if text == "..":
            if segments:
                segments.pop()
        elif text != ".":
            segments.append(text)
    return segments


def _decode(part: str) -> str:
    if part.isascii() and "%" not in part:
        return part
    pieces = re.split("(?i)(%2F)", part)
    decoded = [piece if index % 2 else _decode_utf8(piece) for index, piece in enumerate(pieces)]
    return "".join(decoded)


def _decode_utf8(piece: str) -> str:
    try:
        return unquote_to_bytes(piece.encode("utf-8", "surrogateescape")).decode()
    except UnicodeDecodeError:
        return piece
