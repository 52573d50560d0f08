"""A customer as a row of the table: which columns there are, and what they tell of its past.

PartitionKey is the business id, RowKey the customer id. Texts and moments are columns of their own, for a person to
query; the two arrays are JSON.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import ConfigDict, TypeAdapter
from pydantic.alias_generators import to_camel
from pydantic_core import to_json

from customers.errors import RepeatRejected
from customers.model import CHANGEABLE, BookingCustomer, Phone, PhysicalAddress

# The request-id of the add, and of the last updates, the newest first: by them a write whose answer was lost is
# recognised, also when another writer came after it.
_ADDED_BY = "operationId"
_UPDATED_BY = "updateOperationIds"
_UPDATES_KEPT = 8
# Of an add that may be repeated: what its repeats are recognised by, and from the first update on the customer as it
# was before, for a repeat is answered as the add was.
_REQUEST, _BODY, _FIRST_ETAG = "repeatableRequest", "repeatableBody", "firstETag"
_COLUMNS = {name: to_camel(name) for name in CHANGEABLE}
_FIRST = {_COLUMNS[name]: to_camel(f"first_{name}") for name in CHANGEABLE}

# An error must not show a customer's data.
_addresses = TypeAdapter(tuple[PhysicalAddress, ...], config=ConfigDict(hide_input_in_errors=True))
_phones = TypeAdapter(tuple[Phone, ...], config=ConfigDict(hide_input_in_errors=True))


class Repeat(NamedTuple):
    """What the repeats of an add are recognised by: digests of who asks for it under which id, and of what it adds."""

    request: str
    body: str


def to_row(
    business_id: str, customer: BookingCustomer, operation_id: str, repeat: Repeat | None
) -> dict[str, str | datetime]:
    """The row of a new customer; ``operation_id`` is of the add."""
    return {
        "PartitionKey": business_id,
        "RowKey": customer.id,
        **_to_columns({name: getattr(customer, name) for name in CHANGEABLE}),
        "createdDateTime": customer.created_date_time,
        "lastUpdatedDateTime": customer.last_updated_date_time,
        _ADDED_BY: operation_id,
        **({_REQUEST: repeat.request, _BODY: repeat.body} if repeat else {}),
    }


def is_repeat(row: Mapping[str, Any], operation_id: str, repeat: Repeat | None) -> bool:
    """Whether a row was made by this add, or by the same request. Raises RepeatRejected if that had another body."""
    if row.get(_ADDED_BY) == operation_id:
        return True
    if repeat is None or row.get(_REQUEST) != repeat.request:
        return False
    if row.get(_BODY) != repeat.body:
        raise RepeatRejected("This Repeatability-Request-ID was used for another body; a new request takes a new one.")
    return True


def to_changed_columns(
    row: Mapping[str, Any], changes: Mapping[str, Any], at: datetime, operation_id: str
) -> dict[str, Any]:
    """The columns of a row that an update writes."""
    return {
        "PartitionKey": row["PartitionKey"],
        "RowKey": row["RowKey"],
        **_to_columns(changes),
        **_first_columns(row),
        "lastUpdatedDateTime": at,
        _UPDATED_BY: " ".join([operation_id, *_updates(row)][:_UPDATES_KEPT]),
    }


def is_updated_by(row: Mapping[str, Any], operation_id: str) -> bool:
    """Whether one of the last updates of a row was this one."""
    return operation_id in _updates(row)


def is_of_one_add(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rows of one id are states of one customer, and not one deleted and another added."""
    return one.get(_ADDED_BY) == other.get(_ADDED_BY)


def _updates(row: Mapping[str, Any]) -> list[str]:
    return str(row.get(_UPDATED_BY) or "").split()


def _first_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """What to keep of a row that is about to change, if repeats may have to be answered with it."""
    if _REQUEST not in row or _FIRST_ETAG in row:
        return {}
    return {_FIRST_ETAG: row["etag"], **{first: row[name] for name, first in _FIRST.items()}}


def as_first_returned(row: Mapping[str, Any]) -> BookingCustomer:
    """The customer as its add answered it, whatever has become of it since."""
    if _FIRST_ETAG not in row:
        return from_row(row)
    first = {name: row[column] for name, column in _FIRST.items()}
    return from_row({**row, **first, "etag": row[_FIRST_ETAG], "lastUpdatedDateTime": row["createdDateTime"]})


def _to_columns(properties: Mapping[str, Any]) -> dict[str, str]:
    """Texts are columns as they are; arrays are JSON."""
    return {
        _COLUMNS[name]: value if isinstance(value, str) else to_json(value, by_alias=True, exclude_none=True).decode()
        for name, value in properties.items()
    }


def from_row(row: Mapping[str, Any]) -> BookingCustomer:
    """The customer of a row that also has its ``etag``."""
    return BookingCustomer(
        etag=row["etag"],
        id=row["RowKey"],
        display_name=row["displayName"],
        email_address=row["emailAddress"],
        addresses=_addresses.validate_json(row["addresses"]),
        phones=_phones.validate_json(row["phones"]),
        created_date_time=row["createdDateTime"],
        last_updated_date_time=row["lastUpdatedDateTime"],
    )
