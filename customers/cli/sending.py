"""Sends the valid lines of a file in batches, and finds out what became of each."""

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from customers.batch import MAX_REQUESTS
from customers.cli.lines import Line
from customers.cli.progress import Progress
from customers.cli.rejects import Refusals
from customers.cli.service import Result, Service
from customers.email_index import fold
from customers.model import CustomerProperties

_BATCHES_AT_ONCE = 8
_LOOKUPS_AT_ONCE = 2
"""Batches of lookups by address: each is a query of storage, which takes more than an add."""

_LARGEST_BATCH = 600_000
"""In characters of customers, so that twenty large ones stay below the usual limit of a body."""

_NAMES = tuple(str(one.alias) for one in CustomerProperties.model_fields.values())


@dataclass
class Counts:
    """What became of the customers of a file."""

    added: int = 0
    there: int = 0
    changed: int = 0
    known: int = 0
    rejected: int = 0

    def __str__(self) -> str:
        """One line for a person or a script."""
        changed = f" ({self.changed} changed since)" if self.changed else ""
        return (
            f"{self.added} added, {self.there} already there{changed}, {self.known} skipped as known, "
            f"{self.rejected} rejected"
        )


@dataclass(eq=False)
class _Chunk:
    """Lines for one batch, and what must be done before: earlier chunks that concern the same customers."""

    lines: list[Line] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    size: int = 0
    after: list[asyncio.Event] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Import:
    """Sends the valid lines of a file, several batches at a time."""

    def __init__(
        self, service: Service, refusals: Refusals, counts: Counts, progress: Progress, *, skip_known: bool
    ) -> None:
        self._service = service
        self._refusals = refusals
        self._counts = counts
        self._progress = progress
        self._skip_known = skip_known
        # By the ids, and the addresses if known ones are skipped, of the lines that are being sent.
        self._holders: dict[str, _Chunk] = {}
        self._look_first = False
        self._lookups = asyncio.Semaphore(_LOOKUPS_AT_ONCE)

    async def send(self, lines: Iterable[Line]) -> None:
        """Send the lines. Of two that concern one customer, the first is done before the second begins.

        Raises UsageError and Unreachable.
        """
        chunks = self._chunks(lines)

        async def work() -> None:
            for chunk in chunks:
                for earlier in chunk.after:
                    await earlier.wait()
                await self._send(chunk.lines)
                self._release(chunk)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_BATCHES_AT_ONCE):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def _chunks(self, lines: Iterable[Line]) -> Iterator[_Chunk]:
        chunk = _Chunk()
        for line in lines:
            keys = [f"id {line.id}"]
            if self._skip_known:
                keys.append(f"address {fold(line.address)}")
            size = len(line.body)
            full = len(chunk.lines) == MAX_REQUESTS or chunk.size + size > _LARGEST_BATCH
            if chunk.lines and (full or any(self._holders.get(key) is chunk for key in keys)):
                yield chunk
                chunk = _Chunk()
            for key in keys:
                if key in self._holders and self._holders[key] is not chunk:
                    chunk.after.append(self._holders[key].done)
                self._holders[key] = chunk
            chunk.lines.append(line)
            chunk.keys += keys
            chunk.size += size
        if chunk.lines:
            yield chunk

    def _release(self, chunk: _Chunk) -> None:
        for key in chunk.keys:
            if self._holders.get(key) is chunk:
                del self._holders[key]
        chunk.done.set()

    async def _send(self, lines: Sequence[Line]) -> None:
        number = len(lines)
        if self._skip_known:
            lines = await self._leave_out_known(lines)
        if self._look_first:
            lines = await self._leave_out_those_there(lines)
        await self._add(lines)
        self._progress.advance(number)

    async def _leave_out_known(self, lines: Sequence[Line]) -> list[Line]:
        """The lines whose address the business does not have."""
        async with self._lookups:
            results = await self._service.batch([self._service.find(line.address) for line in lines])
        left = []
        for line, result in zip(lines, results, strict=True):
            found = [one["id"] for one in result.body["value"]] if result.status == 200 else None
            if found is None:
                self._refuse(line, result)
            elif line.id in found:
                self._counts.there += 1
            elif found:
                self._counts.known += 1
            else:
                left.append(line)
        return left

    async def _leave_out_those_there(self, lines: Sequence[Line]) -> list[Line]:
        """The lines whose id the business does not have. In a repeated import, this costs less than adds that fail."""
        left = await self._compare([(line, False) for line in lines])
        self._look_first = len(left) * 2 < len(lines)
        return left

    async def _add(self, lines: Sequence[Line]) -> None:
        if not lines:
            return
        taken: list[tuple[Line, bool]] = []
        results = await self._service.batch([self._service.add(line.body.encode()) for line in lines])
        for line, result in zip(lines, results, strict=True):
            if result.status in (201, 204):
                self._counts.added += 1
            elif result.status == 409:
                taken.append((line, result.repeated))
            else:
                self._refuse(line, result)
        self._look_first |= len(taken) * 2 > len(lines)
        for line in await self._compare(taken):
            self._refusals.refuse(
                line.record, "the customer with this id was deleted during the import; import it again"
            )
            self._counts.rejected += 1

    async def _compare(self, lines: Sequence[tuple[Line, bool]]) -> list[Line]:
        """Count the lines whose id the business has, and return the others.

        The flag is whether an earlier attempt may have added the customer.
        """
        if not lines:
            return []
        missing = []
        results = await self._service.batch([self._service.get(line.id) for line, _ in lines])
        for (line, may_be_ours), result in zip(lines, results, strict=True):
            if result.status == 404:
                missing.append(line)
            elif result.status != 200:
                self._refuse(line, result)
            elif _said(result.body) == _said(json.loads(line.body)):
                self._counts.added += may_be_ours
                self._counts.there += not may_be_ours
            elif line.is_own_id:
                self._refusals.refuse(
                    line.record, f"the business has another customer with the id {line.id}, which is unchanged"
                )
                self._counts.rejected += 1
            else:
                self._counts.there += 1
                self._counts.changed += 1
        return missing

    def _refuse(self, line: Line, result: Result) -> None:
        self._refusals.refuse(line.record, f"the service refuses it: {result.message}")
        self._counts.rejected += 1


def _said(customer: Mapping[str, Any]) -> Any:
    """The properties of a customer, to compare. Null, empty and absent are the same, as they are in a CSV file."""
    return _without_empty({name: customer.get(name) for name in _NAMES})


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: item for name, own in value.items() if (item := _without_empty(own))}
    if isinstance(value, list | tuple):
        return [item for own in value if (item := _without_empty(own))]
    return value
