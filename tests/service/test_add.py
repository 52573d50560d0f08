"""Adding a customer over HTTP: every surface, header and preference, and every refusal that is about the request."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import UUID, uuid4

import httpx
import pytest
from azure.data.tables import TableClient

from customers.routes import ROUTES
from infra.local.issuer import APPLICATION, Issuer
from tests.conftest import Service, StartService, rows
from tests.support.graph import BETA, DOCUMENTED, SURFACES, assert_customer, assert_error

CONTOSO = "Contoso@contoso.onmicrosoft.com"
COLLECTION = BETA.format(CONTOSO)
CONTEXTS = {
    SURFACES[0]: "/beta/$metadata#bookingBusinesses('Contoso%40contoso.onmicrosoft.com')/customers/$entity",
    SURFACES[1]: "/beta/$metadata#solutions/bookingBusinesses('Contoso%40contoso.onmicrosoft.com')/customers/$entity",
    SURFACES[2]: "/v1.0/$metadata#solutions/bookingBusinesses('Contoso%40contoso.onmicrosoft.com')/customers/$entity",
}
WHOLE: dict[str, Any] = {
    "displayName": "Ada",
    "emailAddress": "ada@example.com",
    "addresses": [
        {
            "type": "home",
            "postOfficeBox": "1",
            "street": "2",
            "city": "3",
            "state": "4",
            "countryOrRegion": "5",
            "postalCode": "6",
        },
        {"city": "Turin"},
    ],
    "phones": [{"type": "mobile", "number": "+39 1", "language": "it", "region": None}],
}


def test_the_documented_request_works_to_the_letter(client: httpx.Client, service: Service) -> None:
    response = client.post(COLLECTION, json=DOCUMENTED)
    customer = assert_customer(response)
    assert DOCUMENTED.items() <= customer.items()
    assert str(UUID(customer["id"])) == customer["id"]
    assert (customer["addresses"], customer["phones"]) == ([], [])
    assert customer["createdDateTime"] == customer["lastUpdatedDateTime"]
    created = datetime.fromisoformat(customer["createdDateTime"])
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=1)
    assert response.headers["Location"] == f"{service.base}{BETA.format(quote(CONTOSO, safe=''))}/{customer['id']}"


@pytest.mark.parametrize("suffix", ["", "/", "/$ref", "/%24ref", "/$REF"])
@pytest.mark.parametrize("surface", SURFACES)
def test_every_surface_and_spelling_adds_and_location_leads_to_the_customer(
    client: httpx.Client, service: Service, surface: str, suffix: str
) -> None:
    response = client.post(surface.format(CONTOSO) + suffix, json=WHOLE)
    customer = assert_customer(response)
    assert customer["@odata.context"] == service.base + CONTEXTS[surface]
    assert assert_customer(client.get(response.headers["Location"]), 200) == customer
    for other in SURFACES:
        found = assert_customer(client.get(f"{other.format(CONTOSO)}/{customer['id']}"), 200)
        assert {**found, "@odata.context": ""} == {**customer, "@odata.context": ""}


def test_literal_segments_ignore_case_and_ids_do_not(client: httpx.Client) -> None:
    name = f"Case{uuid4()}"
    assert_customer(client.post(f"/BETA/BOOKINGbusinesses/{name}/Customers", json={**DOCUMENTED, "id": "A"}))
    assert_customer(client.get(f"{BETA.format(name)}/A"), 200)
    assert_error(client.get(f"{BETA.format(name)}/a"), 404, "notFound")
    assert_error(client.get(f"{BETA.format(name.lower())}/A"), 404, "notFound")


def test_addresses_and_phones_come_back_whole_with_null_for_what_is_missing(client: httpx.Client) -> None:
    customer = assert_customer(client.post(COLLECTION, json=WHOLE))
    assert customer["addresses"][0] == WHOLE["addresses"][0]
    assert customer["addresses"][1] == {
        **dict.fromkeys(WHOLE["addresses"][0]),
        "city": "Turin",
    }
    assert customer["phones"] == WHOLE["phones"]


def test_a_clients_own_id_is_kept_and_is_taken_the_second_time(client: httpx.Client) -> None:
    own = f"own {uuid4()}"
    first = assert_customer(client.post(COLLECTION, json={**WHOLE, "id": own}))
    assert first["id"] == own
    assert_error(client.post(COLLECTION, json={**DOCUMENTED, "id": own}), 409, "conflict", says="id")
    assert assert_customer(client.get(f"{COLLECTION}/{quote(own)}"), 200) == first


def test_businesses_do_not_share_ids(client: httpx.Client) -> None:
    own = str(uuid4())
    for business in ("one", "two"):
        assert_customer(client.post(BETA.format(business), json={**DOCUMENTED, "id": own}))


def test_ids_made_one_after_the_other_sort_so(client: httpx.Client) -> None:
    ids = [assert_customer(client.post(COLLECTION, json=DOCUMENTED))["id"] for _ in range(20)]
    assert ids == sorted(ids)


@pytest.mark.parametrize(
    "prefer", ["return=minimal", "RETURN=Minimal", 'x, return="minimal"; y=1', "return=minimal, return=representation"]
)
def test_a_minimal_response_has_no_body_but_the_location(client: httpx.Client, prefer: str) -> None:
    response = client.post(COLLECTION, json=DOCUMENTED, headers={"Prefer": prefer})
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["Preference-Applied"] == "return=minimal"
    assert response.headers["OData-EntityId"] == response.headers["Location"]
    assert response.headers["OData-Version"] == "4.0"
    customer = assert_customer(client.get(response.headers["Location"]), 200)
    assert customer["@odata.etag"] == response.headers["ETag"]


@pytest.mark.parametrize(
    "prefer", ["", "return=representation", "respond-async", "return", "return=nonsense", ",;=", "odata.maxpagesize=2"]
)
def test_other_preferences_are_the_default(client: httpx.Client, prefer: str) -> None:
    response = client.post(COLLECTION, json=DOCUMENTED, headers={"Prefer": prefer})
    assert_customer(response)
    assert response.headers.get("Preference-Applied") == (prefer if prefer == "return=representation" else None)


def test_each_request_has_its_own_id_and_keeps_the_clients(client: httpx.Client) -> None:
    mine = str(uuid4())
    first, second = (client.post(COLLECTION, json={}, headers={"client-request-id": mine}) for _ in range(2))
    assert first.headers["client-request-id"] == second.headers["client-request-id"] == mine
    assert len({first.headers["request-id"], second.headers["request-id"], mine}) == 3
    plain = client.post(COLLECTION, json={})
    assert plain.headers["client-request-id"] == plain.headers["request-id"]


@pytest.mark.parametrize("mine", ["x" * 257, "é", "a\tb"])
def test_a_client_request_id_that_no_header_should_carry_is_replaced(client: httpx.Client, mine: str) -> None:
    response = client.post(COLLECTION, json={}, headers={b"client-request-id": mine.encode()})
    assert response.headers["client-request-id"] == response.headers["request-id"]


def test_urls_have_the_forwarded_host_only_if_the_settings_name_it(start_service: StartService, issuer: Issuer) -> None:
    token = {"Authorization": f"Bearer {issuer.token()}"}
    with (
        start_service(FORWARDED_HOSTS="Bookings.example.com:8443, other.example.com") as service,
        httpx.Client(base_url=service.base, headers=token) as client,
    ):
        own = client.base_url.netloc.decode()
        for host, expected in (
            ("bookings.example.com:8443, inner", "bookings.example.com:8443"),
            ("BOOKINGS.example.com:8443", "bookings.example.com:8443"),
            ("other.example.com", "other.example.com"),
            ("bookings.example.com", own),
            ("evil.example.com", own),
            ("evil.example.com, other.example.com", own),
            ("a/b?c", own),
            ("", own),
        ):
            forwarded = {"X-Forwarded-Proto": "https, http", "X-Forwarded-Host": host}
            response = client.post(COLLECTION, json=DOCUMENTED, headers=forwarded)
            assert assert_customer(response)["@odata.context"].startswith(f"https://{expected}/beta/$metadata#"), host
            assert response.headers["Location"].startswith(f"https://{expected}/beta/")


@pytest.mark.parametrize("scheme", ["javascript", "http", "", "wss"])
def test_no_other_scheme_than_https_is_taken_from_a_proxy(client: httpx.Client, scheme: str) -> None:
    response = client.post(COLLECTION, json=DOCUMENTED, headers={"X-Forwarded-Proto": scheme})
    assert urlsplit(response.headers["Location"])[:2] == ("http", client.base_url.netloc.decode())


def test_every_response_has_the_security_headers(client: httpx.Client) -> None:
    for path in (COLLECTION, "/nowhere", "/healthz"):
        secure = client.get(path, headers={"X-Forwarded-Proto": "https"})
        assert secure.headers["Strict-Transport-Security"] == "max-age=31536000"
        assert secure.headers["X-Content-Type-Options"] == "nosniff"
        plain = client.get(path)
        assert "Strict-Transport-Security" not in plain.headers
        assert plain.headers["X-Content-Type-Options"] == "nosniff"


def test_a_quote_in_the_business_id_is_escaped_in_the_context(client: httpx.Client) -> None:
    response = client.post(BETA.format("O'Brien"), json=DOCUMENTED)
    assert "bookingBusinesses('O%27%27Brien')" in assert_customer(response)["@odata.context"]
    assert_customer(client.get(response.headers["Location"]), 200)


def test_the_error_for_an_entity_reference_says_where_to_post(client: httpx.Client, service: Service) -> None:
    response = client.post(f"{COLLECTION}/$ref", json={"@odata.id": f"{service.base}{COLLECTION}/1"})
    error = assert_error(response, 400, "badRequest", says="contained in their business")
    assert f"{service.base}{BETA.format(quote(CONTOSO, safe=''))}." in error["message"]


def test_any_other_bad_body_at_the_reference_gets_its_own_error(client: httpx.Client) -> None:
    assert_error(client.post(f"{COLLECTION}/$ref", json={}), 400, "badRequest", target="displayName")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("?$expand=x", ["$expand"]),
        ("?$expand=", ["$expand"]),
        ("?code", ["code"]),
        ("?%24select=id&foo=1", ["$select", "foo"]),
    ],
)
def test_every_query_option_of_an_add_is_refused_by_name(client: httpx.Client, options: str, names: list[str]) -> None:
    error = assert_error(client.post(COLLECTION + options, json=DOCUMENTED), 400, "badRequest")
    assert [detail["target"] for detail in error["details"]] == names


@pytest.mark.parametrize(
    ("method", "suffix", "allow"),
    [
        (method, suffix, allow)
        for suffix, allow in (("", "GET, POST"), ("/$ref", "POST"), ("/$count", "GET"), ("/x", "DELETE, GET, PATCH"))
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE")
        if method not in allow.split(", ")
    ],
)
def test_other_methods_are_refused_with_those_that_work(
    anonymous: httpx.Client, method: str, suffix: str, allow: str
) -> None:
    response = anonymous.request(method, COLLECTION + suffix)
    assert_error(response, 405, "methodNotAllowed", says=allow)
    assert response.headers["Allow"] == allow


def test_head_is_refused_without_a_body(anonymous: httpx.Client) -> None:
    response = anonymous.head(COLLECTION)
    assert (response.status_code, response.headers["Allow"], response.content) == (405, "GET, POST", b"")


@pytest.mark.parametrize(
    "path", ["/beta", "/beta/bookingBusinesses", f"{COLLECTION}/1/2", "/v1.0/bookingBusinesses/x/customers", "/x"]
)
def test_an_unknown_path_is_a_404_in_graphs_form(anonymous: httpx.Client, path: str) -> None:
    assert_error(anonymous.post(path, json=DOCUMENTED), 404, "notFound")


@pytest.mark.parametrize("business", ["%20x", "x%20", "a%2Fb", "a%5Cb", "a%23b", "a%3Fb", "a%25b", "x" * 256, "%FF"])
def test_a_bad_business_id_is_refused(client: httpx.Client, business: str) -> None:
    response = client.post(f"/beta/bookingBusinesses/{business}/customers", json=DOCUMENTED)
    assert_error(response, 400, "badRequest", target="businessId")


def test_a_zero_byte_in_a_path_is_refused_by_the_web_server_itself(client: httpx.Client) -> None:
    response = client.post(BETA.format("a%00b"), json=DOCUMENTED)
    assert (response.status_code, response.content) == (400, b"")


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/xml", "application/x-www-form-urlencoded", "application/jsonx", "json", ";"],
)
def test_a_body_that_is_not_declared_as_json_is_refused(client: httpx.Client, content_type: str) -> None:
    response = client.post(COLLECTION, content=json.dumps(DOCUMENTED), headers={"Content-Type": content_type})
    assert_error(response, 415, "unsupportedMediaType", says="application/json")


def test_a_body_without_a_content_type_or_with_an_encoding_is_refused(client: httpx.Client) -> None:
    body = json.dumps(DOCUMENTED).encode()
    assert_error(client.post(COLLECTION, content=body), 415, "unsupportedMediaType")
    headers = {"Content-Type": "application/json", "Content-Encoding": "br"}
    assert_error(client.post(COLLECTION, content=body, headers=headers), 415, "unsupportedMediaType")


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", "application/json;odata.metadata=minimal"]
)
def test_parameters_and_case_of_the_content_type_do_not_matter(client: httpx.Client, content_type: str) -> None:
    response = client.post(COLLECTION, content=json.dumps(DOCUMENTED), headers={"Content-Type": content_type})
    assert_customer(response)


BAD_BODIES = {
    "empty": b"",
    "not json": b"{'a': 1}",
    "an array": b"[1]",
    "invalid utf-8": b'{"displayName": "\xff\xfe", "emailAddress": "a"}',
    "nan": b'{"displayName": NaN, "emailAddress": "a"}',
    "duplicate keys": b'{"displayName": "a", "displayName": "b", "emailAddress": "a"}',
    "10,000 levels": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "lone surrogate": b'{"displayName": "\\udc00", "emailAddress": "a"}',
    "nul": b'{"displayName": "a\\u0000b", "emailAddress": "a"}',
    "unknown property": b'{"displayName": "a", "emailAddress": "a", "vip": true}',
    "null": b'{"displayName": null, "emailAddress": "a"}',
    "too long": json.dumps({"displayName": "a" * 257, "emailAddress": "a"}).encode(),
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_bad_body_is_a_400(client: httpx.Client, body: bytes) -> None:
    assert_error(client.post(COLLECTION, content=body, headers={"Content-Type": "application/json"}), 400, "badRequest")


def test_a_body_over_the_limit_is_a_413(client: httpx.Client) -> None:
    body = json.dumps({**DOCUMENTED, "@padding": "x" * 2_000_000})
    response = client.post(COLLECTION, content=body, headers={"Content-Type": "application/json"})
    assert_error(response, 413, "contentTooLarge", says="1048576")


def test_the_limit_of_the_body_counts_bytes(client: httpx.Client) -> None:
    body = json.dumps(DOCUMENTED).encode()
    headers = {"Content-Type": "application/json"}
    assert_customer(client.post(COLLECTION, content=body.ljust(1_048_576), headers=headers))
    assert_error(client.post(COLLECTION, content=body.ljust(1_048_577), headers=headers), 413, "contentTooLarge")


def test_the_largest_customer_is_stored(client: httpx.Client) -> None:
    text = "\U0001f600" * 255
    body = {
        "id": text,
        "displayName": text,
        "emailAddress": text,
        "addresses": [{name: text for name in WHOLE["addresses"][0] if name != "type"}] * 10,
        "phones": [dict.fromkeys(("number", "language", "region"), text)] * 20,
    }
    response = client.post(BETA.format(quote(text)), json=body)
    customer = assert_customer(response)
    assert assert_customer(client.get(response.headers["Location"]), 200) == customer
    assert customer["id"] == customer["displayName"] == text


def test_addresses_are_checked_where_the_settings_ask_for_it(start_service: StartService, issuer: Issuer) -> None:
    with (
        start_service(EMAIL_ADDRESS_CHECK="smtp", BODY_LIMIT="2000") as service,
        httpx.Client(base_url=service.base, headers={"Authorization": f"Bearer {issuer.token()}"}) as client,
    ):
        assert_error(client.post(COLLECTION, json=DOCUMENTED), 400, "badRequest", target="emailAddress")
        assert_customer(client.post(COLLECTION, json=WHOLE))
        assert_error(client.post(COLLECTION, json={"x": "y" * 2000}), 413, "contentTooLarge", says="2000")


def test_500_adds_at_once_are_500_customers(
    service: Service, client: httpx.Client, table: TableClient, issuer: Issuer
) -> None:
    business = str(uuid4())
    client.get(BETA.format(business))  # few requests may wait while there are no signing keys

    async def add_all() -> list[str]:
        headers = {"Authorization": f"Bearer {issuer.token()}"}
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=service.base, headers=headers, limits=limits, timeout=60) as many:
            responses = await asyncio.gather(
                *(many.post(BETA.format(business), json={**DOCUMENTED, "displayName": f"{n}"}) for n in range(500))
            )
        return [assert_customer(response)["id"] for response in responses]

    ids = asyncio.run(add_all())
    stored = rows(table, business)
    assert len(set(ids)) == 500
    assert sorted(row["RowKey"] for row in stored) == sorted(ids)
    assert {row["displayName"] for row in stored} == {str(n) for n in range(500)}


def log_lines(service: Service, response: httpx.Response) -> list[str]:
    """What the log has of a request; the line may come a little after the response."""
    return service.lines(response.headers["request-id"])


def test_each_request_logs_one_line_without_customer_data(
    service: Service, client: httpx.Client, issuer: Issuer
) -> None:
    response = client.post(BETA.format("Logged"), json={**WHOLE, "emailAddress": "secret@example.com"})
    lines = log_lines(service, response)
    assert len(lines) == 1
    line: dict[str, Any] = json.loads(lines[0])
    assert line.pop("milliseconds") > 0
    assert line == {
        "method": "POST",
        "route": "/beta/bookingBusinesses/{businessId}/customers",
        "status": 201,
        "requestId": response.headers["request-id"],
        "operation": "add",
        "application": "3f0c8a1e-6d7b-4f52-9a35-c2e1d4b7a860",
        "objectId": APPLICATION,
        "businessId": "Logged",
    }
    log = service.log.read_text()
    assert "secret@example.com" not in log
    assert issuer.token()[:40] not in log


def test_the_queries_of_the_deployment_read_what_is_logged(service: Service, client: httpx.Client) -> None:
    sent = {"Repeatability-Request-ID": str(uuid4()), "Repeatability-First-Sent": formatdate(usegmt=True)}
    adds = [client.post(BETA.format("Logged"), json=DOCUMENTED, headers=sent) for _ in range(2)]
    first, repeat = (json.loads(line) for add in adds for line in log_lines(service, add))
    # What adds.kql tells adds and their repeats by.
    assert first == {**first, "operation": "add", "status": 201}
    assert "repeat" not in first
    assert repeat == {**repeat, "operation": "add", "status": 201, "repeat": True}
    queries = [path.read_text() for path in Path("infra/queries").iterdir()]
    read = {name for query in queries for name in re.findall(r"\bline\.(\w+)", query)}
    assert {"status", "businessId", "milliseconds", "operation", "repeat"} <= read <= repeat.keys()
    # Each query that parses lines looks for them by a whole word.
    words = [re.findall(r"Message has '(\w+)'", query) for query in queries if "parse_json" in query]
    assert words
    assert all(word in first for found in words for word in found)
    assert all(words)


def test_the_query_of_adds_knows_the_operations_that_add() -> None:
    adding = {
        operation.handler.__name__
        for route in ROUTES
        for method, operation in route.operations.items()
        if method == "POST" and route.surface
    }
    named = re.findall(r"line\.operation in \((.+?)\)", Path("infra/queries/adds.kql").read_text())
    assert [set(re.findall(r"'(\w+)'", names)) for names in named] == [adding]


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_the_log_names_who_changed_or_deleted_a_customer(service: Service, issuer: Issuer, method: str) -> None:
    claims = {"azp": None, "appid": "00000000-0000-4000-8000-000000000001", "oid": None}
    headers = {"Authorization": f"Bearer {issuer.token(claims)}"}
    with httpx.Client(base_url=service.base, headers=headers) as client:
        added = assert_customer(client.post(COLLECTION, json=DOCUMENTED))
        response = client.request(method, f"{COLLECTION}/{added['id']}", json={"displayName": "x"})
    line = json.loads(log_lines(service, response)[0])
    assert (line["application"], line["objectId"], line["customerId"]) == (claims["appid"], "", added["id"])


def test_the_log_has_no_invalid_ids(service: Service, anonymous: httpx.Client, client: httpx.Client) -> None:
    long = "x" * 3000
    for response in (
        anonymous.get(BETA.format(long)),
        anonymous.get(f"{BETA.format('Logged')}/{long}"),
        client.get(BETA.format(long)),
        anonymous.get(f"/{long}"),
    ):
        assert response.status_code in (400, 401, 404)
        (line,) = log_lines(service, response)
        assert len(line) < 400
        assert "xxx" not in line  # the long id is left out, not cut


def test_a_business_id_cannot_forge_a_log_line(service: Service, client: httpx.Client) -> None:
    assert log_lines(service, client.post(BETA.format('x%0A{"forged":1}'), json=DOCUMENTED))
    assert not any(line.startswith('{"forged"') for line in Path(service.log).read_text().splitlines())
