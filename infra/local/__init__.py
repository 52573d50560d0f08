"""The local environment: Functions host, token issuer, start and set-up."""
