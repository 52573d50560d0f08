"""The smoke test that is meant for deployed services passes on the local one, and fails where it should."""

import os
import subprocess
import sys

import pytest
from azure.data.tables import TableClient

from customers.members import Role
from infra.local.issuer import USER, Issuer
from tests.conftest import Service, free_port, rows
from tests.support.members import DELEGATED, set_member


def smoke(base: str, token: str, business: str = "") -> subprocess.CompletedProcess[str]:
    """Run it as ``make smoke`` does."""
    env = {**os.environ, "BASE_URL": base, "TOKEN": token, "BUSINESS": business}
    return subprocess.run([sys.executable, "tests/smoke.py"], env=env, capture_output=True, text=True, check=False)


def test_it_passes_and_leaves_nothing(service: Service, issuer: Issuer, table: TableClient) -> None:
    ended = smoke(service.base, issuer.token())
    assert (ended.returncode, ended.stderr) == (0, "")
    told = [line.partition(" ") for line in ended.stdout.splitlines()]
    assert {(status, what) for status, _, what in told} >= {
        ("201", "add"),
        ("200", "get"),
        ("200", "find by e-mail"),
        ("200", "update"),
        ("204", "delete"),
        ("401", "no token, refused"),
    }
    assert ended.stdout.endswith(f"{service.base} works.\n")
    left = table.query_entities("PartitionKey ge 'smoke-' and PartitionKey lt 'smoke.'")
    assert list(left) == []


def test_it_passes_for_a_member_of_the_business(service: Service, issuer: Issuer, table: TableClient) -> None:
    set_member(table, "Smoke & Fire", USER, Role.SCHEDULER)
    ended = smoke(service.base, issuer.token(DELEGATED), "Smoke & Fire")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert rows(table, "Smoke & Fire") == []


def test_it_fails_with_one_line_where_the_token_may_not_write(service: Service, issuer: Issuer) -> None:
    ended = smoke(service.base, issuer.token({"scp": "Bookings.Read.All"}))
    assert ended.returncode == 1
    assert ended.stderr.startswith("FAILED add: POST /beta/bookingBusinesses/smoke-")
    assert "403 instead of 201 (request-id " in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("base", "says"), [("", "Set BASE_URL"), ("http://127.0.0.1:{}", "FAILED ready: GET /healthz")]
)
def test_it_fails_with_one_line_if_there_is_no_service(base: str, says: str) -> None:
    ended = smoke(base.format(free_port()), "x")
    assert ended.returncode == (1 if base else 2)
    assert ended.stderr.startswith(says)
    assert ended.stderr.count("\n") == 1
