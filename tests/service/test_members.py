"""Each business its own people: a user reaches those in which they have a role, and learns nothing of others."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from typing import Any
from uuid import uuid4

import httpx
import pytest
from anyio.from_thread import BlockingPortal
from azure.data.tables import TableClient

from customers import members
from customers.auth import Caller, Permission
from customers.errors import AccessDenied, ServiceUnavailable, TooManyRequests
from customers.members import REMEMBERED, ROLES, BusinessAccess, Kind, Role
from customers.routes import ROUTES
from customers.settings import Settings
from customers.storage import Connection
from infra.local.issuer import APPLICATION, USER, Issuer
from infra.local.run import app_settings, connection_string, make_table
from tests.conftest import Service, StartService, Storage
from tests.support.batch import by_id, get
from tests.support.clock import Clocked
from tests.support.graph import BETA, DOCUMENTED, assert_customer, assert_error
from tests.support.index import index_faults
from tests.support.members import DELEGATED, member, set_member
from tests.support.proxy import Fault, FaultProxy, busy, cut_after, cut_before, half_a_response, hang, pass_on, status
from tests.support.reads import Reads

BODIES = {"POST": DOCUMENTED, "PATCH": {"displayName": "Changed"}}
OPERATIONS = [
    (route.template, method, operation.permission)
    for route in ROUTES
    for method, operation in route.operations.items()
    if operation.permission and route.surface
]


def directly(client: httpx.Client, method: str, path: str) -> httpx.Response:
    """Send a request alone."""
    return client.request(method, path, json=BODIES.get(method))


def in_a_batch(client: httpx.Client, method: str, path: str) -> httpx.Response:
    """Send a request in a batch, after one of another business."""
    _, version, url = path.split("/", 2)
    one: dict[str, Any] = {"id": "one", "method": method, "url": url}
    if method in BODIES:
        one |= {"headers": {"Content-Type": "application/json"}, "body": BODIES[method]}
    before = get("before", f"/solutions/bookingBusinesses/nowhere/customers/{uuid4()}")
    if version == "beta":
        before["url"] = f"/bookingBusinesses/nowhere/customers/{uuid4()}"
    found = by_id(client.post(f"/{version}/$batch", json={"requests": [before, one]}))
    assert found["before"].status_code == 403
    return found["one"]


WAYS = [directly, in_a_batch]
"""The ways in. Each sends one request to a path of a version, and returns the response to it."""


def a_client(service: Service, token: str) -> httpx.Client:
    """A client of the service with this token."""
    return httpx.Client(base_url=service.base, headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def user() -> str:
    """The object id of a user of whom no test knows yet."""
    return str(uuid4())


def send(
    way: Callable[[httpx.Client, str, str], httpx.Response], client: httpx.Client, own: str, template: str, method: str
) -> httpx.Response:
    """Send the request of an operation to a business, for a customer that is there if the business has any."""
    return way(client, method, "/" + template.replace("{businessId}", own).replace("{customerId}", "ada"))


@pytest.mark.parametrize(
    ("role", "kind"),
    [(None, Kind.USER), *((role, kind) for role in Role for kind in Kind), (Role.TEAM_MEMBER, "both")],
)
@pytest.mark.parametrize("way", WAYS)
def test_a_role_counts_in_its_business_and_nowhere_else(  # noqa: PLR0913
    service: Service,
    client: httpx.Client,
    issuer: Issuer,
    table: TableClient,
    user: str,
    *,
    way: Callable[[httpx.Client, str, str], httpx.Response],
    role: Role | None,
    kind: Kind | str,
) -> None:
    own, other, group = str(uuid4()), str(uuid4()), str(uuid4())
    for business in (own, other):
        assert_customer(client.post(BETA.format(business), json={**DOCUMENTED, "id": "ada"}))
    set_member(table, other, str(uuid4()), Role.ADMINISTRATOR)
    set_member(table, other, user, Role.ADMINISTRATOR, kind=Kind.GROUP)
    set_member(table, other, group, Role.ADMINISTRATOR)
    if role and kind != Kind.GROUP:
        set_member(table, own, user, Role.VIEWER if kind == "both" else role)
    if role and kind != Kind.USER:
        set_member(table, own, group, role, kind=Kind.GROUP)
    token = issuer.token({**DELEGATED, "oid": user, "groups": [str(uuid4()), group.upper(), "x"]})
    with a_client(service, token) as one:
        for template, method, permission in OPERATIONS:
            response = send(way, one, own, template, method)
            if role in ROLES[permission]:
                assert response.status_code in (200, 201, 204), response.text
                if method == "DELETE":
                    assert_customer(client.post(BETA.format(own), json={**DOCUMENTED, "id": "ada"}))
            else:
                assert_error(
                    response, 403, "accessDenied", says=f"roles in the business: {', '.join(ROLES[permission])}."
                )
            refused = [send(way, one, business, template, method) for business in (other, "nowhere")]
            for response in refused:
                assert_error(response, 403, "accessDenied")
            assert alike(refused[0]) == alike(refused[1])


def alike(response: httpx.Response) -> tuple[Any, ...]:
    """What must not differ between two responses."""
    body = response.json()
    body["error"].pop("innerError")
    varying = ("request-id", "client-request-id", "date")
    return response.status_code, body, {n: v for n, v in response.headers.items() if n not in varying}


def test_an_application_reaches_every_business(service: Service, issuer: Issuer) -> None:
    for claims in ({"idtyp": "app"}, {"idtyp": None}, {"oid": USER, "groups": ["x"]}):
        with a_client(service, issuer.token(claims)) as client:
            assert_customer(client.post(BETA.format(uuid4()), json=DOCUMENTED))


def test_the_setting_tenant_lets_users_reach_every_business(start_service: StartService, issuer: Issuer) -> None:
    with start_service(BUSINESS_ACCESS="tenant") as service, a_client(service, issuer.token(DELEGATED)) as client:
        assert_customer(client.post(BETA.format(uuid4()), json=DOCUMENTED))


def test_a_permission_is_needed_besides_a_role(service: Service, issuer: Issuer, table: TableClient, user: str) -> None:
    business = str(uuid4())
    set_member(table, business, user, Role.ADMINISTRATOR)
    with a_client(service, issuer.token({"scp": "Bookings.Read.All", "oid": user})) as client:
        assert client.get(BETA.format(business)).status_code == 200
        assert_error(client.post(BETA.format(business), json=DOCUMENTED), 403, "accessDenied", says="permissions")


@pytest.mark.parametrize("claims", [{"_claim_names": {"groups": "src1"}}, {"hasgroups": True}, {"hasgroups": "true"}])
def test_a_token_without_its_many_groups_says_what_to_do_unless_the_user_has_a_role(
    service: Service, issuer: Issuer, table: TableClient, user: str, claims: dict[str, Any]
) -> None:
    own, other = str(uuid4()), str(uuid4())
    set_member(table, own, user, Role.VIEWER)
    with a_client(service, issuer.token({**DELEGATED, "oid": user, **claims})) as client:
        assert client.get(BETA.format(own)).status_code == 200
        for business in (own, other):
            response = client.post(BETA.format(business), json=DOCUMENTED)
            assert_error(response, 403, "accessDenied", says="ApplicationGroup")


@pytest.mark.parametrize("oid", [None, "", "x", "*", f" @user:{USER}", f"{USER}'", [USER]])
def test_a_token_without_a_proper_object_id_reaches_nothing(
    service: Service, issuer: Issuer, table: TableClient, oid: object
) -> None:
    business = str(uuid4())
    set_member(table, business, USER, Role.ADMINISTRATOR)
    for groups in ("x", [], [None, 5, "", "*", f"user:{USER}", USER]):
        with a_client(service, issuer.token({**DELEGATED, "oid": oid, "groups": groups})) as client:
            assert client.get(BETA.format(business)).status_code in (401, 403)


@pytest.mark.parametrize("role", ["", "owner", "Viewer", "guest", "externalGuest", 1, None])
def test_a_row_without_one_of_the_roles_gives_nothing(
    service: Service, issuer: Issuer, table: TableClient, user: str, role: object
) -> None:
    business = str(uuid4())
    table.create_entity({"PartitionKey": business, "RowKey": member(Kind.USER, user).row_key, "role": role})
    with a_client(service, issuer.token({**DELEGATED, "oid": user})) as client:
        assert_error(client.get(BETA.format(business)), 403, "accessDenied")


def test_no_id_reaches_a_member_and_no_list_shows_one(
    service: Service, client: httpx.Client, issuer: Issuer, table: TableClient, user: str
) -> None:
    business, key = str(uuid4()), member(Kind.USER, user).row_key
    set_member(table, business, str(uuid4()), Role.ADMINISTRATOR)
    collection = BETA.format(business)
    assert client.get(f"{collection}/$count").text == "0"
    for own in (key, key.replace(" ", "%20"), f"%20{key.strip()}"):
        for method in ("GET", "PATCH", "DELETE"):
            assert_error(client.request(method, f"{collection}/{own}", json={}), 400, "badRequest", target="id")
    assert_error(client.post(collection, json={**DOCUMENTED, "id": key}), 400, "badRequest", target="id")
    assert_error(client.post(collection, json={**DOCUMENTED, "role": "administrator"}), 400, "badRequest")
    # A customer may be called like a member; that makes nobody one.
    for own in (key.strip(), f"user:{user}", user, f"\u00a0{key.strip()}"):
        assert_customer(client.post(collection, json={**DOCUMENTED, "id": own}))
    for path in ("", "?$filter=id ge ' '", "?$filter=not (displayName eq 'x')", "?$filter=id ne ''"):
        assert len(client.get(collection + path).json()["value"]) == 4
    assert client.get(f"{collection}/$count").text == "4"
    assert index_faults(table, business) == []
    with a_client(service, issuer.token({**DELEGATED, "oid": user})) as stranger:
        assert_error(stranger.get(f"{collection}/{user}"), 403, "accessDenied")


@pytest.fixture
def empty_table(storage: Storage, portal: BlockingPortal) -> Iterator[TableClient]:
    """A table of its own, without a row."""
    name = f"members{uuid4().hex[:12]}"
    portal.call(make_table, storage.connection_string, name)
    with TableClient.from_connection_string(storage.connection_string, name) as table:
        yield table
        table.delete_table()


def test_what_storage_is_asked(
    start_service: StartService,
    start_proxy: Callable[[], AbstractContextManager[FaultProxy]],
    issuer: Issuer,
    empty_table: TableClient,
    user: str,
) -> None:
    own, other, groups = str(uuid4()), str(uuid4()), [str(uuid4()) for _ in range(3)]
    set_member(empty_table, own, user, Role.SCHEDULER)
    for number in range(50):
        set_member(empty_table, other, str(uuid4()), Role.VIEWER, kind=list(Kind)[number % 2])
    with (
        start_proxy() as proxy,
        start_service(
            CUSTOMERS_STORAGE=connection_string(proxy.port), CUSTOMERS_TABLE=empty_table.table_name
        ) as service,
        a_client(service, issuer.token({**DELEGATED, "oid": user, "groups": groups})) as client,
    ):
        reads = proxy.always = Reads()

        def asked(method: str, business: str) -> list[str]:
            reads.asked.clear()
            client.request(method, BETA.format(business), json=DOCUMENTED)
            return [one.kind for one in reads.asked]

        # A member with a role of their own: one get at first, then none, so that an add is one storage operation.
        assert asked("POST", own) == ["get", "transaction"]
        assert [asked("POST", own) for _ in range(3)] == [["transaction"]] * 3
        assert asked("GET", own) == ["get", "query"]
        # Anybody else: the same for a business with members and for one that is not there.
        assert asked("POST", other) == asked("POST", "nowhere") == ["get"] * 4
        assert asked("POST", other) == asked("POST", "nowhere") == []


def test_a_table_with_members_and_no_customers_is_marked_as_indexed(
    start_service: StartService, issuer: Issuer, empty_table: TableClient
) -> None:
    set_member(empty_table, "Contoso", USER, Role.VIEWER)
    with start_service(CUSTOMERS_TABLE=empty_table.table_name) as service, a_client(service, issuer.token()) as client:
        assert client.get(BETA.format("Contoso")).json()["value"] == []
    assert empty_table.get_entity(" index", "emailAddress")


type Scenario = Callable[[BusinessAccess, Clocked], Coroutine[Any, Any, None]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The keys of the rows that are asked for."""
    keys: list[tuple[str, str]] = []
    get = Connection.get

    async def counted(self: Connection, partition_key: str, row_key: str) -> Any:
        keys.append((partition_key, row_key))
        return await get(self, partition_key, row_key)

    monkeypatch.setattr(Connection, "get", counted)
    return keys


