"""The description of the service for machines: OpenAPI 3.1, made from the routes, the models and the errors.

What those do not say, the form of each response and the headers that an operation reads, is in ``OPERATIONS``. The
examples are made by the code that makes the real responses.

The package azure-functions-openapi makes one from decorators, which run at every cold start and would repeat what the
table of routes says; its page loads its viewer from another host.

Source: OpenAPI Specification 3.1.1; JSON Schema 2020-12.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic.alias_generators import to_camel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import core_schema, from_json, to_json

from customers import batch, response
from customers.auth import Caller, Permission
from customers.docs import EXAMPLE, EXAMPLE_BUSINESS
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
from customers.model import MAX_NAMES, ODATA_TYPE, PROPERTIES, BookingCustomer, CustomerUpdate, NewCustomer, Stored
from customers.query import DEFAULT_TOP, MAX_TOP, Option, Query
from customers.request import JSON, Request
from customers.route import Operation, Route
from customers.settings import Settings
from customers.surface import Surface

type Schema = dict[str, Any]

SERVICE = "service"
"""The tag of what is not about customers."""


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


def _component(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_WRITTEN = ("ETag", "Preference-Applied")
_MINIMAL = Response(204, "The same, for `Prefer: return=minimal`.", (*_WRITTEN, "Location", "OData-EntityId"))
_ADD = Described(
    (
        Response(
            201,
            "The customer was added.",
            (*_WRITTEN, "Location", "Repeatability-Result"),
            _component("BookingCustomer"),
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
    "list": Described((Response(200, "A page of customers.", schema=_component("Customers")),)),
    "count": Described((Response(200, "The bare number.", schema={"type": "integer"}, media_type="text/plain"),)),
    "get": Described(
        (
            Response(200, "The customer.", ("ETag",), _component("SelectedCustomer")),
            Response(304, "The customer still has this ETag.", ("ETag",)),
        ),
        headers=("If-None-Match",),
        errors=(NotFound,),
    ),
    "update": Described(
        (Response(200, "The customer was changed.", _WRITTEN, _component("BookingCustomer")), _MINIMAL),
        body="CustomerUpdate",
        headers=("If-Match", "Prefer"),
        errors=(NotFound, PreconditionFailed),
    ),
    "delete": Described(
        (Response(204, "The customer was deleted."),), headers=("If-Match",), errors=(NotFound, PreconditionFailed)
    ),
    "batch": Described(
        (Response(200, "The responses to the requests, in any order.", schema=_component("BatchResponse")),),
        body="BatchRequest",
    ),
    "health": Described(
        (Response(200, "The settings are valid, and storage responds.", schema=_component("Health")),),
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

_ANNOTATION = "An annotation, which is ignored."
_STRING: Schema = {"type": "string"}
_GUID: Schema = {"type": "string", "format": "uuid"}

# What each header is, in requests and in responses: a description, and its schema.
_HEADERS: Mapping[str, tuple[str, Schema]] = {
    "Allow": ("The methods that the path supports.", _STRING),
    "client-request-id": (
        "The client's own id of the request, 1 to 256 visible ASCII characters; else the same as `request-id`.",
        _STRING,
    ),
    "Content-Security-Policy": ("What the page may load: nothing from another host.", _STRING),
    "ETag": ("The version.", _STRING),
    "If-Match": ("Change the customer only if it has this ETag, else `412`.", _STRING),
    "If-None-Match": ("Return `304` without a body if this is still the ETag.", _STRING),
    "Location": ("The URL of the customer.", {"type": "string", "format": "uri"}),
    "OData-EntityId": ("The URL of the customer.", {"type": "string", "format": "uri"}),
    "OData-Version": ("The version of OData.", {"const": "4.0"}),
    "Prefer": ("`return=minimal` for a response without a body. Unknown preferences are ignored.", _STRING),
    "Preference-Applied": ("The preference that was followed.", _STRING),
    "Repeatability-Client-ID": ("Tells clients of one application apart, each with request ids of its own.", _STRING),
    "Repeatability-First-Sent": (
        "When the first attempt was sent, at most 24 hours ago; required with Repeatability-Request-ID.",
        {
            "type": "string",
            "pattern": r"^[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT$",
        },
    ),
    "Repeatability-Request-ID": (
        "Makes an add safe to repeat: every attempt with this GUID returns the one customer that the first one added.",
        _GUID,
    ),
    "Repeatability-Result": ("Whether the repeatability headers were followed.", {"enum": ["accepted", "rejected"]}),
    "request-id": ("The service's id of the request.", _GUID),
    "Retry-After": ("Seconds to wait before the next attempt.", {"type": "integer", "minimum": 0}),
    "WWW-Authenticate": ("What a token must be like (RFC 6750).", _STRING),
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
    Option.SKIPTOKEN: ("Where the next page begins; taken from `@odata.nextLink`.", _STRING),
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


class _Schemas(GenerateJsonSchema):
    """Pydantic's schemas, without titles and defaults, and with what the model's own validators allow."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Schema:
        return self.generate_inner(schema["schema"])

    def model_schema(self, schema: core_schema.ModelSchema) -> Schema:
        made = super().model_schema(schema)
        made.pop("title", None)
        made["description"] = re.sub("``", "`", made.get("description", ""))
        if self.mode == "validation":
            model = schema["cls"]
            made["patternProperties"] = {"@": {"description": _ANNOTATION}}
            made["maxProperties"] = MAX_NAMES
            for name in getattr(model, "absent_if_null", ()):
                made["properties"][name] = {"anyOf": [made["properties"][name], {"type": "null"}]}
        return made


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
            "schemas": _schemas(settings),
            "responses": {error.code: _error(error) for error in errors()},
            "headers": {name: _header(name) for name in _HEADERS},
            "securitySchemes": _security_schemes(settings),
        },
    }


