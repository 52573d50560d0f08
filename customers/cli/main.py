"""The table of commands, and what happens to each: its arguments, its errors and its exit code."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

from customers.cli.backup import BACKUP
from customers.cli.command import Command, Exit, Unreachable, UsageError
from customers.cli.exporting import EXPORT
from customers.cli.importing import IMPORT
from customers.cli.members import MEMBERS
from customers.cli.reindex import REINDEX
from customers.cli.restore import RESTORE
from customers.errors import GraphError
from customers.settings import SettingsError
from customers.storage import Backpressure

COMMANDS: tuple[Command, ...] = (IMPORT, EXPORT, MEMBERS, BACKUP, RESTORE, REINDEX)


def main(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        return asyncio.run(command.run(options))
    except (SettingsError, UsageError) as error:
        return _fail(str(error), Exit.USAGE)
    except Unreachable as error:
        return _fail(str(error), Exit.UNREACHABLE)
    except (AzureError, Backpressure, GraphError, TimeoutError) as error:
        return _fail(_storage_problem(error), Exit.UNREACHABLE)
    except OSError as error:
        return _fail(f"{error.filename or 'A file'} cannot be read or written: {error.strerror}.", Exit.USAGE)
    except KeyboardInterrupt:
        return _fail("Interrupted. Run the same command again; it is safe.", Exit.INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m customers", description="Commands for those who operate the service or bring customers to it."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        own = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.description,
            epilog=f"example: {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        own.add_argument("--quiet", action="store_true", help="show no progress")
        command.add_arguments(own)
        own.set_defaults(command=command)
    return parser


def _fail(message: str, code: Exit) -> Exit:
    print(message, file=sys.stderr)
    return code


def _storage_problem(error: Exception) -> str:
    """What storage's error means for whoever runs a command, and what to do."""
    if isinstance(error, ClientAuthenticationError):
        return "You are not signed in to Microsoft Entra ID, or your sign-in has expired. Run az login."
    if isinstance(error, HttpResponseError) and error.status_code == 403:
        return (
            "Storage refuses access. You need the role Storage Table Data Contributor on the account (for a backup, "
            "Storage Table Data Reader is enough), and its network rules must let you in."
        )
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"The table cannot be read or changed: {reason} Run the same command again."
