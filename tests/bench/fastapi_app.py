"""The same add with FastAPI, and one asynchronous storage client at its defaults."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import jwt
from azure.data.tables.aio import TableClient
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from plain import STORAGE, TABLE, Customer, to_answer, to_row, verify


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Hold the client as long as the app runs."""
    async with TableClient.from_connection_string(STORAGE, TABLE) as app.state.table:
        yield


app = FastAPI(lifespan=lifespan)


async def permitted(authorization: Annotated[str, Header()] = "") -> None:
    """Demand a token that permits the add."""
    try:
        verify(authorization)
    except (jwt.PyJWTError, PermissionError):
        raise HTTPException(401) from None


@app.post("/beta/bookingBusinesses/{business_id}/customers", status_code=201, dependencies=[Depends(permitted)])
async def add(business_id: str, customer: Customer, request: Request) -> dict[str, Any]:
    """Add a customer."""
    row = to_row(business_id, customer)
    await request.app.state.table.create_entity(row)
    return to_answer(row, customer)
