"""Exporting customers: all of them, as import reads them, and continued where it was interrupted."""

import asyncio
import csv
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from aiohttp import web
from anyio.from_thread import BlockingPortal

from customers.cli import exporting
from customers.cli import service as service_module
from customers.cli.main import main
from infra.local.issuer import Issuer
from tests.conftest import Service
from tests.support.graph import BETA, assert_customer
from tests.support.proxy import Fault, FaultProxy, cut_before, pass_on, status

MANY = 23

type Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def business(service: Service, issuer: Issuer) -> str:
    """A business with customers of every kind."""
    business = f"b-{uuid4()}"
    whole: list[dict[str, Any]] = [
        {"id": "=id", "displayName": "=1+1", "emailAddress": "'@x"},
        {"displayName": ' Jürgen "J", Groß; ', "emailAddress": "j@x", "addresses": [{"street": "a"}, {"type": "home"}]},
        {"displayName": "'=", "emailAddress": "x", "phones": [{"type": "mobile", "number": "+49 1"}, {"number": "2"}]},
        *({"displayName": f"{number}", "emailAddress": f"{number}@x"} for number in range(MANY - 3)),
    ]
    with httpx.Client(base_url=service.base, headers={"Authorization": f"Bearer {issuer.token()}"}) as client:
        for one in whole:
            assert_customer(client.post(BETA.format(business), json=one))
    return business


