"""Importing customers from a file: what is added, what is not and why, and that a repeat adds nobody twice."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import pytest
from aiohttp import web
from anyio.from_thread import BlockingPortal
from azure.core.credentials import AccessToken
from azure.data.tables import TableClient

from customers.cli import service as service_module
from customers.cli.main import main
from infra.local.issuer import Issuer
from tests.conftest import Service, StartService, free_port, rows
from tests.support.graph import BETA
from tests.support.layouts import OUTLOOK, SQUARE
from tests.support.proxy import (
    Fault,
    FaultProxy,
    commit_late,
    cut_after,
    cut_before,
    half_a_response,
    nonsense_after,
    pass_on,
    status,
)

HEADER = "displayName,emailAddress,phone\n"
ADA = "Ada,ada@x.com,1\n"


class Outcome(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def counts(self) -> list[int]:
        """How many were added, already there, skipped and rejected."""
        return [int(part) for part in self.out.replace(",", " ").split() if part.isdecimal()]


type Run = Callable[..., Outcome]


@pytest.fixture
def business() -> str:
    """A new one."""
    return f"b-{uuid4()}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file to import."""
    return tmp_path / "customers.csv"


@pytest.fixture
def run(
    service: Service,
    issuer: Issuer,
    business: str,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Import what is said into the business, or the file as it is; in this process."""
    monkeypatch.setenv("TOKEN", issuer.token())

    def import_(*options: str, content: str | None = None, file: Path = path, base: str = service.base) -> Outcome:
        if content is not None:
            file.write_text(content)
        code = main(["import", str(file), "--business", business, "--url", base, *options])
        return Outcome(code, *capsys.readouterr())

    return import_


def customers(client: httpx.Client, business: str) -> list[dict[str, Any]]:
    """All customers of a business, without what the service adds."""
    found = client.get(BETA.format(business), params={"$top": "999"}).json()["value"]
    names = ("id", "displayName", "emailAddress", "addresses", "phones")
    return [{name: one[name] for name in names} for one in found]


def names(client: httpx.Client, business: str) -> list[str]:
    """The names of all customers of a business, sorted."""
    return sorted(one["displayName"] for one in customers(client, business))


def test_a_file_is_imported_once_however_often(run: Run, client: httpx.Client, business: str) -> None:
    assert run(content=HEADER + ADA + "Bob,bob@x.com,\n" + ADA) == (
        0,
        "2 added, 1 already there, 0 skipped as known, 0 rejected.\n",
        "",
    )
    assert run().counts == [0, 3, 0, 0]
    assert run(content=HEADER + ADA + "Bob,bob@x.com,2\n").counts == [1, 1, 0, 0]
    assert names(client, business) == ["Ada", "Bob", "Bob"]


def test_the_form_of_the_file_makes_no_difference(
    run: Run, client: httpx.Client, business: str, tmp_path: Path
) -> None:
    assert run(content=HEADER + ADA + "Bob,bob@x.com,\n").counts == [2, 0, 0, 0]
    objects = [
        {"displayName": "Ada", "emailAddress": "ada@x.com", "phones": [{"number": "1"}], "createdDateTime": "2026"},
        {"@odata.etag": "x", "displayName": "Bob", "emailAddress": "bob@x.com", "addresses": [], "id": None},
    ]
    lines, array = tmp_path / "a.ndjson", tmp_path / "a.json"
    assert run(file=lines, content="\n".join(map(json.dumps, objects))).counts == [0, 2, 0, 0]
    assert run(file=array, content=json.dumps(objects, indent=2)).counts == [0, 2, 0, 0]
    assert names(client, business) == ["Ada", "Bob"]


def test_a_dry_run_needs_no_service_and_no_token(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKEN")
    outcome = run("--dry-run", content=HEADER + ADA + ",b@x,\n", base="http://127.0.0.1:9")
    assert outcome == (1, "1 could be added, 1 rejected. Nothing was sent.\n", "line 3: displayName: Field required\n")


def test_rejects_are_corrected_and_imported(run: Run, client: httpx.Client, business: str, tmp_path: Path) -> None:
    rejects = tmp_path / "rejects.csv"
    bad = "".join(f",{n}@x.com,\n" for n in range(12))
    outcome = run("--rejects", str(rejects), content=HEADER + ADA + bad)
    assert outcome.counts == [1, 0, 0, 12]
    assert outcome.code == 1
    assert outcome.err.count("Field required") == 10
    assert f"2 more. All rejected lines are in {rejects}." in outcome.err
    with rejects.open() as file:
        table = list(csv.DictReader(file))
    assert table[0] == {
        "@import.line": "3",
        "@import.error": "displayName: Field required",
        "displayName": "",
        "emailAddress": "0@x.com",
        "phone": "",
    }
    corrected = rejects.read_text().replace('required",', 'required",Somebody')
    assert run(file=tmp_path / "corrected.csv", content=corrected).counts == [12, 0, 0, 0]
    assert names(client, business) == ["Ada", *["Somebody"] * 12]


def test_what_the_service_alone_refuses_is_a_reject_too(
    run: Run, client: httpx.Client, business: str, tmp_path: Path
) -> None:
    rejects = tmp_path / "rejects.csv"
    content = HEADER.replace("phone", "id") + "Ada,ada@x.com,taken\nBob,bob@x.com,own\nEve,eve@x.com,own\n"
    body = {"id": "taken", "displayName": "Somebody", "emailAddress": "s@x"}
    assert client.post(BETA.format(business), json=body).status_code == 201
    outcome = run("--rejects", str(rejects), content=content)
    assert outcome.counts == [1, 0, 0, 2]
    assert outcome.code == 1
    assert "line 2: the business has another customer with the id taken, which is unchanged" in outcome.err
    assert "line 4: the business has another customer with the id own" in outcome.err
    assert rejects.read_text().count("another customer") == 2
    assert names(client, business) == ["Bob", "Somebody"]


def test_an_address_that_only_the_service_checks_is_rejected_with_its_reason(
    run: Run, start_service: StartService, tmp_path: Path
) -> None:
    rejects = tmp_path / "rejects.csv"
    with start_service(EMAIL_ADDRESS_CHECK="smtp") as strict:
        outcome = run("--rejects", str(rejects), content=f"{HEADER}Ada,ada@example.com,\nBob,bob,\n", base=strict.base)
    assert (outcome.code, outcome.counts) == (1, [1, 0, 0, 1])
    assert "line 3: the service refuses it: emailAddress: must be a valid e-mail address" in outcome.err
    assert "Bob,bob," in rejects.read_text()


def test_one_that_was_changed_since_is_already_there(run: Run, client: httpx.Client, business: str) -> None:
    run(content=HEADER + ADA)
    own = customers(client, business)[0]["id"]
    assert client.patch(f"{BETA.format(business)}/{own}", json={"displayName": "Countess"}).status_code == 200
    assert run().out == "0 added, 1 already there (1 changed since), 0 skipped as known, 0 rejected.\n"
    assert names(client, business) == ["Countess"]


def test_known_addresses_are_skipped_those_of_earlier_lines_too(run: Run, client: httpx.Client, business: str) -> None:
    known = {"displayName": "Known", "emailAddress": "O'Brien+1@X.com"}
    assert client.post(BETA.format(business), json=known).status_code == 201
    content = HEADER + "A,o'brien+1@x.com,\nB,b@x.com,\nC,B@x.com,\nB,b@x.com,\n" + "D,d@x.com,\n" * 30 + "E,D@X.com,\n"
    outcome = run("--skip-known", content=content)
    assert outcome.counts == [2, 30, 3, 0]
    assert names(client, business) == ["B", "D", "Known"]
    assert run("--skip-known").counts == [0, 32, 3, 0]


def write(path: Path, header: Sequence[str], table: Sequence[Mapping[str, str]], **form: Any) -> None:
    """Write a CSV file as another program does."""
    with path.open("w", encoding=form.pop("encoding", "utf-8"), newline="") as file:
        writer = csv.DictWriter(file, header, restval="", **form)
        writer.writeheader()
        writer.writerows(table)


def test_an_export_of_square(run: Run, client: httpx.Client, business: str, path: Path) -> None:
    ada = {"First Name": "Ada", "Last Name": "Lovelace", "Email Address": "ada@x.com", "Square Customer ID": "Q1"}
    nobody = {"First Name": "No", "Last Name": "Address", "Square Customer ID": "Q2", "Birthday": "1815-12-10"}
    write(path, SQUARE, [{**ada, "Phone Number": "'+14155550100", "City": "Oakland"}, nobody])
    outcome = run()
    assert outcome.counts == [1, 0, 0, 1]
    assert "Not imported, because a customer has no such property: Reference ID, Birthday, Memo" in outcome.err
    assert "line 3: Email Address: Field required" in outcome.err
    (found,) = customers(client, business)
    assert (found["id"], found["displayName"]) == ("Q1", "Ada Lovelace")
    assert found["phones"][0]["number"] == "+14155550100"
    assert found["addresses"][0]["city"] == "Oakland"


def test_an_export_of_outlook_in_the_encoding_of_windows(
    run: Run, client: httpx.Client, business: str, path: Path
) -> None:
    ada = {"First Name": "Jürgen", "Last Name": "Groß", "E-mail Address": "j@x.com", "Mobile Phone": "+49 1"}
    write(path, OUTLOOK, [{**ada, "Home City": "Köln"}], encoding="windows-1252", quoting=csv.QUOTE_ALL)
    assert "line 2: is not encoded in utf-8" in run().err
    assert run("--encoding", "windows-1252").counts == [1, 0, 0, 0]
    (found,) = customers(client, business)
    assert found["displayName"] == "Jürgen Groß"
    assert [found["phones"][0][name] for name in ("type", "number")] == ["mobile", "+49 1"]
    assert [found["addresses"][0][name] for name in ("type", "city")] == ["home", "Köln"]


def test_a_file_of_excel_and_mapped_columns(run: Run, client: httpx.Client, business: str, path: Path) -> None:
    header = ["Vorname", "Nachname", "E-Mail", "Telefon", "Kundin seit"]
    write(path, header, [dict(zip(header, ["Jürgen", "Groß", "j@x.com", "030; 1", "2020"], strict=True))],
          encoding="utf-8-sig", delimiter=";")  # fmt: skip
    refused = run()
    assert refused.code == 2
    assert "Column 'Telefon' is not a property of a customer." in refused.err
    maps = ["Vorname=displayName", "Nachname=displayName", "E-Mail=emailAddress", "Telefon=phones[home].number", "*="]
    assert run(*(part for one in maps for part in ("--map", one))).counts == [1, 0, 0, 0]
    (found,) = customers(client, business)
    assert (found["displayName"], found["phones"][0]["number"]) == ("Jürgen Groß", "030; 1")


@pytest.mark.parametrize("token", [None, ""])
def test_without_a_token_it_says_how_to_have_one(run: Run, monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    if token is None:
        monkeypatch.delenv("TOKEN")
    else:
        monkeypatch.setenv("TOKEN", token)
    outcome = run(content=HEADER + ADA)
    assert outcome.code == 2
    assert "--scope api://CLIENT-ID/.default" in outcome.err


@pytest.mark.parametrize(
    ("claims", "says"),
    [({"exp": 1}, "refuses the token; it may have expired"), ({"scp": "Bookings.Read.All"}, "lacks the permission")],
)
def test_a_token_that_is_refused_ends_it(
    run: Run, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, claims: dict[str, Any], says: str
) -> None:
    monkeypatch.setenv("TOKEN", issuer.token(claims))
    outcome = run(content=HEADER + ADA)
    assert outcome.code == 3
    assert says in outcome.err
    assert "Run the same command again" in outcome.err
    assert issuer.token(claims)[:20] not in outcome.err
    assert outcome.counts == [0, 0, 0, 0]
    assert "The rest was not sent, or its outcome is not known." in outcome.out


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up soon."""
    monkeypatch.setattr(service_module, "_FIRST_PATIENCE", 0.3)
    monkeypatch.setattr(service_module, "_PATIENCE", 0.3)


@pytest.mark.usefixtures("impatient")
def test_a_service_that_is_not_there(run: Run) -> None:
    outcome = run(content=HEADER + ADA, base=f"http://127.0.0.1:{free_port()}")
    assert outcome.code == 3
    assert "cannot be reached" in outcome.err


@pytest.fixture
def proxy(portal: BlockingPortal, service: Service) -> Iterator[FaultProxy]:
    """A proxy before the service."""
    proxy = FaultProxy(service.base)
    portal.call(proxy.start)
    yield proxy
    portal.call(proxy.stop)


async def redirect(_: FaultProxy, __: web.Request) -> web.Response:
    """Lead elsewhere."""
    return web.Response(status=307, headers={"Location": "https://elsewhere.invalid/"})


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (redirect, "redirects to https://elsewhere.invalid/"),
        (status(404), "no service with $batch"),
        (status(400, body={"error": {"message": "Not so."}}), "refuses the request with status 400: Not so."),
        (status(503), "cannot be reached, or fails"),
        (status(429, retry_after=3600), "asks to wait 3600 seconds"),
        (nonsense_after, "Not every request has a response."),
    ],
)
def test_a_service_that_does_not_do_it(run: Run, proxy: FaultProxy, fault: Fault, says: str) -> None:
    proxy.always = fault
    outcome = run(content=HEADER + ADA, base=f"http://127.0.0.1:{proxy.port}")
    assert outcome.code == 3
    assert says in outcome.err
    proxy.reset()
    assert sum(run(base=f"http://127.0.0.1:{proxy.port}").counts) == 1


