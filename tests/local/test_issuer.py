"""The local issuer and the command that prints a token."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jwt
import pytest

from infra.local.issuer import AUDIENCE, AUTHORITY, TENANT, USER, load_key
from infra.local.run import ENVIRONMENT, TOP, command


def token(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder of its own."""
    return subprocess.run(  # noqa: S603
        command("infra.local.issuer", "token"),
        cwd=folder,
        env={**{k: v for k, v in os.environ.items() if k != "CLAIMS"}, **ENVIRONMENT, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def claims_of(printed: str) -> dict[str, Any]:
    """The claims of a printed token."""
    claims: dict[str, Any] = jwt.decode(printed.strip(), options={"verify_signature": False})
    return claims


def test_a_token_is_printed_alone_and_its_key_is_kept_for_its_owner(tmp_path: Path) -> None:
    first, second = token(tmp_path), token(tmp_path)
    assert (first.returncode, first.stderr, len(first.stdout.split())) == (0, "", 1)
    claims = claims_of(first.stdout)
    assert (claims["iss"], claims["aud"], claims["tid"]) == (f"{AUTHORITY}/{TENANT}/v2.0", AUDIENCE, TENANT)
    kids = [jwt.get_unverified_header(printed.stdout.strip())["kid"] for printed in (first, second)]
    assert kids[0] == kids[1]
    (key,) = (tmp_path / ".local" / "issuer").iterdir()
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_token_is_an_applications_own_unless_it_has_a_scope(tmp_path: Path) -> None:
    own = claims_of(token(tmp_path).stdout)
    assert (own["idtyp"], own["roles"], "scp" in own) == ("app", ["Bookings.Manage.All"], False)
    users = claims_of(token(tmp_path, CLAIMS='{"scp": "Bookings.Read.All"}').stdout)
    assert (users["oid"], users["scp"]) == (USER, "Bookings.Read.All")
    assert not {"idtyp", "roles"} & users.keys()


def test_claims_are_merged_and_null_removes_one(tmp_path: Path) -> None:
    claims = claims_of(token(tmp_path, CLAIMS='{"scp": null, "roles": ["x"], "exp": 5, "aud": "y"}').stdout)
    assert "scp" not in claims
    assert (claims["roles"], claims["exp"], claims["aud"]) == (["x"], 5, "y")


@pytest.mark.parametrize("claims", ["{", "[]", "5", json.dumps("x")])
def test_claims_that_are_no_object_are_refused_in_one_line(tmp_path: Path, claims: str) -> None:
    ended = token(tmp_path, CLAIMS=claims)
    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (2, "", 1)
    assert "CLAIMS" in ended.stderr


def test_concurrent_creation_of_the_key_gives_one_key(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    processes = [
        subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", f"from infra.local.issuer import *; load_key(Path({str(path)!r}))"], cwd=TOP
        )
        for _ in range(3)
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert load_key(path)
    assert list(tmp_path.iterdir()) == [path]
