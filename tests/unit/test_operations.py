"""The operations, where no request over HTTP can provoke what is to be seen in a reasonable time."""

import asyncio
import json

import azure.functions as func
import pytest

from customers import operations
from customers.batch import Member
from customers.insert_group import Place
from customers.operations import Operations
from customers.request import Request
from customers.settings import Settings
from customers.storage import Connection
from tests.unit.test_settings import DEPLOYED


@pytest.mark.parametrize(("longest", "refused"), [(220.0, [False, False]), (0.0, [False, True])])
def test_a_batch_begins_nothing_that_would_end_too_late(
    monkeypatch: pytest.MonkeyPatch, longest: float, refused: list[bool]
) -> None:
    monkeypatch.setattr(operations, "_LONGEST_BATCH", longest)
    settings = Settings.from_environment(DEPLOYED)
    url = "/solutions/bookingBusinesses/b/customers"
    requests = [
        {"id": "1", "method": "GET", "url": url},
        {"id": "2", "method": "GET", "url": url, "dependsOn": ["1"]},
    ]
    performed: list[Member] = []

    async def perform(member: Member, _: Place | None) -> func.HttpResponse:
        performed.append(member)
        return func.HttpResponse(b"{}")

    request = Request(
        "POST",
        "http://x/v1.0/$batch",
        {"content-type": "application/json"},
        json.dumps({"requests": requests}).encode(),
        ids={},
    )
    request.perform = perform
    asyncio.run(Operations(settings, Connection(settings)).batch(request))
    assert [member.problem is not None for member in performed] == refused
    assert [member.problem.status for member in performed if member.problem] == [503] * sum(refused)