async def some_fail(proxy: FaultProxy, request: web.Request) -> web.Response:
    """Let the service do its work, then report faults of the first members of the batch."""
    response = await proxy.forward(request)
    batch = json.loads(response.body)  # type: ignore[arg-type]
    error = {"code": "serviceUnavailable", "message": "Storage cannot be reached."}
    for one, code in zip(batch["responses"], (429, 503, 500, 504), strict=False):
        one |= {"status": code, "headers": {"Retry-After": "0"}, "body": {"error": error}}
    del batch["responses"][-1]
    return web.json_response(batch)


async def only_one_fits(proxy: FaultProxy, request: web.Request) -> web.Response:
    """A service whose limit of a body is low."""
    members = json.loads(await request.read())["requests"]
    return await proxy.forward(request) if len(members) == 1 else web.Response(status=413)


def test_faults_on_the_way_double_nobody_and_are_not_counted_as_already_there(
    run: Run, proxy: FaultProxy, table: TableClient, business: str
) -> None:
    proxy.plan.extend(
        [cut_before, cut_after, half_a_response, status(503, retry_after=0), status(429), status(500, committed=True)]
    )
    proxy.plan.extend([some_fail, only_one_fits, nonsense_after, commit_late(0.1), status(504, committed=True)])
    lines = [f"Customer {number},{number}@x.com,\n" for number in range(300)]
    outcome = run(content=HEADER + "".join(lines), base=f"http://127.0.0.1:{proxy.port}")
    assert outcome.code == 0, outcome
    assert outcome.counts == [300, 0, 0, 0]
    assert Counter(row["displayName"] for row in rows(table, business)) == {f"Customer {n}": 1 for n in range(300)}


