"""The examples of the description: what the code that makes the real responses makes of a customer and a batch."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json, to_json

from customers import batch, response
from customers.auth import Caller, Permission
from customers.docs import EXAMPLE, EXAMPLE_BUSINESS
from customers.docs.schemas import Schema
from customers.errors import (
    AccessDenied,
    BadRequest,
    Conflict,
    ContentTooLarge,
    FailedDependency,
    GraphError,
    InternalServerError,
    MethodNotAllowed,
    NotFound,
    PreconditionFailed,
    ServiceUnavailable,
    TooManyRequests,
    Unauthenticated,
    UnsupportedMediaType,
)
from customers.model import BookingCustomer, NewCustomer, Stored
from customers.query import Query
from customers.request import JSON, Request
from customers.route import Route
from customers.surface import Surface

CUSTOMER_ID = "01a2091a-f7b6-7dcb-a034-cd4c355928a7"
_AT = datetime(2026, 11, 23, 15, 51, 32, 22_000, UTC)
_ETAG = "W/\"datetime'2026-11-23T15%3A51%3A32.0246994Z'\""
_UPDATE = {"displayName": "Ada Lovelace", "phones": [{"type": "mobile", "number": "+44 20 7946 0000"}]}
_BATCH = {
    "requests": [
        {
            "id": "ada",
            "method": "POST",
            "url": f"/solutions/bookingBusinesses/{EXAMPLE_BUSINESS}/customers",
            "headers": {"Content-Type": JSON},
            "body": EXAMPLE,
        }
    ]
}
SENT: Mapping[str, Schema] = {"NewCustomer": EXAMPLE, "CustomerUpdate": _UPDATE, "BatchRequest": _BATCH}


def _request(surface: Surface = Surface.BETA, *, media_type: str = JSON, body: bytes = b"") -> Request:
    ids = {"businessId": EXAMPLE_BUSINESS, "customerId": CUSTOMER_ID}
    request = Request("POST", "https://customers.example.com", {"content-type": media_type}, body, ids=ids)
    request.id = request.client_id = "365982fb-eba2-4f44-a760-e525af46333e"
    request.surface = surface
    request.query = Query(EXAMPLE_BUSINESS)
    return request


def _stored(sent: Schema) -> Stored:
    new = NewCustomer.from_json(to_json(sent), email_address_check="none")
    customer = BookingCustomer.model_construct(
        id=CUSTOMER_ID, created_date_time=_AT, last_updated_date_time=_AT, **new.properties
    )
    return Stored(customer, _ETAG)


def example(route: Route, name: str, status: int) -> Any:
    """The body of a response; None if it has none, or needs no example."""
    request = _request(route.surface or Surface.BETA)
    match name, status:
        case ("add" | "add_by_reference", 201):
            made = response.written(request, _stored(EXAMPLE), status=201)
        case "update", 200:
            made = response.written(request, _stored(EXAMPLE | _UPDATE), status=200)
        case "get", 200:
            made = response.customer(request, _stored(EXAMPLE))
        case "list", 200:
            made = response.page(request, [_stored(EXAMPLE)], count=None, next_page=None)
        case "count", 200:
            made = response.count(request, 1)
        case "batch", 200:
            surface = Surface.V1_SOLUTIONS if route.template.startswith("v1") else Surface.BETA_SOLUTIONS
            member = response.written(_request(surface), _stored(EXAMPLE), status=201)
            made = response.batch(request, batch.write({"ada": member}))
        case "health", 200:
            made = response.healthy(request)
        case _:
            return None
    return from_json(made.get_body())


def _problem(cause: Callable[[], object]) -> GraphError:
    try:
        cause()
    except GraphError as problem:
        return problem
    raise AssertionError("there is no problem")


_NOBODY = Caller("", "", "", frozenset(), is_application=True, groups=frozenset(), groups_left_out=False)
_PROBLEMS: Mapping[type[GraphError], GraphError] = {
    BadRequest: _problem(lambda: NewCustomer.from_json(b'{"displayName": "Ada"}', email_address_check="none")),
    Unauthenticated: Unauthenticated("Send an access token in the header Authorization: Bearer <token>."),
    AccessDenied: _problem(lambda: _NOBODY.require(Permission.WRITE)),
    NotFound: NotFound("The business has no customer with this id."),
    MethodNotAllowed: MethodNotAllowed("PUT", ["GET", "POST"]),
    Conflict: Conflict("The business already has a customer with this id."),
    PreconditionFailed: PreconditionFailed("The customer has changed. Get it again and retry with its new ETag."),
    FailedDependency: FailedDependency("Not done, because the request 'ada' failed."),
    ContentTooLarge: _problem(lambda: _request(body=bytes(1_048_577)).json_body(1_048_576)),
    UnsupportedMediaType: _problem(lambda: _request(media_type="text/plain").json_body(0)),
    TooManyRequests: TooManyRequests(
        "The service is at its limit of concurrent requests. Try again later.", retry_after=1
    ),
    InternalServerError: InternalServerError(
        "Internal error. The log has the cause under request-id 365982fb-eba2-4f44-a760-e525af46333e."
    ),
    ServiceUnavailable: ServiceUnavailable("The service is not ready.", retry_after=5),
}


def error_example(error: type[GraphError]) -> Any:
    """The body of an error."""
    made = from_json(response.error(_request(), _PROBLEMS[error]).get_body())
    made["error"]["innerError"]["date"] = "2026-11-23T15:51:32Z"
    return made
