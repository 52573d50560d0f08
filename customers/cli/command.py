"""What the commands share: how one is described, its exit codes, and the table that it works on."""

import asyncio
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import Any, NamedTuple

from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError, ServiceResponseError
from pydantic_core import PydanticCustomError

from customers.keys import check_key
from customers.settings import TableSettings
from customers.storage import Backpressure, Connection, is_transient

_PAUSES = (0.2, 0.5, 1, 2, 4, 8, 15)
"""In seconds, before each repeat of what failed."""

THE_TABLE = """\
The table is the one in the app's settings, read from the environment, and accessed with your Microsoft Entra sign-in.
"""
"""What the help of each command on the table ends with."""


class Exit(IntEnum):
    """The exit codes. After any of them, the same command can be run again: it continues, and does nothing twice."""

    DONE = 0
    SOME_WRONG = 1
    """Some rows were refused or found wrong; the output names or counts them."""
    USAGE = 2
    """Wrong usage or settings."""
    UNREACHABLE = 3
    """The service or storage could not be reached."""
    INTERRUPTED = 130


class UsageError(Exception):
    """The arguments, or a file that they name, are wrong; the message says what to change."""


class Unreachable(Exception):
    """The service or storage cannot be reached, or refuses; the message says what to do."""


class Command(NamedTuple):
    """A command: what it is called and does, its arguments, and the work.

    ``run`` returns the exit code. It writes results to stdout, anything else to stderr. It may raise UsageError,
    SettingsError, Unreachable and what the storage client raises.
    """

    name: str
    summary: str
    description: str
    example: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], Coroutine[Any, Any, Exit]]


def add_business(parser: ArgumentParser, does: str, *, required: bool) -> None:
    """Add the argument that names a business."""
    parser.add_argument("--business", required=required, type=_business_id, metavar="ID", help=does)


def _business_id(text: str) -> str:
    try:
        return check_key(text)
    except PydanticCustomError as error:
        raise ArgumentTypeError(f"the id of a business {error.message()}") from error


@asynccontextmanager
async def sign_in(settings: TableSettings) -> AsyncGenerator[AsyncTokenCredential | None]:
    """The Microsoft Entra sign-in of whoever runs a command; None for Azurite, which needs none."""
    if settings.storage is not None:
        yield None
        return
    from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - not for Azurite

    async with DefaultAzureCredential() as credential:
        yield credential


@asynccontextmanager
async def table_connection(environ: Mapping[str, str]) -> AsyncGenerator[Connection]:
    """Connect to the table of the app's settings: Azurite's, or with the Microsoft Entra sign-in of whoever runs it.

    Raises SettingsError.
    """
    settings = TableSettings.from_environment(environ)
    async with sign_in(settings) as credential:
        yield Connection(settings, credential)


async def patiently[Result](attempt: Callable[[], Awaitable[Result]]) -> Result:
    """Repeat what is safe to repeat while storage throttles or is unreachable, for half a minute at most."""
    for pause in _PAUSES:
        try:
            return await attempt()
        except Backpressure as busy:
            await asyncio.sleep(max(pause, busy.retry_after))
        except (AzureError, TimeoutError) as error:
            if not (is_transient(error) or isinstance(error, ServiceResponseError | TimeoutError)):
                raise
            await asyncio.sleep(pause)
    return await attempt()