def test_one_that_always_fails_is_rejected_and_the_others_are_added(run: Run, proxy: FaultProxy) -> None:
    async def fault(proxy: FaultProxy, request: web.Request) -> web.Response:
        batch = json.loads(await request.read())
        answer = json.loads((await proxy.forward(request)).body)  # type: ignore[arg-type]
        bad = {one["id"] for one in batch["requests"] if one["body"]["displayName"] == "Bad"}
        for one in answer["responses"]:
            if one["id"] in bad:
                one |= {"status": 500, "body": {"error": {"code": "x", "message": "A bug."}}}
        return web.json_response(answer)

    proxy.always = fault
    outcome = run(content=f"{HEADER}{ADA}Bad,bad@x.com,\n", base=f"http://127.0.0.1:{proxy.port}")
    assert (outcome.code, outcome.counts) == (1, [1, 0, 0, 1])
    assert "line 3: the service refuses it: A bug." in outcome.err


MISTAKES = [
    ",{}@x.com,",
    "Nobody {},,",
    "{},a@x",
    "{},a@x,1,2",
    '"open {},a@x,1',
    'bad"quote,"a"b@x,{}',
    "{}\x01,a@x,",
    '"two\nlines {}",a@x,',
    f"{'x' * 300}{{}},a@x,",
    "{},a@x,1" + "2" * 300,
]


