"""``python -m customers members``: who is a member of a business is said by operators, and each change is kept."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from aiohttp import web
from azure.core.credentials import AccessToken
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import ClientAuthenticationError
from azure.data.tables import TableClient

from customers.cli.command import Unreachable, UsageError
from customers.cli.main import main
from customers.cli.members import find_user, operator, set_role
from customers.email_index import MARK
from customers.members import CHANGE, Kind, Role, rows_of
from customers.partition import is_member_row
from customers.settings import TableSettings
from customers.storage import Connection
from infra.local.issuer import Issuer
from tests.conftest import Service, Storage, rows
from tests.support.graph import BETA, DOCUMENTED, assert_customer, assert_error
from tests.support.index import index_faults
from tests.support.members import DELEGATED, member

type Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; its exit code, its results, and what it says."""
    monkeypatch.setenv("CUSTOMERS_STORAGE", storage.connection_string)

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(arguments)
        except SystemExit as ended:
            code = int(str(ended.code))
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def user() -> str:
    """The object id of a user of whom no test knows yet."""
    return str(uuid4())


def test_members_are_added_listed_changed_and_removed(run: Run, service: Service, issuer: Issuer, user: str) -> None:
    business, group = str(uuid4()), str(uuid4())
    of = ("--business", business)
    assert run("members", "list", *of) == (0, "", f"{business} has no members.\n")
    code, said, _ = run("members", "add", *of, "--user", user.upper(), "--role", "viewer")
    assert code == 0
    assert said.startswith(f"user {user} is viewer of {business} now; was not a member. Changed by ")
    headers = {"Authorization": f"Bearer {issuer.token({**DELEGATED, 'oid': user})}"}
    with httpx.Client(base_url=service.base, headers=headers) as client:
        assert client.get(BETA.format(business)).status_code == 200
        assert_error(client.post(BETA.format(business), json=DOCUMENTED), 403, "accessDenied")
    assert "already" in run("members", "add", *of, "--user", user, "--role", "viewer")[1]
    assert "was viewer" in run("members", "add", *of, "--user", user, "--role", "administrator")[1]
    assert run("members", "add", *of, "--group", group, "--role", "scheduler")[0] == 0
    code, listed, _ = run("members", "list", *of)
    assert [line.split("\t")[:3] for line in listed.splitlines()] == [
        ["user", user, "administrator"],
        ["group", group, "scheduler"],
    ]
    assert "was administrator" in run("members", "remove", *of, "--user", user)[1]
    assert run("members", "remove", *of, "--user", user) == (
        1,
        "",
        f"user {user} is not a member of {business}. Nothing was removed.\n",
    )
    # A group with the same id is somebody else.
    assert run("members", "remove", *of, "--user", group)[0] == 1
    _, listed, _ = run("members", "list", *of, "--changes")
    assert [line.split("\t")[:3] for line in listed.splitlines()] == [
        ["user", user, "viewer"],
        ["user", user, "administrator"],
        ["group", group, "scheduler"],
        ["user", user, "removed"],
    ]
    assert all(line.split("\t")[4].endswith("(local)") for line in listed.splitlines())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "business"),
        (("add", "--business", "b"), "--role, one of viewer, teamMember, scheduler, administrator"),
        (("add", "--business", "b", "--role", "viewer"), "--user or --group"),
        (("add", "--business", "b", "--role", "owner", "--user", str(uuid4())), "choose from"),
        (("add", "--business", " b", "--role", "viewer", "--user", str(uuid4())), "space"),
        (("add", "--business", "a/b", "--role", "viewer", "--user", str(uuid4())), "must not contain"),
        (("add", "--business", "b", "--role", "viewer", "--user", "ada"), "ada@contoso.com"),
        (("add", "--business", "b", "--role", "viewer", "--user", "ada@contoso.com"), "Azurite"),
        (("add", "--business", "b", "--role", "viewer", "--group", "Reception"), "az ad group show"),
        (("add", "--business", "b", "--role", "viewer", "--group", str(uuid4()), "--user", "x"), "not allowed with"),
        (("add", "--business", "b", "--role", "viewer", "--user", "x", "--graph", "http://x"), "https://"),
        (("remove", "--business", "b", "--user", str(uuid4()), "--role", "viewer"), "--role is for add"),
        (("remove", "--business", "b"), "--user or --group"),
        (("list",), "business"),
        (("list", "--business", "b", "--user", str(uuid4())), "list takes no --user"),
        (("add", "--business", "b", "--changes", "--role", "viewer", "--user", str(uuid4())), "--changes is for list"),
    ],
)
def test_wrong_usage_is_said_and_nothing_is_written(run: Run, arguments: tuple[str, ...], says: str) -> None:
    code, results, said = run("members", *arguments)
    assert (code, results) == (2, "")
    assert says in said
    assert "Traceback" not in said


