"""Batches from the Graph SDKs, unmodified: what they send is understood, and they understand what they get."""

import asyncio
import json
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from anyio.from_thread import BlockingPortal
from azure.data.tables import TableClient
from msgraph_core.requests.batch_request_builder import BatchRequestBuilder
from msgraph_core.requests.batch_request_content import BatchRequestContent
from msgraph_core.requests.batch_request_item import BatchRequestItem

from infra.local.issuer import Issuer
from tests.conftest import Service, rows
from tests.sdk.test_sdk import Surface
from tests.support.proxy import FaultProxy
from tests.support.tls import tls

ADDRESS = "o'b+1&2%25@x.com"
FILTER = f"emailAddress eq '{ADDRESS.replace("'", "''")}'"


@pytest.mark.parametrize("name", ["beta root", "beta solutions", "v1.0 solutions"])
def test_the_python_sdks(service: Service, issuer: Issuer, name: str) -> None:
    async def scenario() -> None:
        surface = Surface(name, service.base, issuer.token())
        customers, adapter = surface.customers, surface.client.request_adapter
        builder = BatchRequestBuilder(adapter)
        customer = surface.Customer(id="x+é", display_name="Ada", email_address=ADDRESS)
        add = BatchRequestItem(customers.to_post_request_information(customer), id="add")
        found = customers.to_get_request_information(surface.options(customers, filter=FILTER, top=2))
        items = [
            add,
            BatchRequestItem(found, id="find", depends_on=[add]),
            BatchRequestItem(customers.count.to_get_request_information(), id="count", depends_on=["find"]),
        ]
        # The SDK's own response has no body that is JSON, whichever service sent it.
        sent = await builder.to_post_request_information(BatchRequestContent({item.id: item for item in items}))
        whole = json.loads(await adapter.send_primitive_async(sent, "bytes", {}))
        bodies = {response["id"]: response["body"] for response in whole["responses"]}
        assert (bodies["add"]["id"], bodies["add"]["emailAddress"]) == ("x+é", ADDRESS)
        assert [one["id"] for one in bodies["find"]["value"]] == ["x+é"]
        assert bodies["count"] == 1

        items = [
            BatchRequestItem(surface.item("nobody").to_get_request_information(), id="get"),
            BatchRequestItem(surface.item("x+é").to_delete_request_information(), id="delete", depends_on=["get"]),
            BatchRequestItem(surface.item("x+é").to_get_request_information(), id="first"),
            BatchRequestItem(surface.item("x+é").to_delete_request_information(), id="last", depends_on=["first"]),
            BatchRequestItem(customers.to_post_request_information(surface.named("Eve")), id="add"),
        ]
        response = await builder.post(BatchRequestContent({item.id: item for item in items}))
        statuses = {"get": 404, "delete": 424, "first": 200, "last": 204, "add": 201}
        assert response.get_response_status_codes() == statuses
        assert isinstance(response.get_response_by_id("get").headers["request-id"], UUID)
        location = response.get_response_by_id("add").headers["Location"]
        assert (await surface.item(location.rpartition("/")[2]).get()).display_name == "Eve"

    asyncio.run(scenario())


SCRIPT = """
import {
  BatchRequestContent, BatchResponseContent, Client, MiddlewareFactory,
} from "@microsoft/microsoft-graph-client";
const service = process.env.SERVICE;
const client = Client.initWithMiddleware({
  baseUrl: service,
  defaultVersion: process.env.VERSION,
  customHosts: new Set([new URL(service).hostname]),
  middleware: MiddlewareFactory.getDefaultMiddlewareChain({ getAccessToken: async () => process.env.TOKEN }),
});
const steps = JSON.parse(process.env.STEPS).map(({ id, url, dependsOn, ...options }) => ({
  id, dependsOn, request: new Request(service + url, options),
}));
const content = await new BatchRequestContent(steps).getContent();
const responses = new BatchResponseContent(await client.api("/$batch").post(content)).getResponses();
const found = {};
for (const [id, response] of responses) {
  found[id] = [response.status, response.status === 204 ? null : await response.json()];
}
console.log(JSON.stringify({ sent: content.requests, found }));
"""


@pytest.mark.parametrize("version", ["v1.0", "beta"])
@pytest.mark.parametrize("with_version", [True, False])
def test_the_javascript_client(  # noqa: PLR0913 - fixtures
    service: Service,
    issuer: Issuer,
    portal: BlockingPortal,
    table: TableClient,
    tmp_path: Path,
    version: str,
    *,
    with_version: bool,
) -> None:
    business = f"Contoso {uuid4()}"
    url = f"{f'{version}/' if with_version else ''}solutions/bookingBusinesses/{business}/customers"
    add = {
        "method": "POST",
        "url": url,
        "headers": {"Content-Type": "application/json"},
        "body": json.dumps({"displayName": "é", "emailAddress": ADDRESS}),
    }
    steps: list[dict[str, Any]] = [
        {**add, "id": "1"},
        {"id": "2", "method": "GET", "url": f"{url}/$count", "dependsOn": ["1"]},
        # The client encodes spaces and quotes; the rest is its user's to encode.
        {
            "id": "3",
            "method": "GET",
            "url": f"{url}?$top=2&$filter={FILTER.replace('%', '%25').replace('+', '%2B').replace('&', '%26')}",
            "dependsOn": ["2"],
        },
        # What it cannot tell from another meaning, the service refuses.
        {"id": "4", "method": "GET", "url": f"{url}?$filter=emailAddress eq 'a+b@x.com'", "dependsOn": ["3"]},
    ]
    certificate = tmp_path / "certificate.pem"
    proxy = FaultProxy(service.base, tls=tls(certificate))
    with ExitStack() as stack:
        stack.callback(portal.call, proxy.stop)
        portal.call(proxy.start)
        ended = subprocess.run(
            ["node", "--input-type=module", "-"],  # noqa: S607
            input=SCRIPT,
            env={
                **os.environ,
                "TOKEN": issuer.token(),
                "SERVICE": f"https://127.0.0.1:{proxy.port}/",
                "VERSION": version,
                "STEPS": json.dumps(steps),
                "NODE_EXTRA_CA_CERTS": str(certificate),
            },
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)["found"]
    assert {name: status for name, (status, _) in found.items()} == {"1": 201, "2": 200, "3": 200, "4": 400}
    assert found["2"][1] == 1
    assert [one["emailAddress"] for one in found["3"][1]["value"]] == [ADDRESS]
    assert "Percent-encode" in found["4"][1]["error"]["message"]
    assert [row["emailAddress"] for row in rows(table, business)] == [ADDRESS]
