"""The members of a business: its people, what each may do there, and the check of it.

A member is a user, or a group that the user's token names, with one of Graph's roles. Members are rows in the partition
of their business; ``python -m customers members`` writes them, with a row for each change that says who made it.

A caller asks storage for rows by their keys only, the same number of them whether the business has other members,
customers, both or nothing. What was found is remembered for that caller alone, so nobody learns from the time of a
response what others do.

Sources: "bookingStaffMember resource type" (Microsoft Graph), values of bookingStaffRole; "Configure group claims for
applications" (Microsoft Entra), group overage.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple
from uuid import UUID

from azure.core.exceptions import AzureError

from customers.auth import Caller, Permission
from customers.errors import AccessDenied, TooManyRequests
from customers.partition import MEMBERS
from customers.settings import Settings
from customers.storage import Backpressure, Connection, raise_unavailable

REMEMBERED: Final = {True: 60.0, False: 5.0}
"""In seconds: how long it is remembered that a caller may do something in a business, or may not."""

MAX_REMEMBERED: Final = 1000
"""How many of each are remembered; the oldest is dropped first."""

_MAX_LOOKUPS: Final = 100
"""Lookups at the same time."""

_MAX_GETS: Final = 20
"""Rows of one lookup that are read at the same time."""


class Role(StrEnum):
    """What a member is to a business, as in Graph."""

    VIEWER = "viewer"
    TEAM_MEMBER = "teamMember"
    SCHEDULER = "scheduler"
    ADMINISTRATOR = "administrator"


ROLES: Final[Mapping[Permission, tuple[Role, ...]]] = {
    Permission.READ: tuple(Role),
    Permission.WRITE: (Role.TEAM_MEMBER, Role.SCHEDULER, Role.ADMINISTRATOR),
}
"""The roles of which an operation needs any one, the least privileged first."""


class Kind(StrEnum):
    """What a member is in Microsoft Entra ID."""

    USER = "user"
    GROUP = "group"


class Principal(NamedTuple):
    """A user or a group, by its object id: a GUID in lower case."""

    kind: Kind
    object_id: str

    @classmethod
    def of(cls, kind: Kind, object_id: str) -> "Principal | None":
        """Return the principal with an object id, in any case; None if it is no GUID, which no member has."""
        try:
            return cls(kind, str(UUID(object_id)))
        except ValueError:
            return None

    @property
    def row_key(self) -> str:
        """The RowKey of this member in any business."""
        return f"{MEMBERS}{self.kind}:{self.object_id}"


CHANGE: Final = "change"
"""The kind of a row that keeps a change of the members."""


def rows_of(kind: str) -> tuple[str, str]:
    """The RowKeys of the rows about members of one kind: the first possible one, and the first one past them."""
    return f"{MEMBERS}{kind}:", f"{MEMBERS}{kind};"


def member_row(business_id: str, principal: Principal, role: Role, *, by: str, at: datetime) -> dict[str, Any]:
    """The row of a member, who has this role since then by the hand of that operator."""
    return {
        "PartitionKey": business_id,
        "RowKey": principal.row_key,
        "role": role.value,
        "changedBy": by,
        "changed": at,
    }


def change_row(
    business_id: str, principal: Principal, role: Role | None, *, by: str, at: datetime, operation_id: str
) -> dict[str, Any]:
    """The row that keeps a change of the members: a role that was given, or None for a member that was removed."""
    return {
        "PartitionKey": business_id,
        "RowKey": f"{MEMBERS}{CHANGE}:{at:%Y-%m-%dT%H:%M:%S.%fZ} {operation_id}",
        "principal": principal.row_key.removeprefix(MEMBERS),
        "role": role.value if role else "",
        "changedBy": by,
        "changed": at,
    }


class _Question(NamedTuple):
    """Whether a caller may do something in a business."""

    business_id: str
    permission: Permission
    object_id: str
    groups: frozenset[str]


class BusinessAccess:
    """Lets callers into businesses, as the setting BUSINESS_ACCESS says."""

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._by_membership = settings.business_access == "members"
        self._budget = settings.budget
        self._connection = connection
        # Apart, so that nobody who is refused everywhere can push out those who are not. The values are times.
        self._remembered: dict[bool, dict[_Question, float]] = {True: {}, False: {}}
        self._lookups: dict[_Question, asyncio.Task[bool]] = {}

    async def require(self, caller: Caller, business_id: str, permission: Permission) -> None:
        """Raise AccessDenied unless the caller may do this in the business, whether or not there is such a business.

        Raises TooManyRequests or ServiceUnavailable if storage does not say in time.
        """
        if caller.is_application or not self._by_membership:
            return
        if await self._may(_Question(business_id, permission, caller.object_id, caller.groups)):
            return
        message = f"You must have one of these roles in the business: {', '.join(ROLES[permission])}."
        if caller.groups_left_out:
            message += (
                " You are in so many groups that your token leaves them out, so roles of groups do not count. "
                "Ask for a role of your own, or for a token with only the groups that are assigned to the service "
                "(groupMembershipClaims: ApplicationGroup in its registration)."
            )
        raise AccessDenied(message)

    async def _may(self, question: _Question) -> bool:
        now = asyncio.get_running_loop().time()
        for answer, remembered in self._remembered.items():
            if remembered.get(question, now) > now:
                return answer
        lookup = self._lookups.get(question)
        if lookup is None:
            if len(self._lookups) >= _MAX_LOOKUPS:
                raise TooManyRequests("Too many requests wait for their roles. Try again later.", retry_after=1)
            lookup = self._lookups[question] = asyncio.create_task(self._look_up(question))
            lookup.add_done_callback(lambda _: self._lookups.pop(question))
        return await asyncio.shield(lookup)

    async def _look_up(self, question: _Question) -> bool:
        """Ask storage, and remember what it says from the time of asking on."""
        asked_at = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._budget):
                answer = await self._is_member(question)
        except (AzureError, Backpressure, TimeoutError) as error:
            raise_unavailable(error)
        remembered = self._remembered[answer]
        remembered.pop(question, None)
        if len(remembered) >= MAX_REMEMBERED:
            del remembered[next(iter(remembered))]
        remembered[question] = asked_at + REMEMBERED[answer]
        return answer

    async def _is_member(self, question: _Question) -> bool:
        """Whether the user has one of the roles, or else one of the groups."""
        at_once = asyncio.Semaphore(_MAX_GETS)

        async def has_role(kind: Kind, object_id: str) -> bool:
            principal = Principal.of(kind, object_id)
            if principal is None:
                return False
            async with at_once:
                row = await self._connection.get(question.business_id, principal.row_key)
            return row is not None and row.get("role") in ROLES[question.permission]

        if await has_role(Kind.USER, question.object_id):
            return True
        return any(await asyncio.gather(*(has_role(Kind.GROUP, group) for group in question.groups)))
