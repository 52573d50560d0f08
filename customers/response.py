"""The responses, in the form of Microsoft Graph.

Sources: OData 4.01 Protocol and JSON Format; "Microsoft Graph error responses and resource types".
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import azure.functions as func
from pydantic_core import to_json

from customers.errors import GraphError
from customers.model import ODATA_TYPE, Stored
from customers.request import JSON, Request

# A year, as RFC 6797 has it in its examples; not for subdomains, which are not the service's to decide.
_TRANSPORT_SECURITY = "max-age=31536000"


def _respond(
    request: Request, status: int, body: bytes = b"", headers: dict[str, str] | None = None, media_type: str = JSON
) -> func.HttpResponse:
    common = {
        "Content-Type": media_type,
        "request-id": request.id,
        "client-request-id": request.client_id,
        "OData-Version": "4.0",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    if request.is_https:
        common["Strict-Transport-Security"] = _TRANSPORT_SECURITY
    return func.HttpResponse(body, status_code=status, headers=common | headers if headers else common)


def _entity(stored: Stored, select: tuple[str, ...]) -> dict[str, Any]:
    """A customer as JSON: the annotations, and all properties or the selected ones, always with the key.

    Clients need the key under minimal metadata (OData JSON Format 4.01, 4.5.8).
    """
    properties = {"id": stored.customer.id, **stored.customer.model_dump()}
    if select:
        properties = {name: value for name, value in properties.items() if name in select or name == "id"}
    return {"@odata.type": ODATA_TYPE, "@odata.etag": stored.etag, **properties}


def customer(request: Request, stored: Stored, *, status: int = 200) -> func.HttpResponse:
    """One customer."""
    body = {"@odata.context": f"{request.context_url}/$entity", **_entity(stored, request.query.select)}
    return _respond(request, status, to_json(body), {"ETag": stored.etag})


def page(
    request: Request, found: Sequence[Stored], *, count: int | None, next_page: Mapping[str, str] | None
) -> func.HttpResponse:
    """A page of customers (OData JSON Format 4.01, 13), with the count and the next page's options if there are any."""
    body: dict[str, Any] = {"@odata.context": request.context_url}
    if count is not None:
        body["@odata.count"] = count
    body["value"] = [_entity(stored, request.query.select) for stored in found]
    if next_page is not None:
        body["@odata.nextLink"] = f"{request.collection_url}?{urlencode(next_page, quote_via=quote, safe='$')}"
    return _respond(request, 200, to_json(body))


def count(request: Request, number: int) -> func.HttpResponse:
    """The bare number (OData 4.01 Protocol, 11.2.10)."""
    return _respond(request, 200, str(number).encode(), media_type="text/plain; charset=utf-8")


def written(request: Request, stored: Stored, *, status: int) -> func.HttpResponse:
    """The response to an add or an update: the whole customer, or 204 if the client prefers a minimal response.

    Source: OData 4.01 Protocol, 8.2.8.7 (Prefer) and 11.4.2 (create an entity).
    """
    location = request.customer_url(stored.customer.id)
    preferred = request.preferred_return
    if preferred == "minimal":
        headers = {"Location": location, "OData-EntityId": location, "ETag": stored.etag}
        response = _respond(request, 204, headers=headers)
    else:
        response = customer(request, stored, status=status)
        if status == 201:
            response.headers["Location"] = location
    if preferred:
        response.headers["Preference-Applied"] = f"return={preferred}"
    return response


def deleted(request: Request) -> func.HttpResponse:
    """The response to a delete."""
    return _respond(request, 204)


def not_modified(request: Request, stored: Stored) -> func.HttpResponse:
    """The client already has this version of the customer (RFC 9110, 15.4.5)."""
    return _respond(request, 304, headers={"ETag": stored.etag})


def batch(request: Request, responses: bytes) -> func.HttpResponse:
    """The responses to the requests of a batch, as JSON."""
    return _respond(request, 200, responses)


def healthy(request: Request) -> func.HttpResponse:
    """The service works."""
    return _respond(request, 200, to_json({"status": "healthy"}))


def resource(request: Request, body: bytes, media_type: str, headers: dict[str, str]) -> func.HttpResponse:
    """What is the same for every caller; ``headers`` have its ETag and how long it may be kept."""
    if request.if_none_match and request.if_none_match(headers["ETag"]):
        # With the type, because a cache takes over the headers of a 304 (RFC 9111, 3.2).
        return _respond(request, 304, headers=headers, media_type=media_type)
    return _respond(request, 200, body, headers, media_type)


def error(request: Request, problem: GraphError) -> func.HttpResponse:
    """An error."""
    body = {
        "error": {
            "code": problem.code,
            "message": problem.message,
            "details": [detail._asdict() for detail in problem.details],
            "innerError": {
                "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "request-id": request.id,
                "client-request-id": request.client_id,
            },
        }
    }
    return _respond(request, problem.status, to_json(body), problem.headers)
