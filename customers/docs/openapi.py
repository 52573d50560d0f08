"""The description of the service for machines: OpenAPI 3.1, made from the routes, the models and the errors.

The package azure-functions-openapi makes one from decorators, which run at every cold start and would repeat what the
table of routes says; its page loads its viewer from another host.

Source: OpenAPI Specification 3.1.1.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic.alias_generators import to_camel

from customers.docs import EXAMPLE_BUSINESS
from customers.docs.examples import CUSTOMER_ID, SENT, error_example, example
from customers.docs.operations import OPERATIONS, Described, Response
from customers.docs.schemas import GUID, STRING, Schema, component, errors, schemas
from customers.errors import (
    AccessDenied,
    BadRequest,
    ContentTooLarge,
    GraphError,
    InternalServerError,
    MethodNotAllowed,
    PreconditionFailed,
    ServiceUnavailable,
    TooManyRequests,
    Unauthenticated,
    UnsupportedMediaType,
)
from customers.model import PROPERTIES
from customers.query import DEFAULT_TOP, MAX_TOP, Option
from customers.request import JSON
from customers.route import Operation, Route
from customers.settings import Settings
from customers.surface import Surface

SERVICE = "service"
"""The tag of what is not about customers."""


# What each header is, in requests and in responses: a description, and its schema.
_HEADERS: Mapping[str, tuple[str, Schema]] = {
    "Allow": ("The methods that the path supports.", STRING),
    "client-request-id": (
        "The client's own id of the request, 1 to 256 visible ASCII characters; else the same as `request-id`.",
        STRING,
    ),
    "Content-Security-Policy": ("What the page may load: nothing from another host.", STRING),
    "ETag": ("The version.", STRING),
    "If-Match": ("Change the customer only if it has this ETag, else `412`.", STRING),
    "If-None-Match": ("Return `304` without a body if this is still the ETag.", STRING),
    "Location": ("The URL of the customer.", {"type": "string", "format": "uri"}),
    "OData-EntityId": ("The URL of the customer.", {"type": "string", "format": "uri"}),
    "OData-Version": ("The version of OData.", {"const": "4.0"}),
    "Prefer": ("`return=minimal` for a response without a body. Unknown preferences are ignored.", STRING),
    "Preference-Applied": ("The preference that was followed.", STRING),
    "Repeatability-Client-ID": ("Tells clients of one application apart, each with request ids of its own.", STRING),
    "Repeatability-First-Sent": (
        "When the first attempt was sent, at most 24 hours ago; required with Repeatability-Request-ID.",
        {
            "type": "string",
            "pattern": r"^[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT$",
        },
    ),
    "Repeatability-Request-ID": (
        "Makes an add safe to repeat: every attempt with this GUID returns the one customer that the first one added.",
        GUID,
    ),
    "Repeatability-Result": ("Whether the repeatability headers were followed.", {"enum": ["accepted", "rejected"]}),
    "request-id": ("The service's id of the request.", GUID),
    "Retry-After": ("Seconds to wait before the next attempt.", {"type": "integer", "minimum": 0}),
    "WWW-Authenticate": ("What a token must be like (RFC 6750).", STRING),
}

_EVERY_RESPONSE = ("request-id", "client-request-id", "OData-Version")
_ALWAYS_SENT = frozenset(
    {*_EVERY_RESPONSE, "Allow", "Content-Security-Policy", "ETag", "Location", "OData-EntityId", "Retry-After"}
)
_ERROR_HEADERS: Mapping[type[GraphError], Sequence[str]] = {
    BadRequest: ("Repeatability-Result",),
    Unauthenticated: ("WWW-Authenticate",),
    AccessDenied: ("WWW-Authenticate",),
    MethodNotAllowed: ("Allow",),
    PreconditionFailed: ("Repeatability-Result",),
    TooManyRequests: ("Retry-After",),
    ServiceUnavailable: ("Retry-After",),
}

_NAMES = "|".join(map(re.escape, PROPERTIES))
_OPTIONS: Mapping[Option, tuple[str, Schema]] = {
    Option.TOP: (
        "The customers per page.",
        {"type": "integer", "minimum": 1, "maximum": MAX_TOP, "default": DEFAULT_TOP},
    ),
    Option.SKIPTOKEN: ("Where the next page begins; taken from `@odata.nextLink`.", STRING),
    Option.COUNT: ("Adds `@odata.count` to the first page.", {"type": "boolean", "default": False}),
    Option.SELECT: (
        "The properties to return, separated by commas; always with the id.",
        {"type": "string", "pattern": f"^({_NAMES})(,({_NAMES}))*$"},
    ),
    Option.FILTER: (
        """Which customers: comparisons (`eq`, `ne`, `gt`, `ge`, `lt`, `le`) of id, displayName, emailAddress,
