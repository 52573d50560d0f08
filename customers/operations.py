"""The operations: what each does with a request whose caller, ids and options have been checked."""

import asyncio
from contextlib import closing
from datetime import UTC, datetime
from functools import partial

import azure.functions as func
from pydantic_core import from_json

from customers import batch, response
from customers.batch import Member
from customers.errors import BadRequest, Detail, RepeatRejected, ServiceUnavailable, TooManyRequests
from customers.insert_group import InsertGroup, Place
from customers.keys import IdGenerator
from customers.lists import CustomerLists
from customers.model import BookingCustomer, CustomerUpdate, NewCustomer
from customers.repeatability import RepeatableRequest
from customers.request import Request
from customers.settings import Settings
from customers.storage import Connection
from customers.table import CustomersTable

_HEALTH_REMEMBERED = 1.0
"""In seconds: how long the result of a health check is used again."""

_LONGEST_BATCH = 220.0
"""In seconds: Azure ends a request after 230, and nobody would learn what a batch has done."""

_MAX_HEALTH_WAITING = 16
"""Health checks that may wait for storage at the same time."""


class Operations:
    """The operations on the one table of a process."""

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._settings = settings
        self._connection = connection
        self._table = CustomersTable(settings, connection)
        self._lists = CustomerLists(settings, connection)
        self._ids = IdGenerator()
        self._health: asyncio.Task[bool] | None = None
        self._health_waiting = 0

    @property
    def settings(self) -> Settings:
        """The settings of the service."""
        return self._settings

    async def add(self, request: Request) -> func.HttpResponse:
        """Add a customer."""
        body = request.json_body(self._settings.body_limit)
        new = NewCustomer.from_json(body, email_address_check=self._settings.email_address_check)
        new_id, now = self._ids.next()
        repeatable = RepeatableRequest.read(
            request.header, business_id=request.business_id, caller=request.caller, customer=new, now=now
        )
        stored = await self._table.add(
            request.business_id,
            BookingCustomer.model_construct(
                id=repeatable.customer_id if repeatable else new.id or new_id,
                created_date_time=now,
                last_updated_date_time=now,
                **new.properties,
            ),
            operation_id=request.id,
            digest=repeatable.digest if repeatable else None,
            insert=request.insert,
        )
        request.is_repeat = stored.is_repeat
        added = response.written(request, stored, status=201)
        if repeatable:
            added.headers["Repeatability-Result"] = "accepted"
        return added

    async def add_by_reference(self, request: Request) -> func.HttpResponse:
        """Add a customer, as Graph's draft documentation spells it."""
        try:
            return await self.add(request)
        except RepeatRejected:
            raise
        except BadRequest:
            if not _is_entity_reference(request.json_body(self._settings.body_limit)):
                raise
        raise BadRequest(
            "Customers are contained in their business and cannot be added by reference. "
            f"POST the customer itself to {request.collection_url}."
        )

    async def list(self, request: Request) -> func.HttpResponse:
        """List customers, one page at a time."""
        query = request.query
        # Concurrently, so that both take the time of one. Only the first page has the count.
        page, number = await asyncio.gather(
            self._lists.page(
                request.business_id, condition=query.condition, top=query.top, continuation=query.continuation
            ),
            self._lists.count(request.business_id, condition=query.condition)
            if query.counted and not query.continuation
            else _no_count(),
        )
        next_page = query.next_page(page.continuation) if page.continuation else None
        return response.page(request, page.customers, count=number, next_page=next_page)

    async def count(self, request: Request) -> func.HttpResponse:
        """Count customers."""
        return response.count(request, await self._lists.count(request.business_id, condition=request.query.condition))

    async def get(self, request: Request) -> func.HttpResponse:
        """Get a customer."""
        stored = await self._table.get(request.business_id, request.customer_id)
        if request.if_none_match and request.if_none_match(stored.etag):
            return response.not_modified(request, stored)
        return response.customer(request, stored)

    async def update(self, request: Request) -> func.HttpResponse:
        """Change the properties of a customer that were sent."""
        body = request.json_body(self._settings.body_limit)
        update = CustomerUpdate.from_json(body, email_address_check=self._settings.email_address_check)
        if "id" in update.model_fields_set and update.id != request.customer_id:
            raise BadRequest.because([Detail("immutable", "id", "must be the id in the URL; an id never changes")])
        now = datetime.now(UTC)
        stored = await self._table.update(
            request.business_id,
            request.customer_id,
            update.changes,
            at=now.replace(microsecond=now.microsecond // 1000 * 1000),
            operation_id=request.id,
            precondition=request.if_match,
        )
        return response.written(request, stored, status=200)

    async def delete(self, request: Request) -> func.HttpResponse:
        """Delete a customer."""
        await self._table.delete(
            request.business_id, request.customer_id, operation_id=request.id, precondition=request.if_match
        )
        return response.deleted(request)

    async def batch(self, request: Request) -> func.HttpResponse:
        """Perform the requests of a batch: those that do not depend on each other at once, their adds together."""
        groups = batch.parse(
            request.json_body(batch.LIMIT_FACTOR * self._settings.body_limit),
            version=request.version,
            authorization=request.header("authorization"),
        )
        responses: dict[str, func.HttpResponse] = {}
        done: dict[str, func.HttpResponse] = {}
        clock = asyncio.get_running_loop().time
        # A request has the budget for storage, and as much for the caller's role.
        latest = clock() + _LONGEST_BATCH - 2 * self._settings.budget
        for group in groups:
            members = [batch.unless_failed(member, done) for member in group]
            if done and clock() > latest:
                members = [_too_late(member) for member in members]
            with closing(InsertGroup(self._connection.insert, operation_id=request.id)) as inserts:
                places = [inserts.place() if member.method == "POST" else None for member in members]
                found = await asyncio.gather(*map(partial(_perform, request), members, places))
            responses |= {member.id: response for member, response in zip(members, found, strict=True)}
            done |= {member.id.lower(): response for member, response in zip(members, found, strict=True)}
        return response.batch(request, batch.write(responses))

    async def health(self, request: Request) -> func.HttpResponse:
        """Report whether storage responds."""
        if self._health is None:
            self._health = asyncio.create_task(self._check_health())
        if self._health_waiting >= _MAX_HEALTH_WAITING:
            raise TooManyRequests("Too many health checks are waiting. Try again later.", retry_after=5)
        self._health_waiting += 1
        try:
            healthy = await asyncio.shield(self._health)
        finally:
            self._health_waiting -= 1
        if not healthy:
            raise ServiceUnavailable("The service is not ready.", retry_after=5)
        return response.healthy(request)

    async def _check_health(self) -> bool:
        """Ask storage once for all who ask within a short time: anybody may ask, without a token."""
        try:
            return await self._lists.is_there()
        finally:
            asyncio.get_running_loop().call_later(_HEALTH_REMEMBERED, self._forget_health)

    def _forget_health(self) -> None:
        self._health = None


def _too_late(member: Member) -> Member:
    """The member, refused because those before it have taken the time of the batch."""
    late = ServiceUnavailable("Not done, because the requests before it took too long. Send it again.", retry_after=1)
    return member._replace(problem=member.problem or late)


async def _perform(request: Request, member: Member, place: Place | None) -> func.HttpResponse:
    try:
        return await request.perform(member, place)
    finally:
        if place:
            place.leave()


async def _no_count() -> None:
    """Stands in for a count that was not asked for."""


def _is_entity_reference(body: bytes) -> bool:
    """Whether a body is ``{"@odata.id": …}`` (OData JSON Format 4.01, 14)."""
    try:
        value = from_json(body)
    except ValueError:
        return False
    return isinstance(value, dict) and "@odata.id" in value
