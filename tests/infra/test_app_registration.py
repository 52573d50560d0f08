"""The registration in Entra ID has the permissions that the service asks for; the script refuses wrong usage.

What the script does in Entra ID is in test_azure_cli.py, for which ``make test-infra`` sets the Azure CLI up.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from customers.auth import Permission

SCRIPT = "infra/app-registration.sh"
REGISTRATION = json.loads(Path("infra/app-registration.json").read_text())
AUDIENCE = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"


def test_it_has_every_permission_as_scope_and_as_role() -> None:
    every = {name for permission in Permission for name in permission.value}
    assert {scope["value"] for scope in REGISTRATION["api"]["oauth2PermissionScopes"]} == every
    assert {role["value"] for role in REGISTRATION["appRoles"]} == every


def test_a_scope_and_a_role_of_one_name_agree() -> None:
    scopes = {
        (scope["id"], scope["value"], scope["adminConsentDisplayName"], scope["adminConsentDescription"])
        for scope in REGISTRATION["api"]["oauth2PermissionScopes"]
    }
    roles = {(role["id"], role["value"], role["displayName"], role["description"]) for role in REGISTRATION["appRoles"]}
    assert scopes == roles
    assert len({identifier for identifier, *_ in scopes}) == 4


def test_its_tokens_are_of_version_2_and_of_one_tenant() -> None:
    assert REGISTRATION["api"]["requestedAccessTokenVersion"] == 2
    assert REGISTRATION["signInAudience"] == "AzureADMyOrg"


def test_its_tokens_tell_guests_from_members_and_people_from_applications() -> None:
    assert [claim["name"] for claim in REGISTRATION["optionalClaims"]["accessToken"]] == ["acct", "idtyp"]


def test_its_tokens_name_the_groups_that_are_assigned() -> None:
    assert REGISTRATION["groupMembershipClaims"] == "ApplicationGroup"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("remove",), "invalid choice: 'remove'"),
        (("create", "Booking customers"), "unrecognized arguments"),
        (("create", "--name", "Booking customers"), "must be 1 to 100 letters"),
        (("create", "--name", "a", "--client-id", AUDIENCE), "not allowed with argument"),
        (("allow", AUDIENCE, AUDIENCE), "the following arguments are required: PERMISSION"),
        (("allow", AUDIENCE, AUDIENCE, "Bookings.Write"), "invalid choice: 'Bookings.Write'"),
        (("allow", AUDIENCE, "Reception", "Bookings.Read.All"), "must be an ID such as"),
        (("allow", "api://customers", AUDIENCE, "Bookings.Read.All"), "must be an ID such as"),
        (("cli", AUDIENCE, "Bookings.Write"), "invalid choice: 'Bookings.Write'"),
        (("redirect", AUDIENCE, "http://example.com/docs"), "must be the address of a page"),
        (("redirect", AUDIENCE, "https://*.example.com/docs"), "must be the address of a page"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_asked_for(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    az = tmp_path / "az"
    az.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n")
    az.chmod(0o700)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ended = subprocess.run([SCRIPT, *arguments], env=env, capture_output=True, text=True, check=False)  # noqa: S603
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("usage: app-registration.sh")
    assert said in ended.stderr
    assert not (tmp_path / "asked").exists()


def run_without(path: Path, **programs: str) -> tuple[int, str]:
    """Run the script where only these programs are; return its exit code, and what it says to a person."""
    shell = {name: f"/usr/bin/{name}" for name in ("dirname", "sed", "sh")}
    for name, program in {**shell, **programs}.items():
        (path / name).symlink_to(program)
    ended = subprocess.run(  # noqa: S603
        [SCRIPT, "create"], env={"PATH": str(path)}, capture_output=True, text=True, check=False
    )
    return ended.returncode, ended.stderr


def test_it_says_where_to_get_the_azure_cli(tmp_path: Path) -> None:
    advice = "The Azure CLI is needed: https://aka.ms/install-azure-cli\n"
    assert run_without(tmp_path, python3=sys.executable) == (1, advice)


def test_it_runs_with_the_python_of_the_azure_cli(tmp_path: Path) -> None:
    az = tmp_path / "fake"
    az.write_text(f"""#!/bin/sh
if [ "$1" = --version ]; then echo "Python location '{sys.executable}'"; exit; fi
echo "ERROR: Please run 'az login'" >&2
exit 1
""")
    az.chmod(0o700)
    assert run_without(tmp_path, az=str(az)) == (1, "ERROR: Please run 'az login'\n")
