"""Where customers appear in Graph's URL space, and what their type is called there."""

from enum import Enum
from urllib.parse import quote

TYPE_NAMESPACE = "microsoft.graph."
TYPE_NAME = f"{TYPE_NAMESPACE}bookingCustomer"

# Graph's SDKs write the namespace in its short form, too.
CASTS = frozenset({TYPE_NAME.lower(), TYPE_NAME.removeprefix("microsoft.").lower()})


def is_cast(segment: str) -> bool:
    """Whether a path segment is the name of the customers' type: a cast, which changes nothing.

    Graph declares the collection with the base type, so strict clients cast (OData 4.01 URL Conventions, 4.11).
    """
    return segment.lower() in CASTS


def without_cast(path: str) -> str:
    """The path of a property without the cast before it, if there is one."""
    cast, slash, rest = path.partition("/")
    return rest if slash and is_cast(cast) else path


class Surface(Enum):
    """A place in Graph's URL space under which the customers appear: its version and its entity set."""

    BETA = ("beta", "bookingBusinesses")
    BETA_SOLUTIONS = ("beta", "solutions/bookingBusinesses")
    V1_SOLUTIONS = ("v1.0", "solutions/bookingBusinesses")

    def __init__(self, version: str, entity_set: str) -> None:
        self.version = version
        self.entity_set = entity_set
        self.template = f"{version}/{entity_set}/{{businessId}}/customers"
        """The route template of the collection, in the notation of the Functions host."""

    def collection_url(self, base: str, business_id: str) -> str:
        """The absolute URL of a business's customers."""
        return f"{base}/{self.version}/{self.entity_set}/{quote(business_id, safe='')}/customers"

    def customer_url(self, base: str, business_id: str, customer_id: str) -> str:
        """The absolute URL of one customer."""
        return f"{self.collection_url(base, business_id)}/{quote(customer_id, safe='')}"

    def context_url(self, base: str, business_id: str, select: tuple[str, ...] = ()) -> str:
        """The context URL of the collection, limited to these properties (OData 4.01 Protocol, 10.2 and 10.7)."""
        key = quote(business_id.replace("'", "''"), safe="")
        selected = f"({','.join(select)})" if select else ""
        return f"{base}/{self.version}/$metadata#{self.entity_set}('{key}')/customers{selected}"
