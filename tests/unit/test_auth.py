"""The issuer's keys: how often they are fetched, and what is taken for a key; and the tokens that are remembered."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from customers import identity
from customers.errors import ServiceUnavailable, Unauthenticated
from customers.identity import LEEWAY, Identity, SigningKeys
from customers.settings import Settings
from infra.local.issuer import AUTHORITY, TENANT, Issuer, new_key
from infra.local.run import app_settings

ISSUER = f"{AUTHORITY}/{TENANT}/v2.0"


class Clocked(asyncio.SelectorEventLoop):
    """An event loop whose clock can be moved on."""

    ahead = 0.0

    def time(self) -> float:
        """The clock, moved on."""
        return super().time() + self.ahead


def run(scenario: Callable[[Issuer, str, "Clocked"], Any]) -> None:
    """Run a scenario with a published issuer."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Clocked)
        issuer = Issuer(new_key())
        runner, url = await issuer.serve()
        try:
            await scenario(issuer, url, loop)
        finally:
            await runner.cleanup()

    with asyncio.Runner(loop_factory=Clocked) as runner:
        runner.run(main())


def count_fetches(keys: SigningKeys) -> list[int]:
    """Count how often the keys are downloaded."""
    fetches: list[int] = []
    download = keys._download  # noqa: SLF001

    async def counted() -> Any:
        fetches.append(1)
        return await download()

    keys._download = counted  # type: ignore[method-assign]  # noqa: SLF001
    return fetches


def test_keys_are_fetched_once_for_all_who_wait_and_then_remembered() -> None:
    async def scenario(issuer: Issuer, url: str, _: Clocked) -> None:
        keys = SigningKeys(url, ISSUER)
        fetches = count_fetches(keys)
        found = await asyncio.gather(*(keys.get(issuer.kid) for _ in range(20)))
        assert all(found)
        assert await keys.get(issuer.kid) is found[0]
        assert len(fetches) == 1

    run(scenario)


def test_an_unknown_key_is_looked_for_once_a_minute() -> None:
    async def scenario(issuer: Issuer, url: str, loop: Clocked) -> None:
        keys = SigningKeys(url, ISSUER)
        fetches = count_fetches(keys)
        await keys.get(issuer.kid)
        for _ in range(5):
            assert await keys.get("unknown") is None
        assert len(fetches) == 2
        issuer.rotate(new_key())
        assert await keys.get(issuer.kid) is None
        loop.ahead += 61
        assert await keys.get(issuer.kid) is not None
        assert len(fetches) == 3

    run(scenario)


def test_old_keys_are_renewed_in_the_background() -> None:
    async def scenario(issuer: Issuer, url: str, loop: Clocked) -> None:
        keys = SigningKeys(url, ISSUER)
        fetches = count_fetches(keys)
        kid = issuer.kid
        await keys.get(kid)
        issuer.rotate(new_key())
        loop.ahead += SigningKeys.MAX_AGE + 1
        assert await keys.get(kid) is not None
        await asyncio.sleep(0.2)
        assert len(fetches) == 2
        assert await keys.get(issuer.kid) is not None

    run(scenario)


def test_an_unknown_key_of_an_issuer_that_is_down_is_not_called_unknown() -> None:
    async def scenario(issuer: Issuer, url: str, _: Clocked) -> None:
        keys = SigningKeys(url, ISSUER)
        await keys.get(issuer.kid)
        keys._metadata_url = "http://127.0.0.1:1/"  # noqa: SLF001
        for _attempt in range(2):
            with pytest.raises(ServiceUnavailable):
                await keys.get("unknown")
        assert await keys.get(issuer.kid) is not None

    run(scenario)


def test_metadata_of_another_issuer_is_not_trusted() -> None:
    async def scenario(issuer: Issuer, url: str, _: Clocked) -> None:
        with pytest.raises(ServiceUnavailable):
            await SigningKeys(url, "https://login.microsoftonline.com/x/v2.0").get(issuer.kid)

    run(scenario)


@pytest.mark.parametrize(
    "published",
    [
        {"keys": []},
        {"keys": [{"kty": "oct", "kid": "x", "k": "c2VjcmV0"}]},
        {"keys": [{"kty": "RSA", "kid": "x", "use": "enc", "n": "AQAB", "e": "AQAB"}]},
        {"keys": [{"kty": "RSA", "kid": ["x"], "n": "AQAB", "e": "AQAB"}]},
        {"keys": "x"},
        {},
        [],
        "x" * 2_000_000,
    ],
    ids=["none", "a secret", "for encryption", "a list for a name", "no list", "no keys", "no object", "too large"],
)
def test_what_is_no_usable_key_set_is_a_503_and_never_cached(published: Any) -> None:
    async def scenario(issuer: Issuer, url: str, loop: Clocked) -> None:
        keys = SigningKeys(url, ISSUER)
        kid, real = issuer.kid, issuer.public_keys
        issuer.public_keys = lambda: published  # type: ignore[method-assign]
        with pytest.raises(ServiceUnavailable):
            await keys.get(kid)
        issuer.public_keys = real  # type: ignore[method-assign]
        loop.ahead += 2
        assert await keys.get(kid) is not None

    run(scenario)


def an_identity(metadata_url: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Identity, list[int]]:
    """An identity, and a list that grows with each token that is verified rather than remembered."""
    verified: list[int] = []
    decode = jwt.decode

    def counted(*arguments: Any, **options: Any) -> Any:
        verified.append(1)
        return decode(*arguments, **options)

    monkeypatch.setattr(jwt, "decode", counted)
    settings = Settings.from_environment(app_settings(storage="UseDevelopmentStorage=true", metadata_url=metadata_url))
    return Identity(settings), verified


def test_a_token_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(issuer: Issuer, url: str, _: Clocked) -> None:
        one, verified = an_identity(url, monkeypatch)
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
        one, verified = an_identity(url, monkeypatch)
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
        one, verified = an_identity(url, monkeypatch)
        old = f"Bearer {issuer.token()}"
        await one.authenticate(old)
        issuer.rotate(new_key())
        loop.ahead += SigningKeys.COOLDOWN + 1
        await one.authenticate(f"Bearer {issuer.token()}")
        with pytest.raises(Unauthenticated, match="does not publish"):
            await one.authenticate(old)
        assert len(verified) == 2

    run(scenario)


def test_remembered_tokens_are_verified_anew_when_keys_are_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(issuer: Issuer, url: str, loop: Clocked) -> None:
        one, verified = an_identity(url, monkeypatch)
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
        one, verified = an_identity(url, monkeypatch)
        monkeypatch.setattr(identity, "MOST_REMEMBERED", 2)
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
