"""The functions: one for each path, taking every method, so that 405 and every error are answered in Graph's form."""

import gc
import logging
import os

import azure.functions as func

# Imports make many objects and hardly any garbage: to look for it meanwhile was a twentieth of a cold start.
gc.disable()

from customers.api import Api, Operations  # noqa: E402
from customers.settings import Settings  # noqa: E402
from customers.wire import Surface  # noqa: E402

# At INFO the storage client logs the URL, and so the business and customer id, of every call.
logging.getLogger("azure.core").setLevel(logging.WARNING)
logging.getLogger("azure.identity").setLevel(logging.WARNING)

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
api = Api(Settings.from_environment(os.environ))


def serve(name: str, route: str, operations: Operations) -> None:
    """Make the function of a path. The host tries functions by name, A to Z, and the first whose route matches wins."""

    @app.function_name(name)
    @app.route(route=route)
    async def function(req: func.HttpRequest) -> func.HttpResponse:
        return await api.answer(req, route, operations)


for surface in Surface:
    prefix = surface.name.lower()
    serve(f"{prefix}_customers", surface.route, api.collection(surface))
    serve(f"{prefix}_customers_count", f"{surface.route}/$count", api.count())
    serve(f"{prefix}_customers_ref", f"{surface.route}/$ref", api.reference(surface))
    serve(f"{prefix}_customers_with_id", f"{surface.route}/{{customerId}}", api.entity(surface))
serve("healthz", "healthz", api.health())
serve("zz_nowhere", "{*path}", api.nowhere())

# What is there now stays, and is not looked through again.
gc.freeze()
gc.enable()
