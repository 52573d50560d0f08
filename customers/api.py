"""The operations: what each method does at each path, from the token to the answer."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from traceback import format_tb
from typing import NamedTuple

import azure.functions as func
from pydantic_core import PydanticCustomError, from_json

from customers import wire
from customers.errors import (
    BadRequest,
    Detail,
    GraphError,
    InternalServerError,
    MethodNotAllowed,
    NotFound,
    RepeatRejected,
    ServiceUnavailable,
    TooManyRequests,
)
from customers.identity import Identity, Permission
from customers.keys import Births, check_key
from customers.model import BookingCustomer, CustomerUpdate, NewCustomer
from customers.query import COUNT_OPTIONS, GET_OPTIONS, LIST_OPTIONS, Query
from customers.repeatability import Repeatable
from customers.settings import Settings
from customers.table import CustomersTable, TableFilter
from customers.wire import Request, Surface

_log = logging.getLogger("customers")


class Operation(NamedTuple):
    """What a method does at a path, and the permission that it takes; None where no token is asked for."""

    permission: Permission | None
    perform: Callable[[Request], Awaitable[func.HttpResponse]]


type Operations = Mapping[str, Operation]
"""The operations of a path, by method."""


class Api:
    """The service, one for the process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._identity = Identity(settings)
        self._table = CustomersTable(settings)
        self._births = Births()
        self._under_way = 0

    def collection(self, surface: Surface) -> Operations:
        """``…/customers``."""
        return {
            "GET": Operation(Permission.READ, partial(self._list, surface)),
            "POST": Operation(Permission.WRITE, partial(self._add, surface)),
        }

    def count(self) -> Operations:
        """``…/customers/$count``."""
        return {"GET": Operation(Permission.READ, self._count)}

    def reference(self, surface: Surface) -> Operations:
        """``…/customers/$ref``, as Graph's draft documentation spells the add."""
        return {"POST": Operation(Permission.WRITE, partial(self._add_by_reference, surface))}

    def entity(self, surface: Surface) -> Operations:
        """``…/customers/{customerId}``."""
        return {
            "GET": Operation(Permission.READ, partial(self._get, surface)),
            "PATCH": Operation(Permission.WRITE, partial(self._update, surface)),
            "DELETE": Operation(Permission.WRITE, self._delete),
        }

    def health(self) -> Operations:
        """``/healthz``."""
        return {"GET": Operation(None, self._health)}

    def nowhere(self) -> Operations:
        """Any other path."""
        return {}

    async def answer(self, http: func.HttpRequest, route: str, operations: Operations) -> func.HttpResponse:
        """Answer a request at a path that has these operations, and log one line of it."""
        started = time.perf_counter()
        request = Request(http)
        self._under_way += 1
        try:
            response = await self._perform(request, operations)
        except GraphError as problem:
            response = wire.error(request, problem)
        except Exception as fault:  # noqa: BLE001 - whatever it is, the caller gets an answer and the log the trace
            _log.error("request-id %s\n%s", request.id, _trace(fault))
            response = wire.error(
                request, InternalServerError(f"The service failed; its log has the cause under {request.id}.")
            )
        finally:
            self._under_way -= 1
        _log.info(
            json.dumps(
                {
                    "method": request.method,
                    "route": f"/{route}",
                    "status": response.status_code,
                    "milliseconds": round((time.perf_counter() - started) * 1000, 2),
                    "requestId": request.id,
                    "businessId": request.business_id,
                }
            )
        )
        return response

    async def _perform(self, request: Request, operations: Operations) -> func.HttpResponse:
        if self._under_way > self._settings.concurrency:
            # What can't be done within the budget is better refused at once than queued.
            raise TooManyRequests("The service has as many requests as it can take; try again later.", retry_after=1)
        if not operations:
            raise NotFound("There is nothing at this path.")
        operation = operations.get(request.method)
        if operation is None:
            raise MethodNotAllowed(request.method, sorted(operations))
        if operation.permission is not None:
            request.caller = await self._identity.authenticate(request.authorization)
            request.caller.require(operation.permission)
            _check_id("businessId", request.business_id)
        return await operation.perform(request)

    async def _add(self, surface: Surface, request: Request) -> func.HttpResponse:
        request.options()
        body = request.json_body(self._settings.body_limit)
        new = NewCustomer.from_json(body, email_address_check=self._settings.email_address_check)
        birth = self._births.next()
        repeatable = Repeatable.read(
            request.header,
            business_id=request.business_id,
            caller=request.caller,
            customer=new,
            now=birth.at,
        )
        customer = await self._table.add(
            request.business_id,
            BookingCustomer(
                etag="",  # Table Storage's to give
                id=repeatable.customer_id if repeatable else new.id or birth.id,
                display_name=new.display_name,
                email_address=new.email_address,
                addresses=new.addresses,
                phones=new.phones,
                created_date_time=birth.at,
                last_updated_date_time=birth.at,
            ),
            operation_id=request.id,
            repeat=repeatable.repeat if repeatable else None,
        )
        response = wire.written(request, surface, customer, status=201)
        if repeatable:
            response.headers["Repeatability-Result"] = "accepted"
        return response

    async def _add_by_reference(self, surface: Surface, request: Request) -> func.HttpResponse:
        request.options()
        try:
            return await self._add(surface, request)
        except RepeatRejected:
            raise
        except BadRequest:
            if not _is_entity_reference(request.json_body(self._settings.body_limit)):
                raise
        raise BadRequest(
            "Customers are contained in their business and can't be referenced into it; "
            f"POST the customer itself to {surface.collection_url(request.base, request.business_id)}."
        )

    async def _list(self, surface: Surface, request: Request) -> func.HttpResponse:
        query = Query.read(request.business_id, request.options(*LIST_OPTIONS))
        where = _translate(query.filter)
        business_id = request.business_id
        # At once, so that both take the time of one. The count is told with the first page only.
        page, number = await asyncio.gather(
            self._table.page(business_id, where=where, top=query.top, continuation=query.continuation),
            self._table.count(business_id, where=where) if query.counted and not query.continuation else _nothing(),
        )
        return wire.collection(
            request,
            surface,
            page.customers,
            select=query.select,
            count=number,
            next_page=query.next_page(page.continuation) if page.continuation else None,
        )

    async def _count(self, request: Request) -> func.HttpResponse:
        query = Query.read(request.business_id, request.options(*COUNT_OPTIONS))
        number = await self._table.count(request.business_id, where=_translate(query.filter))
        return wire.count(request, number)

    async def _get(self, surface: Surface, request: Request) -> func.HttpResponse:
        query = Query.read(request.business_id, request.options(*GET_OPTIONS))
        _check_id("id", request.customer_id)
        customer = await self._table.get(request.business_id, request.customer_id)
        if request.if_none_match and request.if_none_match(customer.etag):
            return wire.not_modified(request, customer)
        return wire.entity(request, surface, customer, select=query.select)

    async def _update(self, surface: Surface, request: Request) -> func.HttpResponse:
        request.options()
        _check_id("id", request.customer_id)
        body = request.json_body(self._settings.body_limit)
        update = CustomerUpdate.from_json(body, email_address_check=self._settings.email_address_check)
        if "id" in update.model_fields_set and update.id != request.customer_id:
            raise BadRequest.because([Detail("immutable", "id", "An id never changes; the URL has another")])
        customer = await self._table.update(
            request.business_id,
            request.customer_id,
            update.changes,
            at=self._births.next().at,
            operation_id=request.id,
            precondition=request.if_match,
        )
        return wire.written(request, surface, customer, status=200)

    async def _delete(self, request: Request) -> func.HttpResponse:
        request.options()
        _check_id("id", request.customer_id)
        await self._table.delete(request.business_id, request.customer_id, precondition=request.if_match)
        return wire.no_content(request)

    async def _health(self, request: Request) -> func.HttpResponse:
        if not await self._table.is_there():
            raise ServiceUnavailable("The service is not ready.", retry_after=5)
        return wire.healthy(request)


