"""The registration in Entra ID has the permissions that the service asks for, and the script makes it so."""

import json
import os
import subprocess
from pathlib import Path

from customers.auth import Permission

SCRIPT = "infra/app-registration.sh"
REGISTRATION = json.loads(Path("infra/app-registration.json").read_text())
# Answers as the Azure CLI would, in a tenant that has nothing yet, and writes down what it was asked.
AZ = """#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in
"ad app create"*) echo the-audience ;;
*"ad sp show"*) echo the-role ;;
*"--method GET"*) echo the-scope ;;
"ad sp list"*) if [ -n "$KNOWN" ]; then echo the-principal; fi ;;
esac
"""


def run(folder: Path, *arguments: str, known: str = "") -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the script with an Azure CLI of ours; return how it ended and the calls."""
    az, log = folder / "az", folder / "log"
    az.write_text(AZ)
    az.chmod(0o700)
    log.touch()
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(log), "KNOWN": known}
    ended = subprocess.run([SCRIPT, *arguments], env=env, capture_output=True, text=True, check=False)  # noqa: S603
    return ended, log.read_text().splitlines()


def body(call: str) -> object:
    """The body that a call sends."""
    return json.loads(call.partition("--body ")[2])


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


def test_create_makes_it_and_prints_the_audience(tmp_path: Path) -> None:
    ended, calls = run(tmp_path, "create")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "the-audience\n", "")
    patches = [call for call in calls if "--method PATCH" in call]
    assert all("applications(appId='the-audience')" in call for call in patches)
    assert "--body @infra/app-registration.json" in patches[0]
    assert body(patches[1]) == {
        "identifierUris": ["api://the-audience"],
        "api": {
            "preAuthorizedApplications": [
                {"appId": "04b07795-8ddb-461a-bbee-02f9e1bf7b46", "delegatedPermissionIds": ["the-scope"]}
            ]
        },
    }
    assert calls[-1].startswith("ad sp create --id the-audience")


def test_allow_gives_a_client_a_role(tmp_path: Path) -> None:
    ended, calls = run(tmp_path, "allow", "the-audience", "the-client", "Bookings.Read.All", known="yes")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "[?value=='Bookings.Read.All']" in calls[-2]
    assert body(calls[-1]) == {"principalId": "the-principal", "resourceId": "the-principal", "appRoleId": "the-role"}


def test_allow_fails_where_there_is_no_such_client(tmp_path: Path) -> None:
    ended, calls = run(tmp_path, "allow", "the-audience", "the-client")
    assert (ended.returncode, ended.stderr) == (1, "There is no such audience, client or role.\n")
    assert not any("--method POST" in call for call in calls)


def test_anything_else_shows_how_to_use_it(tmp_path: Path) -> None:
    ended, calls = run(tmp_path, "remove")
    assert ended.returncode == 2
    assert "create [NAME]" in ended.stderr
    assert calls == []
