"""What the tests run against: a real Azurite, the local token issuer, and the service on a Functions host.

The host is the local one, or, with FUNCTIONS_HOST=func, Azure's own.
"""

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from azure.data.tables import TableClient
from hypothesis import settings

from customers.partition import is_customer_row
from infra.local.issuer import Issuer, new_key
from infra.local.run import app_settings, azurite, connection_string, functions_host, make_table
from tests.support.processes import app_process
from tests.support.proxy import FaultProxy

# The Bicep compiler, Kusto's parser, the Azure CLI and the package are used where they are asked for by name (make
# test-infra); the Graph SDKs, and the tools for the description and the page, are not in the everyday environment.
_ELSEWHERE = {"sdk": "msgraph", "docs": "schemathesis"}
collect_ignore = [
    *(f"infra/test_{name}.py" for name in ("bicep", "queries", "azure_cli", "deployment", "package")),
    *(folder for folder, package in _ELSEWHERE.items() if not find_spec(package)),
]

# A slow machine is no fault of what is tested.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


class Service(NamedTuple):
    """A running service: its base URL, where it logs to, and the id of the process that runs the app."""

    base: str
    log: Path
    pid: int

    def lines(self, text: str, *, at_least: int = 1) -> list[str]:
        """The lines of the log that contain a text, once there are so many, without the time that Core Tools adds."""
        found: list[str] = []
        for _ in range(100):
            found = [_TIME.sub("", line) for line in self.log.read_text().splitlines() if text in line]
            if len(found) >= at_least:
                break
            time.sleep(0.1)
        return found


_TIME = re.compile(r"^\[[0-9TZ:.-]+\] ")


class Storage(NamedTuple):
    """A running Azurite, and its connection string."""

    port: int
    connection_string: str


type StartService = Callable[..., AbstractContextManager[Service]]


_given: set[int] = set()


def free_port() -> int:
    """A port that nothing listens on, and another one each time."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    """An event loop in a thread of its own, for what runs beside the tests."""
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture(scope="session")
def storage(portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """An Azurite in memory, with the table made."""
    port = free_port()
    log = tmp_path_factory.mktemp("azurite") / "log"
    with portal.wrap_async_context_manager(azurite(port, None, log)):
        storage = Storage(port, connection_string(port))
        portal.call(make_table, storage.connection_string)
        yield storage


class PublishedIssuer(NamedTuple):
    """An issuer, the URL of its metadata, and what ends the publication."""

    issuer: Issuer
    metadata_url: str
    stop: Callable[[], None]


type PublishIssuer = Callable[[], AbstractContextManager[PublishedIssuer]]


@pytest.fixture(scope="session")
def publish_issuer(portal: BlockingPortal) -> PublishIssuer:
    """Publish an issuer with a key of its own."""

    @contextmanager
    def publish() -> Iterator[PublishedIssuer]:
        issuer = Issuer(new_key())
        runner, metadata_url = portal.call(issuer.serve)

        def stop() -> None:
            portal.call(runner.cleanup)

        try:
            yield PublishedIssuer(issuer, metadata_url, stop)
        finally:
            stop()

    return publish


@pytest.fixture(scope="session")
def published(publish_issuer: PublishIssuer) -> Iterator[PublishedIssuer]:
    """The issuer that the services trust."""
    with publish_issuer() as published:
        yield published


@pytest.fixture(scope="session")
def issuer(published: PublishedIssuer) -> Issuer:
    """What signs the tokens."""
    return published.issuer


@pytest.fixture(scope="session")
def start_service(
    portal: BlockingPortal, published: PublishedIssuer, storage: Storage, tmp_path_factory: pytest.TempPathFactory
) -> StartService:
    """Start a service, of the app in ``folder`` or of this one; other keywords change its settings."""

    @contextmanager
    def start(*, folder: Path | None = None, **changed: str) -> Iterator[Service]:
        port = free_port()
        log = tmp_path_factory.mktemp("service") / "log"
        usual = app_settings(storage=storage.connection_string, metadata_url=published.metadata_url)
        with (
            log.open("w") as output,
            portal.wrap_async_context_manager(
                functions_host(port, {**usual, **changed}, output=output, folder=folder)
            ) as process,
        ):
            yield Service(f"http://127.0.0.1:{port}", log, app_process(process.pid))

    return start


@pytest.fixture(scope="session")
def service(start_service: StartService) -> Iterator[Service]:
    """The service with its usual settings."""
    with start_service() as service:
        yield service


@pytest.fixture
def client(service: Service, issuer: Issuer) -> Iterator[httpx.Client]:
    """A client of the service, with a good token."""
    with httpx.Client(base_url=service.base, headers={"Authorization": f"Bearer {issuer.token()}"}) as client:
        yield client


@pytest.fixture
def anonymous(service: Service) -> Iterator[httpx.Client]:
    """A client without a token."""
    with httpx.Client(base_url=service.base) as client:
        yield client


@pytest.fixture(scope="session")
def table(storage: Storage) -> Iterator[TableClient]:
    """The table itself, past the service and the proxy."""
    with TableClient.from_connection_string(storage.connection_string, "customers") as table:
        yield table


@pytest.fixture
def own_table(storage: Storage, portal: BlockingPortal) -> Iterator[TableClient]:
    """A table of the test's own, for what concerns a whole table."""
    name = f"own{uuid4().hex[:12]}"
    portal.call(make_table, storage.connection_string, name)
    with TableClient.from_connection_string(storage.connection_string, name) as table:
        yield table
        table.delete_table()


def rows(table: TableClient, business: str) -> list[dict[str, Any]]:
    """All customers of a business."""
    found = table.query_entities("PartitionKey eq @b", parameters={"b": business})
    return [dict(row) for row in found if is_customer_row(row)]


@pytest.fixture(scope="session")
def start_proxy(portal: BlockingPortal, storage: Storage) -> Callable[[], AbstractContextManager[FaultProxy]]:
    """Put a proxy that makes faults before Azurite."""

    @contextmanager
    def start() -> Iterator[FaultProxy]:
        with ExitStack() as stack:
            proxy = FaultProxy(f"http://127.0.0.1:{storage.port}")
            stack.callback(portal.call, proxy.stop)
            portal.call(proxy.start)
            yield proxy

    return start
