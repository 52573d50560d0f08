"""Every answer that is not a success: the public table of errors.

::

    GraphError
     +-- BadRequest            400 badRequest                  the request must change
     |    +-- RepeatRejected   400 badRequest                  with Repeatability-Result: rejected
     +-- Unauthenticated       401 InvalidAuthenticationToken  no acceptable bearer token
     +-- AccessDenied          403 accessDenied                a good token that may not do this
     +-- NotFound              404 notFound                    no such customer, or no such route
     +-- MethodNotAllowed      405 methodNotAllowed            with Allow
     +-- Conflict              409 conflict                    the id is taken
     +-- PreconditionFailed    412 preconditionFailed          the customer is not as If-Match has it
     +-- ContentTooLarge       413 contentTooLarge             a body over the limit
     +-- UnsupportedMediaType  415 unsupportedMediaType        a body that is not application/json
     +-- TooManyRequests       429 tooManyRequests             storage throttles; with Retry-After
     +-- InternalServerError   500 internalServerError         a fault of ours
     +-- ServiceUnavailable    503 serviceUnavailable          storage or keys out of reach; with Retry-After

Source: "Microsoft Graph error responses and resource types" for the body, RFC 9110 for the statuses.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple


class Detail(NamedTuple):
    """One of the violations that an error tells of: its kind, the property it is about, and a sentence."""

    code: str
    target: str
    message: str


class GraphError(Exception):
    """An answer that is not a success.

    ``message`` is for the caller's eyes: never empty, and free of secrets and traces.
    """

    status: ClassVar[int]
    code: ClassVar[str]

    def __init__(
        self, message: str, *, details: Sequence[Detail] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = tuple(details)
        self.headers = dict(headers or {})


class BadRequest(GraphError):
    """The request itself is wrong: the message says what to change."""

    status = 400
    code = "badRequest"

    # Enough for any honest mistake; a body made of mistakes must not be answered with a larger one.
    _MOST_DETAILS = 1000
    _MOST_SENTENCES = 10

    @classmethod
    def because(cls, violations: Sequence[Detail]) -> "BadRequest":
        """One error for all the ``violations`` (at least one), the message naming the first of them."""
        sentences = [f"{v.target}: {v.message}" if v.target else v.message for v in violations[: cls._MOST_SENTENCES]]
        if more := len(violations) - len(sentences):
            sentences.append(f"and {more} more")
        return cls("; ".join(sentences), details=violations[: cls._MOST_DETAILS])


class RepeatRejected(BadRequest):
    """A repeatability header is malformed, or its request id was used for another body."""

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"Repeatability-Result": "rejected"})


class Unauthenticated(GraphError):
    """There is no bearer token, or not one that this service accepts."""

    status = 401
    code = "InvalidAuthenticationToken"


class AccessDenied(GraphError):
    """The token is good, and does not permit the operation."""

    status = 403
    code = "accessDenied"


class NotFound(GraphError):
    """There is no such customer, or no such route."""

    status = 404
    code = "notFound"


class MethodNotAllowed(GraphError):
    """The path exists, for other methods."""

    status = 405
    code = "methodNotAllowed"

    def __init__(self, method: str, allowed: Sequence[str]) -> None:
        allow = ", ".join(allowed)
        super().__init__(f"{method} is not allowed here; use {allow}.", headers={"Allow": allow})


class Conflict(GraphError):
    """The business already has a customer of that id, and it stays as it is."""

    status = 409
    code = "conflict"


class PreconditionFailed(GraphError):
    """The customer is not as the caller believes, and stays as it is."""

    status = 412
    code = "preconditionFailed"


class ContentTooLarge(GraphError):
    """The body is over the limit."""

    status = 413
    code = "contentTooLarge"


class UnsupportedMediaType(GraphError):
    """The body is not plain JSON."""

    status = 415
    code = "unsupportedMediaType"


class _TryAgain(GraphError):
    """The same request may succeed after ``retry_after`` seconds."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, headers={"Retry-After": str(retry_after)})


class TooManyRequests(_TryAgain):
    """Storage throttles, or the service itself has as many requests as it can take."""

    status = 429
    code = "tooManyRequests"


class InternalServerError(GraphError):
    """A fault of ours, told without its cause."""

    status = 500
    code = "internalServerError"


class ServiceUnavailable(_TryAgain):
    """Storage or the issuer's signing keys cannot be reached."""

    status = 503
    code = "serviceUnavailable"
