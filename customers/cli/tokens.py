"""Access tokens for the service: the one in the variable TOKEN, or Microsoft Entra ID's."""

import asyncio
import os
import time
from argparse import ArgumentParser, Namespace
from contextlib import AsyncExitStack
from typing import Protocol

from azure.core.exceptions import AzureError

from customers.cli.command import UsageError

TOKEN = "TOKEN"  # noqa: S105 - the name of a variable
_RENEW_BEFORE = 300
"""In seconds: how long before its end a token is replaced."""


class Tokens(Protocol):
    """Where access tokens come from."""

    async def get(self) -> str:
        """A token. Raises UsageError."""
        ...

    async def renew(self, refused: str) -> bool:
        """Whether there is now another token than the refused one. Raises UsageError."""
        ...


class VariableToken:
    """The token in the variable TOKEN."""

    def __init__(self, token: str) -> None:
        self._token = token.strip()
        if not self._token:
            raise UsageError(f"The variable {TOKEN} is empty. Put an access token for the service into it.")
        if not self._token.isascii() or any(character.isspace() for character in self._token):
            raise UsageError(f"The variable {TOKEN} must be one access token, without spaces.")

    async def get(self) -> str:
        """The same token each time."""
        return self._token

    async def renew(self, refused: str) -> bool:
        """There is no other."""
        return refused != self._token


class EntraTokens:
    """Tokens of Microsoft Entra ID, from the machine's sign-in or identity."""

    def __init__(self, scope: str, close: AsyncExitStack) -> None:
        from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - not with TOKEN

        self._scope = scope
        self._credential = DefaultAzureCredential()
        close.push_async_callback(self._credential.close)
        self._token = ""
        self._end = 0.0
        self._lock = asyncio.Lock()

    async def get(self) -> str:
        """A token that is good for minutes: azure-identity remembers some credentials' tokens, but not all."""
        async with self._lock:
            if time.time() > self._end - _RENEW_BEFORE:
                await self._ask()
        return self._token

    async def renew(self, refused: str) -> bool:
        """Ask for another one, once for all requests that were refused."""
        async with self._lock:
            if refused == self._token:
                await self._ask()
        return refused != self._token

    async def _ask(self) -> None:
        try:
            token = await self._credential.get_token(self._scope)
        except AzureError as error:
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"No token for {self._scope}: {reason} Sign in with az login, or put a token into {TOKEN}."
            ) from None
        self._token, self._end = token.token, token.expires_on


def add_token_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that say where tokens come from."""
    parser.add_argument(
        "--token-from",
        choices=["env", "azure"],
        help="env: the variable TOKEN, the default where it is set; azure: Microsoft Entra ID, as az login or the "
        "machine is signed in",
    )
    parser.add_argument(
        "--scope", help="with azure, the scope to ask for: api://, the client id of the app registration, /.default"
    )


def choose_tokens(options: Namespace, close: AsyncExitStack) -> Tokens:
    """The tokens that the arguments name. Raises UsageError."""
    kind = options.token_from or ("env" if os.environ.get(TOKEN) else "azure")
    if kind == "env":
        return VariableToken(os.environ.get(TOKEN, ""))
    if not options.scope:
        raise UsageError(
            f"Put an access token into the variable {TOKEN}, or sign in with az login and add "
            "--scope api://CLIENT-ID/.default, with the client id of the service's app registration."
        )
    return EntraTokens(options.scope, close)
