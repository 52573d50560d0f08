"""What the table of routes does not say of an operation: its body, its responses, and the headers that it reads."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from customers.docs.schemas import Schema, component
from customers.errors import Conflict, GraphError, NotFound, PreconditionFailed, ServiceUnavailable, TooManyRequests
from customers.request import JSON


class Response(NamedTuple):
    """A response that is not an error."""

    status: int
    description: str
    headers: Sequence[str] = ()
    schema: Schema | None = None
    media_type: str = JSON


class Described(NamedTuple):
    """What the table of routes does not say of an operation.

    ``body`` is the name of its schema. ``errors`` are those that do not follow from permission, parameters and body.
    """

    responses: Sequence[Response]
    body: str | None = None
    headers: Sequence[str] = ()
    errors: Sequence[type[GraphError]] = ()


_WRITTEN = ("ETag", "Preference-Applied")
_MINIMAL = Response(204, "The same, for `Prefer: return=minimal`.", (*_WRITTEN, "Location", "OData-EntityId"))
_ADD = Described(
    (
        Response(
            201,
            "The customer was added.",
            (*_WRITTEN, "Location", "Repeatability-Result"),
            component("BookingCustomer"),
        ),
        _MINIMAL._replace(headers=(*_MINIMAL.headers, "Repeatability-Result")),
    ),
    body="NewCustomer",
    headers=("Prefer", "Repeatability-Request-ID", "Repeatability-First-Sent", "Repeatability-Client-ID"),
    errors=(Conflict, PreconditionFailed),
)
_HTML = Response(200, "The page.", ("ETag", "Content-Security-Policy"), {"type": "string"}, "text/html")

OPERATIONS: Mapping[str, Described] = {
    "add": _ADD,
    "add_by_reference": _ADD,
    "list": Described((Response(200, "A page of customers.", schema=component("Customers")),)),
    "count": Described((Response(200, "The bare number.", schema={"type": "integer"}, media_type="text/plain"),)),
    "get": Described(
        (
            Response(200, "The customer.", ("ETag",), component("SelectedCustomer")),
            Response(304, "The customer still has this ETag.", ("ETag",)),
        ),
        headers=("If-None-Match",),
        errors=(NotFound,),
    ),
    "update": Described(
        (Response(200, "The customer was changed.", _WRITTEN, component("BookingCustomer")), _MINIMAL),
        body="CustomerUpdate",
        headers=("If-Match", "Prefer"),
        errors=(NotFound, PreconditionFailed),
    ),
    "delete": Described(
        (Response(204, "The customer was deleted."),), headers=("If-Match",), errors=(NotFound, PreconditionFailed)
    ),
    "batch": Described(
        (Response(200, "The responses to the requests, in any order.", schema=component("BatchResponse")),),
        body="BatchRequest",
    ),
    "health": Described(
        (Response(200, "The settings are valid, and storage responds.", schema=component("Health")),),
        errors=(TooManyRequests, ServiceUnavailable),
    ),
    "description": Described(
        (
            Response(200, "This document.", ("ETag",), {"type": "object"}),
            Response(304, "The document still has this ETag.", ("ETag",)),
        ),
        headers=("If-None-Match",),
        errors=(NotFound,),
    ),
    "page": Described(
        (_HTML, Response(304, "The page still has this ETag.", ("ETag",))),
        headers=("If-None-Match",),
        errors=(NotFound,),
    ),
    "file": Described(
        (
            Response(200, "The file.", ("ETag",), {"type": "string"}, "text/*"),
            Response(304, "The file still has this ETag.", ("ETag",)),
        ),
        headers=("If-None-Match",),
        errors=(NotFound,),
    ),
}
"""By the name of the operation's handler."""
