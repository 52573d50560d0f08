"""Inserts that are made together: when they begin, and that each gets its own outcome."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import pytest
from azure.core.exceptions import ServiceRequestError

from customers.insert import MAX_BYTES, MAX_PARTS
from customers.insert_group import InsertGroup


class Storage:
    """Stands for the insert: notes the parts of each transaction, and fails those that it is told to."""

    def __init__(self, *errors: Exception | None, size: int = 1) -> None:
        self.transactions: list[list[str]] = []
        self._errors = list(errors)
        self._size = size

    def part(self, row: dict[str, str], _: object) -> bytes:
        """A part that has the row's key, and that size."""
        return row["RowKey"].encode().ljust(self._size)

    async def all(self, parts: Sequence[bytes], *, operation_id: str) -> list[str]:
        """Write, and return the keys as ETags."""
        assert operation_id == "batch"
        keys = [part.decode().strip() for part in parts]
        self.transactions.append(keys)
        await asyncio.sleep(0)
        if self._errors and (error := self._errors.pop(0)):
            raise error
        return keys

    async def __call__(self, row: dict[str, str], _: object, *, operation_id: str) -> str:
        """Write one."""
        assert operation_id == "own"
        self.transactions.append([row["RowKey"]])
        return row["RowKey"]


def run(storage: Storage, scenario: Callable[[InsertGroup], Awaitable[Any]]) -> Any:
    """Run a scenario with a group that writes there."""

    async def opened() -> Any:
        return storage

    async def main() -> Any:
        group = InsertGroup(opened, operation_id="batch")
        try:
            return await scenario(group)
        finally:
            group.close()

    return asyncio.run(main())


def row(key: str, business: str = "b") -> dict[str, str]:
    """A row."""
    return {"PartitionKey": business, "RowKey": key}


async def insert_all(group: InsertGroup, *keys: str) -> list[Any]:
    """Insert rows with these keys, each from a place of its own."""
    places = [group.place() for _ in keys]
    inserts = (place(row(key), {}, operation_id="own") for place, key in zip(places, keys, strict=True))
    return await asyncio.gather(*inserts, return_exceptions=True)


def test_all_are_one_transaction_and_each_gets_its_etag() -> None:
    storage = Storage()
    assert run(storage, lambda group: insert_all(group, "a", "b", "c")) == ["a", "b", "c"]
    assert storage.transactions == [["a", "b", "c"]]


def test_a_place_that_is_left_is_not_waited_for() -> None:
    async def scenario(group: InsertGroup) -> str:
        left, used = group.place(), group.place()
        inserting = asyncio.create_task(used(row("a"), {}, operation_id="own"))
        await asyncio.sleep(0)
        left.leave()
        left.leave()
        async with asyncio.timeout(0.02):
            return await inserting

    assert run(Storage(), scenario) == "a"


def test_a_place_that_is_not_used_in_time_is_on_its_own() -> None:
    storage = Storage()

    async def scenario(group: InsertGroup) -> list[str]:
        slow, used = group.place(), group.place()
        return [await used(row("a"), {}, operation_id="own"), await slow(row("b"), {}, operation_id="own")]

    assert run(storage, scenario) == ["a", "b"]
    assert storage.transactions == [["a"], ["b"]]


def test_a_second_attempt_is_made_alone() -> None:
    storage = Storage(ServiceRequestError("lost"))

    async def scenario(group: InsertGroup) -> str:
        place, other = group.place(), group.place()
        results = await asyncio.gather(
            place(row("a"), {}, operation_id="own"), other(row("b"), {}, operation_id="own"), return_exceptions=True
        )
        assert [type(result) for result in results] == [ServiceRequestError] * 2
        return await place(row("a"), {}, operation_id="own")

    assert run(storage, scenario) == "a"
    assert storage.transactions == [["a", "b"], ["a"]]


@pytest.mark.parametrize(("number", "size"), [(MAX_PARTS + 1, 1), (20, MAX_BYTES // 8)])
def test_a_transaction_is_no_larger_than_storage_takes(number: int, size: int) -> None:
    storage = Storage(size=size)
    keys = [str(key) for key in range(number)]
    assert run(storage, lambda group: insert_all(group, *keys)) == keys
    assert [key for keys in storage.transactions for key in keys] == keys
    assert len(storage.transactions) > 1
    assert max(len(keys) for keys in storage.transactions) <= MAX_PARTS
    assert max(len(keys) for keys in storage.transactions) * size <= MAX_BYTES


def test_a_transaction_that_nobody_waits_for_is_given_up() -> None:
    given_up = asyncio.Event()

    class Silent(Storage):
        async def all(self, *_: Any, **__: Any) -> list[str]:
            try:
                return cast("list[str]", await asyncio.Event().wait())
            except asyncio.CancelledError:
                given_up.set()
                raise

    async def scenario(group: InsertGroup) -> None:
        places = [group.place() for _ in range(2)]

        async def insert(key: str) -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await places.pop()(row(key), {}, operation_id="own")

        await asyncio.gather(insert("a"), insert("b"))
        async with asyncio.timeout(1):
            await given_up.wait()

    run(Silent(), scenario)
