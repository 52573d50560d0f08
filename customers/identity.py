"""Who calls, and what they may do: access tokens of Microsoft Entra ID.

Sources: "Access tokens in the Microsoft identity platform" and "Secure applications and APIs by validating claims";
RFC 6750 (bearer tokens), RFC 7515 to 7519 (JOSE and JWT), RFC 8725 (JWT best practices), OpenID Connect Discovery 1.0.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple, NewType

import aiohttp
import jwt

from customers.errors import AccessDenied, ServiceUnavailable, Unauthenticated
from customers.settings import Settings, check_url

_log = logging.getLogger(__name__)

PERSONAL_ACCOUNTS = "9188040d-6c67-4c5b-b112-36a304b66dad"
"""The tenant of all personal Microsoft accounts."""

LEEWAY = 60
"""Seconds by which clocks may differ."""

MOST_REMEMBERED = 1000
"""Tokens that are remembered as verified."""

_FETCH_TIMEOUT = 5.0
_MAX_DOCUMENT = 1_048_576

# Besides the library's own errors: depths, numbers and texts that its JSON parser or its arithmetic can't take.
_MALFORMED = (jwt.InvalidTokenError, ArithmeticError, RecursionError, TypeError, ValueError)

SignedClaims = NewType("SignedClaims", Mapping[str, Any])
"""The claims of a token whose signature, audience and times have been verified."""


def _issuers(authority: str, tenant: str) -> tuple[str, ...]:
    """The issuers of a tenant's tokens, of version 1 and 2. Not a set: a claim may be of any type, hashable or not."""
    return f"https://sts.windows.net/{tenant}/", f"{authority}/{tenant}/v2.0"


class Permission(Enum):
    """What an operation takes: any one of these delegated scopes or application roles, the least privileged first."""

    READ = (
        "Bookings.Read.All",
        "BookingsAppointment.ReadWrite.All",
        "Bookings.ReadWrite.All",
        "Bookings.Manage.All",
    )
    WRITE = ("BookingsAppointment.ReadWrite.All", "Bookings.ReadWrite.All", "Bookings.Manage.All")


class Caller(NamedTuple):
    """An authenticated caller: its tenant and application (GUIDs as strings), and the permissions of its token."""

    tenant: str
    application: str
    permissions: frozenset[str]

    def require(self, permission: Permission) -> None:
        """Raise AccessDenied unless the caller has one of the permission's scopes or roles."""
        if self.permissions.isdisjoint(permission.value):
            wanted = " ".join(permission.value)
            raise AccessDenied(
                f"The token has none of the permissions that this operation takes: {', '.join(permission.value)}.",
                headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{wanted}"'},
            )


class _Remembered(NamedTuple):
    """What a verified token proves, as long as it has not expired and the key that verified it is in use."""

    caller: Caller
    kid: str
    key: jwt.PyJWK
    until: int


