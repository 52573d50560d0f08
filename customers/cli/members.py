"""Names the members of a business, and records each change with who made it.

A member's row is changed only if it is still as it was read, in one transaction with the row of the change, so that no
operator unknowingly overwrites what another did at the same time.
"""

import getpass
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from urllib.parse import quote
from uuid import uuid4

import aiohttp
import jwt
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import ClientAuthenticationError, ResourceExistsError, ResourceModifiedError
from azure.data.tables import TableEntity
from pydantic_core import PydanticCustomError
from yarl import URL

from customers.cli.command import THE_TABLE, Command, Exit, Unreachable, UsageError, add_business, sign_in
from customers.direct import SCOPE
from customers.members import CHANGE, Kind, Principal, Role, change_row, member_row, rows_of
from customers.settings import TableSettings, check_url
from customers.storage import Connection, NoSuchRow, Operation, etag_of, remove, replace

_GRAPH = "https://graph.microsoft.com"
_MAX_ATTEMPTS = 20
_TIMEOUT = aiohttp.ClientTimeout(total=30)


async def set_role(
    connection: Connection, business_id: str, principal: Principal, role: Role | None, *, by: str
) -> str | None:
    """Give a principal a role in a business, or take it away (None), and return the role that it had (None: none).

    Nothing is written if it has that role already, or none to take away.
    """
    for _ in range(_MAX_ATTEMPTS):
        found = await connection.get(business_id, principal.row_key)
        before = None if found is None else str(found.get("role"))
        if before == role:
            return before
        at, operation_id = datetime.now(UTC), str(uuid4())
        operations: list[Operation] = []
        if role is not None:
            row = member_row(business_id, principal, role, by=by, at=at)
            operations.append(("create", row, {}) if found is None else replace(row, etag_of(found.metadata)))
        elif found is not None:
            operations.append(remove(found, etag_of(found.metadata)))
        change = change_row(business_id, principal, role, by=by, at=at, operation_id=operation_id)
        operations.append(("create", change, {}))
        try:
            await connection.transact(operations, operation_id=operation_id)
        except (NoSuchRow, ResourceExistsError, ResourceModifiedError):
            continue
        return before
    raise Unreachable("Others keep changing this member. Run the same command again.")


async def find_user(name: str, credential: AsyncTokenCredential, graph: str) -> Principal:
    """Return the user with a sign-in name, by Microsoft Graph ("Get user", v1.0).

    Raises UsageError if there is none or Graph refuses, Unreachable if it cannot be reached.
    """
    token = await credential.get_token(f"{graph}/.default")
    url = URL(f"{graph}/v1.0/users/{quote(name, safe='')}?$select=id", encoded=True)
    headers = {"Authorization": f"Bearer {token.token}"}
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.get(url, headers=headers, allow_redirects=False) as response,
        ):
            status, body = response.status, await response.json(content_type=None) if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise Unreachable(f"Microsoft Graph cannot be reached at {graph}. Try again, or {_GIVE_ID}") from error
    if status == 404:
        raise UsageError(f"Your tenant has no user {name}. Check the sign-in name, or {_GIVE_ID}")
    if status in (401, 403):
        raise UsageError(f"You have no permission to look up users in Microsoft Graph. Instead, {_GIVE_ID}")
    principal = Principal.of(Kind.USER, str(body.get("id"))) if isinstance(body, dict) else None
    if principal is None:
        raise Unreachable(f"Microsoft Graph responded with status {status}. Try again, or {_GIVE_ID}")
    return principal


_GIVE_ID = "give the object id: az ad user show --id NAME --query id"


async def operator(credential: AsyncTokenCredential | None) -> str:
    """Who runs the command: the sign-in name and object id in the token for storage; for Azurite, the local user."""
    if credential is None:
        return f"{getpass.getuser()} (local)"
    try:
        token = await credential.get_token(SCOPE)
    except ClientAuthenticationError as error:
        raise Unreachable("You are not signed in to Microsoft Entra ID. Run az login, then this again.") from error
    # Storage verifies the token; here it only says who that is.
    claims = jwt.decode(token.token, options={"verify_signature": False})
    names = [claims[name] for name in ("upn", "preferred_username", "unique_name", "appid") if claims.get(name)]
    return " ".join([*names[:1], f"({claims.get('oid', 'no object id')})"])


