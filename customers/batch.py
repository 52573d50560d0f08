"""Batches: several requests in the body of one, and their responses in the body of its response.

``member_url.py`` reads the URLs. Sources: "Combine multiple HTTP requests using JSON batching" (Microsoft Graph); OData
JSON Format 4.01, 19.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import azure.functions as func
from pydantic_core import to_json

from customers.errors import BadRequest, Detail, FailedDependency, GraphError
from customers.member_url import RelativeUrl, WrongTarget, relative_url

MAX_REQUESTS = 20

LIMIT_FACTOR = 3
"""How much larger than any other body a batch may be: one request of it may have the largest body. The Functions host
takes four times the limit of a body (infra/function.bicep)."""

MAX_ID = 256
METHOD = re.compile("[A-Za-z]{1,20}")
# RFC 9110, 5.6.2 and 5.5; the Functions host takes no other characters.
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[\t -~]*")

# Python's SDKs write depends_on.
_DEPENDS_ON = ("dependsOn", "depends_on")
_NAMES = frozenset({"id", "method", "url", "headers", "body", *_DEPENDS_ON})

# These are the batch's, not a member's.
_OF_THE_BATCH = frozenset({"authorization", "x-forwarded-host", "x-forwarded-proto"})

# Numbers mean nothing here, and Python refuses to convert very long ones to int.
_decode = json.JSONDecoder(parse_int=float).raw_decode
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"[ \t\r\n]*")
_COLON = re.compile(r"[ \t\r\n]*:[ \t\r\n]*")
_NEXT = re.compile(r"[ \t\r\n]*([,\]}])[ \t\r\n]*")


class Member(NamedTuple):
    """One request of a batch.

    ``headers`` have their names in lower case. ``depends_on`` has the ids of other members, in lower case. ``problem``
    is why the member alone is refused, if it is.
    """

    id: str
    method: str
    url: RelativeUrl
    headers: Mapping[str, str] = {}
    body: bytes = b""
    depends_on: Sequence[str] = ()
    problem: GraphError | None = None


def parse(body: bytes, *, version: str, authorization: str | None) -> list[list[Member]]:
    """Read a batch that was sent to ``version`` with this Authorization header.

    The members are in groups: each depends on members of earlier groups only. Raises BadRequest, which names everything
    that is wrong with the batch as a whole.
    """
    violations: list[Detail] = []
    # The requests of a batch often have the same one.
    read_url = cache(partial(relative_url, version=version))
    members = [
        _Reader(f"requests/{position}", values, violations).member(read_url, authorization)
        for position, values in enumerate(_split(body))
    ]
    times = Counter(member.id.lower() for member in members if member.id)
    violations += [
        Detail("repeatedId", "requests", f"{name!r} is the id of {number} requests; case makes no difference")
        for name, number in times.items()
        if number > 1
    ]
    violations += [
        Detail("unknownDependency", f"requests/{position}/dependsOn", f"There is no request with the id {name[:128]!r}")
        for position, member in enumerate(members)
        for name in member.depends_on
        if name not in times
    ]
    if not violations:
        groups, left = _in_order(members)
        if not left:
            return groups
        names = ", ".join(repr(member.id) for member in left)
        violations.append(Detail("circularDependency", "requests", f"These depend on each other in a circle: {names}"))
    raise BadRequest.because(violations)


def unless_failed(member: Member, done: Mapping[str, func.HttpResponse]) -> Member:
    """The member, refused if one that it depends on has failed. ``done`` has the responses by the ids in lower case."""
    for name in member.depends_on:
        if done[name].status_code >= 400:
            return member._replace(problem=FailedDependency(f"Not done, because the request {name!r} failed."))
    return member


def write(responses: Mapping[str, func.HttpResponse]) -> bytes:
    """The responses to the members, by their ids, as JSON."""
    return b'{"responses":[' + b",".join(map(_write, responses, responses.values())) + b"]}"


def _write(member_id: str, response: func.HttpResponse) -> bytes:
    """A response as JSON; its body already is, a count's number included."""
    head: dict[str, Any] = {
        "id": member_id,
        "status": response.status_code,
        "headers": dict(response.headers.items()),
    }
    body = response.get_body()
    return to_json(head)[:-1] + (b',"body":' + body if body else b"") + b"}"


def _in_order(members: Sequence[Member]) -> tuple[list[list[Member]], list[Member]]:
    """The members in groups, each of which depends on earlier ones only; and those that are left."""
    groups: list[list[Member]] = []
    done: set[str] = set()
    left = list(members)
    while ready := [member for member in left if done.issuperset(member.depends_on)]:
        groups.append(ready)
        done.update(member.id.lower() for member in ready)
        left = [member for member in left if member.id.lower() not in done]
    return groups, left


class _Value(NamedTuple):
    """A value, and its text."""

    value: Any
    text: str


