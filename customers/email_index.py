"""The index of customers by e-mail address: a second entity for each, in the partition of its business.

It is written in one transaction with the customer, so the two cannot disagree. Its RowKey begins with a space, which no
customer id does (``partition.py``), then has a digest of the address without regard to case, then the id: the customers
of one address are a range of keys, in the order of their ids.

Source: "Azure storage table design patterns", intra-partition secondary index pattern.
"""

from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

INDEXED: Final = "emailAddress"
"""The property, and the column of both entities."""

CUSTOMER_ID: Final = "customerId"
"""The column of an index row that has the id of its customer."""

MARK = {"PartitionKey": " index", "RowKey": INDEXED}
"""The entity that says that every customer of the table has its index row. No business id begins with a space."""

_MARKER = " "
_DIGEST = 15  # bytes, of which 20 characters are made without padding

# A key has at most 512 UTF-16 code units, of which an id may take 510. One of more characters than this is cut, and
# ends with its digest; each character may take two units.
_MAX_ID = 240


class Address(NamedTuple):
    """A condition on the address of a customer: this one exactly, or without regard to case."""

    value: str
    exact: bool

    def matches(self, address: str) -> bool:
        """Whether an address meets the condition."""
        return address == self.value if self.exact else fold(address) == fold(self.value)


def fold(address: str) -> str:
    """The address without its case (The Unicode Standard, 3.13, toCasefold)."""
    return address.casefold()


def index_range(address: str) -> tuple[str, str]:
    """The RowKeys of an address's index rows: the first possible one, and the first one past them."""
    prefix = _MARKER + _digest(fold(address))
    return prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)


def index_row(business_id: str, customer_id: str, address: str) -> dict[str, str]:
    """The index row of a customer."""
    prefix, _ = index_range(address)
    cut = customer_id if len(customer_id) <= _MAX_ID else f"{customer_id[: _MAX_ID - 21]} {_digest(customer_id)}"
    return {"PartitionKey": business_id, "RowKey": prefix + cut, CUSTOMER_ID: customer_id, INDEXED: address}


def index_row_of(row: Mapping[str, Any]) -> dict[str, str]:
    """The index row that belongs to the row of a customer."""
    return index_row(row["PartitionKey"], row["RowKey"], row[INDEXED])


def _digest(text: str) -> str:
    return urlsafe_b64encode(sha256(text.encode()).digest()[:_DIGEST]).decode()
