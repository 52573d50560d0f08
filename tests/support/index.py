"""What must hold of the index of e-mail addresses: each customer has one row in it, and each row its customer."""

from azure.data.tables import TableClient

from customers.email_index import CUSTOMER_ID, INDEXED, index_row_of, is_index_row


def index_faults(table: TableClient, business: str) -> list[str]:
    """What is wrong with the index of a business."""
    rows = list(table.query_entities("PartitionKey eq @b", parameters={"b": business}))
    keys = (INDEXED, CUSTOMER_ID, "PartitionKey", "RowKey")
    found = {
        (row["PartitionKey"], row["RowKey"]): {name: row[name] for name in keys} for row in rows if is_index_row(row)
    }
    expected = {}
    for row in rows:
        if is_index_row(row):
            found[row["PartitionKey"], row["RowKey"]] = {name: row.get(name) for name in keys}
        else:
            right = index_row_of(row)
            expected[right["PartitionKey"], right["RowKey"]] = right
    return [f"missing {key}" for key in expected.keys() - found.keys()] + [
        f"wrong {key}" for key in found if found[key] != expected.get(key)
    ]
