"""Hostile and too many requests: no 500, no hang, no growth, no other business's rows; others are served meanwhile."""

import asyncio
import json
import random
import re
import resource
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from uuid import uuid4

import httpx
import pytest

from customers.email_index import MARK
from infra.local.issuer import Issuer, new_key
from infra.local.routing import split_path
from infra.local.run import connection_string
from tests.conftest import Service, StartService
from tests.support.graph import BETA, DOCUMENTED, assert_customer, assert_error
from tests.support.processes import memory
from tests.support.proxy import FaultProxy, late

REQUESTS = 20_000

_IDS = [
    "x",
    "Contoso%40contoso.com",
    "a%2Fb",
    "%00",
    "%FF",
    "..",
    "%2e%2e",
    "",
    "$ref",
    "$count",
    "%24count",
    "x%27",
    "%27%20or%20%27",
    "' or PartitionKey ne '",
    "a b",
    "é",
    "\U0001f600",
    "x" * 255,
    "x" * 256,
    "%",
    "%2",
    "?",
    "#",
    ";a=b",
    "(1)",
    "@business",
    "%0d%0aSet-Cookie:a",
]
_OPTIONS = [
    "$top=1",
    "$top=-1",
    "$top=999999999999999999999",
    "$top=%00",
    "$filter=displayName%20eq%20%27a%27",
    "$filter=%27",
    "$skiptoken=AAAA",
    "$filter=" + "(" * 900,
    "$filter=not%20" * 30,
    "$select=id",
    "$select=,",
    "$orderby=id",
    "$count=true",
    "$count",
    "&&&",
    "=",
    "%",
    "$expand=x",
    "$filter=id%20eq%20%27" + "%F0%9F%98%80" * 200 + "%27",
    "$filter=createdDateTime%20gt%209999-99-99T99:99:99Z",
    "top=1&$top=1",
    "%24top=2",
    "$filter=startswith(displayName,%27%EF%BF%BF%27)",
    "$filter=displayName%20eq%20%27%27%20or%20PartitionKey%20ne%20%27x%27",
]
_METHODS = ["GET", "POST", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "PURGE"]
_VALUES: list[Any] = [
    "a",
    "",
    None,
    1,
    True,
    [],
    {},
    "\0",
    "x" * 5000,
    "\ud800",
    "é",
    [None],
    [{}],
    [{"type": "home"}],
    {"a": {"b": []}},
    -1e308,
]
_NAMES = [
    "id",
    "displayName",
    "emailAddress",
    "addresses",
    "phones",
    "@odata.type",
    "@odata.id",
    "vip",
    "",
    "createdDateTime",
    "\0",
]
_HEADERS = [
    ("Prefer", "return=minimal"),
    ("Prefer", ";;,=\"'"),
    ("If-Match", "*"),
    ("If-Match", 'W/"'),
    ("If-None-Match", "*"),
    ("If-Match", "\\" * 500),
    ("client-request-id", "x" * 500),
    ("X-Forwarded-Host", "a\\b"),
    ("X-Forwarded-Proto", "ftp"),
    ("Content-Encoding", "gzip"),
    ("Repeatability-Request-ID", "x"),
    ("Repeatability-First-Sent", "Mon, 99 Nov 2026 12:00:00 GMT"),
    ("Authorization", "Bearer x"),
    ("Authorization", "Bearer " + "e30." * 500),
    ("Content-Type", "text/html"),
    ("Content-Type", ";"),
    ("Accept", "\x80\xff"),
    ("Range", "bytes=0-1"),
    ("Repeatability-Request-ID", "7d3b1c52-4f0e-4b8a-9c61-0f2a5e8d9b34"),
    ("Transfer-Encoding", "chunked"),
    ("Expect", "100-continue"),
]


_SURFACES = [
    "/beta/bookingBusinesses/",
    "/beta/solutions/bookingBusinesses/",
    "/v1.0/solutions/bookingBusinesses/",
    "/x/",
]
_KEPT = "%;()@$'=.?#"


