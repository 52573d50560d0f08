"""The rows in the partition of a business: which kinds there are, and how their RowKeys tell them apart.

========  ==================================================================  ==================
customer  its id, which never begins with a space                             ``row.py``
index     a space, 20 characters of base64url, the id of a customer           ``email_index.py``
members   a space and ``@``, which base64url does not have, then a principal  ``members.py``
          or a time: a member, or one change of the members
========  ==================================================================  ==================

No id in a URL may begin with a space, so a request reaches nothing but customers.
"""

from collections.abc import Mapping
from typing import Any, Final

LEAST_CUSTOMER: Final = "!"
"""No customer's RowKey is less than this, and each other row's is."""

MEMBERS: Final = " @"
"""What the RowKey of each row about members begins with."""


def is_customer_row(row: Mapping[str, Any]) -> bool:
    """Whether a row of a business is a customer."""
    return bool(row["RowKey"] >= LEAST_CUSTOMER)


def is_member_row(row: Mapping[str, Any]) -> bool:
    """Whether a row of a business is about its members."""
    return str(row["RowKey"]).startswith(MEMBERS)


def is_index_row(row: Mapping[str, Any]) -> bool:
    """Whether a row of a business is in the index of e-mail addresses."""
    return not is_customer_row(row) and not is_member_row(row)
