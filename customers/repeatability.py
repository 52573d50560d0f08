"""Repeatable adds: recognise a retried request.

Source: OASIS Repeatable Requests Version 1.0.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from hashlib import sha256
from typing import NamedTuple

from pydantic_core import to_json

from customers.auth import Caller
from customers.errors import PreconditionFailed, RepeatRejected
from customers.keys import guid
from customers.model import NewCustomer
from customers.row import RequestDigest

WINDOW = timedelta(hours=24)
"""How long after its first attempt a request may be retried."""

SKEW = timedelta(seconds=10)
"""Clock skew allowed for clients."""

_GUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class RepeatableRequest(NamedTuple):
    """An add that may be retried: the id of the customer that all its attempts add, and what identifies them."""

    customer_id: str
    digest: RequestDigest

    @classmethod
    def read(
        cls,
        header: Callable[[str], str | None],
        *,
        business_id: str,
        caller: Caller,
        customer: NewCustomer,
        now: datetime,
    ) -> "RepeatableRequest | None":
        """Read the headers of an add; None if it has neither of them.

        Raises RepeatRejected if a header is malformed or missing, and PreconditionFailed outside the window.
        """
        request_id, sent = header("Repeatability-Request-ID"), header("Repeatability-First-Sent")
        if request_id is None and sent is None:
            return None
        if request_id is None or sent is None:
            raise RepeatRejected("Send Repeatability-Request-ID and Repeatability-First-Sent together, or neither.")
        request_id, first_sent = request_id.lower(), _http_date(sent)
        if not _GUID.fullmatch(request_id):
            raise RepeatRejected("Repeatability-Request-ID must be a GUID.")
        if first_sent is None:
            raise RepeatRejected("Repeatability-First-Sent must be a date such as Mon, 23 Nov 2026 12:00:00 GMT.")
        if not now - WINDOW <= first_sent <= now + SKEW:
            hours = WINDOW // timedelta(hours=1)
            raise PreconditionFailed(
                f"Repeatability-First-Sent must not be in the future or more than {hours} hours ago.",
                headers={"Repeatability-Result": "rejected"},
            )
        # The caller is part of the identity: the same request id from another tenant or application is another request.
        request = _digest(
            [business_id, caller.tenant, caller.application, header("Repeatability-Client-ID"), request_id]
        )
        # A version 8 UUID (RFC 9562, 5.8) that begins like a version 7 one, so that both sort by time together.
        own_id = guid(8, int(first_sent.timestamp()) * 1000, int(request[:3], 16), int(request[3:19], 16))
        return cls(customer.id or own_id, RequestDigest(request, _digest(customer.sent)))


def _http_date(text: str) -> datetime | None:
    """Read an IMF-fixdate (RFC 9110, 5.6.7), which has exactly one spelling."""
    try:
        date = parsedate_to_datetime(text)
    except (OverflowError, ValueError):
        return None
    return date if date.tzinfo == UTC and format_datetime(date, usegmt=True) == text else None


def _digest(value: object) -> str:
    return sha256(to_json(value)).hexdigest()
