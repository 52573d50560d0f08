"""What the contenders share: the customer, the token and the row as most people would write them."""

import json
import logging
import os
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import jwt
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

# At its default the storage client writes a dozen lines a request, which most people switch off before long.
logging.getLogger("azure").setLevel(logging.WARNING)

STORAGE = os.environ["CUSTOMERS_STORAGE"]
TABLE = "customers"

_keys = jwt.PyJWKClient(os.environ["TOKEN_KEYS_URL"])


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, extra="ignore")


class Address(_Model):
    """A postal address."""

    type: str | None = Field(default=None, max_length=255)
    street: str | None = Field(default=None, max_length=255)
    city: str | None = Field(default=None, max_length=255)
    postal_code: str | None = Field(default=None, max_length=255)


class Phone(_Model):
    """A phone number."""

    type: str | None = Field(default=None, max_length=255)
    number: str | None = Field(default=None, max_length=255)


class Customer(_Model):
    """A customer as a client sends it."""

    display_name: str = Field(min_length=1, max_length=256)
    email_address: str = Field(min_length=1, max_length=320)
    addresses: list[Address] = Field(default=[], max_length=10)
    phones: list[Phone] = Field(default=[], max_length=20)


def verify(authorization: str) -> None:
    """Check the token. Raises PyJWTError, and PermissionError if it does not permit the add."""
    token = authorization.removeprefix("Bearer ")
    claims = jwt.decode(
        token,
        _keys.get_signing_key_from_jwt(token).key,
        algorithms=["RS256"],
        audience=os.environ["TOKEN_AUDIENCE"],
        issuer=f"{os.environ['TOKEN_AUTHORITY']}/{os.environ['TOKEN_TENANT_ID']}/v2.0",
    )
    if "Bookings.Manage.All" not in claims.get("roles", ()):
        raise PermissionError


def to_row(business_id: str, customer: Customer) -> dict[str, Any]:
    """A new row of the table."""
    sent = customer.model_dump(by_alias=True, exclude_none=True)
    now = datetime.now(UTC)
    return {
        "PartitionKey": business_id,
        "RowKey": str(uuid4()),
        "displayName": customer.display_name,
        "emailAddress": customer.email_address,
        "addresses": json.dumps(sent["addresses"]),
        "phones": json.dumps(sent["phones"]),
        "createdDateTime": now,
        "lastUpdatedDateTime": now,
    }


def to_answer(row: dict[str, Any], customer: Customer) -> dict[str, Any]:
    """The customer as it is answered."""
    at = row["createdDateTime"].isoformat()
    return {
        "id": row["RowKey"],
        **customer.model_dump(by_alias=True, exclude_none=True),
        "createdDateTime": at,
        "lastUpdatedDateTime": at,
    }