def _tag(surface: Surface) -> str:
    return surface.name.lower().replace("_", " ")


def errors() -> list[type[GraphError]]:
    """The classes of errors, one for each status and code."""
    found = [error for error in _subclasses(GraphError) if "status" in vars(error)]
    return sorted(found, key=lambda error: error.status)


def _subclasses(kind: type[GraphError]) -> Iterator[type[GraphError]]:
    for error in kind.__subclasses__():
        yield error
        yield from _subclasses(error)


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
            "content": {JSON: {"schema": _component(described.body), "example": _SENT[described.body]}},
        }
    responses = made["responses"]
    for one in described.responses:
        responses[str(one.status)] = _response(one, _example(route, name, one.status))
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
    examples = {"businessId": EXAMPLE_BUSINESS, "customerId": _CUSTOMER_ID}
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _component("Key"),
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
    example = from_json(response.error(_request(), _PROBLEMS[error]).get_body())
    example["error"]["innerError"]["date"] = "2026-11-23T15:51:32Z"
    return {
        "description": (error.__doc__ or "").partition("\n")[0],
        "headers": _header_references(_ERROR_HEADERS.get(error, ())),
        "content": {JSON: {"schema": _component("ErrorResponse"), "example": example}},
    }


def _schemas(settings: Settings) -> Schema:
    _, made = models_json_schema(
        [(NewCustomer, "validation"), (CustomerUpdate, "validation"), (BookingCustomer, "serialization")],
        ref_template="#/components/schemas/{model}",
        schema_generator=_Schemas,
    )
    schemas: Schema = made["$defs"]
    for name in ("NewCustomer", "CustomerUpdate"):
        properties = schemas[name]["properties"]
        properties["@odata.type"] = {"description": "In any case.", "enum": [ODATA_TYPE, None]}
        for set_by_service in ("createdDateTime", "lastUpdatedDateTime"):
            properties[set_by_service]["description"] = "Set by the service, and ignored here."
        if settings.email_address_check == "smtp":
            properties["emailAddress"]["format"] = "email"
    schemas["CustomerUpdate"]["properties"]["id"]["description"] = "The id in the URL; it never changes."
    whole = schemas["BookingCustomer"]
    annotations = {
        "@odata.context": {"type": "string", "format": "uri"},
        "@odata.type": {"const": ODATA_TYPE},
        "@odata.etag": {"type": "string", "description": "Changes with every change of the customer."},
    }
    whole["properties"] = {**annotations, **whole["properties"]}
    whole["required"] = [*annotations, *whole["required"]]
    schemas["SelectedCustomer"] = {
        **whole,
        "description": "A stored customer, with the properties that `$select` names, or all.",
        "required": ["@odata.type", "@odata.etag", "id"],
    }
    schemas["Customers"] = {
        "type": "object",
        "description": "A page of customers.",
        "properties": {
            "@odata.context": {"type": "string", "format": "uri"},
            "@odata.count": {"type": "integer", "minimum": 0, "description": "The customers on all pages."},
            "@odata.nextLink": {"type": "string", "format": "uri", "description": "The next page, if there is one."},
            "value": {"type": "array", "items": _component("SelectedCustomer"), "maxItems": MAX_TOP},
        },
        "required": ["@odata.context", "value"],
        "additionalProperties": False,
    }
    schemas["BatchRequest"] = _annotated(
        {"requests": {"type": "array", "minItems": 1, "maxItems": batch.MAX_REQUESTS, "items": _component("Request")}}
    )
    schemas["Request"] = _annotated(
        {
            "id": {"type": "string", "minLength": 1, "maxLength": batch.MAX_ID, "description": "In any case, once."},
            "method": {"type": "string", "pattern": f"^{batch.METHOD.pattern}$"},
            "url": {"type": "string", "minLength": 1, "description": "Relative to the version: `/solutions/…`"},
            "headers": {
                "type": ["object", "null"],
                "propertyNames": {"pattern": f"^{batch.HEADER_NAME.pattern}$"},
                "additionalProperties": {**_STRING, "pattern": f"^{batch.HEADER_VALUE.pattern}$"},
            },
            "body": {"description": "What the request has as its body alone; JSON."},
            "dependsOn": {"type": ["array", "null"], "items": _STRING, "description": "Ids of other requests."},
        },
        optional=("headers", "body", "dependsOn"),
    )
    schemas["BatchResponse"] = _object({"responses": {"type": "array", "items": _component("Response")}})
    schemas["Response"] = _object(
        {
            "id": {"type": "string", "description": "The id of the request."},
            "status": {"type": "integer"},
            "headers": {"type": "object", "additionalProperties": _STRING},
            "body": {"description": "The body, if the response has one; JSON."},
        },
        optional=("body",),
    )
    schemas["Health"] = _object({"status": {"const": "healthy"}})
    schemas["ErrorResponse"] = _object(
        {
            "error": _object(
                {
                    "code": {"enum": [error.code for error in errors()]},
                    "message": {"type": "string", "minLength": 1, "description": "What is wrong, and what to change."},
                    "details": {
                        "type": "array",
                        "maxItems": BadRequest.MAX_DETAILS,
                        "items": _object({"code": _STRING, "target": _STRING, "message": _STRING}),
                    },
                    "innerError": _object(
                        {
                            "date": {"type": "string", "format": "date-time"},
                            "request-id": _GUID,
                            "client-request-id": _STRING,
                        }
                    ),
                }
            )
        }
    )
    return schemas


