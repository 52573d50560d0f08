"""What must hold of the index of e-mail addresses: each customer has one row in it, and each row its customer."""

from collections.abc import Iterable, Mapping
from typing import Any

from azure.data.tables import TableClient

from customers.email_index import CUSTOMER_ID, INDEXED, index_row_of
from customers.partition import is_customer_row, is_index_row


def index_faults(table: TableClient, business: str) -> list[str]:
    """What is wrong with the index of a business."""
    return faults_among(table.query_entities("PartitionKey eq @b", parameters={"b": business}))


def faults_among(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the index among all rows of a business."""
    found, expected = {}, {}
    for row in rows:
        if is_index_row(row):
            names = ("PartitionKey", "RowKey", CUSTOMER_ID, INDEXED)
            found[row["RowKey"]] = {name: row.get(name) for name in names}
        elif is_customer_row(row):
            right = index_row_of(row)
            expected[right["RowKey"]] = right
    return [f"missing {key}" for key in expected.keys() - found.keys()] + [
        f"wrong {key}" for key in found if found[key] != expected.get(key)
    ]
