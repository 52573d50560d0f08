"""Members of businesses, put into the table past the service."""

from collections.abc import Mapping
from datetime import UTC, datetime

from azure.data.tables import TableClient
from azure.data.tables.aio import TableClient as AsyncTableClient

from customers.members import Kind, Principal, Role, member_row

DELEGATED = {"scp": "Bookings.Manage.All"}
"""Claims of a token that acts for a user and permits everything."""


def member(kind: Kind, object_id: str) -> Principal:
    """The principal with this object id."""
    principal = Principal.of(kind, object_id)
    assert principal is not None
    return principal


def set_member(table: TableClient, business: str, object_id: str, role: Role | None, *, kind: Kind = Kind.USER) -> None:
    """Give a role in a business, or take it away with None."""
    principal = member(kind, object_id)
    if role is None:
        table.delete_entity(business, principal.row_key)
    else:
        table.upsert_entity(member_row(business, principal, role, by="the tests", at=datetime.now(UTC)))


async def add_members(storage: str, roles: Mapping[str, Mapping[str, Role]]) -> None:
    """Give users roles: the roles by business and object id."""
    async with AsyncTableClient.from_connection_string(storage, "customers") as table:
        for business, users in roles.items():
            for object_id, role in users.items():
                principal = member(Kind.USER, object_id)
                await table.upsert_entity(member_row(business, principal, role, by="the soak", at=datetime.now(UTC)))