def _object(properties: Schema, *, optional: Sequence[str] = ()) -> Schema:
    """An object with these properties, of which only some are optional, and no other."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _annotated(properties: Schema, *, optional: Sequence[str] = ()) -> Schema:
    """The same, in which annotations are ignored."""
    return {**_object(properties, optional=optional), "patternProperties": {"@": {"description": _ANNOTATION}}}


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


# The examples: what the service's own code makes of these.

_CUSTOMER_ID = "01a2091a-f7b6-7dcb-a034-cd4c355928a7"
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
_SENT: Mapping[str, Schema] = {"NewCustomer": EXAMPLE, "CustomerUpdate": _UPDATE, "BatchRequest": _BATCH}


def _request(surface: Surface = Surface.BETA, *, media_type: str = JSON, body: bytes = b"") -> Request:
    ids = {"businessId": EXAMPLE_BUSINESS, "customerId": _CUSTOMER_ID}
    request = Request("POST", "https://customers.example.com", {"content-type": media_type}, body, ids=ids)
    request.id = request.client_id = "365982fb-eba2-4f44-a760-e525af46333e"
    request.surface = surface
    request.query = Query(EXAMPLE_BUSINESS)
    return request


def _stored(sent: Schema) -> Stored:
    new = NewCustomer.from_json(to_json(sent), email_address_check="none")
    customer = BookingCustomer.model_construct(
        id=_CUSTOMER_ID, created_date_time=_AT, last_updated_date_time=_AT, **new.properties
    )
    return Stored(customer, _ETAG)


def _example(route: Route, name: str, status: int) -> Any:
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
