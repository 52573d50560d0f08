"""The file of a backup: read back as it was written, continued where it stopped, and refused unless it is whole."""

import gzip
import tracemalloc
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from azure.data.tables import TableEntity
from azure.data.tables._deserialize import _convert_to_entity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from customers.cli.backup_file import Writer, check, read, ticks, to_columns, to_entity
from customers.cli.command import UsageError

SUBJECT = {"account": "a", "table": "customers", "business": None}
STORED = {
    "odata.etag": "W/\"datetime'2026-11-24T10%3A00%3A00.1234567Z'\"",
    "PartitionKey": "Contoso",
    "RowKey": "x",
    "Timestamp": "2026-11-24T10:00:00.1234567Z",
    "text": "é'\U0001f600\n",
    "empty": "",
    "yes": True,
    "small": -1,
    "large@odata.type": "Edm.Int64",
    "large": "-9223372036854775808",
    "small as large@odata.type": "Edm.Int64",
    "small as large": "1",
    "half": 0.5,
    "whole@odata.type": "Edm.Double",
    "whole": 1.0,
    "nothing@odata.type": "Edm.Double",
    "nothing": "NaN",
    "endless@odata.type": "Edm.Double",
    "endless": "-Infinity",
    "when@odata.type": "Edm.DateTime",
    "when": "2026-11-24T10:00:00.1234567Z",
    "second@odata.type": "Edm.DateTime",
    "second": "1601-01-01T00:00:00Z",
    "bytes@odata.type": "Edm.Binary",
    "bytes": "AP8=",
    "guid@odata.type": "Edm.Guid",
    "guid": "7d3b1c52-4f0e-4b8a-9c61-0f2a5e8d9b34",
}


def stored(**columns: Any) -> TableEntity:
    """A row as the storage client makes it from what storage sends."""
    entity: TableEntity = _convert_to_entity({**STORED, **columns})  # type: ignore[no-untyped-call]
    return entity


def write(path: Path, pages: list[list[TableEntity]]) -> None:
    """Write a whole backup."""
    writer = Writer(path, SUBJECT, began="2026-11-24T10:00:00Z")
    for number, page in enumerate(pages, 1):
        writer.page(page, {"PartitionKey": "1", "RowKey": str(number)} if number < len(pages) else None)
    writer.finish()


def test_every_type_is_read_back_as_storage_had_it(tmp_path: Path) -> None:
    write(tmp_path / "b", [[stored()]])
    (row,) = read(tmp_path / "b")
    assert (row.key, row.timestamp, row.etag) == (("Contoso", "x"), STORED["Timestamp"], STORED["odata.etag"])
    assert row.columns == to_columns(stored())
    exact = {name: value for name, value in STORED.items() if name not in ("Timestamp", "odata.etag")}
    assert row.columns == {**exact, "half@odata.type": "Edm.Double"}
    sent = to_entity(row.columns)
    assert sent["large"] == ("-9223372036854775808", "Edm.Int64")
    assert sent["bytes"] == (b"\x00\xff", "Edm.Binary")
    assert sent["when"] == (STORED["when"], "Edm.DateTime")
    assert (sent["text"], sent["yes"], sent["small"]) == (STORED["text"], True, -1)


@pytest.mark.parametrize("pages", [[[]], [[stored()]], [[], [stored(RowKey="1")], [stored(RowKey="2")] * 3, []]])
def test_a_whole_file_says_how_many_rows_it_has(tmp_path: Path, pages: list[list[TableEntity]]) -> None:
    write(tmp_path / "b", pages)
    assert check(tmp_path / "b") == (None, sum(map(len, pages)))
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
    with gzip.open(tmp_path / "b") as file:  # any tool can read it
        assert file.read().count(b"\n") == 1 + sum(map(len, pages)) + len(pages)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_that_was_cut_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    if not whole.exists():
        write(whole, [[stored(RowKey=str(n))] for n in range(4)])
    size = whole.stat().st_size
    cut.write_bytes(whole.read_bytes()[: data.draw(st.integers(0, size - 1))])
    with pytest.raises(UsageError):
        check(cut)