class SigningKeys:
    """The issuer's published keys, found through OpenID Connect Discovery and kept.

    Keys are fetched on first use, again in the background when they are a day old, and once more, at most once
    a minute, when a token names a key that is not among them. Keys already fetched outlive an outage of the issuer.
    """

    MAX_AGE = 86_400.0
    COOLDOWN = 60.0
    RETRY_AFTER_FAILURE = 1.0

    def __init__(self, metadata_url: str, issuer: str) -> None:
        self._metadata_url = metadata_url
        self._issuer = issuer
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._failed_at = float("-inf")
        self._sought_unknown_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def get(self, kid: str) -> jwt.PyJWK | None:
        """Return the key named ``kid``, or None if the issuer publishes no such key.

        Raises ServiceUnavailable when that can't be known, since the issuer can't be reached.
        """
        now = asyncio.get_running_loop().time()
        key = self._keys.get(kid)
        if key is not None:
            if now - self._fetched_at > self.MAX_AGE and now - self._failed_at > self.COOLDOWN:
                self._fetch()
            return key
        if not self._keys:
            if now - self._failed_at > self.RETRY_AFTER_FAILURE:
                await asyncio.shield(self._fetch())
        elif now - self._sought_unknown_at > self.COOLDOWN:
            self._sought_unknown_at = now
            await asyncio.shield(self._fetch())
        elif self._fetching:
            await asyncio.shield(self._fetching)
        key = self._keys.get(kid)
        if key is None and self._failed_at > self._fetched_at:
            raise ServiceUnavailable("The issuer's signing keys cannot be reached.", retry_after=5)
        return key

    def _fetch(self) -> asyncio.Task[None]:
        """Fetch the keys, in one task for all who wait."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._refresh())
        return self._fetching

    async def _refresh(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._keys = await self._download()
            self._fetched_at = loop.time()
        except (aiohttp.ClientError, OSError, TypeError, ValueError, jwt.PyJWTError) as error:
            self._failed_at = loop.time()
            _log.warning("signing keys: %s: %s", type(error).__name__, error)
        finally:
            self._fetching = None

    async def _download(self) -> dict[str, jwt.PyJWK]:
        timeout = aiohttp.ClientTimeout(total=_FETCH_TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            metadata = await _json(session, self._metadata_url)
            if metadata.get("issuer") != self._issuer:
                raise ValueError("the metadata is of another issuer")
            jwks = await _json(session, check_url(str(metadata.get("jwks_uri"))))
        keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(jwks).keys if key.key_id and _may_sign(key)}
        if not keys:
            raise ValueError("the issuer publishes no usable key")
        return keys


async def _json(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise ValueError(f"status {response.status}")
        body = b""
        async for chunk in response.content.iter_chunked(65_536):
            body += chunk
            if len(body) > _MAX_DOCUMENT:
                raise ValueError("the document is too large")
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - a fault of the answer, not of a caller
    return document


def _may_sign(key: jwt.PyJWK) -> bool:
    return key.key_type == "RSA" and key.public_key_use in (None, "sig")


class Identity:
    """Tells who sent a request from its ``Authorization`` header."""

    def __init__(self, settings: Settings) -> None:
        self._tenant = str(settings.tenant_id)
        self._audiences = settings.audiences
        self._issuers = _issuers(settings.authority, self._tenant)
        self._personal_issuers = _issuers(settings.authority, PERSONAL_ACCOUNTS)
        self._challenge = (
            f'Bearer realm="bookings", authorization_uri="{settings.authority}/{self._tenant}/oauth2/v2.0/authorize"'
        )
        self._keys = SigningKeys(settings.metadata_url, f"{settings.authority}/{self._tenant}/v2.0")
        # By digest, so that no token lies about in memory. Only good tokens get in, the oldest go first.
        self._remembered: dict[bytes, _Remembered] = {}

    async def authenticate(self, authorization: str | None) -> Caller:
        """Return the caller that the header ``Authorization: Bearer <token>`` proves.

        Raises Unauthenticated, AccessDenied for a personal account, and ServiceUnavailable when the issuer's keys
        can't be had.
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
            raise self._refusal("The token is signed by a key that the issuer does not publish.")
        claims = self._verify(token, key)
        # The signature has been checked; what follows is about meaning.
        tenant, issuer = claims.get("tid"), claims.get("iss")
        if issuer not in self._issuers and not (tenant == PERSONAL_ACCOUNTS and issuer in self._personal_issuers):
            raise self._refusal("The token is of another issuer.")
        if tenant == PERSONAL_ACCOUNTS:
            raise AccessDenied("Personal Microsoft accounts are not supported; use a work or school account.")
        if tenant != self._tenant:
            raise self._refusal("The token is of another tenant.")
        caller = Caller(self._tenant, str(claims.get("azp") or claims.get("appid") or ""), _permissions(claims))
        if len(self._remembered) >= MOST_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest] = _Remembered(caller, kid, key, int(claims["exp"]) + LEEWAY)
        return caller

    async def _recall(self, digest: bytes) -> Caller | None:
        """Return the caller that a remembered token proves; forget a token that may no longer prove it."""
        remembered = self._remembered.get(digest)
        if remembered is None:
            return None
        # Keys that are fetched again are other objects, so that every token is verified anew then.
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
                    "verify_iat": False,  # says when, not whether
                    "verify_sub": False,  # not read
                    "verify_jti": False,  # not read
                },
            )
        except jwt.ExpiredSignatureError:
            raise self._refusal("The token has expired.") from None
        except jwt.ImmatureSignatureError:
            raise self._refusal("The token is not valid yet.") from None
        except jwt.InvalidAudienceError:
            raise self._refusal("The token is for another audience.") from None
        except jwt.MissingRequiredClaimError as error:
            raise self._refusal(f"The token lacks the claim {error.claim}.") from None
        except _MALFORMED:
            raise self._refusal("The token is malformed or wrongly signed.") from None
        return SignedClaims(claims)

    def _kid(self, unverified_token: str) -> str:
        """The name of the key that a token says it is signed with, by RS256."""
        try:
            unverified_header = jwt.get_unverified_header(unverified_token)
        except _MALFORMED:
            raise self._refusal("The token is malformed.") from None
        kid = unverified_header.get("kid")
        # Refused before any key is looked for: RFC 8725, 3.1.
        if unverified_header.get("alg") != "RS256" or not isinstance(kid, str):
            raise self._refusal("The token is not signed with RS256 by a key of the issuer's.")
        return kid

    def _refusal(self, message: str) -> Unauthenticated:
        return Unauthenticated(
            message,
            headers={"WWW-Authenticate": f'{self._challenge}, error="invalid_token", error_description="{message}"'},
        )


def _permissions(claims: SignedClaims) -> frozenset[str]:
    """The delegated scopes (``scp``, words in a string) or application roles (``roles``, a list) of a token."""
    scopes, roles = claims.get("scp"), claims.get("roles")
    found = set(scopes.split()) if isinstance(scopes, str) else set()
    if isinstance(roles, list):
        found.update(role for role in roles if isinstance(role, str))
    return frozenset(found)
