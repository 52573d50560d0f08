"""Assertions on the form of Graph's responses."""

import re
from typing import Any
from uuid import UUID

import httpx

BETA = "/beta/bookingBusinesses/{}/customers"
SURFACES = [BETA, "/beta/solutions/bookingBusinesses/{}/customers", "/v1.0/solutions/bookingBusinesses/{}/customers"]
DOCUMENTED = {
    "@odata.type": "#microsoft.graph.bookingCustomer",
    "displayName": "Display Name value",
    "emailAddress": "Email Address value",
}


def assert_common_headers(response: httpx.Response) -> None:
    """Every response has these."""
    assert UUID(response.headers["request-id"])
    assert response.headers["client-request-id"]
    assert response.headers["OData-Version"] == "4.0"


def assert_error(
    response: httpx.Response, status: int, code: str, *, says: str = "", target: str = ""
) -> dict[str, Any]:
    """The error has the contract's whole shape, and its message says and its details name what they should."""
    assert response.status_code == status, response.text
    assert_common_headers(response)
    assert response.headers["Content-Type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"code", "message", "details", "innerError"}
    assert error["code"] == code
    assert error["message"]
    assert says.lower() in error["message"].lower()
    assert "Traceback" not in response.text
    assert error["innerError"]["request-id"] == response.headers["request-id"]
    assert error["innerError"]["client-request-id"] == response.headers["client-request-id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", error["innerError"]["date"])
    for detail in error["details"]:
        assert set(detail) == {"code", "target", "message"}
        assert detail["code"]
        assert detail["message"]
    if target:
        assert target in [detail["target"] for detail in error["details"]]
    if status in (429, 503):
        assert int(response.headers["Retry-After"]) >= 0
    if status == 401:
        assert response.headers["WWW-Authenticate"].startswith("Bearer ")
    return error


def assert_customer(response: httpx.Response, status: int = 201) -> dict[str, Any]:
    """The answer is one whole customer."""
    assert response.status_code == status, response.text
    assert_common_headers(response)
    assert response.headers["Content-Type"] == "application/json"
    customer: dict[str, Any] = response.json()
    assert set(customer) == {
        "@odata.context",
        "@odata.type",
        "@odata.etag",
        "id",
        "displayName",
        "emailAddress",
        "addresses",
        "phones",
        "createdDateTime",
        "lastUpdatedDateTime",
    }
    assert customer["@odata.type"] == "#microsoft.graph.bookingCustomer"
    assert customer["@odata.etag"] == response.headers["ETag"]
    assert customer["createdDateTime"].endswith("Z")
    return customer
