"""Adds of one batch written together: those of a business are one transaction of Table Storage.

Only the first attempt of each add is made here. What comes of it is to the add what it would be alone, so ``table.py``
finds out and repeats, for each by itself. If a transaction is refused because a key is taken, the others are tried
again without it. Any other error is the error of each.

Source: "Performing entity group transactions".
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from azure.core.exceptions import HttpResponseError, ResourceExistsError

from customers.insert import MAX_BYTES, MAX_PARTS, Insert, refused_part

_MAX_REFUSALS = 3
"""After one more key that was taken, all get that error: a batch that is repeated has hardly anything else."""

_MALFORMED = (400, 413)
"""The statuses of a transaction that storage does not take as it is."""

_PATIENCE = 0.05
"""In seconds. An add that is not ready by then is on its own."""

type _Row = Mapping[str, str | datetime]


class _Waiting(NamedTuple):
    """An add that waits: its rows, and what it will get."""

    row: _Row
    index_row: _Row
    etag: asyncio.Future[str]


class InsertGroup:
    """Inserts of adds that begin at the same time, each from a place of its own.

    It starts as soon as each place has been used or left. For one event loop.
    """

    def __init__(self, insert: Callable[[], Awaitable[Insert]], *, operation_id: str) -> None:
        self._insert = insert
        self._operation_id = operation_id
        self._awaited = 0
        self._waiting: list[_Waiting] = []
        self._impatience: asyncio.TimerHandle | None = None
        self._started = False
        self._tasks: list[asyncio.Task[None]] = []

    def place(self) -> "Place":
        """One more place."""
        self._awaited += 1
        return Place(self)

    def close(self) -> None:
        """Give up what is still under way: nobody waits for it."""
        if self._impatience:
            self._impatience.cancel()
        for task in self._tasks:
            task.cancel()

    async def insert(self, row: _Row, index_row: _Row, *, operation_id: str, alone: bool) -> str:
        """Insert a row with its index row, together with others unless it is alone or too late."""
        if alone or self._started:
            return await (await self._insert())(row, index_row, operation_id=operation_id)
        loop = asyncio.get_running_loop()
        etag: asyncio.Future[str] = loop.create_future()
        self._waiting.append(_Waiting(row, index_row, etag))
        if self._impatience is None:
            self._impatience = loop.call_later(_PATIENCE, self._start)
        self.one_less()
        try:
            return await etag
        except asyncio.CancelledError:
            if all(waiting.etag.done() for waiting in self._waiting):
                self.close()
            raise

    def one_less(self) -> None:
        """Wait for one add less."""
        self._awaited -= 1
        if self._awaited == 0:
            self._start()

    def _start(self) -> None:
        if self._started:
            return
        self._started = True
        businesses: dict[str, list[_Waiting]] = {}
        for waiting in self._waiting:
            businesses.setdefault(str(waiting.row["PartitionKey"]), []).append(waiting)
        self._tasks = [asyncio.create_task(self._write(adds)) for adds in businesses.values()]

    async def _write(self, adds: Sequence[_Waiting]) -> None:
        """Write the adds of one business."""
        try:
            insert = await self._insert()
            parts = [_Part(add, insert.part(add.row, add.index_row)) for add in adds]
            # A transaction may have a row once. Of two adds with one id, the second finds what became of the first.
            firsts = {part.add.row["RowKey"]: part for part in reversed(parts)}
            for chunk in _chunks([part for part in parts if firsts[part.add.row["RowKey"]] is part]):
                await self._write_together(insert, chunk)
            await self._write_each(insert, parts)
        except Exception as error:  # noqa: BLE001 - each add decides what it means
            _fail(adds, error)

    async def _write_together(self, insert: Insert, parts: Sequence["_Part"], refusals: int = 0) -> None:
        """Write all of these adds or none, and again without one whose key is taken."""
        # Whoever has stopped waiting must not be written any more.
        parts = [part for part in parts if not part.add.etag.done()]
        if not parts:
            return
        try:
            etags = await insert.all([part.text for part in parts], operation_id=self._operation_id)
        except ResourceExistsError as taken:
            refused = refused_part(taken)
            if refused is None or refused >= len(parts) or refusals == _MAX_REFUSALS:
                _fail([part.add for part in parts], taken)
                return
            _fail([parts[refused].add], taken)
            await self._write_together(insert, parts, refusals + 1)
        except Exception as error:  # noqa: BLE001 - each add decides what it means
            if len(parts) > 1 and isinstance(error, HttpResponseError) and error.status_code in _MALFORMED:
                # Because of one of them, or because they are together.
                await self._write_each(insert, parts)
            else:
                _fail([part.add for part in parts], error)
        else:
            for part, etag in zip(parts, etags, strict=True):
                if not part.add.etag.done():
                    part.add.etag.set_result(etag)

    async def _write_each(self, insert: Insert, parts: Sequence["_Part"]) -> None:
        """Write each of these adds by itself."""
        await asyncio.gather(*(self._write_together(insert, [part]) for part in parts))


class Place:
    """The insert of one add: the first time together with those in the other places, then by itself."""

    def __init__(self, group: InsertGroup) -> None:
        self._group = group
        self._used = False

    async def __call__(self, row: _Row, index_row: _Row, *, operation_id: str) -> str:
        """Insert a row and its index row, as ``Insert`` does."""
        alone, self._used = self._used, True
        return await self._group.insert(row, index_row, operation_id=operation_id, alone=alone)

    def leave(self) -> None:
        """Do without the place, if it has not been used."""
        if not self._used:
            self._used = True
            self._group.one_less()


class _Part(NamedTuple):
    """An add, and what inserts it."""

    add: _Waiting
    text: bytes


def _chunks(parts: Sequence[_Part]) -> Iterator[list[_Part]]:
    """The parts, as many at a time as a transaction may have."""
    chunk: list[_Part] = []
    size = 0
    for part in parts:
        if chunk and (len(chunk) == MAX_PARTS or size + len(part.text) > MAX_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(part)
        size += len(part.text)
    if chunk:
        yield chunk


def _fail(adds: Iterable[_Waiting], error: Exception) -> None:
    for add in adds:
        if not add.etag.done():
            add.etag.set_exception(error)
