"""A request as Microsoft Graph defines it: what it is sent to, and what its headers and body say.

Sources: OData 4.01 Protocol; RFC 7240 (Prefer); RFC 9110 (preconditions); "Best practices for working with Microsoft
Graph" (request-id and client-request-id).
"""

import re
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import cached_property
from urllib.parse import unquote

import azure.functions as func
from werkzeug.http import parse_etags, parse_list_header, parse_options_header, unquote_etag

from customers.auth import Caller
from customers.batch import Member
from customers.errors import BadRequest, ContentTooLarge, GraphError, UnsupportedMediaType
from customers.insert_group import Place
from customers.query import Query
from customers.surface import Surface

JSON = "application/json"
_CLIENT_REQUEST_ID = re.compile(r"[ -~]{1,256}")


class Request:
    """What an operation needs to know of a request.

    ``headers`` have their names in lower case, several values of one name joined with commas. ``ids`` are the values
    of the route's parameters. The attributes below that have no value in the constructor are set before an operation
    runs, if its route and permission provide them.
    """

    surface: Surface
    """Where the customers appear for this request."""
    caller: Caller
    """Who sent it, by a verified token."""
    query: Query
    """Its query options."""
    perform: Callable[[Member, Place | None], Awaitable[func.HttpResponse]]
    """Responds to a request of the batch that this one is; an add is written in that place."""
    insert: Place | None = None
    """Where it is written, if it is an add of a batch."""
    batch_id: str = ""
    """The request-id of the batch that it is a part of, if it is."""
    problem: GraphError | None = None
    """Why it is refused in any case, if it is."""
    is_repeat: bool = False
    """Whether it repeats an add that an earlier request made, as its operation finds out."""

    def __init__(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        ids: Mapping[str, str],
        forwarded_hosts: Collection[str] = (),
    ) -> None:
        self.method = method
        # Split without urllib, which raises on some of the hosts that a client may send.
        self._origin, _, self.query_string = url.partition("?")
        self._headers = headers
        self._body = body
        self._forwarded_hosts = forwarded_hosts
        self.ids = ids
        self.business_id = ids.get("businessId", "")
        self.customer_id = ids.get("customerId", "")
        self.id = str(uuid.uuid4())
        sent_id = headers.get("client-request-id", "")
        # Echoed only if it can be a header value.
        self.client_id = sent_id if _CLIENT_REQUEST_ID.fullmatch(sent_id) else self.id

    def header(self, name: str) -> str | None:
        """Return a header as it was sent, or None."""
        return self._headers.get(name.lower())

    @property
    def version(self) -> str:
        """The first segment of the path."""
        return unquote(self._origin.partition("://")[2].split("/")[1]).lower()

    @cached_property
    def base(self) -> str:
        """The scheme and host that the client used, as a proxy forwarded them.

        A forwarded host is used only if the settings name it, because an SDK sends its token to the host of a link.
        """
        scheme, _, rest = self._origin.partition("://")
        forwarded_host = self._first("x-forwarded-host").lower()
        if self._first("x-forwarded-proto").lower() == "https":
            scheme = "https"
        return f"{scheme}://{forwarded_host if forwarded_host in self._forwarded_hosts else rest.partition('/')[0]}"

    @property
    def is_https(self) -> bool:
        """Whether the client used https."""
        return self.base.startswith("https:")

    def _first(self, header: str) -> str:
        return self._headers.get(header, "").partition(",")[0].strip()

    @property
    def collection_url(self) -> str:
        """The absolute URL of the business's customers."""
        return self.surface.collection_url(self.base, self.business_id)

    def customer_url(self, customer_id: str) -> str:
        """The absolute URL of a customer of the business."""
        return self.surface.customer_url(self.base, self.business_id, customer_id)

    @property
    def context_url(self) -> str:
        """The context URL of the business's customers, limited to the selected properties."""
        return self.surface.context_url(self.base, self.business_id, self.query.select)

    @property
    def if_match(self) -> Callable[[str], bool] | None:
        """The condition on the customer's ETag for a change; None for no condition."""
        return self._precondition("if-match")

    @property
    def if_none_match(self) -> Callable[[str], bool] | None:
        """Whether the client already has the customer with an ETag; None if it did not say."""
        return self._precondition("if-none-match")

    def _precondition(self, header: str) -> Callable[[str], bool] | None:
        sent = self._headers.get(header)
        if sent is None or (sent.strip() == "*" and header == "if-match"):
            return None
        etags = parse_etags(sent)
        # Table Storage's ETags are weak, so a strong comparison would never match.
        return lambda etag: etags.contains_weak(unquote_etag(etag)[0])

    def json_body(self, limit: int) -> bytes:
        """Return the body, declared as plain JSON and at most ``limit`` bytes long, without parsing it.

        Raises UnsupportedMediaType, ContentTooLarge, and BadRequest for an empty body.
        """
        declared = self._headers.get("content-type", "")
        media_type, _ = parse_options_header(declared)
        if media_type.lower() != JSON and (declared or self._body):
            raise UnsupportedMediaType(f"Send the body with Content-Type: {JSON}.")
        if self._headers.get("content-encoding", "identity").lower() != "identity":
            raise UnsupportedMediaType("Send the body without a Content-Encoding.")
        if len(self._body) > limit:
            raise ContentTooLarge(f"The body has {len(self._body)} bytes; it must have at most {limit}.")
        if not self._body:
            raise BadRequest("The body is empty. Send it as JSON, with a Content-Length header.")
        return self._body

    @property
    def preferred_return(self) -> str | None:
        """The client's first preference (RFC 7240, 4.2): ``minimal`` or ``representation``; None without one."""
        for preference in parse_list_header(self._headers.get("prefer", "")):
            name, _, value = preference.partition(";")[0].partition("=")
            if name.strip().lower() == "return":
                value = value.strip().strip('"').lower()
                return value if value in ("minimal", "representation") else None
        return None
