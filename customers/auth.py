"""Who calls, and what they may do: access tokens of Microsoft Entra ID.

Sources: "Access tokens in the Microsoft identity platform" and "Secure applications and APIs by validating claims";
RFC 6750 (bearer tokens), RFC 7515 to 7519 (JOSE and JWT), RFC 8725 (JWT best practices).
"""

import hashlib
import time
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple, NewType

import jwt

from customers.errors import AccessDenied, Unauthenticated
from customers.settings import Settings
from customers.signing_keys import SigningKeys

PERSONAL_ACCOUNTS = "9188040d-6c67-4c5b-b112-36a304b66dad"
"""The tenant of all personal Microsoft accounts."""

LEEWAY = 60
"""Clock skew allowed for the issuer, in seconds."""

# The value of the optional claim acct for a guest ("Optional claims reference"): 0 is a member of the tenant.
_GUEST = 1

MAX_REMEMBERED = 1000
"""Verified tokens kept, so that a repeated token is not verified again."""

# Besides the library's own errors, those of its JSON parser and arithmetic for extreme input.
_MALFORMED = (jwt.InvalidTokenError, ArithmeticError, RecursionError, TypeError, ValueError)

SignedClaims = NewType("SignedClaims", Mapping[str, Any])
"""The claims of a token whose signature, audience and times have been verified."""


def _issuers(authority: str, tenant: str) -> tuple[str, ...]:
    """The issuers of a tenant's tokens, versions 1 and 2. Not a set: a claim may be of a type that is not hashable."""
    return f"https://sts.windows.net/{tenant}/", f"{authority}/{tenant}/v2.0"


class Permission(Enum):
    """The delegated scopes or application roles of which an operation needs any one, the least privileged first."""

    BATCH = ()
    """None: a valid token will do, and each request of the batch needs the permission of its own operation."""

    READ = (
        "Bookings.Read.All",
        "BookingsAppointment.ReadWrite.All",
        "Bookings.ReadWrite.All",
        "Bookings.Manage.All",
    )
    WRITE = ("BookingsAppointment.ReadWrite.All", "Bookings.ReadWrite.All", "Bookings.Manage.All")


class Caller(NamedTuple):
    """An authenticated caller: its tenant, application and user or service principal, and its token's permissions.

    The first three are the claims ``tid``, ``azp`` or ``appid``, and ``oid`` (empty if the token has none).
    ``is_application`` is whether the token is an application's own, rather than one that acts for a user; ``groups``
    are the object ids of the user's groups, unless the token leaves them out because there are too many.
    """

    tenant: str
    application: str
    object_id: str
    permissions: frozenset[str]
    is_application: bool
    groups: frozenset[str]
    groups_left_out: bool

    def require(self, permission: Permission) -> None:
        """Raise AccessDenied unless the caller has one of the permission's scopes or roles."""
        if permission.value and self.permissions.isdisjoint(permission.value):
            scope = " ".join(permission.value)
            raise AccessDenied(
                f"The token must have one of these permissions: {', '.join(permission.value)}.",
                headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
            )


class _VerifiedToken(NamedTuple):
    """What a verified token proves, until it expires or its key is no longer published."""

    caller: Caller
    kid: str
    key: jwt.PyJWK
    until: int