def hostile(rng: random.Random, token: str) -> bytes:
    """Make up a request that is hostile here and there."""
    business = quote(rng.choice(_IDS), safe=_KEPT) if rng.random() < 0.4 else "Contoso"
    path = f"{rng.choice(_SURFACES)}{business}/customers"
    if rng.random() < 0.5:
        path += "/" + quote(rng.choice(_IDS), safe=_KEPT)
    if rng.random() < 0.3:
        path += "?" + "&".join(rng.choices(_OPTIONS, k=rng.randint(1, 3)))
    body = rng.choice(
        [
            json.dumps(DOCUMENTED).encode(),
            json.dumps({**DOCUMENTED, rng.choice(_NAMES): rng.choice(_VALUES)}).encode(),
            json.dumps({rng.choice(_NAMES): rng.choice(_VALUES) for _ in range(rng.randint(0, 8))}).encode(),
            rng.randbytes(rng.randint(0, 300)),
            b'{"a":' * 3000,
        ]
    )
    headers = {"Host": "x", "Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    if rng.random() < 0.3:
        headers |= dict(rng.choices(_HEADERS, k=rng.randint(1, 3)))
    if "Transfer-Encoding" in headers:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    else:
        headers["Content-Length"] = str(len(body))
    head = f"{rng.choice(_METHODS)} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
    return head.encode("latin-1", "replace") + b"\r\n" + body


async def exchange(port: int, raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send a request on a connection of its own; return the status, the headers and the body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status_line, *lines = head.strip().split("\r\n")
            status = int(status_line.split()[1])
            if status != 100:
                break
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        without_body = raw.startswith(b"HEAD ") or status in (204, 304)
        return status, headers, b"" if without_body else await reader.readexactly(int(headers.get("content-length", 0)))
    finally:
        writer.close()


def test_random_requests_meet_no_500_and_leave_no_growth(start_service: StartService, issuer: Issuer) -> None:
    rng, statuses, token = random.Random(5), Counter[int](), issuer.token()

    async def attack(port: int, requests: int) -> None:
        async def attacker() -> None:
            for _ in range(requests // 16):
                raw = hostile(rng, token)
                async with asyncio.timeout(30):
                    status, headers, body = await exchange(port, raw)
                statuses[status] += 1
                assert status < 500, (raw, body)
                if status >= 400 and "request-id" in headers and body:
                    error = json.loads(body)["error"]
                    assert error["code"], raw
                    assert error["message"], raw
                elif status >= 400 and "request-id" not in headers:
                    # The host's own: a request that is no HTTP, or a path that no route can match.
                    assert status in (400, 404), (raw, status)
                    statuses[-status] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(attacker())

    with start_service() as service:
        port = int(service.base.rpartition(":")[2])
        asyncio.run(attack(port, REQUESTS // 4))
        before = memory(service.pid)
        asyncio.run(attack(port, REQUESTS))
        after = memory(service.pid)
        assert httpx.get(f"{service.base}/healthz").status_code == 200
    assert statuses[201] > 10
    assert statuses[-400] + statuses[-404] < statuses.total() // 4, statuses
    assert after - before < 32, (before, after)


def partitions(proxy: FaultProxy) -> set[str]:
    """The partitions that storage was asked for."""
    found = set()
    for method, path, body in proxy.passed:
        if method == "POST":
            lines = body.decode().splitlines()
            found |= {json.loads(line)["PartitionKey"] for line in lines if line.startswith("{")}
            urls = [unquote(line) for line in lines if "(PartitionKey=" in line]
            found |= {re.findall(r"\(PartitionKey='(.*)',RowKey='", url)[0].replace("''", "'") for url in urls}
        elif entity := re.search(r"\(PartitionKey='(.*)',RowKey='", unquote(urlsplit(path).path)):
            found.add(entity[1].replace("''", "'"))
        else:
            (text,) = parse_qs(urlsplit(path).query)["$filter"]
            partition, rest = re.fullmatch(
                r"PartitionKey eq '((?:[^']|'')*)'(?: and RowKey (?:eq|ge|lt) '(?:[^']|'')*')+(?: and (\(.*\)))?",
                text,
                re.DOTALL,
            ).groups()  # type: ignore[union-attr]
            found.add(partition.replace("''", "'"))
            words = re.sub(r"'(?:[^']|'')*'", "", rest or "")
            assert "PartitionKey" not in words
            depth = [0]
            for word in words.split():
                depth.append(depth[-1] + (word == "(") - (word == ")"))
            assert all(level > 0 for level in depth[1:-1]), text
    return found


def test_no_request_touches_another_business(
    start_service: StartService, start_proxy: Callable[[], AbstractContextManager[FaultProxy]], issuer: Issuer
) -> None:
    rng, token, touched = random.Random(6), issuer.token(), 0

    async def attack(port: int, proxy: FaultProxy) -> int:
        touched = 0
        for _ in range(3000):
            raw = hostile(rng, token)
            proxy.passed.clear()
            await exchange(port, raw)
            if proxy.passed:
                path = raw.split(b" ", 2)[1].partition(b"?")[0].decode("latin-1")
                segments = split_path(path)
                business = segments[segments.index("customers") - 1]
                # Whether the table is indexed is written in a partition of its own.
                assert partitions(proxy) - {MARK["PartitionKey"]} == {business}, raw
                touched += 1
        return touched

    with start_proxy() as proxy, start_service(CUSTOMERS_STORAGE=connection_string(proxy.port)) as service:
        touched = asyncio.run(attack(int(service.base.rpartition(":")[2]), proxy))
    assert touched > 100


@pytest.mark.parametrize(
    "path", ["//", "//healthz", BETA.format("b").replace("/c", "//c"), f"/{BETA.format('b')}", f"{BETA.format('b')}//x"]
)
def test_two_slashes_in_a_row_lead_nowhere(client: httpx.Client, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert_error(client.request(method, str(client.base_url) + path), 404, "notFound", says="nothing at this path")


def test_a_method_is_understood_in_lower_case(client: httpx.Client) -> None:
    assert client.request("get", "/healthz").status_code == 200
    response = client.request("brew", BETA.format("b"))
    assert_error(response, 405, "methodNotAllowed")
    assert response.headers["Allow"] == "GET, POST"


def test_slow_clients_and_1000_connections_do_not_stop_the_others(start_service: StartService, issuer: Issuer) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard < 8192 else max(soft, 8192), hard))
    token = issuer.token()

    async def crowd(service: Service) -> None:
        port = int(service.base.rpartition(":")[2])
        writers = []
        for number in range(1000):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            if number % 2:
                writer.write(
                    b"POST /beta/bookingBusinesses/x/customers HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
                )
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=service.base, headers=headers, timeout=10) as client:
            for response in await asyncio.gather(*(client.post(BETA.format("x"), json=DOCUMENTED) for _ in range(20))):
                assert_customer(response)
        for writer in writers:
            writer.close()

    with start_service() as service:
        asyncio.run(crowd(service))


def test_past_its_capacity_the_service_refuses_at_once_and_recovers(
    start_service: StartService, start_proxy: Callable[[], AbstractContextManager[FaultProxy]], issuer: Issuer
) -> None:
    headers = {"Authorization": f"Bearer {issuer.token()}"}

    async def overload(base: str) -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=base, headers=headers, timeout=20, limits=limits) as client:
            return await asyncio.gather(*(client.post(BETA.format(uuid4()), json=DOCUMENTED) for _ in range(100)))

    with (
        start_proxy() as proxy,
        start_service(CUSTOMERS_STORAGE=connection_string(proxy.port), MAX_CONCURRENT_REQUESTS="8") as service,
    ):
        proxy.always = late(1)
        responses = asyncio.run(overload(service.base))
        proxy.reset()
        added = [response for response in responses if response.status_code == 201]
        assert 8 <= len(added) < 100
        for response in responses:
            if response not in added:
                assert_error(response, 429, "tooManyRequests", says="at its limit of concurrent requests")
        assert_customer(httpx.post(f"{service.base}{BETA.format('x')}", json=DOCUMENTED, headers=headers))


def test_requests_without_a_valid_token_use_up_no_capacity(
    start_service: StartService, start_proxy: Callable[[], AbstractContextManager[FaultProxy]], issuer: Issuer
) -> None:
    headers = {"Authorization": f"Bearer {issuer.token()}"}

    async def check(base: str, proxy: FaultProxy) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=base, timeout=30, limits=limits) as client:
            await client.post(BETA.format("x"), json=DOCUMENTED, headers=headers)
            await asyncio.sleep(1.5)  # until the last health check is forgotten
            proxy.always = late(1)
            health = [asyncio.create_task(client.get("/healthz")) for _ in range(40)]
            await asyncio.sleep(0.3)
            unknown = {"Authorization": f"Bearer {Issuer(new_key()).token()}"}
            junk = [asyncio.create_task(client.get(BETA.format("x"), headers=unknown)) for _ in range(20)]
            assert_customer(await client.post(BETA.format("x"), json=DOCUMENTED, headers=headers))
            assert {response.status_code for response in await asyncio.gather(*junk)} == {401}
            statuses = [response.status_code for response in await asyncio.gather(*health)]
            assert statuses.count(200) == 16
            assert statuses.count(429) == 24
            gets = [call for call in proxy.passed if "index" in call.path]
            assert len(gets) == 2  # one at the start of the service, one for all of these

    with (
        start_proxy() as proxy,
        start_service(CUSTOMERS_STORAGE=connection_string(proxy.port), MAX_CONCURRENT_REQUESTS="1") as service,
    ):
        asyncio.run(check(service.base, proxy))
        proxy.reset()


@pytest.mark.parametrize("text", ["a/" * 990, "(" * 1990, "not " * 490, "a(" * 990, "id eq 'a' or " * 150, "a:" * 990])
def test_a_hostile_filter_is_a_400_at_little_cost(client: httpx.Client, text: str) -> None:
    response = client.get(BETA.format("x"), params={"$filter": text})
    assert_error(response, 400, "badRequest", target="$filter")


@pytest.mark.parametrize("column", ["addresses", "phones", "createdDateTime"])
def test_a_corrupt_row_is_a_500_that_shows_no_data(
    service: Service, client: httpx.Client, table: object, column: str
) -> None:
    business = str(uuid4())
    customer = assert_customer(client.post(BETA.format(business), json=DOCUMENTED))
    row = {"PartitionKey": business, "RowKey": customer["id"], column: '[{"planet": "SECRET-EARTH"}]'}
    table.update_entity(row)  # type: ignore[attr-defined]
    error = assert_error(client.get(f"{BETA.format(business)}/{customer['id']}"), 500, "internalServerError")
    # The trace and the line of the request.
    assert len(service.lines(error["innerError"]["request-id"], at_least=2)) == 2
    log = service.log.read_text()
    assert "SECRET-EARTH" not in log
    assert "table.py" in log
