"""A customer as an entity of the table: its columns, and what they record of its past.

PartitionKey is the business id, RowKey the customer id. Each property is a column of its own: a string unchanged, for a
person to query; anything else as JSON. A property that is null has no column, and neither has one that the row is older
than.
"""

from collections.abc import Mapping
from datetime import datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, cast, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter
from pydantic_core import to_json

from customers.errors import Conflict, RepeatRejected
from customers.model import BookingCustomer, CustomerProperties, Stored

# The request-ids of the add and of the last updates, newest first. They identify a write whose response was lost, even
# if another writer came after it.
_ADDED_BY = "operationId"
_UPDATED_BY = "updateOperationIds"
_MAX_UPDATES = 8
# Of a repeatable add: the digests that identify its repeats and, from the first update on, the customer before that
# update, because a repeat gets the same response as the add.
_REQUEST, _BODY, _FIRST_ETAG = "repeatableRequest", "repeatableBody", "firstETag"

_COLUMNS: Final = {name: str(field.alias) for name, field in CustomerProperties.model_fields.items()}
_FIRST: Final = {column: f"first{column[0].upper()}{column[1:]}" for column in _COLUMNS.values()}


def _is_string(annotation: Any) -> bool:
    """Whether a property of this type is a string, perhaps an enumerated or a nullable one."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _is_string(arguments[0])
    if origin is Literal:
        return all(isinstance(value, str) for value in arguments)
    if origin in (Union, UnionType):
        return all(part is NoneType or _is_string(part) for part in arguments)
    return annotation is str


# What parses the columns that hold JSON. An error must not show customer data.
_JSON: Final[dict[str, TypeAdapter[Any]]] = {
    name: TypeAdapter(cast("Any", field.annotation), config=ConfigDict(hide_input_in_errors=True))
    for name, field in CustomerProperties.model_fields.items()
    if not _is_string(field.annotation)
}

STRING_COLUMNS: Final = {"id": "RowKey"} | {column: column for name, column in _COLUMNS.items() if name not in _JSON}
"""The columns of the properties that are strings, by the names of the properties."""

TIMESTAMP_COLUMNS: Final = {name: name for name in ("createdDateTime", "lastUpdatedDateTime")}
"""The columns of the properties that are timestamps, by the names of the properties."""


class RequestDigest(NamedTuple):
    """What identifies the repeats of an add: digests of its caller and request id, and of its body."""

    request: str
    body: str


def new_row(
    business_id: str, customer: BookingCustomer, operation_id: str, digest: RequestDigest | None
) -> dict[str, str | datetime]:
    """The row of a new customer, added by the operation with that id."""
    properties = {name: getattr(customer, name) for name in _COLUMNS}
    return {
        "PartitionKey": business_id,
        "RowKey": customer.id,
        **{column: value for column, value in _to_columns(properties).items() if value is not None},
        "createdDateTime": customer.created_date_time,
        "lastUpdatedDateTime": customer.last_updated_date_time,
        _ADDED_BY: operation_id,
        **({_REQUEST: digest.request, _BODY: digest.body} if digest else {}),
    }


def check_repeat(row: Mapping[str, Any], operation_id: str, digest: RequestDigest | None) -> bool:
    """Return whether a row was made by an earlier attempt of the same request, rather than by this add.

    Raises RepeatRejected if that attempt had another body, and Conflict if the row is another customer.
    """
    if row.get(_ADDED_BY) == operation_id:
        return False
    if digest is None or row.get(_REQUEST) != digest.request:
        raise Conflict("The business already has a customer with this id.")
    if row.get(_BODY) != digest.body:
        raise RepeatRejected("This Repeatability-Request-ID was used with another body. A new request needs a new one.")
    return True


def changed_row(
    row: Mapping[str, Any], etag: str, changes: Mapping[str, Any], at: datetime, operation_id: str
) -> dict[str, Any]:
    """The whole row after an update, columns that this version does not know included."""
    columns = {**row, **_to_columns(changes)}
    return {
        **{column: value for column, value in columns.items() if value is not None},
        **_first_columns(row, etag),
        "lastUpdatedDateTime": at,
        _UPDATED_BY: " ".join([operation_id, *_updates(row)][:_MAX_UPDATES]),
    }


def is_updated_by(row: Mapping[str, Any], operation_id: str) -> bool:
    """Whether the operation is one of the last updates of a row."""
    return operation_id in _updates(row)


def same_customer(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rows with one id are states of one customer, rather than one deleted and another added."""
    return one.get(_ADDED_BY) == other.get(_ADDED_BY)


def _updates(row: Mapping[str, Any]) -> list[str]:
    return str(row.get(_UPDATED_BY) or "").split()


def _first_columns(row: Mapping[str, Any], etag: str) -> dict[str, Any]:
    """What to keep of a row before its first update, if repeats of its add may come."""
    if _REQUEST not in row or _FIRST_ETAG in row:
        return {}
    return {_FIRST_ETAG: etag, **{first: row[column] for column, first in _FIRST.items() if column in row}}


def restored_row(row: Mapping[str, Any], etag: str) -> dict[str, Any]:
    """The row to put back in place of one that had this ETag: storage gives it another one, as an update does.

    A repeat of its add still gets the same response as the add.
    """
    return {**row, **_first_columns(row, etag)}


def as_first_returned(row: Mapping[str, Any], etag: str) -> Stored:
    """The customer as the response to its add had it, before any updates."""
    if _FIRST_ETAG not in row:
        return Stored(from_row(row), etag)
    first = {column: row.get(kept) for column, kept in _FIRST.items()}
    return Stored(from_row({**row, **first, "lastUpdatedDateTime": row["createdDateTime"]}), row[_FIRST_ETAG])


def _to_columns(properties: Mapping[str, Any]) -> dict[str, str | None]:
    """Columns and their values, None for no column."""
    return {
        _COLUMNS[name]: value
        if value is None or name not in _JSON
        else to_json(value, by_alias=True, exclude_none=True).decode()
        for name, value in properties.items()
    }


def from_row(row: Mapping[str, Any]) -> BookingCustomer:
    """The customer of a row. A property without a column has its default."""
    properties = {}
    for name, column in _COLUMNS.items():
        value = row.get(column)
        if value is not None:
            adapter = _JSON.get(name)
            properties[name] = value if adapter is None else adapter.validate_json(value)
    # Not validated again: a limit that is lowered later must not make stored customers unreadable.
    return BookingCustomer.model_construct(
        id=row["RowKey"],
        created_date_time=row["createdDateTime"],
        last_updated_date_time=row["lastUpdatedDateTime"],
        **properties,
    )
