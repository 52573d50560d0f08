"""HTTP as Microsoft Graph speaks it: what a request asks for, and the form of every answer.

Sources: OData 4.01 Protocol and JSON Format, RFC 7240 (Prefer), "Microsoft Graph error responses and resource types",
"Best practices for working with Microsoft Graph" (request-id and client-request-id).
"""

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import azure.functions as func
from pydantic_core import to_json
from werkzeug.http import parse_etags, parse_list_header, parse_options_header, unquote_etag

from customers.errors import BadRequest, ContentTooLarge, Detail, GraphError, UnsupportedMediaType
from customers.identity import Caller
from customers.model import BookingCustomer

_JSON = "application/json"
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_CLIENT_REQUEST_ID = re.compile(r"[ -~]{1,256}")


class Surface(Enum):
    """A place in Graph's URL space under which the customers appear: its version and its entity set."""

    BETA = ("beta", "bookingBusinesses")
    BETA_SOLUTIONS = ("beta", "solutions/bookingBusinesses")
    V1_SOLUTIONS = ("v1.0", "solutions/bookingBusinesses")

    @property
    def route(self) -> str:
        """The route template of the collection, in the Functions host's notation."""
        version, entity_set = self.value
        return f"{version}/{entity_set}/{{businessId}}/customers"

    def collection_url(self, base: str, business_id: str) -> str:
        """The absolute URL of a business's customers."""
        version, entity_set = self.value
        return f"{base}/{version}/{entity_set}/{quote(business_id, safe='')}/customers"

    def entity_url(self, base: str, business_id: str, customer_id: str) -> str:
        """The absolute URL of one customer."""
        return f"{self.collection_url(base, business_id)}/{quote(customer_id, safe='')}"

    def context_url(self, base: str, business_id: str, select: tuple[str, ...] = ()) -> str:
        """The context URL of the collection, of these properties only (OData Protocol 4.01, 10.2 and 10.7)."""
        version, entity_set = self.value
        key = quote(business_id.replace("'", "''"), safe="")
        selected = f"({','.join(select)})" if select else ""
        return f"{base}/{version}/$metadata#{entity_set}('{key}')/customers{selected}"


class Request:
    """What the operations need of a request, read from it when asked for."""

    caller: Caller
    """Set when the request has been authenticated."""

    def __init__(self, http: func.HttpRequest) -> None:
        # Taken apart without urllib, which raises on some of the hosts that a client may send.
        self._origin, _, self._query = str(http.url).partition("?")
        self._body: bytes = http.get_body()
        # A plain one, by names in lower case: most of the headers that are asked for are not there.
        self._headers: dict[str, str] = dict(http.headers.items())
        self.method: str = http.method
        self.authorization: str | None = self._headers.get("authorization")
        self.business_id: str = http.route_params.get("businessId", "")
        """As the URL has it, not checked yet; so is ``customer_id``."""
        self.customer_id: str = http.route_params.get("customerId", "")
        self.id = str(uuid.uuid4())
        own = self._headers.get("client-request-id", "")
        # Only what a header can carry back.
        self.client_id = own if _CLIENT_REQUEST_ID.fullmatch(own) else self.id

    @cached_property
    def base(self) -> str:
        """The scheme and host that the client used, as forwarded where a proxy stands before the service."""
        scheme, _, rest = self._origin.partition("://")
        forwarded_scheme = self._first("x-forwarded-proto").lower()
        forwarded_host = self._first("x-forwarded-host")
        if forwarded_scheme in ("http", "https"):
            scheme = forwarded_scheme
        return f"{scheme}://{forwarded_host if _HOST.fullmatch(forwarded_host) else rest.partition('/')[0]}"

    def _first(self, header: str) -> str:
        return self._headers.get(header, "").partition(",")[0].strip()

    def options(self, *supported: str) -> dict[str, str]:
        """Return the query options by name, in lower case and without the ``$``, which may be left off.

        Raises BadRequest naming every other option, since an ignored one would be a wrong answer, and each
        that is repeated.
        """
        sent: dict[str, str] = {}
        violations = []
        try:
            pairs = parse_qsl(self._query, keep_blank_values=True, errors="strict")
        except ValueError:
            raise BadRequest("The query string is not percent-encoded UTF-8.") from None
        for spelt, value in pairs:
            name = spelt.removeprefix("$").lower()
            if name not in supported:
                violations.append(Detail("unsupportedQueryOption", spelt[:128], "This option is not supported here"))
            elif name in sent:
                violations.append(Detail("repeatedQueryOption", spelt[:128], "This option is there twice"))
            sent[name] = value
        if violations:
            raise BadRequest.because(violations)
        return sent

    @property
    def if_match(self) -> Callable[[str], bool] | None:
        """What the customer's ETag must satisfy to be changed; None if any will do."""
        return self._precondition("if-match")

    @property
    def if_none_match(self) -> Callable[[str], bool] | None:
        """What the customer's ETag satisfies if the client has it already; None if it did not say."""
        return self._precondition("if-none-match")

    def header(self, name: str) -> str | None:
        """A header as it was sent, several of one name joined with commas; None if it was not."""
        return self._headers.get(name.lower())

    def _precondition(self, header: str) -> Callable[[str], bool] | None:
        sent = self._headers.get(header)
        if sent is None or (sent.strip() == "*" and header == "if-match"):
            return None
        etags = parse_etags(sent)
        # Table Storage's ETags are weak, so a strong comparison would never hold.
        return lambda etag: etags.contains_weak(unquote_etag(etag)[0])

    def json_body(self, limit: int) -> bytes:
        """Return the body, declared as plain JSON and at most ``limit`` bytes long; its content is not looked at.

        Raises UnsupportedMediaType, ContentTooLarge, and BadRequest for an empty body.
        """
        declared = self._headers.get("content-type", "")
        media_type, _ = parse_options_header(declared)
        if media_type.lower() != _JSON and (declared or self._body):
            raise UnsupportedMediaType(f"Send the body as Content-Type: {_JSON}.")
        if self._headers.get("content-encoding", "identity").lower() != "identity":
            raise UnsupportedMediaType("Send the body without a Content-Encoding.")
        if len(self._body) > limit:
            raise ContentTooLarge(f"The body has {len(self._body)} bytes; {limit} are allowed.")
        if not self._body:
            raise BadRequest("The body is empty; send a bookingCustomer as JSON, with its Content-Length.")
        return self._body

    @property
    def preferred_return(self) -> str | None:
        """``minimal`` or ``representation``, if the client prefers one (RFC 7240, 4.2), the first of several."""
        for preference in parse_list_header(self._headers.get("prefer", "")):
            name, _, value = preference.partition(";")[0].partition("=")
            if name.strip().lower() == "return":
                value = value.strip().strip('"').lower()
                return value if value in ("minimal", "representation") else None
        return None


