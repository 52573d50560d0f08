"""The description of the service: complete, with the limits of the models, and in agreement with Microsoft Graph's."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from customers import model
from customers.docs import openapi
from customers.docs.operations import OPERATIONS as DESCRIBED
from customers.docs.schemas import errors
from customers.errors import FailedDependency, GraphError, MethodNotAllowed
from customers.keys import KEY_SCHEMA, is_key
from customers.query import Option
from customers.routes import ROUTES
from customers.settings import Settings
from infra.local.run import app_settings
from tests.service.test_readme import _errors

CLIENT = "3f0c8a1e-6d7b-4f52-9a35-c2e1d4b7a860"


def described(**changed: str) -> dict[str, Any]:
    """The description, with these settings changed."""
    usual = app_settings(storage="UseDevelopmentStorage=true", metadata_url="http://127.0.0.1:7072/x")
    return openapi.describe(ROUTES, Settings.from_environment({**usual, **changed}))


DOCUMENT = described()
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = {
    (path, method.upper()): operation for path, item in DOCUMENT["paths"].items() for method, operation in item.items()
}


def test_every_operation_is_described() -> None:
    routed = {(f"/{route.template}", method) for route in ROUTES for method in route.operations}
    assert OPERATIONS.keys() == routed
    handlers = {operation.handler.__name__.strip("_") for route in ROUTES for operation in route.operations.values()}
    assert DESCRIBED.keys() == handlers
    assert all(operation["summary"] for operation in OPERATIONS.values())


def test_every_operation_has_a_name_of_its_own() -> None:
    assert len({operation["operationId"] for operation in OPERATIONS.values()}) == len(OPERATIONS)


def test_every_error_is_described_and_belongs_to_an_operation() -> None:
    assert {(one.status, one.code) for one in errors()} == {(one.status, one.code) for one in _errors(GraphError)}
    responses = DOCUMENT["components"]["responses"]
    assert responses.keys() == {error.code for error in errors()}
    used = {str(response) for operation in OPERATIONS.values() for response in operation["responses"].values()}
    for error in errors():
        # A method that is described is one that the path supports; a dependency fails inside a batch.
        assert (error in (MethodNotAllowed, FailedDependency)) != (
            str({"$ref": f"#/components/responses/{error.code}"}) in used
        )
        assert responses[error.code]["content"]["application/json"]["example"]["error"]["code"] == error.code


def test_every_query_option_is_described() -> None:
    for route in ROUTES:
        for method, operation in route.operations.items():
            parameters = OPERATIONS[(f"/{route.template}", method)]["parameters"]
            assert {one["name"] for one in parameters if one["in"] == "query"} == {
                f"${option.value}" for option in operation.options or ()
            }
    assert openapi._OPTIONS.keys() == set(Option)  # noqa: SLF001


def test_every_operation_that_needs_a_permission_says_so() -> None:
    for route in ROUTES:
        for method, operation in route.operations.items():
            made = OPERATIONS[(f"/{route.template}", method)]
            assert bool(made["security"]) == (operation.permission is not None)
            assert {"401", "403"} & made["responses"].keys() == ({"401", "403"} if operation.permission else set())
            if operation.permission:
                assert all(one in made["description"] for one in operation.permission.value)


def test_the_limits_of_the_models_are_in_the_schemas() -> None:
    for name in ("NewCustomer", "CustomerUpdate"):
        properties = SCHEMAS[name]["properties"]
        assert properties["displayName"]["maxLength"] == model.MAX_DISPLAY_NAME
        assert properties["emailAddress"]["maxLength"] == model.MAX_EMAIL_ADDRESS
        assert [one.get("maxItems") for one in properties["addresses"]["anyOf"]] == [model.MAX_ADDRESSES, None]
        assert [one.get("maxItems") for one in properties["phones"]["anyOf"]] == [model.MAX_PHONES, None]
    assert SCHEMAS["NewCustomer"]["required"] == ["displayName", "emailAddress"]
    assert "required" not in SCHEMAS["CustomerUpdate"]
    assert SCHEMAS["Key"] == KEY_SCHEMA


def test_a_new_property_shows_up_by_itself() -> None:
    for name in ("NewCustomer", "CustomerUpdate", "BookingCustomer", "SelectedCustomer"):
        assert set(model.PROPERTIES) <= SCHEMAS[name]["properties"].keys()


def test_a_valid_address_is_demanded_where_the_settings_do() -> None:
    assert "format" not in SCHEMAS["NewCustomer"]["properties"]["emailAddress"]
    strict = described(EMAIL_ADDRESS_CHECK="smtp")["components"]["schemas"]
    assert strict["NewCustomer"]["properties"]["emailAddress"]["format"] == "email"


@given(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=255),
        st.text("aB $.()/%\n\x85é", min_size=1, max_size=6),
        st.sampled_from(["$ref", "$REF", ".", "..", "...", "$count", "$counts", "a b", "b "]),
        st.sampled_from(["microsoft.graph.bookingCustomer", "Microsoft.Graph.x", "GRAPH.bookingcustomer", "graph.x"]),
        st.sampled_from(
            ["graph.bookingCustomer(1)", "graph.bookingCustomers", "microsoft.graph", "xmicrosoft.graph.x"]
        ),
    )
)
def test_the_pattern_of_an_id_is_the_rule_for_ids(text: str) -> None:
    # JavaScript's $ is the end, Python's also the place before a last line break.
    pattern = re.sub(r"\$(?=\)|$)", r"\\Z", str(KEY_SCHEMA["pattern"]))
    assert bool(re.search(pattern, text)) == is_key(text)


@pytest.mark.parametrize("audience", ["api://booking-customers", CLIENT])
def test_a_sign_in_is_described_where_it_is_configured(audience: str) -> None:
    assert DOCUMENT["components"]["securitySchemes"].keys() == {"bearer"}
    document = described(DOCS_CLIENT_ID=CLIENT, TOKEN_AUDIENCE=audience)
    flow = document["components"]["securitySchemes"]["entra"]["flows"]["authorizationCode"]
    scope = f"api://{audience.removeprefix('api://')}/.default"
    assert flow["authorizationUrl"].endswith("/oauth2/v2.0/authorize")
    assert flow["scopes"].keys() == {scope}
    assert {"entra": [scope]} in document["paths"]["/beta/bookingBusinesses/{businessId}/customers"]["post"]["security"]


# "bookingCustomer resource type", "physicalAddress resource type" and "phone resource type" (Microsoft Graph beta), and
# their CSDL: https://graph.microsoft.com/beta/$metadata. What differs is in README.md, "Compatibility".
GRAPH: dict[str, dict[str, str | set[str]]] = {
    "BookingCustomer": {
        "addresses": "Collection(physicalAddress)",
        "createdDateTime": "Edm.DateTimeOffset",
        "displayName": "Edm.String",
        "emailAddress": "Edm.String",
        "id": "Edm.String",
        "lastUpdatedDateTime": "Edm.DateTimeOffset",
        "phones": "Collection(phone)",
    },
    "PhysicalAddress-Output": {
        "city": "Edm.String",
        "countryOrRegion": "Edm.String",
        "postalCode": "Edm.String",
        "postOfficeBox": "Edm.String",
        "state": "Edm.String",
        "street": "Edm.String",
        "type": {"unknown", "home", "business", "other"},
    },
    "Phone-Output": {
        "language": "Edm.String",
        "number": "Edm.String",
        "region": "Edm.String",
        "type": {
            *("home", "business", "mobile", "other", "assistant"),
            *("homeFax", "businessFax", "otherFax", "pager", "radio"),
        },
    },
}
TYPES: dict[str, dict[str, Any]] = {
    "Edm.String": {"type": "string"},
    "Edm.DateTimeOffset": {"type": "string", "format": "date-time"},
    "Collection(physicalAddress)": {"type": "array", "items": {"$ref": "#/components/schemas/PhysicalAddress-Output"}},
    "Collection(phone)": {"type": "array", "items": {"$ref": "#/components/schemas/Phone-Output"}},
}


@pytest.mark.parametrize("name", GRAPH)
def test_names_and_types_are_graphs(name: str) -> None:
    properties = {key: value for key, value in SCHEMAS[name]["properties"].items() if not key.startswith("@")}
    assert properties.keys() == GRAPH[name].keys()
    for key, expected in GRAPH[name].items():
        schema = next((one for one in properties[key].get("anyOf", []) if one != {"type": "null"}), properties[key])
        if isinstance(expected, set):
            assert set(schema["enum"]) == expected
        else:
            assert TYPES[expected].items() <= schema.items()
