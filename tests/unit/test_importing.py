"""The identity of a line, and the memory that a file takes."""

import asyncio
import tracemalloc
from argparse import ArgumentParser
from pathlib import Path

import pytest

from customers.cli.importing import IMPORT, check
from customers.cli.lines import Valid, derived_id
from customers.cli.records import File
from customers.cli.rejects import Refusals
from customers.keys import is_key


def test_the_id_of_a_customer_without_one_never_changes() -> None:
    """Or else a file that was imported once would be added again by a newer version."""
    ada = {"displayName": "Ada", "emailAddress": "ada@x.com", "phones": ({"number": "1"},)}
    assert derived_id(ada) == "270e1b0e-2406-8a7d-805e-1510a6c9f3f6"
    assert derived_id(dict(reversed(ada.items()))) == derived_id(ada)
    assert derived_id({**ada, "displayName": "ada"}) != derived_id(ada)
    assert is_key(derived_id({}))


@pytest.mark.parametrize("text", ["a", "=a", ""])
def test_map_needs_a_column_and_an_equals_sign(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    IMPORT.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["f", "--business", "b", "--url", "u", "--map", text])
    assert "--map" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["csv", "ndjson", "json"])
def test_checking_a_file_takes_the_same_memory_however_long_it_is(tmp_path: Path, form: str) -> None:
    def peak(number: int) -> int:
        path = tmp_path / f"customers.{form}"
        if form == "csv":
            lines = (f"Customer {n},{n}@x.com,{n}\n" for n in range(number))
            path.write_text("displayName,emailAddress,phone\n" + "".join(lines))
        else:
            objects = [f'{{"displayName": "Customer {n}", "emailAddress": "{n}@x.com"}}' for n in range(number)]
            path.write_text("\n".join(objects) if form == "ndjson" else f"[{','.join(objects)}]")
        with File(path, {}) as file, Valid() as valid:
            tracemalloc.start()
            try:
                asyncio.run(check(file, valid, Refusals(file, None), quiet=True))
                assert sum(1 for _ in valid) == valid.number == number
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    peak(10)
    assert peak(4000) < peak(1000) + 500_000  # or else a record of each line is kept
