"""The errors that a caller can get: class, status, code and cause.

::

    GraphError
     +-- BadRequest            400 badRequest                  the body, an id, an option or a header is invalid
     |    +-- RepeatRejected   400 badRequest                  a repeatability header is invalid
     +-- Unauthenticated       401 InvalidAuthenticationToken  no valid bearer token
     +-- AccessDenied          403 accessDenied                the token lacks the permission, or its user the role
     +-- NotFound              404 notFound                    no such customer or path
     +-- MethodNotAllowed      405 methodNotAllowed            see Allow
     +-- Conflict              409 conflict                    the id is taken
     +-- PreconditionFailed    412 preconditionFailed          stale If-Match, or outside the repeatability window
     +-- ContentTooLarge       413 contentTooLarge             the body is over the limit
     +-- UnsupportedMediaType  415 unsupportedMediaType        the body is not application/json
     +-- FailedDependency      424 failedDependency            a request of the batch that this one depends on failed
     +-- TooManyRequests       429 tooManyRequests             storage or service at its limit; see Retry-After
     +-- InternalServerError   500 internalServerError         a bug; logged under the request-id
     +-- ServiceUnavailable    503 serviceUnavailable          storage or keys are unreachable; see Retry-After

Source: "Microsoft Graph error responses and resource types" for the body, RFC 9110 for the statuses.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple


class Detail(NamedTuple):
    """One violation: its kind, the property or option that it concerns, and a sentence about it."""

    code: str
    target: str
    message: str


class GraphError(Exception):
    """An error response.

    ``message`` is shown to the caller: never empty, and without secrets or stack traces.
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
    """The request is invalid; the message says what to change."""

    status = 400
    code = "badRequest"

    # Enough for any honest mistake, and bounded: a body full of mistakes must not produce a larger response.
    _MAX_DETAILS = 50
    _MAX_SENTENCES = 10

    @classmethod
    def because(cls, violations: Sequence[Detail]) -> "BadRequest":
        """One error for all ``violations`` (at least one); the message quotes the first ten."""
        sentences = [f"{v.target}: {v.message}" if v.target else v.message for v in violations[: cls._MAX_SENTENCES]]
        if more := len(violations) - len(sentences):
            sentences.append(f"and {more} more")
        return cls("; ".join(sentences), details=violations[: cls._MAX_DETAILS])


class RepeatRejected(BadRequest):
    """A repeatability header is malformed, or its request id was used for another body."""

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"Repeatability-Result": "rejected"})


class Unauthenticated(GraphError):
    """The request has no bearer token that this service accepts."""

    status = 401
    code = "InvalidAuthenticationToken"


class AccessDenied(GraphError):
    """The token is valid but lacks the permission for the operation, or its user has no role in the business for it."""

    status = 403
    code = "accessDenied"


class NotFound(GraphError):
    """There is no such customer or path."""

    status = 404
    code = "notFound"


class MethodNotAllowed(GraphError):
    """The path supports other methods only."""

    status = 405
    code = "methodNotAllowed"

    def __init__(self, method: str, allowed: Sequence[str]) -> None:
        allow = ", ".join(allowed)
        super().__init__(f"{method} is not supported at this path. Use {allow}.", headers={"Allow": allow})


class Conflict(GraphError):
    """The business already has a customer with this id; it is unchanged."""

    status = 409
    code = "conflict"


class PreconditionFailed(GraphError):
    """The customer has changed since the caller read it, or the time to retry an add is over; nothing was written."""

    status = 412
    code = "preconditionFailed"


class ContentTooLarge(GraphError):
    """The body exceeds the limit."""

    status = 413
    code = "contentTooLarge"


class UnsupportedMediaType(GraphError):
    """The body is not declared as plain JSON."""

    status = 415
    code = "unsupportedMediaType"


class FailedDependency(GraphError):
    """A request of the same batch on which this one depends has failed; nothing was done."""

    status = 424
    code = "failedDependency"


class _TryAgain(GraphError):
    """The same request may succeed after ``retry_after`` seconds."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, headers={"Retry-After": str(retry_after)})


class TooManyRequests(_TryAgain):
    """Storage throttles, or the service is at its limit of concurrent requests."""

    status = 429
    code = "tooManyRequests"


class InternalServerError(GraphError):
    """Internal error; the cause is logged, never returned."""

    status = 500
    code = "internalServerError"


class ServiceUnavailable(_TryAgain):
    """Storage or the issuer's signing keys are unreachable."""

    status = 503
    code = "serviceUnavailable"
