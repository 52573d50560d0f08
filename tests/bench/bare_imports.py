"""The least that an app of this kind can import: what a cold start is compared with. It looks at no token."""

import os
from uuid import uuid4

import azure.functions as func
from azure.data.tables.aio import TableClient
from pydantic import BaseModel

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


class Customer(BaseModel):
    """A customer as a client sends it."""

    displayName: str  # noqa: N815 - as in JSON
    emailAddress: str  # noqa: N815


@app.route("beta/bookingBusinesses/{businessId}/customers", methods=["POST"])
async def add(req: func.HttpRequest) -> func.HttpResponse:
    """Add a customer."""
    customer = Customer.model_validate_json(req.get_body())
    row = {"PartitionKey": req.route_params["businessId"], "RowKey": str(uuid4()), **customer.model_dump()}
    async with TableClient.from_connection_string(os.environ["CUSTOMERS_STORAGE"], "customers") as table:
        await table.create_entity(row)
    return func.HttpResponse(customer.model_dump_json(), status_code=201, mimetype="application/json")
