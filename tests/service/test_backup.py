"""Backup and restore: what was lost comes back exactly, nothing newer is lost by it, and the index agrees."""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from email.utils import formatdate
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from aiohttp import web
from anyio.from_thread import BlockingPortal
from azure.data.tables import TableClient

from customers.cli.backup_file import check, read, to_columns
from customers.email_index import MARK, index_row_of
from customers.partition import is_index_row
from infra.local.issuer import Issuer
from infra.local.run import connection_string, make_table
from tests.conftest import StartService, Storage
from tests.support.graph import BETA, DOCUMENTED, assert_customer
from tests.support.index import index_faults
from tests.support.proxy import FaultProxy, busy, cut_after, cut_before, late, pass_on, status

type Columns = dict[str, Any]
type Contents = dict[tuple[str, str], Columns]


class Table:
    """A table of its own, and the commands on it."""

    def __init__(self, client: TableClient, storage: str, folder: Path) -> None:
        self.client = client
        self._folder = folder
        self.settings = {"CUSTOMERS_STORAGE": storage, "CUSTOMERS_TABLE": client.table_name}

    def command(self, *arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command on the table."""
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "customers", *arguments],
            env={**os.environ, **self.settings, **(environ or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0, environ: Mapping[str, str] | None = None) -> str:
        """Run a command on the table to its end, and return what it says."""
        with self.command(*arguments, environ=environ) as process:
            said = "".join(process.communicate(timeout=120))
        assert process.returncode == code, said
        assert "Traceback" not in said
        return said

    def back_up(self, *arguments: str, environ: Mapping[str, str] | None = None) -> Path:
        """Make a backup."""
        path = self._folder / f"{uuid4()}.ndjson.gz"
        assert str(path) in self.run("backup", "-o", str(path), *arguments, environ=environ)
        return path

    def restore(self, path: Path, *arguments: str, code: int = 0, environ: Mapping[str, str] | None = None) -> str:
        """Restore a backup."""
        return self.run("restore", str(path), *arguments, code=code, environ=environ)

    def contents(self) -> Contents:
        """Every row: the columns with their types."""
        return {(row["PartitionKey"], row["RowKey"]): to_columns(row) for row in self.client.list_entities()}

    def index_faults(self) -> list[str]:
        """What is wrong with the index of any business."""
        businesses = {business for business, _ in self.contents()} - {MARK["PartitionKey"]}
        return [fault for business in businesses for fault in index_faults(self.client, business)]


type MakeTable = Callable[[], Table]


@pytest.fixture
def make(storage: Storage, portal: BlockingPortal, tmp_path: Path) -> Iterator[MakeTable]:
    """Makes tables, which are deleted at the end."""
    clients: list[TableClient] = []

    def make() -> Table:
        name = f"backup{uuid4().hex[:12]}"
        portal.call(make_table, storage.connection_string, name)
        clients.append(TableClient.from_connection_string(storage.connection_string, name))
        return Table(clients[-1], storage.connection_string, tmp_path)

    yield make
    for client in clients:
        client.delete_table()
        client.close()


@pytest.fixture
def served(start_service: StartService, issuer: Issuer, make: MakeTable) -> Iterator[tuple[Table, httpx.Client]]:
    """A table, and a client of a service on it."""
    table = make()
    headers = {"Authorization": f"Bearer {issuer.token()}"}
    with (
        start_service(CUSTOMERS_TABLE=table.client.table_name) as service,
        httpx.Client(base_url=service.base, headers=headers) as client,
    ):
        yield table, client


def fill(table: Table, number: int, *, business: str = "Contoso", size: int = 10) -> None:
    """Put customers with their index rows into the table, past the service."""
    for start in range(0, number, 50):
        operations = []
        for n in range(start, min(start + 50, number)):
            row = {
                "PartitionKey": business,
                "RowKey": f"{n:06}",
                "displayName": "x" * size,
                "emailAddress": f"{n % 100}@example.com",
            }
            operations += [("create", row), ("create", index_row_of(row))]
        table.client.submit_transaction(operations)


def histories(client: httpx.Client, rng: random.Random, steps: int) -> None:
    """Add, change and delete random customers."""
    businesses = ["Contoso", "Fabrikam é'", "a"]
    known: list[str] = []
    for _ in range(steps):
        kind = rng.choice(["add", "add", "add", "repeatable", "change", "change", "delete"])
        body: dict[str, Any] = {
            "displayName": f"{rng.getrandbits(32):x} \U0001f600",
            "emailAddress": f"{rng.choice('abcABC')}@example.com",
            "phones": [{"number": str(n)} for n in range(rng.randrange(3))],
        }
        if kind in ("add", "repeatable"):
            headers = {}
            if kind == "repeatable":
                headers = {
                    "Repeatability-Request-ID": str(uuid4()),
                    "Repeatability-First-Sent": formatdate(usegmt=True),
                }
            if rng.random() < 0.3:
                body["id"] = f"{rng.choice('!é~x')}{rng.getrandbits(32)}"
            collection = BETA.format(rng.choice(businesses))
            added = assert_customer(client.post(collection, json=body, headers=headers))
            known.append(f"{collection}/{added['id']}")
        elif known and kind == "change":
            changes = {name: body[name] for name in rng.sample(list(body), 2)}
            assert_customer(client.patch(rng.choice(known), json=changes), 200)
        elif known:
            assert client.delete(known.pop(rng.randrange(len(known)))).status_code == 204


def without_first(columns: Columns) -> Columns:
    """A row without what a restore adds to it, so that repeats of its add still work."""
    return {name: value for name, value in columns.items() if not name.startswith("first")}


@pytest.mark.parametrize("seed", range(2))
def test_what_was_lost_comes_back_and_what_is_newer_stays(served: tuple[Table, httpx.Client], seed: int) -> None:
    table, client = served
    rng = random.Random(seed)
    histories(client, rng, 80)
    before, path = table.contents(), table.back_up()
    assert {row.key: row.columns for row in read(path)} == before
    histories(client, rng, 30)  # adds, changes and deletes after the backup
    changed = table.contents()
    lost = rng.sample([key for key in changed if key != tuple(MARK.values())], len(changed) // 2)
    for partition_key, row_key in lost:
        table.client.delete_entity(partition_key, row_key)
    kept = {key: columns for key, columns in table.contents().items() if not key[1].startswith(" ")}

    said = table.restore(path, code=1 if any(before.get(key, kept[key]) != kept[key] for key in kept) else 0)
    after = table.contents()
    customers = {key: columns for key, columns in after.items() if not key[1].startswith(" ")}
    assert {key: customers[key] for key in kept} == kept, said
    for key in customers.keys() - kept.keys():
        assert without_first(customers[key]) == without_first(before[key])
    assert customers.keys() == kept.keys() | {key for key in before if not key[1].startswith(" ")}
    assert table.index_faults() == []

    again = table.restore(path, code=1 if "0 newer" not in said else 0)
    assert "0 rows restored" in again
    assert table.contents() == after

    table.restore(path, "--overwrite")
    overwritten = table.contents()
    for key, columns in before.items():
        assert is_index_row(columns) or without_first(overwritten[key]) == without_first(columns)
    assert table.index_faults() == []


def test_an_empty_table_becomes_exactly_what_was_backed_up(make: MakeTable, served: tuple[Table, httpx.Client]) -> None:
    table, client = served
    histories(client, random.Random(7), 80)
    empty = make()
    said = empty.restore(table.back_up())
    assert "0 already there, 0 newer" in said
    restored, original = empty.contents(), table.contents()
    assert restored.keys() == original.keys()
    assert tuple(MARK.values()) in restored
    assert {key: without_first(row) for key, row in restored.items()} == {
        key: without_first(row) for key, row in original.items()
    }


def test_a_repeat_after_a_loss_and_a_restore_gets_the_first_response(served: tuple[Table, httpx.Client]) -> None:
    table, client = served
    headers = {"Repeatability-Request-ID": str(uuid4()), "Repeatability-First-Sent": formatdate(usegmt=True)}
    first = client.post(BETA.format("Contoso"), json=DOCUMENTED, headers=headers)
    added = assert_customer(first)
    path = table.back_up()
    for row in list(table.client.list_entities()):
        table.client.delete_entity(row)
    table.restore(path)
    repeat = client.post(BETA.format("Contoso"), json=DOCUMENTED, headers=headers)
    assert (repeat.status_code, repeat.json(), repeat.headers["ETag"]) == (201, first.json(), first.headers["ETag"])
    # To anything else its ETag is another one: who read it before the restore must read it again.
    url = f"{BETA.format('Contoso')}/{added['id']}"
    assert client.get(url).json()["@odata.etag"] != added["@odata.etag"]
    stale = {"If-Match": added["@odata.etag"]}
    assert client.patch(url, json={"displayName": "x"}, headers=stale).status_code == 412
    assert table.index_faults() == []


def test_a_changed_address_goes_back_with_its_index_row(served: tuple[Table, httpx.Client]) -> None:
    table, client = served
    for own in "abc":
        assert_customer(client.post(BETA.format("Contoso"), json={**DOCUMENTED, "id": own, "emailAddress": "old@x"}))
    path = table.back_up()
    for own, address in (("a", "new@x"), ("b", "OLD@x"), ("c", "other@x")):
        client.patch(f"{BETA.format('Contoso')}/{own}", json={"emailAddress": address})
    table.client.delete_entity(index_row_of({"PartitionKey": "Contoso", "RowKey": "c", "emailAddress": "other@x"}))
    assert "3 newer" in table.restore(path, code=1)
    assert table.index_faults() == []
    assert "3 rows restored" in table.restore(path, "--overwrite")
    assert table.index_faults() == []
    found = client.get(BETA.format("Contoso"), params={"$filter": "emailAddress eq 'old@x'"}).json()["value"]
    assert [customer["id"] for customer in found] == ["a", "b", "c"]


def test_one_business_is_backed_up_or_restored_alone(make: MakeTable) -> None:
    table, target = make(), make()
    for business in ("a'b", "c", "d"):
        fill(table, 3, business=business)
    one = table.back_up("--business", "a'b")
    assert {row.key[0] for row in read(one)} == {"a'b"}
    assert check(one) == ("a'b", 6)
    target.restore(table.back_up(), "--business", "c")
    assert {business for business, _ in target.contents()} == {"c", MARK["PartitionKey"]}
    target.restore(one)
    assert {business for business, _ in target.contents()} == {"a'b", "c", MARK["PartitionKey"]}
    assert "id of a business" in table.run("backup", "-o", "x", "--business", "a/b", code=2)


def test_a_backup_while_the_service_works_gives_a_table_whose_index_is_right(
    make: MakeTable, served: tuple[Table, httpx.Client]
) -> None:
    table, client = served
    histories(client, random.Random(1), 30)
    fill(table, 600, business="Large")
    stop = threading.Event()

    def work() -> None:
        rng = random.Random(3)
        while not stop.is_set():
            histories(client, rng, 10)

    before = table.contents()
    worker = threading.Thread(target=work)
    worker.start()
    try:
        path = table.back_up()
    finally:
        stop.set()
        worker.join()
    assert table.contents() != before
    target = make()
    target.restore(path)
    assert target.index_faults() == []
    restored = target.contents()
    assert {key: restored[key] for key in before if key[0] == "Large"} == {
        key: columns for key, columns in before.items() if key[0] == "Large"
    }


def killed(process: subprocess.Popen[str], when: Callable[[], bool]) -> None:
    """Kill a command at some point in its work."""
    while not when():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()


def test_a_killed_backup_and_a_killed_restore_are_continued_by_the_same_command(
    make: MakeTable, start_proxy: Callable[[], AbstractContextManager[FaultProxy]], tmp_path: Path
) -> None:
    table, target = make(), make()
    fill(table, 1010)
    path = tmp_path / "b.ndjson.gz"
    with start_proxy() as proxy:
        proxy.always = late(0.2)
        through = {"CUSTOMERS_STORAGE": connection_string(proxy.port)}
        unfinished = path.with_name("b.ndjson.gz.unfinished")
        killed(table.command("backup", "-o", str(path), environ=through), lambda: len(proxy.passed) >= 2)
        assert not path.exists()
        assert unfinished.stat().st_size > 0
        assert f"Continuing {unfinished}" in table.run("backup", "-o", str(path), environ=through)
        assert {row.key: row.columns for row in read(path)} == table.contents()
        assert check(path).rows == 2020

        proxy.passed.clear()
        killed(target.command("restore", str(path), environ=through), lambda: len(proxy.passed) >= 20)
        begun = target.contents()
        assert 0 < len(begun) < 2020
        assert target.index_faults() == []
        proxy.reset()
        said = target.restore(path, environ=through)
    there = sum(key[1] >= "!" and key[0] == "Contoso" for key in begun)
    assert f"{1010 - there} rows restored, {there} already there" in said
    assert {key: row for key, row in target.contents().items() if key[0] == "Contoso"} == table.contents()


def test_faults_of_storage_neither_lose_nor_alter_anything(
    make: MakeTable, start_proxy: Callable[[], AbstractContextManager[FaultProxy]]
) -> None:
    table, target = make(), make()
    fill(table, 300)
    rng = random.Random(5)
    faults = [cut_before, cut_after, status(500), status(503, committed=True), busy(retry_after=1), status(429)]
    with start_proxy() as proxy:

        async def sometimes(of: FaultProxy, request: web.Request) -> web.Response:
            return await (rng.choice(faults) if rng.random() < 0.25 else pass_on)(of, request)

        proxy.always = sometimes
        through = {"CUSTOMERS_STORAGE": connection_string(proxy.port)}
        path = table.back_up(environ=through)
        target.restore(path, environ=through)
    assert {row.key: row.columns for row in read(path)} == table.contents()
    assert {key: row for key, row in target.contents().items() if key[0] == "Contoso"} == table.contents()


def test_a_file_that_was_cut_changes_nothing(make: MakeTable) -> None:
    table, target = make(), make()
    fill(table, 50)
    path = table.back_up()
    path.write_bytes(path.read_bytes()[:-30])
    assert "not complete" in target.restore(path, code=2)
    assert target.contents() == {}


def test_what_is_wrong_is_said_in_one_line(make: MakeTable, tmp_path: Path) -> None:
    table = make()
    path = table.back_up()
    assert "exists" in table.run("backup", "-o", str(path), code=2)
    assert "none.gz cannot be read" in table.restore(tmp_path / "none.gz", code=2)
    assert "no such folder" in table.run("backup", "-o", str(tmp_path / "no such folder" / "b"), code=2)
    assert "table" in table.run("backup", "-o", str(tmp_path / "c"), code=3, environ={"CUSTOMERS_TABLE": "nosuchtable"})
    assert "CUSTOMERS_STORAGE" in table.run("restore", str(path), code=2, environ={"CUSTOMERS_STORAGE": ""})
