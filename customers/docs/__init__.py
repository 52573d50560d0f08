"""What people and machines read about the service: its OpenAPI description, and the page to try it on.

Nothing in here is imported before somebody asks for it.
"""

EXAMPLE_BUSINESS = "Contoso@contoso.onmicrosoft.com"

EXAMPLE = {
    "@odata.type": "#microsoft.graph.bookingCustomer",
    "displayName": "Display Name value",
    "emailAddress": "Email Address value",
}
"""The customer that Graph's documentation adds ("Create bookingCustomer")."""