def many_lines(number: int) -> tuple[str, list[str], int]:
    """Lines with every kind of mistake, repeated ones and empty ones; the names of the good, and how many are bad."""
    chance = random.Random(15)
    lines: list[str] = []
    good, bad = [], 0
    for n in range(number):
        kind = chance.random()
        if kind < 0.1:
            lines.append(f'"Kundin ""{n}"", Nr. {n}",{n}@x.com,+49 {n}')
            good.append(f'Kundin "{n}", Nr. {n}')
        elif kind < 0.15:
            lines.append(chance.choice([",,", ""]))
        elif kind < 0.17 and good:
            earlier = chance.choice(good).split()[-1]
            lines.append(f'"Kundin ""{earlier}"", Nr. {earlier}",{earlier}@x.com,+49 {earlier}')
        else:
            lines.append(chance.choice(MISTAKES).format(n))
            bad += 1
    return HEADER + "\n".join(lines) + "\n", good, bad


def test_ten_thousand_lines_killed_at_random_points_and_resumed(
    proxy: FaultProxy, business: str, path: Path, table: TableClient, run: Run
) -> None:
    content, good, bad = many_lines(10_000)
    path.write_text(content)
    base, rejects = f"http://127.0.0.1:{proxy.port}", path.with_name("rejects.csv")
    arguments = ["import", str(path), "--business", business, "--url", base, "--rejects", str(rejects)]
    chance = random.Random()
    for number in range(3):
        last = len(proxy.passed) + chance.randrange(1, 15)
        with subprocess.Popen(  # noqa: S603 - our own
            [sys.executable, "-m", "customers", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as child:

            async def kill(proxy: FaultProxy, request: web.Request, last: int = last, pid: int = child.pid) -> Any:
                if len(proxy.passed) == last:
                    os.kill(pid, signal.SIGINT if number == 2 else signal.SIGKILL)  # noqa: B023 - ends with the round
                return await proxy.forward(request)

            proxy.always = kill
            out, err = child.communicate(timeout=120)
        if number == 2:
            assert child.returncode == 130, err
            assert b"Interrupted. Run the same command again; it is safe." in err
            assert b"The rest was not sent" in out
        else:
            assert child.returncode == -signal.SIGKILL, err
    proxy.always = pass_on
    there = len(rows(table, business))
    assert 0 < there < len(good)
    outcome = run(*arguments[-2:])
    assert outcome.code == 1
    added, already, skipped, rejected = outcome.counts
    assert (skipped, rejected) == (0, bad)
    # What was under way when the last one was interrupted may have come after the count.
    assert 0 < added <= len(good) - there
    assert Counter(row["displayName"] for row in rows(table, business)) == dict.fromkeys(good, 1)
    records = rejects.read_text().count('\n"')
    assert records >= bad - content.count('"two\n')
    assert run("--dry-run", file=rejects).counts == [0, bad]
    assert already >= there


class Credential:
    """Stands for azure-identity's. So many of its tokens have expired already, though it does not say so."""

    def __init__(self, issuer: Issuer, expired: int) -> None:
        self.given = 0
        self._issuer = issuer
        self._expired = expired

    async def get_token(self, scope: str) -> AccessToken:
        """Another token each time."""
        assert scope == "api://x/.default"
        self.given += 1
        claims = {"exp": self.given} if self.given <= self._expired else {}
        return AccessToken(self._issuer.token(claims), 1 << 40)

    async def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("expired", [1, 1000])
def test_a_token_that_is_refused_is_replaced_once(
    run: Run, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, expired: int
) -> None:
    credential = Credential(issuer, expired)
    monkeypatch.setattr("azure.identity.aio.DefaultAzureCredential", lambda: credential)
    lines = "".join(f"C {number},{number}@x.com,\n" for number in range(200))
    outcome = run("--token-from", "azure", "--scope", "api://x/.default", content=HEADER + lines)
    if expired == 1:
        assert (outcome.code, outcome.counts, credential.given) == (0, [200, 0, 0, 0], 2)
    else:
        assert (outcome.code, outcome.counts) == (3, [0, 0, 0, 0])
        assert "refuses the token" in outcome.err
        assert credential.given < 20
