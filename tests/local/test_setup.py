"""The set-up says in one line what a machine lacks, and the locks agree."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from infra.local.run import HERE


@pytest.mark.parametrize(("part", "says"), [("python", "Python 3.13 is required"), ("node", "Node.js 20 or newer")])
def test_one_line_says_what_is_missing(tmp_path: Path, part: str, says: str) -> None:
    tools, script = tmp_path / "bin", tmp_path / "infra" / "local" / "setup.sh"
    script.parent.mkdir(parents=True)
    shutil.copy(HERE / "setup.sh", script)
    tools.mkdir()
    for tool in ("dirname", "cmp", "cp", "mkdir"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    (tools / "node").write_text("#!/bin/sh\nexit 1\n")
    ended = subprocess.run(  # noqa: S603
        ["/bin/sh", str(script), part],
        env={"PATH": str(tools), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (1, "", 1)
    assert says in ended.stderr


@pytest.mark.parametrize("lock", ["tests", "tests/sdk", "tests/bench"])
def test_the_tests_run_with_the_very_versions_that_are_deployed(lock: str) -> None:
    def pins(path: str) -> set[str]:
        return set(re.findall(r"^\S+==\S+", Path(path).read_text(), re.MULTILINE))

    assert pins("requirements.txt") <= pins(f"{lock}/requirements.txt")
