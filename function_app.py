"""The function app: one function per route, for every method, so that each error has Graph's form."""

import gc
import logging
import os

import azure.functions as func

# Imports create many objects and hardly any garbage: collecting meanwhile was a twentieth of a cold start.
gc.disable()

from customers.api import Api  # noqa: E402
from customers.route import Route  # noqa: E402
from customers.routes import ROUTES  # noqa: E402
from customers.settings import Settings  # noqa: E402

# At INFO the storage client logs the URL of every call, which contains the business and customer id.
logging.getLogger("azure.core").setLevel(logging.WARNING)
logging.getLogger("azure.identity").setLevel(logging.WARNING)

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
api = Api(Settings.from_environment(os.environ))


def serve(route: Route) -> None:
    """Make the function of a route."""

    @app.function_name(route.name)
    @app.route(route=route.template)
    async def function(req: func.HttpRequest) -> func.HttpResponse:
        return await api.respond(req, route)


for route in ROUTES:
    serve(route)

# What exists now is kept, and not examined by later collections.
gc.freeze()
gc.enable()