def run(storage: str, scenario: Scenario, **more: str) -> None:
    """Run a scenario against that storage, with these settings and a clock that can be moved."""
    environ = app_settings(storage=storage, metadata_url="http://127.0.0.1:1")
    settings = Settings.from_environment({**environ, "STORAGE_READ_TIMEOUT": "0.5", **more})

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Clocked)
        await scenario(BusinessAccess(settings, Connection(settings)), loop)

    with asyncio.Runner(loop_factory=Clocked) as runner:
        runner.run(main())


def a_caller(user: str, *groups: str) -> Caller:
    """A user with every permission."""
    return Caller("t", "a", user, frozenset(), is_application=False, groups=frozenset(groups), groups_left_out=False)


async def may(access: BusinessAccess, user: str, business: str, permission: Permission = Permission.READ) -> bool:
    """Whether a user gets in."""
    try:
        await access.require(a_caller(user), business, permission)
    except AccessDenied:
        return False
    return True


def test_a_member_is_remembered_for_a_minute_and_a_removal_takes_effect_then(
    storage: Storage, table: TableClient, user: str, asked: list[Any]
) -> None:
    business = str(uuid4())
    set_member(table, business, user, Role.VIEWER)

    async def scenario(access: BusinessAccess, loop: Clocked) -> None:
        assert await may(access, user, business)
        set_member(table, business, user, None)
        loop.ahead += REMEMBERED[True] - 5
        assert await may(access, user, business)
        assert len(asked) == 1
        loop.ahead += 5
        assert not await may(access, user, business)
        assert len(asked) == 2

    assert REMEMBERED[True] <= 60
    run(storage.connection_string, scenario)


