"""What the command line knows of the service before it talks to it: where a token may go, and where it is from."""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Self

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError

from customers.cli.command import UsageError
from customers.cli.service import read_url, seconds_of
from customers.cli.tokens import EntraTokens, VariableToken


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://contoso.azurewebsites.net", "https://contoso.azurewebsites.net"),
        ("https://contoso.azurewebsites.net/", "https://contoso.azurewebsites.net"),
        ("https://contoso:8443", "https://contoso:8443"),
        ("http://127.0.0.1:7071", "http://127.0.0.1:7071"),
        ("http://localhost:7071/", "http://localhost:7071"),
        ("http://[::1]:7071", "http://[::1]:7071"),
    ],
)
def test_a_token_goes_over_https_or_stays_on_this_machine(text: str, url: str) -> None:
    assert str(read_url(text)) == url


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http://contoso.azurewebsites.net", "https://"),
        ("http://127.0.0.1.example.com", "https://"),
        ("http://localhost.example.com", "https://"),
        ("http://10.0.0.1", "https://"),
        ("contoso.azurewebsites.net", "must be a URL"),
        ("ftp://contoso", "must be a URL"),
        ("https://", "must be a URL"),
        ("", "must be a URL"),
        ("https://me:secret@contoso", "must end after the host, as https://contoso does"),
        ("https://contoso/v1.0", "must end after the host"),
        ("https://contoso/?x=1", "must end after the host"),
        ("https://contoso:99999", "--url https://contoso:99999: "),
    ],
)
def test_another_url_is_refused_and_no_secret_shown(text: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        read_url(text)
    assert says in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("token", ["", " ", "a b", "a\nb", "ä"])
def test_what_is_no_token_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(UsageError) as error:
        VariableToken(token)
    assert "TOKEN" in str(error.value)


class Credential:
    """Stands for azure-identity's, and counts."""

    asked = 0
    lifetime = 3600.0
    error: Exception | None = None

    async def get_token(self, scope: str) -> AccessToken:
        """Another token each time."""
        if self.error:
            raise self.error
        self.asked += 1
        return AccessToken(f"{scope} {self.asked}", int(time.time() + self.lifetime))

    async def close(self) -> None:
        """Nothing is open."""

    async def __aenter__(self) -> Self:
        """Itself."""
        return self


@pytest.fixture
def credential(monkeypatch: pytest.MonkeyPatch) -> Credential:
    """The default credential of azure-identity."""
    credential = Credential()
    monkeypatch.setattr("azure.identity.aio.DefaultAzureCredential", lambda: credential)
    return credential


def test_a_token_of_entra_id_is_renewed_before_its_end_and_once_if_it_is_refused(credential: Credential) -> None:
    async def ask() -> None:
        async with AsyncExitStack() as close:
            tokens = EntraTokens("s", close)
            assert await asyncio.gather(*(tokens.get() for _ in range(8))) == ["s 1"] * 8
            credential.lifetime = 200
            assert await asyncio.gather(*(tokens.renew("s 1") for _ in range(8))) == [True] * 8
            assert credential.asked == 2
            assert await tokens.get() == "s 3"
            credential.error = ClientAuthenticationError("DefaultAzureCredential failed.\nAttempted: …")
            with pytest.raises(UsageError, match=r"^No token for s: DefaultAzureCredential failed\. Sign in with az"):
                await tokens.get()

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        (None, 0, 0),
        ("", 0, 0),
        ("7", 7, 7),
        ("soon", 0, 0),
        ("Mon, 23 Nov 2015 12:00:00 GMT", 0, 0),
        ("Mon, 23 Nov 2099 12:00:00 GMT", 1e6, 1e10),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, least: float, most: float) -> None:
    assert least <= seconds_of(header) <= most
