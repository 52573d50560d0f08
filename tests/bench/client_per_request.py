"""The function as most people would write it: synchronous, with a storage client made for each request."""

import json

import azure.functions as func
import jwt
from azure.data.tables import TableClient
from plain import STORAGE, TABLE, Customer, to_answer, to_row, verify

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


@app.route("beta/bookingBusinesses/{businessId}/customers", methods=["POST"])
def add(req: func.HttpRequest) -> func.HttpResponse:
    """Add a customer."""
    try:
        verify(req.headers.get("Authorization", ""))
    except (jwt.PyJWTError, PermissionError):
        return func.HttpResponse(status_code=401)
    try:
        customer = Customer.model_validate(req.get_json())
    except ValueError as error:
        return func.HttpResponse(str(error), status_code=400)
    row = to_row(req.route_params["businessId"], customer)
    with TableClient.from_connection_string(STORAGE, TABLE) as table:
        table.create_entity(row)
    return func.HttpResponse(json.dumps(to_answer(row, customer)), status_code=201, mimetype="application/json")
