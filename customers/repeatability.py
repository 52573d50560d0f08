"""Adding exactly once: what makes one add the repeat of another.

Source: OASIS Repeatable Requests Version 1.0.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from hashlib import sha256
from typing import NamedTuple

from pydantic_core import to_json

from customers.errors import PreconditionFailed, RepeatRejected
from customers.identity import Caller
from customers.keys import guid
from customers.model import NewCustomer
from customers.row import Repeat

WINDOW = timedelta(hours=24)
"""How long after its first sending a request may be repeated."""

SKEW = timedelta(seconds=10)
"""By how much a client's clock may be ahead."""

_GUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Repeatable(NamedTuple):
    """An add that may be repeated: what its repeats are recognised by, and the id of the customer that they all add."""

    repeat: Repeat
    customer_id: str

    @classmethod
    def read(
        cls,
        header: Callable[[str], str | None],
        *,
        business_id: str,
        caller: Caller,
        customer: NewCustomer,
        now: datetime,
    ) -> "Repeatable | None":
        """Read the headers of an add; None if it does not ask to be repeatable.

        Raises RepeatRejected if they are malformed or not complete, and PreconditionFailed outside the window.
        """
        request_id, sent = header("Repeatability-Request-ID"), header("Repeatability-First-Sent")
        if request_id is None and sent is None:
            return None
        if request_id is None or sent is None:
            raise RepeatRejected("Repeatability-Request-ID and Repeatability-First-Sent go together.")
        request_id, first_sent = request_id.lower(), _http_date(sent)
        if not _GUID.fullmatch(request_id):
            raise RepeatRejected("Repeatability-Request-ID is a GUID.")
        if first_sent is None:
            raise RepeatRejected("Repeatability-First-Sent is a date such as Mon, 23 Nov 2026 12:00:00 GMT.")
        if not now - WINDOW <= first_sent <= now + SKEW:
            raise PreconditionFailed(
                "Repeatability-First-Sent is in the future, or longer ago than the 24 hours in which to repeat.",
                headers={"Repeatability-Result": "rejected"},
            )
        # The caller is part of the request: the same id of another tenant or application is another request.
        request = _digest(
            [business_id, caller.tenant, caller.application, header("Repeatability-Client-ID"), request_id]
        )
        body = _digest(customer.model_dump(exclude={"created_date_time", "last_updated_date_time"}))
        # A UUID of version 8 (RFC 9562, 5.8) that begins like one of version 7, so that both sort together.
        own_id = guid(8, int(first_sent.timestamp()) * 1000, int(request[:3], 16), int(request[3:19], 16))
        return cls(Repeat(request, body), customer.id or own_id)


def _http_date(text: str) -> datetime | None:
    """Read an IMF-fixdate (RFC 9110, 5.6.7), which has one spelling only."""
    try:
        moment = parsedate_to_datetime(text)
    except (OverflowError, ValueError):
        return None
    return moment if moment.tzinfo == UTC and format_datetime(moment, usegmt=True) == text else None


def _digest(value: object) -> str:
    return sha256(to_json(value)).hexdigest()