createdDateTime or lastUpdatedDateTime with a value, `tolower(emailAddress) eq '…'` and `startswith(displayName,'…')`,
joined by `and`, `or`, `not` and parentheses. For example: `emailAddress eq 'ada@example.com'`""",
        {"type": "string", "minLength": 1, "maxLength": 2000},
    ),
    Option.ORDERBY: ("The order of every list.", {"enum": ["id", "id asc"]}),
}


def describe(routes: Sequence[Route], settings: Settings) -> Schema:
    """Describe the service with these routes and settings."""
    paths: dict[str, Any] = {}
    for route in routes:
        if route.operations:
            path = paths.setdefault(f"/{route.template}", {})
            for method, operation in route.operations.items():
                path[method.lower()] = _operation(route, operation, settings)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Booking customers",
            "version": "1.0",
            "summary": "The customers of a booking business, in Microsoft Graph's language.",
            "description": "The same customers are at three places, as in Microsoft Graph. Any method that a path does "
            "not list is a `405`, any other path a `404`.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [
            *({"name": _tag(surface), "description": f"`/{surface.template}`"} for surface in Surface),
            {"name": SERVICE, "description": "The service itself"},
        ],
        "paths": paths,
        "components": {
            "schemas": schemas(settings),
            "responses": {error.code: _error(error) for error in errors()},
            "headers": {name: _header(name) for name in _HEADERS},
            "securitySchemes": _security_schemes(settings),
        },
    }


def _tag(surface: Surface) -> str:
    return surface.name.lower().replace("_", " ")


def _operation(route: Route, operation: Operation, settings: Settings) -> Schema:
    name = operation.handler.__name__.strip("_")
    described = OPERATIONS[name]
    summary = (operation.handler.__doc__ or "").partition("\n")[0].strip()
    made: Schema = {
        "operationId": to_camel(f"{route.surface.name.lower()}_{name}" if route.surface else route.name),
        "tags": [_tag(route.surface) if route.surface else SERVICE],
        "summary": summary.removesuffix("."),
        "parameters": [
            *_ids(route),
            *_options(operation),
            *map(_request_header, ("client-request-id", *described.headers)),
        ],
        "responses": {},
        "security": [],
    }
    if operation.permission is not None:
        permissions = ", ".join(f"`{one}`" for one in operation.permission.value)
        made["description"] = (
            f"Permissions, any one of: {permissions}" if permissions else "Each request needs its own."
        )
        made["security"] = _security(settings)
    if described.body is not None:
        made["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": component(described.body), "example": SENT[described.body]}},
        }
    responses = made["responses"]
    for one in described.responses:
        responses[str(one.status)] = _response(one, example(route, name, one.status))
    for error in sorted(_errors(route, operation, described), key=lambda error: error.status):
        responses[str(error.status)] = {"$ref": f"#/components/responses/{error.code}"}
    return made


def _errors(route: Route, operation: Operation, described: Described) -> Iterator[type[GraphError]]:
    yield InternalServerError
    yield from described.errors
    if operation.permission is not None:
        yield from (Unauthenticated, AccessDenied, TooManyRequests, ServiceUnavailable)
    if operation.options or described.body is not None or "{" in route.template:
        yield BadRequest
    if described.body is not None:
        yield from (ContentTooLarge, UnsupportedMediaType)


def _ids(route: Route) -> list[Schema]:
    examples = {"businessId": EXAMPLE_BUSINESS, "customerId": CUSTOMER_ID}
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": component("Key"),
            **({"example": examples[name]} if name in examples else {}),
        }
        for name in re.findall(r"\{(\w+)\}", route.template)
    ]


def _options(operation: Operation) -> list[Schema]:
    return [
        {
            "name": f"${option.value}",
            "in": "query",
            "description": _OPTIONS[option][0],
            "schema": _OPTIONS[option][1],
        }
        for option in operation.options or ()
    ]


def _request_header(name: str) -> Schema:
    description, schema = _HEADERS[name]
    return {"name": name, "in": "header", "description": description, "schema": schema}


def _header(name: str) -> Schema:
    description, schema = _HEADERS[name]
    return {"description": description, "schema": schema, "required": name in _ALWAYS_SENT}


def _header_references(names: Sequence[str]) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (*_EVERY_RESPONSE, *names)}


def _response(one: Response, example: Any) -> Schema:
    made: Schema = {"description": one.description, "headers": _header_references(one.headers)}
    if one.schema is not None:
        content = {"schema": one.schema} | ({"example": example} if example is not None else {})
        made["content"] = {one.media_type: content}
    return made


def _error(error: type[GraphError]) -> Schema:
    return {
        "description": (error.__doc__ or "").partition("\n")[0],
        "headers": _header_references(_ERROR_HEADERS.get(error, ())),
        "content": {JSON: {"schema": component("ErrorResponse"), "example": error_example(error)}},
    }


def _security(settings: Settings) -> list[Schema]:
    """A token from anywhere, or from a sign-in."""
    return [{"bearer": []}, *([{"entra": [sign_in_scope(settings)]}] if settings.docs_client_id else [])]


def sign_in_scope(settings: Settings) -> str:
    """What a sign-in asks for: the permissions that its client was given.

    Source: "Scopes and permissions in the Microsoft identity platform", .default.
    """
    audience = settings.audiences[0]
    return f"{audience if '://' in audience else f'api://{audience}'}/.default"


def _security_schemes(settings: Settings) -> Schema:
    schemes: Schema = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "An access token of Microsoft Entra ID for this service.",
        }
    }
    if settings.docs_client_id:
        base = f"{settings.authority}/{settings.tenant_id}/oauth2/v2.0"
        schemes["entra"] = {
            "type": "oauth2",
            "description": "Sign in with Microsoft Entra ID (authorization code with PKCE).",
            "flows": {
                "authorizationCode": {
                    "authorizationUrl": f"{base}/authorize",
                    "tokenUrl": f"{base}/token",
                    "scopes": {sign_in_scope(settings): "The permissions that this page was given"},
                }
            },
        }
    return schemes