class TokenVerifier:
    """Verifies the bearer tokens of requests."""

    def __init__(self, settings: Settings) -> None:
        self._tenant = str(settings.tenant_id)
        self._audiences = settings.audiences
        self._allow_guests = settings.allow_guests
        self._issuers = _issuers(settings.authority, self._tenant)
        self._personal_issuers = _issuers(settings.authority, PERSONAL_ACCOUNTS)
        self._challenge = (
            f'Bearer realm="bookings", authorization_uri="{settings.authority}/{self._tenant}/oauth2/v2.0/authorize"'
        )
        self._keys = SigningKeys(settings.metadata_url, f"{settings.authority}/{self._tenant}/v2.0")
        # By digest, so that no token is kept in memory. Only valid tokens are kept; the oldest is dropped first.
        self._remembered: dict[bytes, _VerifiedToken] = {}

    async def authenticate(self, authorization: str | None) -> Caller:
        """Return the caller that the header ``Authorization: Bearer <token>`` proves.

        Raises Unauthenticated, AccessDenied for a guest or a personal account, TooManyRequests if too many requests
        wait for the issuer's keys, and ServiceUnavailable if the keys are unreachable.
        """
        scheme, _, token = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated(
                "Send an access token in the header Authorization: Bearer <token>.",
                headers={"WWW-Authenticate": self._challenge},
            )
        token = token.strip()
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        remembered = await self._recall(digest)
        if remembered is not None:
            return remembered
        kid = self._kid(token)
        key = await self._keys.get(kid)
        if key is None:
            raise self._invalid_token("The token is signed with a key that the issuer does not publish.")
        claims = self._verify(token, key)
        # The signature has been verified; the rest is about what the claims mean.
        tenant, issuer = claims.get("tid"), claims.get("iss")
        if issuer not in self._issuers and not (tenant == PERSONAL_ACCOUNTS and issuer in self._personal_issuers):
            raise self._invalid_token("The token is from another issuer.")
        if tenant == PERSONAL_ACCOUNTS:
            raise AccessDenied("Personal Microsoft accounts are not supported. Use a work or school account.")
        if tenant != self._tenant:
            raise self._invalid_token("The token is from another tenant.")
        application, object_id = claims.get("azp") or claims.get("appid"), claims.get("oid") or ""
        if not (isinstance(application, str) and isinstance(object_id, str)):
            raise self._invalid_token("The token must name its client application (azp or appid).")
        if claims.get("acct") in (_GUEST, str(_GUEST)) and not self._allow_guests:
            raise AccessDenied("Guests are not allowed. Use an account of the tenant.")
        caller = Caller(
            self._tenant,
            application,
            object_id,
            _permissions(claims),
            is_application=_is_an_applications(claims),
            groups=_words(claims.get("groups")),
            groups_left_out=_leaves_out_groups(claims),
        )
        if len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest] = _VerifiedToken(caller, kid, key, int(claims["exp"]) + LEEWAY)
        return caller

    async def _recall(self, digest: bytes) -> Caller | None:
        """Return the caller of a token verified before; forget the token if it no longer proves that."""
        remembered = self._remembered.get(digest)
        if remembered is None:
            return None
        # Keys that are fetched again are new objects, so every token is then verified again.
        if time.time() < remembered.until and await self._keys.get(remembered.kid) is remembered.key:
            return remembered.caller
        self._remembered.pop(digest, None)
        return None

    def _verify(self, unverified_token: str, key: jwt.PyJWK) -> SignedClaims:
        try:
            claims = jwt.decode(
                unverified_token,
                key.key,
                algorithms=["RS256"],
                audience=self._audiences,
                leeway=LEEWAY,
                options={
                    "require": ["aud", "exp", "iss", "nbf", "tid"],
                    "verify_signature": True,
                    "verify_aud": True,
                    "verify_exp": True,
                    "verify_nbf": True,
                    "verify_iat": False,  # when it was issued does not matter
                    "verify_sub": False,  # not used
                    "verify_jti": False,  # not used
                },
            )
        except jwt.ExpiredSignatureError:
            raise self._invalid_token("The token has expired.") from None
        except jwt.ImmatureSignatureError:
            raise self._invalid_token("The token is not valid yet.") from None
        except jwt.InvalidAudienceError:
            raise self._invalid_token("The token is for another audience.") from None
        except jwt.MissingRequiredClaimError as error:
            raise self._invalid_token(f"The token has no claim {error.claim}.") from None
        except _MALFORMED:
            raise self._invalid_token("The token is malformed, or its signature is invalid.") from None
        return SignedClaims(claims)

    def _kid(self, unverified_token: str) -> str:
        """The id of the key that a token claims to be signed with."""
        try:
            unverified_header = jwt.get_unverified_header(unverified_token)
        except _MALFORMED:
            raise self._invalid_token("The token is malformed.") from None
        kid = unverified_header.get("kid")
        # Refused before any key is looked up: RFC 8725, 3.1.
        if unverified_header.get("alg") != "RS256" or not isinstance(kid, str):
            raise self._invalid_token("The token must be signed with RS256 and name its key (kid).")
        return kid

    def _invalid_token(self, message: str) -> Unauthenticated:
        return Unauthenticated(
            message,
            headers={"WWW-Authenticate": f'{self._challenge}, error="invalid_token", error_description="{message}"'},
        )


def _permissions(claims: SignedClaims) -> frozenset[str]:
    """The delegated scopes (``scp``, words in a string) or the application roles (``roles``, a list) of a token.

    Roles count only in an application's own token: a user's token has the user's roles too, which are no permission of
    the client. Source: "Access token claims reference", ``scp``, ``roles``, ``idtyp``.
    """
    if "scp" in claims:
        scopes = claims["scp"]
        return frozenset(scopes.split() if isinstance(scopes, str) else ())
    return _words(claims.get("roles")) if _is_an_applications(claims) else frozenset()


def _is_an_applications(claims: SignedClaims) -> bool:
    """Whether a token is an application's own, rather than one that acts for a user."""
    return "scp" not in claims and claims.get("idtyp", "app") == "app"


def _leaves_out_groups(claims: SignedClaims) -> bool:
    """Whether the user is in more groups than a token lists ("Configure group claims for applications", overage)."""
    elsewhere = claims.get("_claim_names")
    return (isinstance(elsewhere, dict) and "groups" in elsewhere) or claims.get("hasgroups") in (True, "true")


def _words(claim: object) -> frozenset[str]:
    """The strings in a claim that is a list."""
    return frozenset(word for word in claim if isinstance(word, str)) if isinstance(claim, list) else frozenset()