@pytest.fixture
def run(
    service: Service,
    issuer: Issuer,
    business: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a command for the business, or another; small pages."""
    monkeypatch.setenv("TOKEN", issuer.token())
    monkeypatch.setattr(exporting, "_PAGE", 5)
    monkeypatch.setattr(service_module, "_PATIENCE", 0.3)

    def command(*arguments: str, of: str = business, base: str = service.base) -> tuple[int, str, str]:
        return main([*arguments, "--business", of, "--url", base]), *capsys.readouterr()

    return command


def listed(client: httpx.Client, business: str) -> list[dict[str, Any]]:
    """The customers of a business without annotations."""
    found = client.get(BETA.format(business), params={"$top": "999"}).json()["value"]
    return [{name: value for name, value in one.items() if "@" not in name} for one in found]


def without_times(customers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The customers without what the service sets."""
    return [{name: value for name, value in one.items() if not name.endswith("DateTime")} for one in customers]


@pytest.mark.parametrize("ending", ["csv", "ndjson", "jsonl"])
def test_what_is_exported_can_be_imported_elsewhere_and_is_already_there_here(
    run: Run, client: httpx.Client, business: str, tmp_path: Path, ending: str
) -> None:
    target, other = tmp_path / f"customers.{ending}", f"b-{uuid4()}"
    assert run("export", "-o", str(target)) == (0, f"{MANY} customers are in {target}.\n", "")
    assert list(tmp_path.iterdir()) == [target]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert run("import", str(target), of=other)[1].startswith(f"{MANY} added, 0 already there")
    assert without_times(listed(client, other)) == without_times(listed(client, business))
    assert run("import", str(target))[1].startswith(f"0 added, {MANY} already there,")


def test_on_stdout_it_is_ndjson(run: Run, client: httpx.Client, business: str) -> None:
    code, out, err = run("export")
    assert (code, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == listed(client, business)
    assert run("export", of="nobody") == (0, "", "")


def test_csv_has_the_columns_that_are_needed_and_formulas_are_marked(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "customers.csv"
    run("export", "-o", str(target))
    with target.open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    properties = ["id", "displayName", "emailAddress", "addresses[0].street", "addresses[1].type", "phones[0].type"]
    assert list(table[0])[:6] == properties
    first = next(row for row in table if row["displayName"] == "'=1+1")
    assert (first["id"], first["emailAddress"]) == ("'=id", "''@x")
    assert run("export", "-o", str(target), of="nobody")[0] == 0
    assert target.read_text("utf-8-sig").splitlines() == ['"id"']


@pytest.fixture
def proxy(portal: BlockingPortal, service: Service) -> Iterator[FaultProxy]:
    """A proxy before the service, whose own links it shows."""
    proxy = FaultProxy(service.base)
    portal.call(proxy.start)
    yield proxy
    portal.call(proxy.stop)


async def own_links(proxy: FaultProxy, request: web.Request) -> web.Response:
    """Lead to the proxy again."""
    response = await proxy.forward(request)
    body = bytes(response.body).replace(f":{proxy.target_port}/".encode(), f":{proxy.port}/".encode())  # type: ignore[arg-type]
    return web.Response(body=body, status=response.status, content_type=response.content_type)


def pages(proxy: FaultProxy) -> list[str]:
    """The pages that were asked for."""
    return [passed.path.partition("?")[2] for passed in proxy.passed if "?" in passed.path]


@pytest.mark.parametrize("ending", ["csv", "ndjson"])
def test_an_interrupted_export_continues(run: Run, proxy: FaultProxy, tmp_path: Path, ending: str) -> None:
    whole, target = tmp_path / f"whole.{ending}", tmp_path / f"customers.{ending}"
    run("export", "-o", str(whole))
    base = f"http://127.0.0.1:{proxy.port}"
    proxy.plan.extend([own_links] * 3)  # the count and two pages
    proxy.always = status(503)
    code, out, err = run("export", "-o", str(target), base=base)
    assert (code, out) == (3, "")
    assert "Run the same command again: it continues" in err
    assert not target.exists()
    (part,) = tmp_path.glob("customers*.part")
    assert len(part.read_text().splitlines()) == 10
    assert stat.S_IMODE(part.stat().st_mode) == 0o600
    last = json.loads(part.read_text().splitlines()[-1])["id"]
    with part.open("a") as file:
        file.write('{"id": "zz')  # killed while it wrote
    proxy.reset()
    proxy.always = own_links
    code, out, err = run("export", "-o", str(target), base=base)
    assert code == 0
    assert f"Continues {part}, which has 10 customers" in err
    assert out == f"{MANY} customers are in {target}.\n"
    assert f"id%20gt%20%27{last}%27" in pages(proxy)[0]
    assert len(pages(proxy)) == 3
    assert target.read_bytes() == whole.read_bytes()
    assert not part.exists()


def test_a_page_is_asked_for_again(run: Run, proxy: FaultProxy) -> None:
    base = f"http://127.0.0.1:{proxy.port}"
    proxy.plan.extend([own_links, cut_before, own_links, status(429, retry_after=0), status(503), own_links])
    proxy.always = own_links
    code, out, _ = run("export", base=base)
    assert (code, len(out.splitlines())) == (0, MANY)


def test_faults_with_successes_between_are_not_counted_together(run: Run, proxy: FaultProxy) -> None:
    async def slow(proxy: FaultProxy, request: web.Request) -> web.Response:
        await asyncio.sleep(0.4)  # longer than the patience
        return await own_links(proxy, request)

    proxy.plan.extend([own_links, status(503), slow, status(503), slow, status(503)])
    proxy.always = own_links
    code, out, err = run("export", base=f"http://127.0.0.1:{proxy.port}")
    assert (code, len(out.splitlines())) == (0, MANY), err


async def no_count(proxy: FaultProxy, request: web.Request) -> web.Response:
    """A business that is too large to be counted."""
    if request.path.endswith("/$count"):
        return web.json_response({"error": {"code": "badRequest", "message": "Too many."}}, status=400)
    return await own_links(proxy, request)


def test_a_business_too_large_to_be_counted_is_exported(run: Run, proxy: FaultProxy) -> None:
    proxy.always = no_count
    code, out, _ = run("export", base=f"http://127.0.0.1:{proxy.port}")
    assert (code, len(out.splitlines())) == (0, MANY)


async def bad_page(proxy: FaultProxy, request: web.Request) -> web.Response:
    """Refuse to list."""
    if "?" in request.path_qs:
        return web.json_response({"error": {"code": "badRequest", "message": "Not so."}}, status=400)
    return await proxy.forward(request)


@pytest.mark.parametrize(
    ("fault", "says"), [(pass_on, "the token is not sent there"), (bad_page, "refuses to list: Not so.")]
)
def test_a_link_to_another_host_and_a_refusal_end_it(run: Run, proxy: FaultProxy, fault: Fault, says: str) -> None:
    proxy.always = fault  # without own_links, the links lead to the service past the proxy
    code, _, err = run("export", base=f"http://127.0.0.1:{proxy.port}")
    assert code == 3
    assert says in err


@pytest.mark.parametrize(
    ("name", "says"),
    [("customers.xlsx", "must name a file that ends in .csv, .ndjson, .jsonl"), ("none/c.csv", "cannot be written")],
)
def test_a_file_that_it_cannot_write(run: Run, tmp_path: Path, name: str, says: str) -> None:
    code, _, err = run("export", "-o", str(tmp_path / name))
    assert code == 2
    assert says in err


def test_what_is_no_part_of_an_export_is_not_continued(run: Run, proxy: FaultProxy, tmp_path: Path) -> None:
    target, base = tmp_path / "customers.csv", f"http://127.0.0.1:{proxy.port}"
    proxy.always = pass_on
    assert run("export", "-o", str(target), base=base)[0] == 3
    (part,) = tmp_path.glob("customers*.part")
    part.write_text("no\n")
    code, _, err = run("export", "-o", str(target), base=base)
    assert code == 2
    assert "Delete it" in err
    assert part.read_text() == "no\n"


def test_whoever_reads_stdout_may_have_ended(service: Service, issuer: Issuer, business: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        ended = subprocess.run(  # noqa: S603 - our own
            [sys.executable, "-m", "customers", "export", "--business", business, "--url", service.base],
            env={"TOKEN": issuer.token()},
            stdout=output,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (0, b"")