def _respond(
    request: Request, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, media_type: str = _JSON
) -> func.HttpResponse:
    return func.HttpResponse(
        body,
        status_code=status,
        headers={
            "Content-Type": media_type,
            "request-id": request.id,
            "client-request-id": request.client_id,
            "OData-Version": "4.0",
            "Cache-Control": "no-store",
            **(headers or {}),
        },
    )


def _body(customer: BookingCustomer, select: tuple[str, ...]) -> dict[str, Any]:
    """A customer's JSON: all of it, or the selected properties and the annotations."""
    whole = customer.model_dump()
    return {name: value for name, value in whole.items() if name in select or "@" in name} if select else whole


def entity(
    request: Request, surface: Surface, customer: BookingCustomer, *, status: int = 200, select: tuple[str, ...] = ()
) -> func.HttpResponse:
    """One customer."""
    context = f"{surface.context_url(request.base, request.business_id, select)}/$entity"
    return _respond(
        request, status, to_json({"@odata.context": context, **_body(customer, select)}), {"ETag": customer.etag}
    )


def collection(
    request: Request,
    surface: Surface,
    customers: Sequence[BookingCustomer],
    *,
    select: tuple[str, ...],
    count: int | None,
    next_page: Mapping[str, str] | None,
) -> func.HttpResponse:
    """A page of customers (OData JSON Format 4.01, 13), the count if it was asked for, and where to go on."""
    body: dict[str, Any] = {"@odata.context": surface.context_url(request.base, request.business_id, select)}
    if count is not None:
        body["@odata.count"] = count
    body["value"] = [_body(customer, select) for customer in customers]
    if next_page is not None:
        url = surface.collection_url(request.base, request.business_id)
        body["@odata.nextLink"] = f"{url}?{urlencode(next_page, quote_via=quote, safe='$')}"
    return _respond(request, 200, to_json(body))


def count(request: Request, number: int) -> func.HttpResponse:
    """The bare number (OData 4.01 Protocol, 11.2.10)."""
    return _respond(request, 200, str(number).encode(), media_type="text/plain; charset=utf-8")


def written(request: Request, surface: Surface, customer: BookingCustomer, *, status: int) -> func.HttpResponse:
    """The answer to an add or an update: the whole customer, or 204 if the client prefers a minimal answer.

    Source: OData 4.01 Protocol, 8.2.8.7 (Prefer) and 11.4.2 (create an entity).
    """
    location = surface.entity_url(request.base, request.business_id, customer.id)
    preferred = request.preferred_return
    if preferred == "minimal":
        response = no_content(request, {"Location": location, "OData-EntityId": location, "ETag": customer.etag})
    else:
        response = entity(request, surface, customer, status=status)
        if status == 201:
            response.headers["Location"] = location
    if preferred:
        response.headers["Preference-Applied"] = f"return={preferred}"
    return response


def no_content(request: Request, headers: Mapping[str, str] | None = None) -> func.HttpResponse:
    """Done, and nothing to show."""
    return _respond(request, 204, headers=headers)


def not_modified(request: Request, customer: BookingCustomer) -> func.HttpResponse:
    """The client has the customer as it is (RFC 9110, 15.4.5)."""
    return _respond(request, 304, headers={"ETag": customer.etag})


def error(request: Request, problem: GraphError) -> func.HttpResponse:
    """Any answer that is not a success."""
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


def healthy(request: Request) -> func.HttpResponse:
    """The service can do its work."""
    return _respond(request, 200, to_json({"status": "healthy"}))
