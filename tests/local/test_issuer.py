"""The local issuer and the command that prints a token."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from anyio.from_thread import BlockingPortal

from infra.local.issuer import AUDIENCE, AUTHORITY, TENANT, USER, Issuer, load_key, new_key
from infra.local.run import ENVIRONMENT, TOP, command


@pytest.fixture(scope="module")
def urls(portal: BlockingPortal) -> Iterator[tuple[str, str]]:
    """The metadata and the tokens of an issuer, for the page of a service on port 7071."""
    runner, metadata = portal.call(partial(Issuer(new_key()).serve, service_port=7071))
    yield metadata, httpx.get(metadata).json()["token_endpoint"]
    portal.call(runner.cleanup)


PAGE = "http://127.0.0.1:7071"


@pytest.mark.parametrize("origin", [PAGE, "http://localhost:7071"])
def test_the_page_of_the_local_service_gets_a_token(urls: tuple[str, str], origin: str) -> None:
    for url in urls:
        response = httpx.request("GET" if url == urls[0] else "POST", url, headers={"Origin": origin})
        assert response.headers["Access-Control-Allow-Origin"] == origin
    assert claims_of(response.json()["access_token"])["aud"] == AUDIENCE


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://evil.example:7071"},
        {"Origin": "http://127.0.0.1:7070"},
        {"Origin": "https://127.0.0.1:7071"},
        {"Origin": f"{PAGE}.evil.example"},
        # A name that leads to this machine (DNS rebinding), with the page's origin and without it.
        {"Origin": PAGE, "Host": "evil.example"},
        {"Origin": "http://evil.example:7071", "Host": "evil.example:7071"},
    ],
)
def test_no_other_page_gets_a_token(urls: tuple[str, str], headers: dict[str, str]) -> None:
    response = httpx.post(urls[1], headers=headers)
    assert response.status_code == 403
    assert "Access-Control-Allow-Origin" not in response.headers
    assert "eyJ" not in response.text


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_token_takes_a_post(urls: tuple[str, str], method: str) -> None:
    assert httpx.request(method, urls[1], headers={"Origin": PAGE}).status_code == 405


def test_an_issuer_without_a_service_gives_no_token(portal: BlockingPortal) -> None:
    runner, metadata = portal.call(Issuer(new_key()).serve)
    endpoint = httpx.get(metadata).json()["token_endpoint"]
    for origin in (PAGE, "http://127.0.0.1:None", "http://127.0.0.1"):
        assert httpx.post(endpoint, headers={"Origin": origin}).status_code == 403
    portal.call(runner.cleanup)


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