def test_the_help_has_an_example(run: Run) -> None:
    assert "python -m customers members add" in run("members", "--help")[1]


def test_storage_that_is_not_there_is_said(run: Run, monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    monkeypatch.setenv("CUSTOMERS_TABLE", "nosuchtable")
    for arguments in (("list",), ("add", "--user", user, "--role", "viewer"), ("remove", "--user", user)):
        code, _, said = run("members", *arguments, "--business", "b")
        assert code == 3
        assert said
        assert "Traceback" not in said


async def with_connection[Result](
    storage: Storage, work: Callable[[Connection], Coroutine[Any, Any, Result]]
) -> Result:
    """Do something with a connection of its own."""
    settings = TableSettings.from_environment({"CUSTOMERS_STORAGE": storage.connection_string})
    return await work(Connection(settings))


def test_of_changes_at_once_each_is_kept_and_the_last_one_counts(
    storage: Storage, table: TableClient, user: str
) -> None:
    business, principal = str(uuid4()), member(Kind.USER, user)
    wanted = [*Role, None] * 2

    async def change_all(connection: Connection) -> list[str | None]:
        return await asyncio.gather(
            *(set_role(connection, business, principal, role, by=f"operator {n}") for n, role in enumerate(wanted))
        )

    before = asyncio.run(with_connection(storage, change_all))
    # Those that found their role given already changed nothing; each other change is kept once.
    made = {f"operator {n}": role or "" for n, role in enumerate(wanted) if role != before[n]}
    assert {row["changedBy"]: row["role"] for row in changes(table, business)} == made
    assert len(changes(table, business)) == len(made)
    # Each replaced what another one made: together they lead from no member to what is there now.
    replaced = [before[n] or "" for n, role in enumerate(wanted) if role != before[n]]
    now = [row["role"] for row in about_members(table, business) if row["RowKey"] == principal.row_key] or [""]
    assert sorted([*made.values(), ""]) == sorted([*replaced, *now])


def about_members(table: TableClient, business: str) -> list[dict[str, Any]]:
    """The rows about the members of a business."""
    found = table.query_entities("PartitionKey eq @b", parameters={"b": business})
    return [dict(row) for row in found if is_member_row(row)]


def changes(table: TableClient, business: str) -> list[dict[str, Any]]:
    """The rows that keep the changes of the members of a business."""
    first, end = rows_of(CHANGE)
    return [row for row in about_members(table, business) if first <= row["RowKey"] < end]


def test_reindex_leaves_members_alone(
    run: Run, client: httpx.Client, table: TableClient, own_table: TableClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    business = str(uuid4())
    assert_customer(client.post(BETA.format(business), json=DOCUMENTED))
    for row in table.query_entities("PartitionKey eq @b", parameters={"b": business}):
        own_table.create_entity(row)
    own_table.create_entity({"PartitionKey": business, "RowKey": " nonsense"})
    own_table.create_entity(MARK)
    monkeypatch.setenv("CUSTOMERS_TABLE", own_table.table_name)
    run("members", "add", "--business", business, "--user", str(uuid4()), "--role", "viewer")
    before = run("members", "list", "--business", business)
    assert len(before[1].splitlines()) == 1
    code, said, _ = run("reindex", "--quiet")
    assert (code, "1 removed" in said) == (1, True)
    assert run("members", "list", "--business", business) == before
    assert len(run("members", "list", "--business", business, "--changes")[1].splitlines()) == 1
    assert index_faults(own_table, business) == []
    assert len(rows(own_table, business)) == 1


class Credential(AsyncTokenCredential):
    """A sign-in whose tokens have these claims; None for none at all."""

    def __init__(self, claims: dict[str, Any] | None) -> None:
        self._claims = claims
        self.scopes: list[str] = []

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        """A token."""
        self.scopes += scopes
        if self._claims is None:
            raise ClientAuthenticationError("no")
        return AccessToken(jwt.encode(self._claims, "x" * 32), int(time.time()) + 3600)

    async def close(self) -> None:
        """Nothing to close."""

    async def __aexit__(self, *_: object) -> None:
        """Nothing to close."""


@pytest.mark.parametrize(
    ("claims", "who"),
    [
        ({"upn": "ada@contoso.com", "oid": "7"}, "ada@contoso.com (7)"),
        ({"preferred_username": "ada@contoso.com", "oid": "7"}, "ada@contoso.com (7)"),
        ({"appid": "5", "oid": "7"}, "5 (7)"),
        ({}, "(no object id)"),
    ],
)
def test_the_operator_is_who_the_token_for_storage_names(claims: dict[str, Any], who: str) -> None:
    assert asyncio.run(operator(Credential(claims))) == who


def test_an_operator_who_is_not_signed_in_is_told_so() -> None:
    with pytest.raises(Unreachable, match="az login"):
        asyncio.run(operator(Credential(None)))


async def ask_graph(name: str, answer: web.Response, credential: Credential) -> tuple[Any, web.Request]:
    """Ask a stand-in of Microsoft Graph that gives this answer."""
    asked: list[web.Request] = []

    async def users(request: web.Request) -> web.Response:
        asked.append(request)
        return answer

    app = web.Application()
    app.router.add_get("/{path:.*}", users)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        graph = f"http://127.0.0.1:{runner.addresses[0][1]}"
        found = await find_user(name, credential, graph)
        assert credential.scopes == [f"{graph}/.default"]
        return found, asked[0]
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("name", ["ada@contoso.com", "ann_example.com#EXT#@contoso.com", "o'neil/x?y@contoso.com"])
def test_a_sign_in_name_is_looked_up_in_microsoft_graph(name: str, user: str) -> None:
    found, asked = asyncio.run(ask_graph(name, web.json_response({"id": user.upper()}), Credential({})))
    assert found == member(Kind.USER, user)
    assert asked.path == f"/v1.0/users/{name}"
    assert asked.query == {"$select": "id"}
    assert asked.headers["Authorization"].startswith("Bearer ey")


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (
            lambda: web.json_response({"error": {"code": "Request_ResourceNotFound"}}, status=404),
            UsageError,
            "no user ada@x",
        ),
        (lambda: web.json_response({}, status=403), UsageError, "no permission to look up users"),
        (lambda: web.json_response({}, status=401), UsageError, "no permission to look up users"),
        (lambda: web.json_response({}, status=503), Unreachable, "status 503"),
        (lambda: web.Response(status=302, headers={"Location": "https://x"}), Unreachable, "status 302"),
        (lambda: web.Response(text="<html>"), Unreachable, "cannot be reached"),
        (lambda: web.json_response({"id": "x"}), Unreachable, "status 200"),
        (lambda: web.json_response([]), Unreachable, "status 200"),
    ],
)
def test_a_user_who_cannot_be_looked_up_is_named_by_object_id(
    answer: Callable[[], web.Response], error: type[Exception], says: str
) -> None:
    async def scenario() -> None:
        with pytest.raises(error, match=says) as raised:
            await ask_graph("ada@x", answer(), Credential({}))
        assert "az ad user show" in str(raised.value)

    asyncio.run(scenario())


def test_a_graph_that_nothing_listens_for_is_said() -> None:
    with pytest.raises(Unreachable, match="cannot be reached"):
        asyncio.run(find_user("ada@x", Credential({}), "http://127.0.0.1:1"))
