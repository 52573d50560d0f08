"""Where customers appear in Graph's URL space."""

from enum import Enum
from urllib.parse import quote


class Surface(Enum):
    """A place in Graph's URL space under which the customers appear: its version and its entity set."""

    BETA = ("beta", "bookingBusinesses")
    BETA_SOLUTIONS = ("beta", "solutions/bookingBusinesses")
    V1_SOLUTIONS = ("v1.0", "solutions/bookingBusinesses")

    @property
    def template(self) -> str:
        """The route template of the collection, in the notation of the Functions host."""
        version, entity_set = self.value
        return f"{version}/{entity_set}/{{businessId}}/customers"

    def collection_url(self, base: str, business_id: str) -> str:
        """The absolute URL of a business's customers."""
        return f"{base}/{self.template.replace('{businessId}', quote(business_id, safe=''))}"

    def customer_url(self, base: str, business_id: str, customer_id: str) -> str:
        """The absolute URL of one customer."""
        return f"{self.collection_url(base, business_id)}/{quote(customer_id, safe='')}"

    def context_url(self, base: str, business_id: str, select: tuple[str, ...] = ()) -> str:
        """The context URL of the collection, limited to these properties (OData 4.01 Protocol, 10.2 and 10.7)."""
        version, entity_set = self.value
        key = quote(business_id.replace("'", "''"), safe="")
        selected = f"({','.join(select)})" if select else ""
        return f"{base}/{version}/$metadata#{entity_set}('{key}')/customers{selected}"
