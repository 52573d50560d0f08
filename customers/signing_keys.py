"""The issuer's signing keys: fetched when needed, refreshed, and kept through an outage.

Sources: OpenID Connect Discovery 1.0; RFC 7517 (JSON Web Key).
"""

import asyncio
import json
import logging
from typing import Any

import aiohttp
import jwt

from customers.errors import ServiceUnavailable, TooManyRequests
from customers.settings import check_url

_log = logging.getLogger(__name__)

_FETCH_TIMEOUT = 5.0
"""In seconds, for each document."""

_MAX_DOCUMENT = 1_048_576
"""In bytes."""


class SigningKeys:
    """The issuer's published keys, found through OpenID Connect Discovery.

    Keys are fetched on first use, in the background once they are an hour old, and, at most once a minute, when a token
    names an unknown key. They outlive an outage of the issuer of up to two days.
    """

    # In seconds.
    MAX_AGE = 3_600.0
    MAX_TRUST = 2 * 86_400.0
    COOLDOWN = 60.0
    RETRY_AFTER_FAILURE = 1.0

    MAX_WAITING = 100
    """Requests that may wait for a fetch at the same time."""

    def __init__(self, metadata_url: str, issuer: str) -> None:
        self._metadata_url = metadata_url
        self._issuer = issuer
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._failed_at = float("-inf")
        self._sought_unknown_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._waiting = 0

    async def get(self, kid: str) -> jwt.PyJWK | None:
        """Return the key with this id, or None if the issuer publishes no such key.

        Raises ServiceUnavailable if the issuer is unreachable and the key unknown, and TooManyRequests if too many
        requests wait for it.
        """
        now = asyncio.get_running_loop().time()
        if self._keys and now - self._fetched_at > self.MAX_TRUST:
            self._keys = {}
        key = self._keys.get(kid)
        if key is not None:
            if now - self._fetched_at > self.MAX_AGE and now - self._failed_at > self.COOLDOWN:
                self._fetch()
            return key
        if not self._keys:
            if now - self._failed_at > self.RETRY_AFTER_FAILURE:
                await self._wait_for(self._fetch())
        elif now - self._sought_unknown_at > self.COOLDOWN:
            self._sought_unknown_at = now
            await self._wait_for(self._fetch())
        elif self._fetching:
            await self._wait_for(self._fetching)
        key = self._keys.get(kid)
        # While the keys are fresh, an unknown one is most likely made up, whether or not the last fetch failed.
        fresh = self._keys and asyncio.get_running_loop().time() - self._fetched_at <= self.MAX_AGE
        if key is None and not fresh and self._failed_at > self._fetched_at:
            raise ServiceUnavailable("The issuer's signing keys cannot be reached. Try again later.", retry_after=5)
        return key

    async def _wait_for(self, fetching: asyncio.Task[None]) -> None:
        """Wait for a fetch. Few may: anybody can send a token that names an unknown key."""
        if self._waiting >= self.MAX_WAITING:
            raise TooManyRequests("Too many requests wait for the signing keys. Try again later.", retry_after=1)
        self._waiting += 1
        try:
            await asyncio.shield(fetching)
        finally:
            self._waiting -= 1

    def _fetch(self) -> asyncio.Task[None]:
        """Fetch the keys, in one task for all waiting requests."""
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
                raise ValueError("the metadata names another issuer")
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
        raise ValueError("not a JSON object")  # noqa: TRY004 - about data, not an argument
    return document


def _may_sign(key: jwt.PyJWK) -> bool:
    return key.key_type == "RSA" and key.public_key_use in (None, "sig")
