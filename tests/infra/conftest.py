"""The real Azure CLI, signed in to a stand-in of Azure."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal

from tests.support.cloud import Cloud, Graph

AZ = Path(".local/azure-cli/bin/az").absolute()


@pytest.fixture(scope="module")
def cloud(portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud of this machine, to which the Azure CLI is signed in."""
    cloud = Cloud(tmp_path_factory.mktemp("cloud"), AZ)
    with portal.wrap_async_context_manager(cloud.serve()):
        cloud.sign_in()
        yield cloud


@pytest.fixture
def graph(cloud: Cloud) -> Graph:
    """An empty tenant."""
    cloud.graph.__init__()  # type: ignore[misc]
    return cloud.graph
