"""What a schema cannot say, for Schemathesis: values that must fit one another, a grammar, and an opaque token.

Only requests that are meant to be valid are changed.
"""

from email.utils import formatdate
from itertools import cycle
from typing import Any
from uuid import uuid4

import schemathesis

_FILTERS = cycle(
    [
        "displayName eq 'Ada'",
        "tolower(emailAddress) eq 'ada@example.com'",
        "startswith(displayName,'A') and not (createdDateTime lt 2026-11-23T12:00:00Z)",
    ]
)


@schemathesis.hook
def before_call(_: schemathesis.HookContext, case: schemathesis.Case, __: dict[str, Any]) -> None:
    """Make a valid request whole."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    headers, query = case.headers, case.query
    if "If-Match" in headers:
        headers["If-Match"] = "*"
    if "Repeatability-Request-ID" in headers or "Repeatability-First-Sent" in headers:
        headers["Repeatability-Request-ID"] = str(uuid4())
        headers["Repeatability-First-Sent"] = formatdate(usegmt=True)
    if "$filter" in query:
        query["$filter"] = next(_FILTERS)
    query.pop("$skiptoken", None)
    # Relative URLs, ids that differ, and no dependency on what is not there.
    if case.path.endswith("/$batch") and isinstance(case.body, dict):
        for position, member in enumerate(case.body["requests"]):
            member |= {"id": str(position), "url": "/solutions/bookingBusinesses/b/customers", "dependsOn": []}
            member["headers"] = {"Content-Type": "application/json"}
    # An update names the customer of its URL, if it names one.
    if case.method == "PATCH" and isinstance(case.body, dict) and isinstance(case.body.get("id"), str):
        case.body["id"] = case.path_parameters["customerId"]
