"""Batches over HTTP: each request as if it had come alone, and what makes a whole batch a wrong one."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from azure.data.tables import TableClient

from customers.members import Role
from infra.local.issuer import USER, Issuer
from infra.local.run import connection_string
from tests.conftest import Service, StartService, rows
from tests.support.batch import BATCH, add, by_id, customers, get, send
from tests.support.graph import BETA, DOCUMENTED, assert_customer, assert_error
from tests.support.members import set_member
from tests.support.proxy import FaultProxy, hang

VERSIONS = {"v1.0": "/solutions/bookingBusinesses/{}/customers", "beta": "/bookingBusinesses/{}/customers"}


@pytest.mark.parametrize("version", VERSIONS)
def test_each_request_has_its_own_response(client: httpx.Client, version: str) -> None:
    business = str(uuid4())
    url = VERSIONS[version].format(business)
    whole = client.post(
        f"/{version}/$batch",
        json={
            "requests": [
                add("1", url, id="x"),
                get("2", f"{url}/x", dependsOn=["1"]),
                get("3", f"{url}/$count", dependsOn=["2"]),
                {
                    "id": "4",
                    "method": "patch",
                    "url": f"{url}/x",
                    "dependsOn": ["3"],
                    "headers": {"Content-Type": "application/json", "Prefer": "return=minimal"},
                    "body": {"displayName": "New"},
                },
                {"id": "5", "method": "DELETE", "url": f"{url}/x", "dependsOn": ["4"]},
                get("6", f"{url}/x", dependsOn=["5"]),
                get("7", "/elsewhere"),
                {"id": "8", "method": "PUT", "url": url},
            ]
        },
    )
    responses = by_id(whole)
    statuses = {name: response.status_code for name, response in responses.items()}
    assert statuses == {"1": 201, "2": 200, "3": 200, "4": 204, "5": 204, "6": 404, "7": 404, "8": 405}
    added = assert_customer(responses["1"])
    assert assert_customer(responses["2"], 200) == added
    assert added["@odata.context"].startswith(f"{client.base_url}/{version}/$metadata#")
    assert responses["1"].headers["Location"] == f"{client.base_url}/{version}{url}/x"
    assert responses["3"].json() == 1
    assert responses["4"].headers["Preference-Applied"] == "return=minimal"
    assert_error(responses["6"], 404, "notFound", says="no customer")
    assert_error(responses["7"], 404, "notFound", says="nothing at this path")
    assert responses["8"].headers["Allow"] == "GET, POST"
    assert not any("body" in response for response in whole.json()["responses"] if response["status"] == 204)
    request_ids = [UUID(response.headers["request-id"]) for response in (whole, *responses.values())]
    assert len(set(request_ids)) == 9


def test_one_bad_request_spoils_no_other(client: httpx.Client, table: TableClient) -> None:
    business = str(uuid4())
    url = customers(business)
    bad_bodies = {
        "property": '{"displayName": "Ada"}',
        "twice": '{"displayName": "Ada", "emailAddress": "a@x", "displayName": "Eve"}',
        "number": f'{{"displayName": {"9" * 5000}, "emailAddress": "a@x"}}',
        "NaN": '{"displayName": "Ada", "emailAddress": "a@x", "phones": NaN}',
        "array": "[]",
        "base64": '"eyJkaXNwbGF5TmFtZSI6ICJBZGEifQ=="',
    }
    requests = [json.dumps(add("good", url, displayName="é'\U0001f600")), json.dumps(add("id", url, id="a/b"))]
    for name, body in bad_bodies.items():
        requests.append(json.dumps(add(name, url, body="BODY")).replace('"BODY"', body))
    requests.append(json.dumps(add("type", url, headers={})))
    requests.append(json.dumps(get("url", f"{url}?$filter=startswith(emailAddress,'a+b')")))
    requests.append(json.dumps(get("option", f"{url}?$expand=x")))
    whole = client.post(
        BATCH, content=f'{{"requests": [{",".join(requests)}]}}', headers={"Content-Type": "application/json"}
    )
    responses = by_id(whole)
    assert_customer(responses.pop("good"))
    assert_error(responses["twice"], 400, "badRequest", says="displayName: must not appear more than once")
    assert_error(responses["base64"], 400, "badRequest", says="base64")
    assert_error(responses["url"], 400, "badRequest", says="percent-encode")
    assert_error(responses.pop("type"), 415, "unsupportedMediaType")
    assert {response.status_code for response in responses.values()} == {400}
    assert [row["displayName"] for row in rows(table, business)] == ["é'\U0001f600"]


def test_what_depends_on_a_failure_is_not_done(client: httpx.Client, table: TableClient) -> None:
    business = str(uuid4())
    url = customers(business)
    responses = send(
        client,
        add("third", url, dependsOn=["Second"]),
        add("second", url, dependsOn=["FIRST", "other"]),
        get("first", f"{url}/nobody"),
        add("other", url, dependsOn=[]),
        add("fourth", url, dependsOn=["other"]),
    )
    assert {name: response.status_code for name, response in responses.items()} == {
        "first": 404,
        "second": 424,
        "third": 424,
        "other": 201,
        "fourth": 201,
    }
    assert_error(responses["second"], 424, "failedDependency", says="'first' failed")
    assert len(rows(table, business)) == 2


ADD = add("1", customers("never"))


@pytest.mark.parametrize(
    ("requests", "says"),
    [
        ([], "1 to 20 requests, not 0"),
        ([{**ADD, "id": str(number)} for number in range(21)], "1 to 20 requests, not 21"),
        ([ADD, ADD], "'1' is the id of 2 requests"),
        ([{**ADD, "id": "a"}, {**ADD, "id": "A"}], "case makes no difference"),
        ([{**ADD, "id": ""}], "requests/0/id"),
        ([{**ADD, "id": 1}], "requests/0/id"),
        ([{name: value for name, value in ADD.items() if name != "id"}], "requests/0/id"),
        ([ADD, {**ADD, "id": "2", "method": None}], "requests/1/method"),
        ([{**ADD, "method": "GET /"}], "requests/0/method"),
        ([{**ADD, "url": ""}], "requests/0/url"),
        ([{**ADD, "url": 5}], "requests/0/url"),
        ([{**ADD, "url": "https://127.0.0.1/v1.0/solutions/bookingBusinesses/never/customers"}], "not absolute"),
        ([{**ADD, "url": "/beta/bookingBusinesses/never/customers"}], "relative to /v1.0"),
        ([{**ADD, "url": "/$batch"}], "must not be a batch"),
        ([{**ADD, "dependsOn": ["2"]}], "no request with the id '2'"),
        ([{**ADD, "dependsOn": ["1"]}], "circle: '1'"),
        ([{**ADD, "dependsOn": ["2"]}, {**ADD, "id": "2", "dependsOn": ["1"]}], "circle: '1', '2'"),
        ([{**ADD, "dependsOn": "2"}], "requests/0/dependsOn"),
        ([{**ADD, "dependsOn": [], "depends_on": []}], "requests/0/dependsOn"),
        ([{**ADD, "headers": []}], "requests/0/headers"),
        ([{**ADD, "headers": {"A": 1}}], "requests/0/headers"),
        ([{**ADD, "headers": {"Prefer": "x", "prefer": "y"}}], "requests/0/headers"),
        ([{**ADD, "headers": {"authorization": "Bearer another"}}], "Authorization must be the same as the batch's"),
        ([{**ADD, "atomicityGroup": "g"}], "requests/0/atomicityGroup"),
        (["GET /"], "requests/0: must be an object"),
        ({"1": ADD}, "an array of requests"),
    ],
)
def test_a_wrong_batch_is_a_400_and_does_nothing(client: httpx.Client, requests: Any, says: str) -> None:
    response = client.post(BATCH, json={"requests": requests})
    assert_error(response, 400, "badRequest", says=says)
    assert "another" not in response.text.replace("an array", "")
    assert client.get(BETA.format("never")).json()["value"] == []


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{}",
        "null",
        "{",
        '{"requests": [}',
        '{"requests": [{"id": "1",}]}',
        '{"requests": [{"id" "1"}]}',
        '{"requests": [{}] ]',
        '{"requests": [{}}',
        '{"requests": [{} {}]}',
        '{"requests": [{}]} x',
        '{"requests": [{}], "requests": [{}]}',
        '{"requests": [{}], "more": 1}',
        '{"requests": [{"id": "1", "id": "2", "method": "GET", "url": "x"}]}',
        '{"requests": ' + "[" * 100_000,
        '{"requests": [{"body": ' + '{"a":' * 100_000,
        b'{"requests": ["\xff"]}',
    ],
)
def test_a_body_that_is_no_batch_is_a_400(client: httpx.Client, body: str | bytes) -> None:
    response = client.post(BATCH, content=body, headers={"Content-Type": "application/json"})
    assert_error(response, 400, "badRequest")


def test_annotations_of_a_batch_are_passed_over(client: httpx.Client) -> None:
    requests = [get("1", customers(str(uuid4())), **{"@odata.x": [None]})]
    whole = client.post("/v1.0/$batch", json={"@odata.context": [None, {}], "requests": requests})
    assert by_id(whole)["1"].status_code == 200


def test_a_batch_takes_only_post_json_and_a_token(client: httpx.Client, anonymous: httpx.Client) -> None:
    assert_error(client.get(BATCH), 405, "methodNotAllowed")
    assert_error(client.post(BATCH, content="{}", headers={"Content-Type": "text/plain"}), 415, "unsupportedMediaType")
    assert_error(anonymous.post(BATCH, json={"requests": [ADD]}), 401, "InvalidAuthenticationToken")
    assert_error(client.post(f"{BATCH}?x=1", json={"requests": [ADD]}), 400, "badRequest")


def test_each_request_needs_its_own_permission(service: Service, issuer: Issuer, table: TableClient) -> None:
    business = str(uuid4())
    set_member(table, business, USER, Role.ADMINISTRATOR)
    url, token = customers(business), issuer.token({"scp": "Bookings.Read.All"})
    with httpx.Client(base_url=service.base, headers={"Authorization": f"Bearer {token}"}) as reader:
        responses = send(reader, add("add", url), get("list", url))
    assert_error(responses["add"], 403, "accessDenied", says="BookingsAppointment.ReadWrite.All")
    assert responses["list"].status_code == 200


def test_what_the_sdks_send_is_taken(client: httpx.Client) -> None:
    """Forms seen on the wire: msgraph-core 1.5 (Python), microsoft-graph-client 3.0.7 (JavaScript), .NET 6.10."""
    business = str(uuid4())
    url = customers(business)
    body = {"@odata.type": "#microsoft.graph.bookingCustomer", "displayName": "Ada", "emailAddress": "a+b@x.com"}
    json_type = {"accept": "application/json", "content-type": "application/json"}
    encoded = "emailAddress%20eq%20%27a%2Bb%40x.com%27"
    python: list[dict[str, Any]] = [
        {"id": "p1", "method": "POST", "url": url, "depends_on": [], "headers": json_type, "body": body},
        {
            "id": "p2",
            "method": "GET",
            "url": f"{url}?%24filter={encoded}&%24top=2",
            "depends_on": ["p1"],
            "headers": {},
        },
    ]
    javascript: list[dict[str, Any]] = [
        {
            "url": f"/v1.0{url}",
            "method": "POST",
            "headers": {"content-type": "application/json"},
            "body": body,
            "id": "j1",
        },
        {"url": f"/v1.0{url}?$filter={encoded}", "method": "GET", "id": "j2", "dependsOn": ["j1"]},
    ]
    dotnet: list[dict[str, Any]] = [
        {"id": "D1F5", "url": url, "method": "POST", "headers": {"Content-Type": "application/json"}, "body": body},
        {
            "id": "free text, é",
            "dependsOn": ["d1f5"],
            "url": f"{url}?$filter=emailAddress eq 'a+b@x.com'&$top=2",
            "method": "GET",
            "headers": None,
            "body": None,
        },
        {"id": "own", "url": url, "method": "GET", "headers": {"authorization": client.headers["Authorization"]}},
    ]
    for number, requests in enumerate((python, javascript, dotnet), 1):
        responses = send(client, *requests)
        statuses = [response.status_code for response in responses.values()]
        assert sorted(statuses) == [200] * (len(requests) - 1) + [201]
        found = [response.json()["value"] for response in responses.values() if response.status_code == 200]
        assert {len(value) for value in found} <= {number, min(number, 2)}


def test_the_log_has_a_line_for_each_request_and_no_token(start_service: StartService, issuer: Issuer) -> None:
    url = customers("logged")
    token = issuer.token()
    with (
        start_service() as service,
        httpx.Client(base_url=service.base, headers={"Authorization": f"Bearer {token}"}) as client,
    ):
        whole = client.post(
            BATCH,
            json={
                "requests": [
                    get("1", url, headers={"Authorization": f"Bearer {token}"}),
                    get("2", f"{url}/secret?$x=y"),
                ]
            },
        )
        responses = by_id(whole)
    text = service.log.read_text()
    entries = [json.loads(line) for line in service.lines("{") if line.startswith("{")]
    logged = [entry["requestId"] for entry in entries if entry.get("batchId") == whole.headers["request-id"]]
    assert sorted(logged) == sorted(response.headers["request-id"] for response in responses.values())
    assert [entry["status"] for entry in entries if entry["route"] == "/v1.0/$batch"] == [200]
    assert {entry["objectId"] for entry in entries if "batchId" in entry} == {entries[-1]["objectId"]}
    assert token.rpartition(".")[2] not in text


def test_each_request_counts_and_a_full_service_refuses_the_whole_batch(
    start_service: StartService,
    start_proxy: Callable[[], AbstractContextManager[FaultProxy]],
    issuer: Issuer,
) -> None:
    url = customers(str(uuid4()))
    requests = {"requests": [add(str(number), url) for number in range(3)]}
    with (
        start_proxy() as proxy,
        start_service(
            CUSTOMERS_STORAGE=connection_string(proxy.port), MAX_CONCURRENT_REQUESTS="2", STORAGE_BUDGET="2"
        ) as service,
        httpx.Client(base_url=service.base, headers={"Authorization": f"Bearer {issuer.token()}"}) as client,
    ):
        responses = by_id(client.post(BATCH, json=requests))
        assert sorted(response.status_code for response in responses.values()) == [201, 201, 429]
        proxy.reset()
        proxy.always = hang
        with ThreadPoolExecutor() as threads:
            first = threads.submit(client.post, BATCH, json=requests)
            while not proxy.passed:
                time.sleep(0.01)
            whole = client.post(BATCH, json=requests)
            assert_error(whole, 429, "tooManyRequests", says="at its limit")
            assert sorted(response.status_code for response in by_id(first.result()).values()) == [429, 503, 503]
        proxy.reset()
        assert by_id(client.send(whole.request))["0"].status_code == 201


def test_sizes_are_limited_for_each_request_and_for_the_whole(start_service: StartService, issuer: Issuer) -> None:
    url = customers(str(uuid4()))
    with (
        start_service(BODY_LIMIT="2000") as service,
        httpx.Client(base_url=service.base, headers={"Authorization": f"Bearer {issuer.token()}"}) as client,
    ):
        fits, too_long = "x" * 1700, "x" * 2000
        body = {**DOCUMENTED, "@a": fits}
        responses = send(client, add("1", url, body=body), add("2", url, body={**DOCUMENTED, "@a": too_long}))
        assert {name: response.status_code for name, response in responses.items()} == {"1": 201, "2": 413}
        whole = client.post(BATCH, json={"requests": [add(str(n), url, body=body) for n in range(4)]})
        assert_error(whole, 413, "contentTooLarge", says="at most 6000")
