"""Runs the Bicep compiler: where it is, what is wrong with the templates, and what they would deploy.

``python -m tests.support.bicep`` writes the snapshots anew.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

INFRA = Path("infra")
DEPLOYMENTS = Path("tests/infra")
"""The folder of the deployments: a parameter file each, and its snapshot."""

# Of no tenant and subscription that exist: the names of resources come from the second.
_SCOPE = (
    *("--tenant-id", "7d3b1c52-4f0e-4b8a-9c61-0f2a5e8d9b34"),
    *("--subscription-id", "2c8f6b0d-5e17-4a93-b6d4-90e3a1c7f258"),
    *("--location", "westeurope"),
    *("--deployment-name", "my-customers"),
)


class BicepError(Exception):
    """There is no compiler, or it refused the templates; the message says what to do."""


def find() -> Path:
    """Return the compiler: the one that BICEP names, the one on the PATH, or the Azure CLI's."""
    if named := os.environ.get("BICEP"):
        if found := shutil.which(named):
            return Path(found).absolute()
        raise BicepError(f"BICEP must name the Bicep compiler, and there is no program {named}.")
    if found := shutil.which("bicep"):
        return Path(found).absolute()
    if found := shutil.which(Path(os.environ.get("AZURE_CONFIG_DIR") or Path.home() / ".azure") / "bin" / "bicep"):
        return Path(found).absolute()
    raise BicepError("The Bicep compiler is needed: run az bicep install, put bicep on the PATH, or set BICEP.")


def problems(compiler: Path, root: Path = Path()) -> Iterator[str]:
    """Find what is wrong with a checkout's templates: errors, warnings, the layout, snapshots of other templates."""
    compiled = _run(compiler, root, "build", "--stdout", str(INFRA / "main.bicep"))
    diagnostics = re.findall(r"\S+ : (?:Error|Warning|Info) .+", compiled.stderr)
    if diagnostics or compiled.returncode != 0:
        yield from diagnostics or [compiled.stderr]
        return
    yield from _layout_problems(compiler, root)
    yield from _snapshot_problems(compiler, root)


def _layout_problems(compiler: Path, root: Path) -> Iterator[str]:
    with _copied(root) as copy:
        for kind in ("bicep", "bicepparam"):
            _run(compiler, Path(copy), "format", "--pattern", f"**/*.{kind}")
            for path in sorted(Path(copy).rglob(f"*.{kind}")):
                name = path.relative_to(copy)
                if path.read_text() != (root / name).read_text():
                    yield f"{name}: the layout is not that of: bicep format {name}"


def _snapshot_problems(compiler: Path, root: Path) -> Iterator[str]:
    # Not with the compiler's own "--mode validate", which looks at no outputs.
    try:
        made = snapshots(compiler, root)
    except BicepError as error:
        yield str(error)
        return
    for path, snapshot in made.items():
        if not (root / path).is_file():
            yield f"{path} is missing: make snapshots writes it."
        elif json.loads((root / path).read_text()) != json.loads(snapshot):
            yield f"{path} is not what the templates deploy: make snapshots brings it up to date. Read what changes."


def snapshots(compiler: Path, root: Path = Path()) -> dict[Path, str]:
    """What each deployment of a checkout would make, by the path of its snapshot. Raises BicepError."""

    def evaluate(path: Path) -> str:
        ended = _run(compiler, Path(copy), "snapshot", str(path), "--mode", "overwrite", *_SCOPE)
        if ended.returncode != 0:
            raise BicepError(ended.stderr)
        snapshot = json.loads((copy / _snapshot_of(path)).read_text())
        # The compiler's order is another one each time.
        snapshot["outputs"] = dict(sorted(snapshot["outputs"].items()))
        return json.dumps(snapshot, indent=2, ensure_ascii=False) + "\n"

    paths = [path.relative_to(root) for path in sorted((root / DEPLOYMENTS).glob("*.bicepparam"))]
    with _copied(root) as folder, ThreadPoolExecutor() as pool:
        copy = Path(folder)
        return {_snapshot_of(path): text for path, text in zip(paths, pool.map(evaluate, paths), strict=True)}


def _snapshot_of(path: Path) -> Path:
    return path.with_suffix(".snapshot.json")


def copy_templates(root: Path, to: Path) -> None:
    """Copy all that the compiler reads of a checkout."""
    for folder, patterns in (
        (INFRA, ("*.bicep", "bicepconfig.json", "queries/*")),
        (DEPLOYMENTS, ("*.bicepparam", "*.snapshot.json")),
    ):
        for pattern in patterns:
            for path in (root / folder).glob(pattern):
                target = to / path.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


def _copied(root: Path) -> TemporaryDirectory[str]:
    folder = TemporaryDirectory()
    copy_templates(root, Path(folder.name))
    return folder


def _run(compiler: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        [compiler, *arguments],
        cwd=folder,
        # It runs too shortly for profiling to pay: a quarter less CPU time without.
        env={**os.environ, "DOTNET_TieredPGO": "0"},
        capture_output=True,
        text=True,
        check=False,
    )


if __name__ == "__main__":
    try:
        for snapshot_path, text in snapshots(find()).items():
            snapshot_path.write_text(text)
    except BicepError as error:
        sys.exit(str(error))
