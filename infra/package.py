"""Makes the package that Azure runs, as a folder and as a zip: .local/package and .local/package.zip.

Nothing is installed or built in Azure: the locked packages are in it, as wheels for Azure's platform, and everything is
compiled. The same input gives the same bytes. Run by package.sh, with Python 3.13, which Azure runs too.

Sources: "Build options for Python function apps" (Azure Functions) for ``.python_packages``; PEP 552 for the kinds of
.pyc files: ``unchecked-hash`` ones are loaded without a look at their source.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
FOLDER = TOP / ".local" / "package"
SHIPPED = ("host.json", "requirements.txt", "function_app.py", "customers")
PACKAGES = Path(".python_packages", "lib", "site-packages")
VERSION = (3, 13)
"""The Python of infra/function.bicep: a .pyc file and a wheel are for one version."""

PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
"""What the machines of Flex Consumption run: glibc 2.28 or newer."""

NOT_IMPORTED = (
    # Read by type checkers, compilers and installers only.
    "**/*.pyi",
    "**/*.pyx",
    "**/*.px[di]",
    "**/*.[ch]",
    "**/py.typed",
    "**/tests",
    "bin",
    # Versions are in requirements.txt; pydantic would look for plugins in every one of these at each start.
    "*.dist-info",
    # Packages and modules for what the app does not do.
    "dns",  # looking up the domain of an e-mail address
    "pycparser",  # compiling C declarations
    "cffi",  # cryptography needs its compiled half only, _cffi_backend
    "pydantic/v1",
    "pydantic/mypy.py",
    "multidict/_testcapi.*",
    "lark/tools",
    "lark/__pyinstaller",
    "werkzeug/debug",
    "charset_normalizer/cli",
)
"""What is left out of the packages, as patterns in their folder: nothing that runs imports it."""

COMMAND_LINE = ("customers/__main__.py", "customers/cli")
"""What is left out of the app: it runs on an operator's machine."""

AZURE_FOLDER = "/home/site/wwwroot"
"""Where the app is in Azure; the .pyc files and so the tracebacks name it."""


class PackageError(Exception):
    """The package cannot be made; the message says what to do."""


def install(target: Path) -> None:
    """Install the locked packages for Azure's platform. Raises PackageError if one has no wheel or another hash."""
    options = ("--quiet", "--disable-pip-version-check", "--no-compile", "--no-deps", "--target", str(target))
    wheels = ("--only-binary=:all:", "--implementation=cp", "--abi=cp313", "--abi=abi3", "--abi=none")
    version = f"--python-version={VERSION[0]}.{VERSION[1]}"
    platforms = [f"--platform={platform}" for platform in PLATFORMS]
    lock = ("--require-hashes", "--requirement", str(TOP / "requirements.txt"))
    pip = [sys.executable, "-m", "pip", "install", *options, *wheels, version, *platforms, *lock]
    if subprocess.run(pip, check=False).returncode:
        raise PackageError("The packages in requirements.txt could not be installed; pip says above why.")


def leave_out(folder: Path, patterns: Iterable[str]) -> int:
    """Delete what the patterns match. Return its size in bytes. Raises PackageError if one matches nothing."""
    left_out = 0
    for pattern in patterns:
        found = sorted(folder.glob(pattern))
        if not found:
            raise PackageError(f"infra/package.py leaves out {pattern}, which the packages no longer have.")
        for path in found:
            left_out += size(path)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    return left_out


def size(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())


def compile_all(folder: Path) -> None:
    """Compile every module. In a process of its own, whose hash seed is fixed: sets are written in its order."""
    options = ("-q", "-f", "--invalidation-mode", "unchecked-hash", "-s", str(folder), "-p", AZURE_FOLDER)
    line = [sys.executable, "-m", "compileall", *options, str(folder)]
    if subprocess.run(line, env={**os.environ, "PYTHONHASHSEED": "0"}, check=False).returncode:
        raise PackageError("A module could not be compiled; the lines above say which.")


def pack(folder: Path, archive: Path) -> None:
    """Zip a folder. No entry tells when or where it was made, and every one may be read by the Functions host."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, whatever this machine is
            entry.external_attr = 0o100644 << 16
            packed.writestr(entry, path.read_bytes())


def make(folder: Path) -> str:
    """Make the package in a folder, which is emptied first, and the zip beside it. Return a line about their sizes."""
    if sys.version_info[:2] != VERSION:
        raise PackageError(f"Run this with Python {VERSION[0]}.{VERSION[1]}: make package")
    archive = folder.with_suffix(".zip")
    shutil.rmtree(folder, ignore_errors=True)
    archive.unlink(missing_ok=True)
    folder.mkdir(parents=True)
    for name in SHIPPED:
        if (TOP / name).is_dir():
            shutil.copytree(TOP / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(TOP / name, folder / name)
    install(folder / PACKAGES)
    left_out = leave_out(folder / PACKAGES, NOT_IMPORTED) + leave_out(folder, COMMAND_LINE)
    sources = size(folder)
    compile_all(folder)
    pack(folder, archive)
    # Without such a file, azd leaves __pycache__ out, and so every .pyc file. It never ships the file itself.
    (folder / ".funcignore").write_text("# All of this folder is shipped.\n")
    return (
        f"{archive.relative_to(folder.parents[1])}: {_mb(size(archive))} MB; {_mb(size(folder))} MB unpacked, of which "
        f"{_mb(size(folder) - sources)} MB are compiled modules. {_mb(left_out)} MB that nothing imports are left out."
    )


def _mb(count: int) -> str:
    return f"{count / 1_000_000:.1f}"


def main() -> int:
    """Make the package. Returns 1, after one line on stderr, if it cannot be made."""
    try:
        print(make(FOLDER))
    except (PackageError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
