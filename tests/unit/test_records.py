"""Reading the files that customers are imported from, and writing what was refused so that it can be imported."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from customers.cli.command import UsageError
from customers.cli.records import MAX_LENGTH, File, Record
from customers.cli.rejects import Rejects

HEADER = "displayName,emailAddress,phone\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file to import."""
    return tmp_path / "customers"


def read(path: Path, content: str | bytes, mapping: Mapping[str, str] | None = None, encoding: str = "utf-8") -> Any:
    """The records of a file with that content."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with File(path, mapping or {}, encoding) as file:
        first, again = list(file.source.records()), list(file.source.records())
        assert first == again
        return first


def customers(records: list[Record]) -> list[Any]:
    """What the records hold; the problem of one that holds no customer."""
    return [record.problem or customer(record) for record in records]


def customer(record: Record) -> Any:
    """What a record holds."""
    return record.customer if isinstance(record.customer, dict) else json.loads(record.customer)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_delimiters_line_ends_and_the_mark_of_excel(path: Path, delimiter: str, end: str, start: bytes) -> None:
    lines = [["displayName", "emailAddress", "phone"], ["Jürgen", "j@x", "1"], ["", "", ""], ["Ada", "a@x", ""]]
    text = end.join(delimiter.join(line) for line in lines)
    records = read(path, start + text.encode())
    assert [record.line for record in records] == [2, 4]
    assert customers(records) == [
        {"displayName": "Jürgen", "emailAddress": "j@x", "phones": [{"number": "1"}]},
        {"displayName": "Ada", "emailAddress": "a@x"},
    ]


def test_the_delimiter_that_excel_declares(path: Path) -> None:
    assert customers(read(path, "sep=;\r\ndisplayName;emailAddress\r\nAda, B.;a@x\r\n")) == [
        {"displayName": "Ada, B.", "emailAddress": "a@x"}
    ]


def test_quoted_values_may_hold_anything_and_spaces_after_a_comma_mean_nothing(path: Path) -> None:
    records = read(path, HEADER + '"Ada ""The"" B., C", a@x,"1\n2"\n" Bob ",b@x,\n')
    assert [(record.line, *customer(record).values()) for record in records] == [
        (2, 'Ada "The" B., C', "a@x", [{"number": "1\n2"}]),
        (4, " Bob ", "b@x"),
    ]


def test_a_bad_row_costs_no_other(path: Path) -> None:
    bad = '"Ada,a@x,1\n"Bob"y,b@x,\nEve,e@x\nEve,e@x,1,2\nEve,e@x,1,,\nMa"x,m@x,"1"\n"open,o@x,\n'
    records = read(path, HEADER + bad)
    assert [record.line for record in records] == [2, 3, 4, 5, 6, 7, 8]
    problems = [record.problem for record in records]
    assert [bool(problem) for problem in problems] == [True, True, True, True, False, False, True]
    assert "quotation mark" in problems[0]
    assert "quotation mark" in problems[6]
    assert "2 values for 3 columns" in problems[2]
    assert "5 values for 3" in problems[3] or "4 values for 3" in problems[3]
    assert customer(records[5])["displayName"] == 'Ma"x'


def test_bytes_that_are_no_text_are_told_by_line_and_kept(path: Path, tmp_path: Path) -> None:
    content = HEADER.encode() + "Jürgen,j@x,\n".encode("windows-1252") + b"Ada,a@x,\n"
    records = read(path, content)
    assert "--encoding windows-1252" in records[0].problem
    assert customer(records[1])["displayName"] == "Ada"
    assert customers(read(path, content, encoding="windows-1252"))[0]["displayName"] == "Jürgen"
    with File(path, {}) as file:
        rejects = Rejects(tmp_path / "rejects", file)
        rejects.add(records[0], "why")
        rejects.close()
    assert b"J\xfcrgen,j@x,\n" in (tmp_path / "rejects").read_bytes()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"PK\x03\x04...", "Excel workbook"),
        ("displayName,emailAddress\n".encode("utf-16"), "--encoding utf-16"),
        (b"\xff\xfedisplayName", "--encoding utf-16"),
        (b"displayN\xe4me,emailAddress\n", "--encoding windows-1252"),
        (b"displayName,emailAddress\n" + b"x" * (MAX_LENGTH + 1), "line 2: is longer than"),
        (b'[{"a": 1}, {"a": }]', "Line 1: the file is not valid JSON"),
        (b'[\n{"a": 1}\n{"a": 2}]', "Line 3: the file is not valid JSON: expected ',' or ']'"),
        (b'[{"a": 1}', "the end of the file"),
        (b"[1] 2", "expected the end of the file, but there is '2'"),
        (b"[" * 100_000, "nested too deeply"),
        (b'["' + b"x" * (2 * MAX_LENGTH), "not valid JSON"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(path: Path, content: bytes, says: str) -> None:
    with pytest.raises(UsageError) as error:
        read(path, content)
    assert says in str(error.value)


@pytest.mark.parametrize("name", ["no.json", "no.ndjson"])
def test_a_file_named_json_that_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="neither a JSON array"):
        read(tmp_path / name, "displayName\n")


def test_what_is_no_regular_file_cannot_be_read(tmp_path: Path) -> None:
    for place, says in (
        (tmp_path, "Is a directory"),
        (tmp_path / "none", "No such file"),
        (Path("/dev/null"), "regular"),
    ):
        with pytest.raises(UsageError, match=says), File(place, {}):
            pass


def test_utf_16_and_unknown_encodings(path: Path) -> None:
    content = "displayName\temailAddress\nJürgen\tj@x\n".encode("utf-16")
    assert customers(read(path, content, encoding="utf-16"))[0]["displayName"] == "Jürgen"
    with pytest.raises(UsageError, match="no encoding klingon"):
        read(path, content, encoding="klingon")


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=6), st.sampled_from([None, 2]), st.booleans())
def test_json_is_read_as_it_stands(path: Path, objects: list[Any], indent: int | None, escaped: bool) -> None:  # noqa: FBT001
    array = json.dumps(objects, indent=indent, ensure_ascii=escaped)
    if objects:
        assert customers(read(path, array)) == objects
        lines = "\n\n".join(json.dumps(one, ensure_ascii=escaped) for one in objects)
        assert customers(read(path, lines)) == objects
    else:
        assert read(path, array) == []


def test_an_array_on_one_line_may_be_long_and_lines_are_counted(path: Path) -> None:
    objects = [{"number": number, "text": "x" * 100} for number in range(20_000)]
    records = read(path, json.dumps(objects))
    assert customers(records) == objects
    assert {record.line for record in records} == {1}
    assert [record.line for record in read(path, json.dumps(objects[:3], indent=1))] == [2, 6, 10]


def test_a_value_that_is_no_object_is_a_record_of_its_own(path: Path) -> None:
    assert [record.text for record in read(path, '[1, 23 ,"a", {"b": 1}]')] == ["1", "23", '"a"', '{"b": 1}']


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.text(max_size=6), min_size=2, max_size=2), max_size=6), st.sampled_from(",;\t"))
def test_any_rows_are_read_as_written(path: Path, rows: list[list[str]], delimiter: str) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([["displayName", "emailAddress"], *rows])
    content = text.getvalue().encode("utf-8", "replace")
    expected = [[one.encode("utf-8", "replace").decode() for one in row] for row in rows if any(row)]
    assert [list(record.row) for record in read(path, content)] == expected


def refuse_all(path: Path, rejects_path: Path) -> list[Record]:
    """Refuse every record of a file."""
    with File(path, {}) as file:
        rejects = Rejects(rejects_path, file)
        records = list(file.source.records())
        for record in records:
            rejects.add(record, f'because of "{record.line}"')
        rejects.close()
    return records


BAD = {
    "csv": HEADER + '"Ada,a@x,1\nEve,e@x\n"two\nlines",t@x,\n ,b@x,\n',
    "excel": "\ufeffdisplayName;emailAddress\r\nJürgen;\r\n;x\r\n",
    "ndjson": '{"displayName": 1, "displayName": 2}\n{}\n{"a": \n[1]\nnull\n{ "b": {} }',
    "json": '[{"displayName": 1, "displayName": 2}, {}, [1], null,\n { "b": {} } ]',
}


@pytest.mark.parametrize("form", BAD)
def test_rejects_are_a_file_of_the_same_form_that_holds_all_the_same(path: Path, tmp_path: Path, form: str) -> None:
    path.write_text(BAD[form], newline="")
    again, twice = tmp_path / "again", tmp_path / "twice"
    first = refuse_all(path, again)
    second = refuse_all(again, twice)
    third = refuse_all(twice, tmp_path / "thrice")

    def held(records: list[Record]) -> Iterator[Any]:
        for record in records:
            if isinstance(record.customer, dict):
                yield record.customer
                continue
            try:
                pairs = json.loads(record.customer, object_pairs_hook=list)
            except ValueError:
                yield bool(record.problem) or "broken"
            else:
                is_object = record.customer.lstrip().startswith(b"{")
                yield [pair for pair in pairs if not pair[0].startswith("@")] if is_object else pairs

    assert list(held(first)) == list(held(second)) == list(held(third))
    assert len(third) == len(first)
    assert twice.read_bytes().startswith(b"\xef\xbb\xbf") == (form == "excel")
    assert again.read_text().count("because of") == twice.read_text().count("because of")


def test_rejects_spare_the_file_itself_and_an_older_one(path: Path, tmp_path: Path) -> None:
    path.write_text(BAD["csv"])
    with File(path, {}) as file, pytest.raises(UsageError, match="must not name the file to import"):
        Rejects(path, file)
    older = tmp_path / "rejects"
    older.write_text("corrected with care")
    refuse_all(path, older)
    assert (tmp_path / "rejects.old").read_text() == "corrected with care"
    with File(path, {}) as file, pytest.raises(UsageError, match="cannot be written"):
        Rejects(tmp_path / "none" / "rejects", file).add(next(file.source.records()), "")
    with File(path, {}) as file:
        Rejects(tmp_path / "unused", file).close()
    assert not (tmp_path / "unused").exists()


def test_map_is_for_csv_only(path: Path) -> None:
    with pytest.raises(UsageError, match="CSV files only"):
        read(path, "{}", {"a": "displayName"})
