"""The service: what happens to every request, from the concurrency limit to the log line."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from traceback import format_tb

import azure.functions as func
from pydantic_core import PydanticCustomError

from customers import response
from customers.auth import Permission, TokenVerifier
from customers.batch import Member
from customers.errors import (
    BadRequest,
    Detail,
    GraphError,
    InternalServerError,
    MethodNotAllowed,
    NotFound,
    TooManyRequests,
)
from customers.insert_group import Place
from customers.keys import check_key, is_key
from customers.members import BusinessAccess
from customers.operations import Operations
from customers.query import Query
from customers.request import Request
from customers.route import Operation, Route
from customers.routes import match, resolve
from customers.settings import Settings
from customers.storage import Connection
from customers.surface import TYPE_NAME, Surface

_log = logging.getLogger("customers")

# Where an error calls a parameter of a route by another name: the property that it is.
_TARGETS = {"customerId": "id"}


type _Find = Callable[[str], tuple[Route, Mapping[str, str]]]
"""Finds the route and the ids of a path."""


class Api:
    """The service, one per process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._verifier = TokenVerifier(settings)
        connection = Connection(settings)
        self._access = BusinessAccess(settings, connection)
        self._operations = Operations(settings, connection)
        self._in_progress = 0

    async def respond(self, http: func.HttpRequest, route: Route) -> func.HttpResponse:
        """Respond to a request to a route."""
        route, ids = resolve(route, http.route_params)
        request = Request(
            http.method,
            str(http.url),
            dict(http.headers.items()),
            http.get_body(),
            ids=ids,
            forwarded_hosts=self._settings.forwarded_hosts,
        )
        return await self._respond(request, route)

    async def _respond_to_member(
        self, whole: Request, find: _Find, member: Member, place: Place | None
    ) -> func.HttpResponse:
        """Respond to a request of a batch as if it had come alone, from the caller of the batch."""
        path, query_string = member.url
        route, ids = find(f"{whole.version}/{path}")
        url = f"{whole.base}/{whole.version}/{path}?{query_string}"
        request = Request(member.method, url, member.headers, member.body, ids=ids)
        request.caller, request.batch_id, request.problem = whole.caller, whole.id, member.problem
        request.insert = place
        return await self._respond(request, route)

    async def _respond(self, request: Request, route: Route) -> func.HttpResponse:
        """Respond to a request, and log one line about it."""
        started = time.perf_counter()
        try:
            result = await self._perform(request, route)
        except GraphError as problem:
            result = response.error(request, problem)
        except Exception as fault:  # noqa: BLE001 - every caller gets a response, and the log the trace
            _log.error("request-id %s\n%s", request.id, _trace(fault))
            result = response.error(
                request, InternalServerError(f"Internal error. The log has the cause under request-id {request.id}.")
            )
        milliseconds = round((time.perf_counter() - started) * 1000, 2)
        _log.info(json.dumps(_log_entry(request, route, result.status_code, milliseconds)))
        return result

    async def _perform(self, request: Request, route: Route) -> func.HttpResponse:
        """Check all that the table of routes demands, then run the operation."""
        if request.problem:
            raise request.problem
        if not route.operations:
            return self._respond_elsewhere(request)
        operation = route.operations.get(request.method)
        if operation is None:
            raise MethodNotAllowed(request.method, sorted(route.operations))
        if operation.permission is not None:
            if not request.batch_id:  # whose token was verified
                request.caller = await self._verifier.authenticate(request.header("authorization"))
            request.caller.require(operation.permission)
        _check_ids(request.ids)
        if operation.permission not in (None, Permission.BATCH):  # whose requests come here one by one
            await self._access.require(request.caller, request.business_id, operation.permission)
        if route.surface is not None:
            request.surface = route.surface
        if operation.options is not None:
            request.query = Query.parse(request.query_string, operation.options, request.business_id)
        if operation.permission is None:
            return await operation.handler(self._operations, request)
        return await self._run_within_the_limit(operation, request)

    def _respond_elsewhere(self, request: Request) -> func.HttpResponse:
        """Respond to a request to no route: a browser is led from the top to the page. Raises NotFound."""
        if request.is_for_home and self._settings.docs:
            from customers.docs import page  # noqa: PLC0415 - no part of a cold start

            return page.home(request)
        raise NotFound(
            f"There is nothing at this path. Customers are of the type {TYPE_NAME}, "
            f"at /{Surface.V1_SOLUTIONS.template} and its equivalents."
        )

    async def _run_within_the_limit(self, operation: Operation, request: Request) -> func.HttpResponse:
        """Run an operation, unless too many are running.

        Checked after authentication, so that no outsider can use up the limit.
        """
        if self._in_progress >= self._settings.concurrency:
            # What cannot be done within the budget is better refused at once than queued.
            raise TooManyRequests("The service is at its limit of concurrent requests. Try again later.", retry_after=1)
        if operation.permission is Permission.BATCH:
            # Each request of the batch is counted by itself. Many of them have the same path.
            request.perform = partial(self._respond_to_member, request, cache(_find))
            return await operation.handler(self._operations, request)
        self._in_progress += 1
        try:
            return await operation.handler(self._operations, request)
        finally:
            self._in_progress -= 1


def _find(path: str) -> tuple[Route, Mapping[str, str]]:
    return resolve(*match(path))


def _log_entry(request: Request, route: Route, status: int, milliseconds: float) -> dict[str, str | int | float]:
    """What the log has of a request: who did what to which customer, with which result; no token, body or property.

    Ids that are invalid are left out: an outsider must not be able to write at length to the log.
    """
    entry: dict[str, str | int | float] = {
        "method": request.method,
        "route": f"/{route.template}",
        "status": status,
        "milliseconds": milliseconds,
        "requestId": request.id,
    }
    if request.batch_id:
        entry["batchId"] = request.batch_id
    operation = route.operations.get(request.method)
    if operation is not None:
        entry["operation"] = operation.handler.__name__
    if request.is_repeat:
        entry["repeat"] = True
    caller = getattr(request, "caller", None)
    if caller is not None:
        entry["application"], entry["objectId"] = caller.application, caller.object_id
    if route.surface is not None:
        entry |= {name: value for name, value in request.ids.items() if is_key(value)}
    return entry


def _check_ids(ids: Mapping[str, str]) -> None:
    violations = []
    for name, value in ids.items():
        try:
            check_key(value)
        except PydanticCustomError as error:
            violations.append(Detail(error.type, _TARGETS.get(name, name), error.message()))
    if violations:
        raise BadRequest.because(violations)


def _trace(fault: BaseException | None) -> str:
    """Tracebacks of a fault and its causes, and storage's error codes; exception messages may contain customer data."""
    lines: list[str] = []
    seen: list[BaseException] = []
    while fault is not None and fault not in seen:
        seen.append(fault)
        codes = {name: getattr(fault, name, None) for name in ("status_code", "error_code", "reason")}
        facts = ", ".join(f"{name} {value}" for name, value in codes.items() if value)
        lines += [f"{type(fault).__module__}.{type(fault).__qualname__} {facts}\n", *format_tb(fault.__traceback__)]
        fault = fault.__cause__ or fault.__context__
    return "".join(lines)
