"""What an operator types: commands on the table of the service. Nothing of it is imported by the service.

Results go to stdout, progress and messages to stderr. Exit codes: 0 all done; 1 some rows were found wrong; 2 wrong
usage or settings; 3 storage could not be reached; 130 interrupted. After any of them, the same command goes on.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

from azure.core.exceptions import AzureError

from customers.cli.reindex import Report, reindex
from customers.settings import SettingsError, TableSettings
from customers.storage import Backpressure, Connection

_REINDEX = """\
Give every customer its row in the index of e-mail addresses, and remove rows that name nobody. Lookups by address use
the index from then on. It is safe while the service works, if every instance of it knows the index (0.3.0 or newer),
and safe to run again: then it tells whether anything was wrong.

The table is that of the app's own settings, from the environment, accessed with your Microsoft Entra sign-in.
"""
_EXAMPLE = """\
example: CUSTOMERS_STORAGE__tableServiceUri=https://contoso.table.core.windows.net python -m customers reindex
"""


def main(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m customers", description="Commands on the table of customers.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "reindex",
        help="complete and repair the index of e-mail addresses",
        description=_REINDEX,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--quiet", action="store_true", help="show no progress")
    options = parser.parse_args(arguments)
    try:
        report = asyncio.run(_reindex(TableSettings.from_environment(os.environ), quiet=options.quiet))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except (AzureError, Backpressure) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        print(f"The table cannot be read or changed: {reason} Run the same command again.", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again; it is safe.", file=sys.stderr)
        return 130
    print(report)
    return 1 if report.was_indexed and report.wrong else 0


async def _reindex(settings: TableSettings, *, quiet: bool) -> Report:
    if settings.storage is not None:
        return await reindex(Connection(settings), show_progress=not quiet)
    from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - not for Azurite

    async with DefaultAzureCredential() as credential:
        return await reindex(Connection(settings, credential), show_progress=not quiet)