def test_a_refusal_is_remembered_for_seconds_and_a_new_role_takes_effect_then(
    storage: Storage, table: TableClient, user: str, asked: list[Any]
) -> None:
    business = str(uuid4())
    set_member(table, business, user, Role.VIEWER)

    async def scenario(access: BusinessAccess, loop: Clocked) -> None:
        assert await may(access, user, business)
        assert not await may(access, user, business, Permission.WRITE)
        set_member(table, business, user, Role.TEAM_MEMBER)
        assert not await may(access, user, business, Permission.WRITE)
        assert len(asked) == 2
        loop.ahead += REMEMBERED[False]
        assert await may(access, user, business, Permission.WRITE)
        assert len(asked) == 3

    assert REMEMBERED[False] <= 5
    run(storage.connection_string, scenario)


def test_requests_at_once_share_one_lookup(storage: Storage, table: TableClient, user: str, asked: list[Any]) -> None:
    business = str(uuid4())
    set_member(table, business, user, Role.VIEWER)

    async def scenario(access: BusinessAccess, _: Clocked) -> None:
        assert all(await asyncio.gather(*(may(access, user, business) for _ in range(50))))
        assert len(asked) == 1
        # One that goes away does not take it from the others.
        other = str(uuid4())
        first, second = (asyncio.create_task(may(access, other, business)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert not await second
        assert len(asked) == 2

    run(storage.connection_string, scenario)


def test_only_so_many_are_remembered_and_strangers_push_out_no_member(
    storage: Storage, table: TableClient, user: str, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    business = str(uuid4())
    set_member(table, business, user, Role.VIEWER)
    monkeypatch.setattr(members, "MAX_REMEMBERED", 3)

    async def scenario(access: BusinessAccess, _: Clocked) -> None:
        assert await may(access, user, business)
        for number in range(10):
            assert not await may(access, user, f"{business} {number}")
        asked.clear()
        assert await may(access, user, business)
        assert not await may(access, user, f"{business} 9")
        assert asked == []
        assert not await may(access, user, f"{business} 0")
        assert len(asked) == 1
        assert [len(remembered) for remembered in access._remembered.values()] == [1, 3]  # noqa: SLF001
        assert access._lookups == {}  # noqa: SLF001

    run(storage.connection_string, scenario)


def test_only_so_many_lookups_run_at_once(storage: Storage, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "_MAX_LOOKUPS", 2)

    async def scenario(access: BusinessAccess, _: Clocked) -> None:
        lookups = (may(access, user, f"{user} {number}") for number in range(3))
        assert [type(one) for one in await asyncio.gather(*lookups, return_exceptions=True)] == [
            bool,
            bool,
            TooManyRequests,
        ]
        assert not await may(access, user, f"{user} 2")

    run(storage.connection_string, scenario)


def test_a_user_in_200_groups_is_looked_up(storage: Storage, table: TableClient, user: str, asked: list[Any]) -> None:
    business, groups = str(uuid4()), [str(uuid4()) for _ in range(200)]
    set_member(table, business, groups[-1], Role.SCHEDULER, kind=Kind.GROUP)

    async def scenario(access: BusinessAccess, _: Clocked) -> None:
        await access.require(a_caller(user, *groups), business, Permission.WRITE)
        await access.require(a_caller(user, *reversed(groups)), business, Permission.WRITE)
        assert len(asked) == 201

    run(storage.connection_string, scenario)


@pytest.mark.parametrize(
    "fault",
    [
        cut_before,
        cut_after,
        half_a_response,
        hang,
        busy(),
        busy(retry_after=3),
        status(429, retry_after=1),
        status(500),
        status(503, retry_after=1),
    ],
)
@pytest.mark.parametrize("role", [None, Role.SCHEDULER])
def test_storage_that_does_not_say_lets_nobody_in_and_is_asked_again(
    start_proxy: Callable[[], AbstractContextManager[FaultProxy]],
    table: TableClient,
    user: str,
    fault: Fault,
    role: Role | None,
) -> None:
    business = str(uuid4())
    if role:
        set_member(table, business, user, role)
    with start_proxy() as proxy:

        async def scenario(access: BusinessAccess, _: Clocked) -> None:
            proxy.always = fault
            with pytest.raises((ServiceUnavailable, TooManyRequests)) as raised:
                await access.require(a_caller(user), business, Permission.READ)
            assert int(raised.value.headers["Retry-After"]) >= 1
            proxy.always = pass_on
            assert await may(access, user, business) == (role is not None)

        run(connection_string(proxy.port), scenario, STORAGE_BUDGET="1")


def test_over_http_storage_that_does_not_say_is_a_503_and_nothing_is_written(
    start_service: StartService,
    start_proxy: Callable[[], AbstractContextManager[FaultProxy]],
    issuer: Issuer,
    table: TableClient,
    user: str,
) -> None:
    business = str(uuid4())
    set_member(table, business, user, Role.SCHEDULER)
    with (
        start_proxy() as proxy,
        start_service(CUSTOMERS_STORAGE=connection_string(proxy.port), STORAGE_BUDGET="1") as service,
        a_client(service, issuer.token({**DELEGATED, "oid": user})) as client,
    ):
        proxy.always = cut_before
        assert_error(client.post(BETA.format(business), json=DOCUMENTED), 503, "serviceUnavailable")
        proxy.always = pass_on
        assert client.get(f"{BETA.format(business)}/$count").text == "0"
        assert_customer(client.post(BETA.format(business), json=DOCUMENTED))


def test_the_log_names_the_user_who_was_refused(service: Service, issuer: Issuer) -> None:
    with a_client(service, issuer.token(DELEGATED)) as client:
        response = client.get(BETA.format("Nobody's"))
    lines = [line for line in service.log.read_text().splitlines() if response.headers["request-id"] in line]
    assert len(lines) == 1
    assert f'"objectId": "{USER}"' in lines[0]
    assert APPLICATION not in lines[0]
