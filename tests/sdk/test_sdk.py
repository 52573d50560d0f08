"""The official Graph SDKs for Python, unmodified, against the service: each operation, and how errors arrive."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgraph
import msgraph_beta
import pytest
from anyio.from_thread import BlockingPortal
from azure.core.credentials import AccessToken
from kiota_abstractions.base_request_configuration import RequestConfiguration
from msgraph.generated.models.booking_customer import BookingCustomer as V1Customer
from msgraph.generated.models.o_data_errors.o_data_error import ODataError as V1Error
from msgraph.generated.models.phone import Phone as V1Phone
from msgraph.generated.models.phone_type import PhoneType as V1PhoneType
from msgraph_beta.generated.models.booking_customer import BookingCustomer as BetaCustomer
from msgraph_beta.generated.models.o_data_errors.o_data_error import ODataError as BetaError
from msgraph_beta.generated.models.phone import Phone as BetaPhone
from msgraph_beta.generated.models.phone_type import PhoneType as BetaPhoneType
from msgraph_core import PageIterator

from infra.local.issuer import Issuer
from infra.local.run import connection_string
from tests.conftest import Service, StartService, free_port
from tests.support.graph import DOCUMENTED
from tests.support.proxy import FaultProxy, nothing_yet
from tests.support.tls import tls


class StaticCredential:
    """A credential that has a token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token(self, *_: str, **__: Any) -> AccessToken:
        """Return the token."""
        return AccessToken(self._token, int(time.time()) + 3600)


class Surface:
    """One SDK's way to a business's customers, and its own classes."""

    def __init__(self, name: str, base: str, token: str) -> None:
        credential = StaticCredential(token)
        module: Any = msgraph if name == "v1.0 solutions" else msgraph_beta
        self.client = module.GraphServiceClient(credential, scopes=["api://booking-customers/.default"])
        self.client.request_adapter.base_url = f"{base}/{'v1.0' if module is msgraph else 'beta'}"
        at_root = self.client if name == "beta root" else self.client.solutions
        self.customers = at_root.booking_businesses.by_booking_business_id(f"Contoso {uuid4()}").customers
        self.Customer: Any = V1Customer if module is msgraph else BetaCustomer
        self.Error: Any = V1Error if module is msgraph else BetaError
        self.Phone: Any = V1Phone if module is msgraph else BetaPhone
        self.mobile: Any = (V1PhoneType if module is msgraph else BetaPhoneType).Mobile

    def named(self, name: str) -> Any:
        """A customer to be added."""
        return self.Customer(display_name=name, email_address=f"{name}@example.com")

    def item(self, customer_id: str) -> Any:
        """The builder for one customer, which the SDKs name differently."""
        by_id = getattr(self.customers, "by_booking_customer_base_id", None) or self.customers.by_booking_customer_id
        return by_id(customer_id)

    def options(self, builder: Any, **options: Any) -> Any:
        """The configuration of a request."""
        parameters = next(value for key, value in vars(type(builder)).items() if key.endswith("GetQueryParameters"))
        return RequestConfiguration(query_parameters=parameters(**options))


type Scenario = Callable[[Surface], Awaitable[None]]


@pytest.fixture(params=["beta root", "beta solutions", "v1.0 solutions"])
def run(request: pytest.FixtureRequest, service: Service, issuer: Issuer) -> Callable[[Scenario], None]:
    """Run a scenario on each surface."""

    def run(scenario: Scenario, token: str | None = None) -> None:
        async def main() -> None:
            await scenario(Surface(request.param, service.base, token or issuer.token()))

        asyncio.run(main())

    return run


def test_a_customer_is_added_got_changed_and_deleted(run: Callable[[Scenario], None]) -> None:
    async def scenario(surface: Surface) -> None:
        sent = surface.named("Ada")
        sent.phones = [surface.Phone(number="1", type=surface.mobile)]
        added = await surface.customers.post(sent)
        assert UUID(added.id)
        assert (added.display_name, added.email_address) == ("Ada", "Ada@example.com")
        assert (added.phones[0].number, added.phones[0].type) == ("1", surface.mobile)
        assert added.created_date_time.tzinfo is not None
        item = surface.item(added.id)
        got = await item.get()
        assert (got.id, got.display_name, got.phones[0].number) == (added.id, "Ada", "1")
        changed = await item.patch(surface.Customer(display_name="Grace"))
        assert (changed.id, changed.display_name, changed.email_address) == (added.id, "Grace", "Ada@example.com")
        await item.delete()
        with pytest.raises(surface.Error) as caught:
            await item.get()
        assert caught.value.response_status_code == 404

    run(scenario)


def test_what_was_read_can_be_sent_back_unchanged(run: Callable[[Scenario], None]) -> None:
    async def scenario(surface: Surface) -> None:
        added = await surface.customers.post(surface.named("Ada"))
        item = surface.item(added.id)
        got = await item.get()
        got.display_name = "Grace"
        assert (await item.patch(got)).display_name == "Grace"

    run(scenario)


