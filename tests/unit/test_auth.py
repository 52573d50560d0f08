"""Tokens that were verified are remembered, and for how long."""

import asyncio
import time
from typing import Any

import jwt
import pytest

from customers import auth
from customers.auth import LEEWAY, TokenVerifier
from customers.errors import Unauthenticated
from customers.settings import Settings
from customers.signing_keys import SigningKeys
from infra.local.issuer import Issuer, new_key
from infra.local.run import app_settings
from tests.support.clock import Clocked, run


def a_verifier(metadata_url: str, monkeypatch: pytest.MonkeyPatch) -> tuple[TokenVerifier, list[int]]:
    """A verifier, and a list that grows with each token that is verified rather than remembered."""
    verified: list[int] = []
    decode = jwt.decode

    def counted(*arguments: Any, **options: Any) -> Any:
        verified.append(1)
        return decode(*arguments, **options)

    monkeypatch.setattr(jwt, "decode", counted)
    settings = Settings.from_environment(app_settings(storage="UseDevelopmentStorage=true", metadata_url=metadata_url))
    return TokenVerifier(settings), verified


def test_a_token_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(issuer: Issuer, url: str, _: Clocked) -> None:
        one, verified = a_verifier(url, monkeypatch)
        token = issuer.token()
        callers = [await one.authenticate(f"Bearer {token}") for _ in range(3)]
        assert callers == [callers[0]] * 3
        assert len(verified) == 1
        assert token not in str(vars(one))
        other = await one.authenticate(f"Bearer {issuer.token({'scp': 'Bookings.Read.All'})}")
        assert other.permissions == {"Bookings.Read.All"}
        # The same claims under another signature are another token.
        with pytest.raises(Unauthenticated):
            await one.authenticate(f"Bearer {token[:-8]}AAAAAAAA")
        assert len(verified) == 3

    run(scenario)


def test_a_remembered_token_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(issuer: Issuer, url: str, _: Clocked) -> None:
        one, verified = a_verifier(url, monkeypatch)
        header = f"Bearer {issuer.token({'exp': int(time.time()) - LEEWAY + 2})}"
        await one.authenticate(header)
        await one.authenticate(header)
        assert len(verified) == 1
        await asyncio.sleep(2)
        for _attempt in range(2):
            with pytest.raises(Unauthenticated, match="expired"):
                await one.authenticate(header)

    run(scenario)


def test_a_remembered_token_is_refused_once_its_key_is_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(issuer: Issuer, url: str, loop: Clocked) -> None:
        one, verified = a_verifier(url, monkeypatch)
        old = f"Bearer {issuer.token()}"
        await one.authenticate(old)
        issuer.rotate(new_key())
        loop.ahead += SigningKeys.COOLDOWN + 1
        await one.authenticate(f"Bearer {issuer.token()}")
        with pytest.raises(Unauthenticated, match="does not publish"):
            await one.authenticate(old)
        assert len(verified) == 2

    run(scenario)


def test_remembered_tokens_are_verified_again_when_keys_are_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(issuer: Issuer, url: str, loop: Clocked) -> None:
        one, verified = a_verifier(url, monkeypatch)
        header = f"Bearer {issuer.token()}"
        await one.authenticate(header)
        loop.ahead += SigningKeys.MAX_AGE + 1
        await one.authenticate(header)  # which has the keys fetched in the background
        await asyncio.sleep(0.2)
        assert len(verified) == 1
        await one.authenticate(header)
        await one.authenticate(header)
        assert len(verified) == 2

    run(scenario)


def test_only_so_many_tokens_are_remembered_and_no_bad_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(issuer: Issuer, url: str, _: Clocked) -> None:
        one, verified = a_verifier(url, monkeypatch)
        monkeypatch.setattr(auth, "MAX_REMEMBERED", 2)
        headers = [f"Bearer {issuer.token({'jti': str(number)})}" for number in range(3)]
        for header in headers:
            await one.authenticate(header)
        for claims in ({"tid": "x"}, {"aud": "x"}, {"exp": 1}):
            with pytest.raises(Unauthenticated):
                await one.authenticate(f"Bearer {issuer.token(claims)}")
        assert len(one._remembered) == 2  # noqa: SLF001
        verified.clear()
        for header in headers[1:]:
            await one.authenticate(header)
        assert verified == []
        await one.authenticate(headers[0])
        assert len(verified) == 1

    run(scenario)