async def _principal(options: Namespace, credential: AsyncTokenCredential | None) -> Principal:
    """The user or group that the arguments name."""
    if options.group is not None:
        principal = Principal.of(Kind.GROUP, options.group)
        if principal is None:
            raise UsageError("--group must be an object id; az ad group show --group NAME --query id prints it.")
        return principal
    if options.user is None:
        raise UsageError(f"{options.action} needs --user or --group.")
    principal = Principal.of(Kind.USER, options.user)
    if principal is not None:
        return principal
    if "@" not in options.user:
        raise UsageError("--user must be an object id, or a sign-in name such as ada@contoso.com.")
    if credential is None:
        raise UsageError("--user must be an object id: with Azurite there is no tenant in which to look up a name.")
    return await find_user(options.user, credential, options.graph)


async def _list(connection: Connection, business_id: str, *, changes: bool) -> Exit:
    """Print one line for each member, or for each change, with tabs between."""
    number = 0
    for kind in (CHANGE,) if changes else tuple(Kind):
        async for row in _rows(connection, business_id, kind):
            number += 1
            name = row["principal"] if changes else row["RowKey"].strip(" @")
            role = row.get("role") or "removed"
            print(f"{name.replace(':', '\t')}\t{role}\t{row['changed']:%Y-%m-%dT%H:%M:%SZ}\t{row['changedBy']}")
    if not number:
        print(f"{business_id} has no {'changes' if changes else 'members'}.", file=sys.stderr)
    return Exit.DONE


async def _rows(connection: Connection, business_id: str, kind: str) -> AsyncGenerator[TableEntity]:
    table = await connection.table()
    first, end = rows_of(kind)
    found = table.query_entities(
        "PartitionKey eq @business and RowKey ge @first and RowKey lt @end",
        parameters={"business": business_id, "first": first, "end": end},
    )
    async for row in found:
        yield row


async def _change(connection: Connection, principal: Principal, options: Namespace, by: str) -> Exit:
    business, role = options.business, Role(options.role) if options.role else None
    before = await set_role(connection, business, principal, role, by=by)
    who = f"{principal.kind} {principal.object_id}"
    if role is None:
        if before is None:
            print(f"{who} is not a member of {business}. Nothing was removed.", file=sys.stderr)
            return Exit.SOME_WRONG
        print(f"{who} is no longer a member of {business}; was {before}. Changed by {by}.")
    elif before == role:
        print(f"{who} is already {role} of {business}.")
    else:
        print(f"{who} is {role} of {business} now; was {before or 'not a member'}. Changed by {by}.")
    return Exit.DONE


async def _run(options: Namespace) -> Exit:
    for name, wanted in (("role", "add"), ("changes", "list")):
        if getattr(options, name) and options.action != wanted:
            raise UsageError(f"--{name} is for {wanted}.")
    if options.action == "add" and not options.role:
        raise UsageError(f"add needs --role, one of {', '.join(Role)}.")
    if options.action == "list" and (options.user or options.group):
        raise UsageError("list takes no --user or --group: it lists all members of the business.")
    settings = TableSettings.from_environment(os.environ)
    async with sign_in(settings) as credential:
        connection = Connection(settings, credential)
        if options.action == "list":
            return await _list(connection, options.business, changes=options.changes)
        by = await operator(credential)
        return await _change(connection, await _principal(options, credential), options, by)


def _url(text: str) -> str:
    try:
        return check_url(text)
    except PydanticCustomError as error:
        raise ArgumentTypeError(error.message()) from error


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", choices=("add", "remove", "list"))
    add_business(parser, "the id of the business", required=True)
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--user", metavar="OID", help="the object id or sign-in name of a user")
    who.add_argument("--group", metavar="OID", help="the object id of a group")
    parser.add_argument(
        "--role", choices=tuple(Role), help="what the member may do; viewer reads, the others also write"
    )
    parser.add_argument("--changes", action="store_true", help="list who changed what, and when")
    parser.add_argument(
        "--graph", type=_url, default=_GRAPH, metavar="URL", help="where Microsoft Graph is, in a national cloud"
    )


MEMBERS = Command(
    name="members",
    summary="say who may do what in a business",
    description=f"""\
Name, remove or list the members of a business: users, or groups that the users' tokens name. To add a member again with
another role changes the role. The service follows within a minute. Each change is kept in the table, with your name.

{THE_TABLE}""",
    example="python -m customers members add --business Contoso@contoso.com --user ada@contoso.com --role viewer",
    add_arguments=_add_arguments,
    run=_run,
)
