"""The service: what happens to every request, from the concurrency limit to the log line."""

import json
import logging
import time
from collections.abc import Mapping
from traceback import format_tb

import azure.functions as func
from pydantic_core import PydanticCustomError

from customers import response
from customers.auth import TokenVerifier
from customers.errors import (
    BadRequest,
    Detail,
    GraphError,
    InternalServerError,
    MethodNotAllowed,
    NotFound,
    TooManyRequests,
)
from customers.keys import check_key
from customers.operations import Operations
from customers.query import Query
from customers.request import Request
from customers.routes import Route
from customers.settings import Settings
from customers.surface import Surface

_log = logging.getLogger("customers")

# Where an error calls a parameter of a route by another name: the property that it is.
_TARGETS = {"customerId": "id"}


class Api:
    """The service, one per process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._verifier = TokenVerifier(settings)
        self._operations = Operations(settings)
        self._in_progress = 0

    async def respond(self, http: func.HttpRequest, route: Route) -> func.HttpResponse:
        """Respond to a request to a route, and log one line about it."""
        started = time.perf_counter()
        request = Request(
            http.method, str(http.url), dict(http.headers.items()), http.get_body(), ids=http.route_params
        )
        self._in_progress += 1
        try:
            result = await self._perform(request, route)
        except GraphError as problem:
            result = response.error(request, problem)
        except Exception as fault:  # noqa: BLE001 - every caller gets a response, and the log the trace
            _log.error("request-id %s\n%s", request.id, _trace(fault))
            result = response.error(
                request, InternalServerError(f"Internal error. The log has the cause under request-id {request.id}.")
            )
        finally:
            self._in_progress -= 1
        _log.info(
            json.dumps(
                {
                    "method": request.method,
                    "route": f"/{route.template}",
                    "status": result.status_code,
                    "milliseconds": round((time.perf_counter() - started) * 1000, 2),
                    "requestId": request.id,
                    "businessId": request.business_id,
                }
            )
        )
        return result

    async def _perform(self, request: Request, route: Route) -> func.HttpResponse:
        """Check all that the table of routes demands, then run the operation."""
        if self._in_progress > self._settings.concurrency:
            # What cannot be done within the budget is better refused at once than queued.
            raise TooManyRequests("The service is at its limit of concurrent requests. Try again later.", retry_after=1)
        if not route.operations:
            raise NotFound(
                f"There is nothing at this path. Customers are at /{Surface.V1_SOLUTIONS.template} and its equivalents."
            )
        operation = route.operations.get(request.method)
        if operation is None:
            raise MethodNotAllowed(request.method, sorted(route.operations))
        if operation.permission is not None:
            request.caller = await self._verifier.authenticate(request.header("authorization"))
            request.caller.require(operation.permission)
        _check_ids(request.ids)
        if route.surface is not None:
            request.surface = route.surface
        if operation.options is not None:
            request.query = Query.parse(request.query_string, operation.options, request.business_id)
        return await operation.handler(self._operations, request)


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