class _Reader:
    """Reads one member, and notes what makes the whole batch a wrong one."""

    def __init__(self, place: str, values: Sequence[tuple[str, _Value]], violations: list[Detail]) -> None:
        self._place = place
        self._values = dict(values)
        self._violations = violations
        for name, value in values:
            # A response could not say them.
            if name != "body" and "\\u" in value.text and _LONE_SURROGATE.search(str(value.value)):
                self._refuse(name, "surrogate", "must not contain lone surrogates")
                self._values[name] = _Value(None, "")
        for name, number in Counter(name for name, _ in values).items():
            if number > 1:
                self._refuse(name, "duplicate_key", "must not appear more than once")
            elif name not in _NAMES and "@" not in name:
                self._refuse(name, "extra_forbidden", f"There is no such property; use {', '.join(sorted(_NAMES))}")

    def member(self, read_url: Callable[[str], RelativeUrl], authorization: str | None) -> Member:
        """The member. Its url and its body may be a problem of its own."""
        problem: GraphError | None = None
        url = RelativeUrl("", "")
        if isinstance(sent := self._value("url"), str) and sent:
            try:
                url = read_url(sent)
            except WrongTarget as wrong:
                self._refuse("url", "invalidUrl", str(wrong))
            except BadRequest as refused:
                problem = refused
        else:
            self._refuse("url", "missing", "must be a URL relative to the version, such as /solutions/…")
        body = self._values.get("body", _Value(None, ""))
        if isinstance(body.value, str):
            problem = problem or BadRequest("The body must be a JSON object. Bodies in base64 are not supported.")
        return Member(
            id=self._id(),
            method=self._method(),
            url=url,
            headers=self._headers(authorization),
            body=b"" if body.value is None else body.text.encode(),
            depends_on=self._depends_on(),
            problem=problem,
        )

    def _value(self, name: str) -> Any:
        """The value of a property; None if it is null or missing."""
        return self._values[name].value if name in self._values else None

    def _refuse(self, name: str, code: str, message: str) -> None:
        self._violations.append(Detail(code, f"{self._place}/{name[:128]}", message))

    def _id(self) -> str:
        sent = self._value("id")
        if isinstance(sent, str) and 1 <= len(sent) <= MAX_ID:
            return sent
        self._refuse("id", "missing", f"must be a string of 1 to {MAX_ID} characters")
        return ""

    def _method(self) -> str:
        sent = self._value("method")
        if isinstance(sent, str) and METHOD.fullmatch(sent):
            return sent.upper()
        self._refuse("method", "missing", "must be a method of HTTP, such as POST")
        return ""

    def _headers(self, authorization: str | None) -> dict[str, str]:
        sent = self._value("headers")
        if sent is None:
            return {}
        if not isinstance(sent, dict) or not all(_is_header(name, value) for name, value in sent.items()):
            self._refuse("headers", "invalidHeaders", "must be an object with names and values as HTTP takes them")
            return {}
        headers = {name.lower(): value.strip() for name, value in sent.items()}
        if len(headers) < len(sent):
            self._refuse("headers", "duplicate_key", "must not have a name more than once")
        if "authorization" in headers and headers["authorization"] != (authorization or "").strip():
            # Its value is never shown.
            self._refuse("headers", "otherToken", "Authorization must be that of the batch; leave it out")
        return {name: value for name, value in headers.items() if name not in _OF_THE_BATCH}

    def _depends_on(self) -> list[str]:
        sent = [self._value(name) for name in _DEPENDS_ON if self._value(name) is not None]
        if len(sent) > 1:
            self._refuse("dependsOn", "duplicate_key", "must not appear more than once")
        names = sent[0] if sent else []
        if isinstance(names, list) and len(names) < MAX_REQUESTS and all(isinstance(name, str) for name in names):
            return [name.lower() for name in names]
        self._refuse("dependsOn", "invalidDependency", "must be an array of the ids of other requests")
        return []


def _is_header(name: str, value: object) -> bool:
    return bool(HEADER_NAME.fullmatch(name) and isinstance(value, str) and HEADER_VALUE.fullmatch(value))


def _split(body: bytes) -> list[list[tuple[str, _Value]]]:
    """The properties of each member.

    Each with its text, so that a body is later read exactly as if it had come alone.
    """
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
        raise BadRequest.because([Detail("missing", "requests", "must be there once, as an array of requests")])
    members = found[0].members
    if not 1 <= len(members) <= MAX_REQUESTS:
        message = f"must have 1 to {MAX_REQUESTS} requests, not {len(members)}"
        raise BadRequest.because([Detail("too_long", "requests", message)])
    return members


class _Members(NamedTuple):
    """The properties of each member."""

    members: list[list[tuple[str, _Value]]]


def _value_or_members(name: str, text: str, at: int) -> tuple[_Value | _Members, int]:
    if name != "requests" or text[at : at + 1] != "[":
        return _value(name, text, at)
    members: list[list[tuple[str, _Value]]] = []
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


def _value(_: str, text: str, at: int) -> tuple[_Value, int]:
    value, end = _decode(text, at)
    return _Value(value, text[at:end]), end


def _expect(valid: bool) -> None:  # noqa: FBT001 - what is expected
    if not valid:
        raise ValueError


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at