async def _nothing() -> None:
    """Stands for an operation that was not asked for."""


def _check_id(name: str, value: str) -> None:
    try:
        check_key(value)
    except PydanticCustomError as error:
        raise BadRequest.because([Detail(error.type, name, error.message())]) from None


def _translate(text: str | None) -> TableFilter | None:
    if text is None:
        return None
    # Only where a request filters: the parser is 60 ms of the start.
    from customers.filter import translate  # noqa: PLC0415

    return translate(text)


def _trace(fault: BaseException | None) -> str:
    """Where a fault and its causes came from, and what storage said; no messages, for those may quote a customer."""
    lines: list[str] = []
    seen: list[BaseException] = []
    while fault is not None and fault not in seen:
        seen.append(fault)
        told = {name: getattr(fault, name, None) for name in ("status_code", "error_code", "reason")}
        facts = ", ".join(f"{name} {value}" for name, value in told.items() if value)
        lines += [f"{type(fault).__module__}.{type(fault).__qualname__} {facts}\n", *format_tb(fault.__traceback__)]
        fault = fault.__cause__ or fault.__context__
    return "".join(lines)


def _is_entity_reference(body: bytes) -> bool:
    """Whether a body is ``{"@odata.id": …}`` (OData JSON Format 4.01, 14)."""
    try:
        value = from_json(body)
    except ValueError:
        return False
    return isinstance(value, dict) and "@odata.id" in value
