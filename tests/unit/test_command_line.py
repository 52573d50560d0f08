"""What a command says, and its exit code, for the errors of storage and of the sign-in."""

from argparse import Namespace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ServiceRequestError

from customers.cli import main as command_line
from customers.cli.command import Command, Exit


def refused(status: int) -> HttpResponseError:
    """Storage's response with this status, as an error."""
    response: Any = SimpleNamespace(status_code=status, reason="no", headers={}, text=lambda: "")
    return HttpResponseError(response=response)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ClientAuthenticationError("DefaultAzureCredential failed"), "Run az login."),
        (refused(403), "You need the role Storage Table Data Contributor"),
        (refused(500), "Run the same command again."),
        (ServiceRequestError("no route to host"), "no route to host Run the same command again."),
    ],
)
def test_an_error_of_storage_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, says: str
) -> None:
    async def run(_: Namespace) -> Exit:
        raise error

    command = Command("try", "", "", "", cast("Any", lambda _: None), run)
    monkeypatch.setattr(command_line, "COMMANDS", (command,))
    assert command_line.main(["try"]) == Exit.UNREACHABLE
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
