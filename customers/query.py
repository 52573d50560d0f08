"""The query options of a request, and the tokens that lead from one page to the next.

Source: OData 4.01 Protocol, 11.2 (system query options; server-driven paging).
"""

import json
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Mapping
from enum import Enum
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import parse_qsl

from customers.errors import BadRequest, Detail
from customers.lists import Condition, Continuation
from customers.model import PROPERTIES
from customers.surface import without_cast

DEFAULT_TOP = 100
MAX_TOP = 999


class Option(Enum):
    """A query option that some operation supports; the value is its name, whose ``$`` may be left off."""

    TOP = "top"
    SKIPTOKEN = "skiptoken"
    COUNT = "count"
    SELECT = "select"
    FILTER = "filter"
    ORDERBY = "orderby"


class _InvalidOption(Exception):
    """The value of an option is invalid; the message says what it must be."""


class Query(NamedTuple):
    """The options of a request, each with its default; an empty ``select`` means every property.

    ``sent`` has the values as they were sent, by the names without ``$``.
    """

    business_id: str
    sent: Mapping[str, str] = {}
    top: int = DEFAULT_TOP
    counted: bool = False
    select: tuple[str, ...] = ()
    condition: Condition = Condition()
    continuation: Continuation | None = None

    @classmethod
    def parse(cls, query_string: str, supported: Collection[Option], business_id: str) -> "Query":
        """Parse the options of a request to a business.

        Raises BadRequest, which names every option that is not supported, repeated or invalid: an option that is
        ignored would give a wrong answer.
        """
        if not query_string:
            return cls(business_id)
        sent, violations = _split(query_string, {option.value for option in supported})
        query = cls(business_id, sent)
        for name, value in sent.items():
            try:
                query = query._with(Option(name), value)
            except _InvalidOption as invalid:
                violations.append(Detail("invalidQueryOption", f"${name}", str(invalid)))
            except BadRequest as error:
                violations += error.details
        if violations:
            raise BadRequest.because(violations)
        return query

    def _with(self, option: Option, value: str) -> "Query":
        match option:
            case Option.TOP:
                return self._replace(top=_parse_top(value))
            case Option.COUNT:
                if value.lower() not in ("true", "false"):
                    raise _InvalidOption("must be true or false")
                return self._replace(counted=value.lower() == "true")
            case Option.SELECT:
                return self._replace(select=_parse_select(value))
            case Option.ORDERBY:
                if without_cast(value).split() not in (["id"], ["id", "asc"]):
                    raise _InvalidOption("must be id or id asc, which is the order of every list")
                return self
            case Option.SKIPTOKEN:
                return self._replace(continuation=_open(value, _binding(self.business_id, self.sent)))
            case Option.FILTER:
                # Only where a request filters: the parser is 60 ms of the start.
                from customers.filter import translate  # noqa: PLC0415

                return self._replace(condition=translate(value))

    def next_page(self, continuation: Continuation) -> dict[str, str]:
        """Return the options of the next page, without ``$count``: only the first page has the count."""
        token = _close(continuation, _binding(self.business_id, self.sent))
        kept = {f"${name}": value for name, value in self.sent.items() if name not in ("count", "skiptoken")}
        return {**kept, "$skiptoken": token}


def _split(query_string: str, supported: Collection[str]) -> tuple[dict[str, str], list[Detail]]:
    """The values by option, names in lower case and without ``$``; and what is wrong with the names."""
    try:
        pairs = parse_qsl(query_string, keep_blank_values=True, errors="strict")
    except ValueError:
        raise BadRequest("The query string must be percent-encoded UTF-8.") from None
    sent: dict[str, str] = {}
    violations = []
    for spelled, value in pairs:
        name = spelled.removeprefix("$").lower()
        if name not in supported:
            violations.append(Detail("unsupportedQueryOption", spelled[:128], "is not supported here; leave it out"))
        elif name in sent:
            violations.append(Detail("repeatedQueryOption", spelled[:128], "must not appear more than once"))
        sent[name] = value
    return {name: value for name, value in sent.items() if name in supported}, violations


def _parse_top(value: str) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 9 and 1 <= int(value) <= MAX_TOP):
        raise _InvalidOption(f"must be a whole number from 1 to {MAX_TOP}")
    return int(value)


def _parse_select(value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(without_cast(name.strip()) for name in value.split(",")))
    if unknown := [name for name in names if name not in PROPERTIES]:
        raise _InvalidOption(f"There is no property {unknown[0][:128]!r}; choose from {', '.join(PROPERTIES)}")
    return names


def _binding(business_id: str, sent: Mapping[str, str]) -> list[str]:
    """What a page's token is valid for: the business, and the options that choose and shape its customers."""
    return [business_id, *(sent.get(name, "") for name in ("filter", "select", "orderby"))]


# A token contains a digest of what it is valid for. It needs no secret: whoever forges a token gets a page of the very
# list that the token is sent to, because business and filter come from the request.
_DIGEST = 12


def _close(continuation: Continuation, binding: list[str]) -> str:
    place = json.dumps([*continuation[:2], *([True] if continuation.indexed else [])]).encode()
    return urlsafe_b64encode(_digest(place, binding) + place).rstrip(b"=").decode()


def _open(token: str, binding: list[str]) -> Continuation:
    try:
        raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        place = raw[_DIGEST:]
        match json.loads(place) if raw[:_DIGEST] == _digest(place, binding) else None:
            case [str() as partition, (str() | None) as row, *rest] if rest in ([], [True]) and _may_lead_on(
                partition, row, binding[0]
            ):
                continuation = Continuation(partition, row, bool(rest))
                # Base64 can spell the same bytes in several ways; only the service's own spelling is valid.
                if _close(continuation, binding) == token:
                    return continuation
    except (RecursionError, ValueError):
        pass
    raise _InvalidOption("must be taken from @odata.nextLink, with the same business and options")


def _may_lead_on(partition_key: str, row_key: str | None, business_id: str) -> bool:
    """Whether a place can be in a business: it can be sent as a header, and names no other partition.

    Storage encodes a key in base64, with ``-`` as padding, after ``1!``, a length and ``!``. What is encoded in another
    way is left to storage.
    """
    if not f"{partition_key}{row_key}".isascii():
        return False
    try:
        encoded = partition_key.rpartition("!")[2].replace("-", "=")
        return b64decode(encoded, validate=True).decode() == business_id
    except ValueError:
        return True


def _digest(place: bytes, binding: list[str]) -> bytes:
    return sha256(json.dumps(binding).encode() + place).digest()[:_DIGEST]
