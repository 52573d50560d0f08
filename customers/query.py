"""The query options of a read, each checked, and the tokens that lead from one page to the next.

Source: OData 4.01 Protocol, 11.2 (system query options; server-driven paging).
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple

from customers.errors import BadRequest, Detail
from customers.model import BookingCustomer
from customers.table import Continuation

_PROPERTIES = tuple(
    field.alias for field in BookingCustomer.model_fields.values() if field.alias and "@" not in field.alias
)

DEFAULT_TOP = 100
MAX_TOP = 999

LIST_OPTIONS = ("top", "skiptoken", "count", "select", "filter", "orderby")
COUNT_OPTIONS = ("filter",)
GET_OPTIONS = ("select",)


class Query(NamedTuple):
    """What a read asks for. ``filter`` is in OData's language still; no ``select`` means every property."""

    business_id: str
    options: Mapping[str, str]
    top: int
    counted: bool
    select: tuple[str, ...]
    filter: str | None
    continuation: Continuation | None

    @classmethod
    def read(cls, business_id: str, options: Mapping[str, str]) -> "Query":
        """Read the options, by their names without ``$``. Raises BadRequest, which tells of every bad value at once."""
        violations: list[Detail] = []

        def violate(option: str, message: str) -> None:
            violations.append(Detail("invalidQueryOption", f"${option}", message))

        top = options.get("top", str(DEFAULT_TOP))
        if not (top.isascii() and top.isdecimal() and len(top) < 9 and 1 <= int(top) <= MAX_TOP):
            violate("top", f"This is a whole number from 1 to {MAX_TOP}")
        if (count := options.get("count", "false").lower()) not in ("true", "false"):
            violate("count", "This is true or false")
        if options.get("orderby", "id").split() not in (["id"], ["id", "asc"]):
            violate("orderby", "Customers are in the order of id only, ascending")
        select = (
            tuple(dict.fromkeys(name.strip() for name in options["select"].split(","))) if "select" in options else ()
        )
        if unknown := [name for name in select if name not in _PROPERTIES]:
            violate(
                "select",
                f"There is no property {unknown[0][:128]!r}; there are {', '.join(_PROPERTIES)}",
            )
        continuation = None
        if "skiptoken" in options:
            continuation = _open(options["skiptoken"], cls._binding(business_id, options))
            if continuation is None:
                violate("skiptoken", "This is not as @odata.nextLink had it, or of another query or business")
        if violations:
            raise BadRequest.because(violations)
        return cls(business_id, options, int(top), count == "true", select, options.get("filter"), continuation)

    @staticmethod
    def _binding(business_id: str, options: Mapping[str, str]) -> list[str]:
        """What a page's token holds for: the business and all that chooses and shapes the customers of the list."""
        return [business_id, *(options.get(name, "") for name in ("filter", "select", "orderby"))]

    def next_page(self, continuation: Continuation) -> dict[str, str]:
        """Return the options of the next page. The count is told with the first page only."""
        token = _close(continuation, self._binding(self.business_id, self.options))
        kept = {f"${name}": value for name, value in self.options.items() if name not in ("count", "skiptoken")}
        return {**kept, "$skiptoken": token}


# A token holds a digest of what it is for. No secret is in it, and none is needed: whoever made up a token would get a
# page of the very list that the token is sent with, for the business and the filter come from the request.
_DIGEST = 12


def _close(continuation: Continuation, binding: list[str]) -> str:
    place = json.dumps([continuation["PartitionKey"], continuation["RowKey"]]).encode()
    return urlsafe_b64encode(_digest(place, binding) + place).rstrip(b"=").decode()


def _open(token: str, binding: list[str]) -> Continuation | None:
    try:
        raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        place = raw[_DIGEST:]
        if raw[:_DIGEST] != _digest(place, binding):
            return None
        match json.loads(place):
            case [str() as partition_key, (str() | None) as row_key]:
                continuation = {"PartitionKey": partition_key, "RowKey": row_key}
            case _:
                return None
    except (RecursionError, ValueError):
        return None
    # Base64 can spell the same bytes in several ways; only ours is right.
    return continuation if _close(continuation, binding) == token else None


def _digest(place: bytes, binding: list[str]) -> bytes:
    return sha256(json.dumps(binding).encode() + place).digest()[:_DIGEST]