def test_what_lacks_a_row_or_is_something_else_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "b", [[stored(RowKey="1"), stored(RowKey="2")]])
    lines = gzip.decompress((tmp_path / "b").read_bytes()).splitlines(keepends=True)
    for content, says in (
        (b"".join(lines[:1] + lines[2:]), "counts 2 rows, but it has 1"),
        (b"".join(lines[1:]), "not a backup"),
        (lines[0].replace(b'"version": 1', b'"version": 2'), "this version"),
        (b"".join([lines[0], b"[]\n", *lines[1:]]), "line 2"),
        (b"".join([lines[0], b"{\n", *lines[1:]]), "line 2"),
        (b"".join([lines[0], b'{"PartitionKey": "x"}\n', *lines[1:]]), "line 2"),
        (b"".join([lines[0], b'"PartitionKey"\n', *lines[1:]]), "line 2"),
        (b"".join([lines[0], lines[1].replace(b'"RowKey": "1"', b'"x": "1"'), *lines[2:]]), "line 2"),
        (b"".join([lines[0], lines[1].replace(b'"RowKey": "1"', b'"RowKey": 1'), *lines[2:]]), "line 2"),
        (b"", "not complete"),
    ):
        (tmp_path / "b").write_bytes(gzip.compress(content))
        with pytest.raises(UsageError, match=says):
            check(tmp_path / "b")
    (tmp_path / "b").write_bytes(b"PartitionKey,RowKey\n")
    with pytest.raises(UsageError):
        check(tmp_path / "b")
    with pytest.raises(UsageError, match="cannot be read"):
        check(tmp_path / "none")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_an_unfinished_file_is_continued_after_its_last_whole_page(tmp_path: Path, data: st.DataObject) -> None:
    pages = [[stored(RowKey=f"{page}{n}") for n in range(3)] for page in range(4)]
    path = tmp_path / "b"
    path.unlink(missing_ok=True)
    first = Writer(path, SUBJECT, began="then")
    for number, page in enumerate(pages[:3]):
        first.page(page, {"PartitionKey": "", "RowKey": str(number + 1)})
    first.close()
    content = first.unfinished.read_bytes()
    first.unfinished.write_bytes(content[: data.draw(st.integers(0, len(content)))])

    second = Writer(path, SUBJECT, began="now")
    reached = int((second.place or {})["RowKey"] or 0) if second.place else 0
    assert second.rows == 3 * reached
    for number, page in enumerate(pages[reached:], reached + 1):
        second.page(page, {"PartitionKey": "", "RowKey": str(number)} if number < 4 else None)
    second.finish()
    assert [row.columns["RowKey"] for row in read(path)] == [row["RowKey"] for page in pages for row in page]


def test_a_file_that_is_there_or_of_another_backup_is_never_overwritten(tmp_path: Path) -> None:
    Writer(tmp_path / "b", SUBJECT, began="then").close()
    with pytest.raises(UsageError, match="another backup"):
        Writer(tmp_path / "b", {**SUBJECT, "business": "x"}, began="now")
    (tmp_path / "b").touch()
    with pytest.raises(UsageError, match="exists"):
        Writer(tmp_path / "b", SUBJECT, began="now")


def test_reading_takes_the_same_memory_however_long_the_file_is(tmp_path: Path) -> None:
    page = [stored(RowKey=str(n), text="x" * 2000) for n in range(200)]
    write(tmp_path / "b", [page] * 50)  # 20 MB of rows
    tracemalloc.start()
    try:
        assert check(tmp_path / "b").rows == 10_000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_timestamps_are_compared_to_the_precision_of_storage() -> None:
    first, second, third = "2026-11-24T10:00:00Z", "2026-11-24T10:00:00.0000001Z", "2026-11-24T10:00:00.1Z"
    assert ticks(first) < ticks(second) < ticks(third)
    assert ticks("2026-11-24T10:00:00.1000000Z") == ticks("2026-11-24T10:00:00.1Z")
    assert ticks("1970-01-01T00:00:01.5Z") == 15_000_000
    assert datetime.fromisoformat("2026-11-24T10:00:00.1234567Z").microsecond == 123456