def test_pages_filters_and_counts(run: Callable[[Scenario], None]) -> None:
    async def scenario(surface: Surface) -> None:
        added = [(await surface.customers.post(surface.named(f"Ada{n}"))).id for n in range(7)]
        first = await surface.customers.get(surface.options(surface.customers, top=3, count=True))
        assert first.odata_count == 7
        found: list[str] = []

        def note(customer: Any) -> bool:
            found.append(customer.id)
            assert customer.display_name.startswith("Ada")
            return True

        await PageIterator(first, surface.client.request_adapter).iterate(note)
        assert found == added
        one = await surface.customers.get(
            surface.options(surface.customers, filter="emailAddress eq 'Ada3@example.com'")
        )
        assert [customer.id for customer in one.value] == [added[3]]
        some = await surface.customers.get(surface.options(surface.customers, select=["id"], orderby=["id"]))
        assert [customer.id for customer in some.value] == added
        assert await surface.customers.count.get() == 7

    run(scenario)


def test_an_empty_page_ends_the_page_iterator_but_not_who_follows_the_links(
    start_service: StartService,
    start_proxy: Callable[[], AbstractContextManager[FaultProxy]],
    issuer: Issuer,
) -> None:
    async def scenario(surface: Surface, proxy: FaultProxy) -> None:
        added = await surface.customers.post(surface.named("Ada"))
        options = surface.options(surface.customers, filter="displayName eq 'Ada'")
        proxy.plan.extend([nothing_yet(0.4)] * 4)
        first = await surface.customers.get(options)
        assert first.value == []
        found: list[str] = []
        await PageIterator(first, surface.client.request_adapter).iterate(
            lambda one: bool(found.append(one.id)) or True
        )
        assert found == []
        following = await surface.customers.with_url(first.odata_next_link).get()
        assert [one.id for one in following.value] == [added.id]

    with (
        start_proxy() as proxy,
        start_service(CUSTOMERS_STORAGE=connection_string(proxy.port), STORAGE_BUDGET="1") as service,
    ):
        asyncio.run(scenario(Surface("v1.0 solutions", service.base, issuer.token()), proxy))


def test_an_error_arrives_whole(run: Callable[[Scenario], None]) -> None:
    async def scenario(surface: Surface) -> None:
        with pytest.raises(surface.Error) as caught:
            await surface.customers.post(surface.Customer(display_name="Ada"))
        error = caught.value.error
        assert caught.value.response_status_code == 400
        assert (error.code, error.message) == ("badRequest", "emailAddress: Field required")
        assert [(detail.code, detail.target, detail.message) for detail in error.details] == [
            ("missing", "emailAddress", "Field required")
        ]
        assert UUID(error.inner_error.request_id)
        assert error.inner_error.client_request_id
        assert error.inner_error.date is not None

    run(scenario)


@pytest.mark.parametrize(
    ("claims", "status", "code"),
    [({"scp": None}, 403, "accessDenied"), ({"aud": "x"}, 401, "InvalidAuthenticationToken")],
)
def test_a_refused_token_arrives_as_an_error(
    run: Any, issuer: Issuer, claims: dict[str, Any], status: int, code: str
) -> None:
    async def scenario(surface: Surface) -> None:
        with pytest.raises(surface.Error) as caught:
            await surface.customers.get()
        assert (caught.value.response_status_code, caught.value.error.code) == (status, code)

    run(scenario, issuer.token(claims))


_JAVASCRIPT = """
import { Client, PageIterator } from "@microsoft/microsoft-graph-client";
const { TOKEN, HOST, CUSTOMERS } = process.env;
const authProvider = { getAccessToken: async () => TOKEN };
const customHosts = new Set([HOST.split(":")[0]]);
const options = { baseUrl: `https://${HOST}/`, defaultVersion: "v1.0", authProvider, customHosts };
const client = Client.initWithMiddleware(options);
const headers = { "X-Forwarded-Proto": "https", "X-Forwarded-Host": HOST };
const first = await client.api(CUSTOMERS).headers(headers).filter("displayName eq 'Ada'").get();
const found = [];
const iterator = new PageIterator(client, first, (customer) => found.push(customer.id) > 0, { headers });
await iterator.iterate();
console.log(JSON.stringify([first.value, found]));
"""


def test_the_page_iterator_of_javascript_goes_on_after_an_empty_page(
    start_service: StartService,
    start_proxy: Callable[[], AbstractContextManager[FaultProxy]],
    issuer: Issuer,
    portal: BlockingPortal,
    tmp_path: Path,
) -> None:
    customers, token, port = f"/solutions/bookingBusinesses/{uuid4()}/customers", issuer.token(), free_port()
    certificate, host = tmp_path / "certificate.pem", f"127.0.0.1:{port}"
    with (
        start_proxy() as proxy,
        start_service(
            CUSTOMERS_STORAGE=connection_string(proxy.port), STORAGE_BUDGET="1", FORWARDED_HOSTS=host
        ) as service,
        ExitStack() as stack,
    ):
        # It follows links over https only.
        front = FaultProxy(service.base, tls=tls(certificate))
        front.port = port
        stack.callback(portal.call, front.stop)
        portal.call(front.start)
        added = httpx.post(
            f"{service.base}/v1.0{customers}",
            headers={"Authorization": f"Bearer {token}"},
            json={**DOCUMENTED, "displayName": "Ada"},
        )
        proxy.plan.extend([nothing_yet(0.4)] * 4)
        ended = subprocess.run(
            ["node", "--input-type=module", "-"],  # noqa: S607
            input=_JAVASCRIPT,
            env={
                **os.environ,
                "TOKEN": token,
                "HOST": host,
                "CUSTOMERS": customers,
                "NODE_EXTRA_CA_CERTS": str(certificate),
            },
            cwd=Path(__file__).parent,  # where node finds its packages
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [[], [added.json()["id"]]]
