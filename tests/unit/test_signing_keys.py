"""The issuer's keys: how often they are fetched, and what is accepted as a key."""

import asyncio
from typing import Any

import pytest

from customers.errors import ServiceUnavailable, TooManyRequests
from customers.signing_keys import SigningKeys
from infra.local.issuer import AUTHORITY, TENANT, Issuer, new_key
from tests.support.clock import Clocked, run

ISSUER = f"{AUTHORITY}/{TENANT}/v2.0"


def count_fetches(keys: SigningKeys) -> list[int]:
    """Count how often the keys are downloaded."""
    fetches: list[int] = []
    download = keys._download  # noqa: SLF001

    async def counted() -> Any:
        fetches.append(1)
        return await download()

    keys._download = counted  # type: ignore[method-assign]  # noqa: SLF001
    return fetches


def test_keys_are_fetched_once_for_all_waiting_requests() -> None:
    async def scenario(issuer: Issuer, url: str, _: Clocked) -> None:
        keys = SigningKeys(url, ISSUER)
        fetches = count_fetches(keys)
        found = await asyncio.gather(*(keys.get(issuer.kid) for _ in range(20)))
        assert all(found)
        assert await keys.get(issuer.kid) is found[0]
        assert len(fetches) == 1

    run(scenario)


def test_an_unknown_key_is_looked_up_once_a_minute() -> None:
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


def test_old_keys_are_refreshed_in_the_background() -> None:
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


def test_while_the_issuer_is_down_an_unknown_key_is_unknown_only_as_long_as_the_keys_are_fresh() -> None:
    async def scenario(issuer: Issuer, url: str, loop: Clocked) -> None:
        keys = SigningKeys(url, ISSUER)
        await keys.get(issuer.kid)
        keys._metadata_url = "http://127.0.0.1:1/"  # noqa: SLF001
        for _attempt in range(2):
            assert await keys.get("unknown") is None
        loop.ahead += SigningKeys.MAX_AGE + 1
        for _attempt in range(2):
            with pytest.raises(ServiceUnavailable):
                await keys.get("unknown")
        assert await keys.get(issuer.kid) is not None

    run(scenario)


def test_keys_are_trusted_for_two_days_while_the_issuer_is_down() -> None:
    async def scenario(issuer: Issuer, url: str, loop: Clocked) -> None:
        keys = SigningKeys(url, ISSUER)
        await keys.get(issuer.kid)
        keys._metadata_url = "http://127.0.0.1:1/"  # noqa: SLF001
        loop.ahead += SigningKeys.MAX_TRUST - 1
        assert await keys.get(issuer.kid) is not None
        loop.ahead += 2
        with pytest.raises(ServiceUnavailable):
            await keys.get(issuer.kid)
        keys._metadata_url = url  # noqa: SLF001
        loop.ahead += SigningKeys.RETRY_AFTER_FAILURE + 1
        assert await keys.get(issuer.kid) is not None

    run(scenario)


def test_only_so_many_requests_wait_for_keys_and_known_keys_need_no_wait() -> None:
    async def scenario(issuer: Issuer, url: str, _: Clocked) -> None:
        keys = SigningKeys(url, ISSUER)
        await keys.get(issuer.kid)
        answer = asyncio.Event()

        async def slow() -> None:
            await answer.wait()

        keys._refresh = slow  # type: ignore[method-assign]  # noqa: SLF001
        waiting = [asyncio.create_task(keys.get(f"junk {number}")) for number in range(SigningKeys.MAX_WAITING + 5)]
        done, _pending = await asyncio.wait(waiting, timeout=0.2)
        assert [type(task.exception()) for task in done] == [TooManyRequests] * 5
        assert await keys.get(issuer.kid) is not None
        answer.set()
        assert await asyncio.gather(*waiting, return_exceptions=True)

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
def test_an_unusable_key_set_is_a_503_and_never_cached(published: Any) -> None:
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
