"""The schemas of the description: those of the models, as Pydantic makes them, and of what has no model.

Source: JSON Schema 2020-12.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import core_schema

from customers import batch
from customers.errors import BadRequest, GraphError
from customers.model import MAX_NAMES, ODATA_TYPE, BookingCustomer, CustomerUpdate, NewCustomer
from customers.query import MAX_TOP
from customers.settings import Settings

type Schema = dict[str, Any]

_ANNOTATION = "An annotation, which is ignored."
STRING: Schema = {"type": "string"}
GUID: Schema = {"type": "string", "format": "uuid"}


def component(name: str) -> Schema:
    """Refer to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


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


def schemas(settings: Settings) -> Schema:
    """Every schema of the document, by its name."""
    _, made = models_json_schema(
        [(NewCustomer, "validation"), (CustomerUpdate, "validation"), (BookingCustomer, "serialization")],
        ref_template="#/components/schemas/{model}",
        schema_generator=_Schemas,
    )
    found: Schema = made["$defs"]
    for name in ("NewCustomer", "CustomerUpdate"):
        properties = found[name]["properties"]
        properties["@odata.type"] = {"description": "In any case.", "enum": [ODATA_TYPE, None]}
        for set_by_service in ("createdDateTime", "lastUpdatedDateTime"):
            properties[set_by_service]["description"] = "Set by the service, and ignored here."
        if settings.email_address_check == "smtp":
            properties["emailAddress"]["format"] = "email"
    found["CustomerUpdate"]["properties"]["id"]["description"] = "The id in the URL; it never changes."
    whole = found["BookingCustomer"]
    annotations = {
        "@odata.context": {"type": "string", "format": "uri"},
        "@odata.type": {"const": ODATA_TYPE},
        "@odata.etag": {"type": "string", "description": "Changes with every change of the customer."},
    }
    whole["properties"] = {**annotations, **whole["properties"]}
    whole["required"] = [*annotations, *whole["required"]]
    found["SelectedCustomer"] = {
        **whole,
        "description": "A stored customer, with the properties that `$select` names, or all.",
        "required": ["@odata.type", "@odata.etag", "id"],
    }
    found["Customers"] = {
        "type": "object",
        "description": "A page of customers.",
        "properties": {
            "@odata.context": {"type": "string", "format": "uri"},
            "@odata.count": {"type": "integer", "minimum": 0, "description": "The customers on all pages."},
            "@odata.nextLink": {"type": "string", "format": "uri", "description": "The next page, if there is one."},
            "value": {"type": "array", "items": component("SelectedCustomer"), "maxItems": MAX_TOP},
        },
        "required": ["@odata.context", "value"],
        "additionalProperties": False,
    }
    found["BatchRequest"] = _annotated(
        {"requests": {"type": "array", "minItems": 1, "maxItems": batch.MAX_REQUESTS, "items": component("Request")}}
    )
    found["Request"] = _annotated(
        {
            "id": {"type": "string", "minLength": 1, "maxLength": batch.MAX_ID, "description": "In any case, once."},
            "method": {"type": "string", "pattern": f"^{batch.METHOD.pattern}$"},
            "url": {"type": "string", "minLength": 1, "description": "Relative to the version: `/solutions/…`"},
            "headers": {
                "type": ["object", "null"],
                "propertyNames": {"pattern": f"^{batch.HEADER_NAME.pattern}$"},
                "additionalProperties": {**STRING, "pattern": f"^{batch.HEADER_VALUE.pattern}$"},
            },
            "body": {"description": "What the request has as its body alone; JSON."},
            "dependsOn": {"type": ["array", "null"], "items": STRING, "description": "Ids of other requests."},
        },
        optional=("headers", "body", "dependsOn"),
    )
    found["BatchResponse"] = _object({"responses": {"type": "array", "items": component("Response")}})
    found["Response"] = _object(
        {
            "id": {"type": "string", "description": "The id of the request."},
            "status": {"type": "integer"},
            "headers": {"type": "object", "additionalProperties": STRING},
            "body": {"description": "The body, if the response has one; JSON."},
        },
        optional=("body",),
    )
    found["Health"] = _object({"status": {"const": "healthy"}})
    found["ErrorResponse"] = _object(
        {
            "error": _object(
                {
                    "code": {"enum": [error.code for error in errors()]},
                    "message": {"type": "string", "minLength": 1, "description": "What is wrong, and what to change."},
                    "details": {
                        "type": "array",
                        "maxItems": BadRequest.MAX_DETAILS,
                        "items": _object({"code": STRING, "target": STRING, "message": STRING}),
                    },
                    "innerError": _object(
                        {
                            "date": {"type": "string", "format": "date-time"},
                            "request-id": GUID,
                            "client-request-id": STRING,
                        }
                    ),
                }
            )
        }
    )
    return found


def _object(properties: Schema, *, optional: Sequence[str] = ()) -> Schema:
    """An object with these properties, of which only some are optional, and no other."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _annotated(properties: Schema, *, optional: Sequence[str] = ()) -> Schema:
    """The same, in which annotations are ignored."""
    return {**_object(properties, optional=optional), "patternProperties": {"@": {"description": _ANNOTATION}}}


def errors() -> list[type[GraphError]]:
    """The classes of errors, one for each status and code."""
    found = [error for error in _subclasses(GraphError) if "status" in vars(error)]
    return sorted(found, key=lambda error: error.status)


def _subclasses(kind: type[GraphError]) -> Iterator[type[GraphError]]:
    for error in kind.__subclasses__():
        yield error
        yield from _subclasses(error)
