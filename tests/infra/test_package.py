"""The package is all that the app needs beside the interpreter and Azure's worker library, and is the same each time.

``make test-infra`` runs it: the packages are downloaded.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from infra import package
from infra.local.run import TOP, app_settings
from tests import smoke
from tests.conftest import PublishedIssuer, Storage, free_port

# What the host runs, in an interpreter that has no packages of its own: as Azure's worker does, it looks for modules in
# the package before it looks beside itself. At its end it says from where every module came.
STARTER = """
import json, sys
package, worker, port, report = sys.argv[1:]
sys.path[:0] = [package + "/.python_packages/lib/site-packages"]
sys.path.append(worker)
from infra.local import host
sys.argv[1:] = ["--port", port]
code = host.main()
files = {name: module.__file__ for name, module in sys.modules.items() if getattr(module, "__file__", None)}
open(report, "w").write(json.dumps(files))
sys.exit(code)
"""
PYTHON = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
BARE = (str(PYTHON), "-S", "-P", "-E")
"""The interpreter, without site-packages, without the folder in which it starts, and without variables of Python's."""


class Made(NamedTuple):
    """A package: its folder, its zip, and what was said of it."""

    folder: Path
    archive: Path
    said: str


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages as pip installs them."""
    folder = tmp_path_factory.mktemp("installed") / "site-packages"
    package.install(folder)
    return folder


def make(folder: Path, installed: Path) -> Made:
    """Make a package of packages that are there already."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(package, "install", lambda target: shutil.copytree(installed, target))
        said = package.make(folder)
    return Made(folder, folder.with_suffix(".zip"), said)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, installed: Path) -> Made:
    """A package."""
    return make(tmp_path_factory.mktemp("made") / "state" / "package", installed)


@pytest.fixture
def unpacked(tmp_path: Path, made: Made) -> Path:
    """The zip, unpacked into an empty folder."""
    folder = tmp_path / "wwwroot"
    with zipfile.ZipFile(made.archive) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    """A folder with Azure's worker library and the local host, and nothing else."""
    folder = tmp_path / "worker"
    folder.mkdir()
    runtime = find_spec("azure_functions_runtime")
    assert runtime
    assert runtime.origin
    (folder / "azure_functions_runtime").symlink_to(Path(runtime.origin).parent)
    (folder / "infra").mkdir()
    (folder / "infra" / "local").symlink_to(TOP / "infra" / "local")
    return folder


def contents(folder: Path) -> dict[str, str]:
    """The files of a folder and the digests of what they hold."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@contextmanager
def served(unpacked: Path, worker: Path, settings: dict[str, str], report: Path) -> Iterator[str]:
    """Serve an unpacked package. The report is there afterwards."""
    port = free_port()
    child = subprocess.Popen(  # noqa: S603
        [*BARE, "-c", STARTER, str(unpacked), str(worker), str(port), str(report)],
        cwd=unpacked,
        env={"PATH": os.environ["PATH"], **settings},
    )
    base = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while True:
            assert child.poll() is None, "the host ended; its last lines say why"
            try:
                if httpx.get(f"{base}/healthz").status_code == 200:
                    break
            except httpx.TransportError:
                assert time.monotonic() < until, "the host was not ready in time"
            time.sleep(0.1)
        yield base
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(20)


def test_the_package_serves_the_service_with_nothing_but_the_interpreter(
    unpacked: Path,
    worker: Path,
    storage: Storage,
    published: PublishedIssuer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, report = contents(unpacked), tmp_path / "modules.json"
    settings = app_settings(storage=storage.connection_string, metadata_url=published.metadata_url)
    with served(unpacked, worker, settings, report) as base:
        token = published.issuer.token()
        example = {
            "@odata.type": "#microsoft.graph.bookingCustomer",
            "displayName": "Display Name value",
            "emailAddress": "Email Address value",
        }
        added = httpx.post(
            f"{base}/beta/bookingBusinesses/Contoso@contoso.onmicrosoft.com/customers",
            json=example,
            headers={"Authorization": f"Bearer {token}"},
        )
        assert (added.status_code, added.json() | example) == (201, added.json())
        monkeypatch.setenv("BASE_URL", base)
        monkeypatch.setenv("TOKEN", token)
        assert smoke.main() == 0
    # Nothing was compiled again: the interpreter took every .pyc file as it is.
    assert contents(unpacked) == before
    modules: dict[str, str] = json.loads(report.read_text())
    standard = f"{PYTHON.parents[1]}/lib/"
    elsewhere = {name: file for name, file in modules.items() if not file.startswith((str(unpacked), standard))}
    assert {name.partition(".")[0] for name in elsewhere} == {"azure_functions_runtime", "infra"}
    assert {"aiohttp", "azure.functions", "azure.data.tables", "customers.api", "jwt", "pydantic"} <= modules.keys()


def test_what_only_azure_or_a_setting_needs_can_be_imported_too(unpacked: Path) -> None:
    program = """
import importlib, pathlib, sys
sys.path[:0] = [".", ".python_packages/lib/site-packages"]
for path in pathlib.Path("customers").rglob("*.py"):
    importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
from azure.identity.aio import ManagedIdentityCredential
ManagedIdentityCredential(client_id="3f0c8a1e-6d7b-4f52-9a35-c2e1d4b7a860")
from customers.model import NewCustomer
valid = b'{"displayName": "Ada", "emailAddress": "ada@example.com"}'
print(NewCustomer.from_json(valid, email_address_check="smtp").email_address)
from jwt.algorithms import RSAAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048).public_key())
"""
    ended = subprocess.run(  # noqa: S603
        [*BARE, "-c", program], cwd=unpacked, capture_output=True, text=True, check=False
    )
    assert (ended.stdout, ended.stderr) == ("ada@example.com\n", "")


def test_the_same_input_gives_the_same_bytes(made: Made, installed: Path, tmp_path: Path) -> None:
    again = make(tmp_path / "elsewhere" / "package", installed)
    assert again.archive.read_bytes() == made.archive.read_bytes()


def test_everything_is_compiled_and_never_compared_with_its_source(unpacked: Path) -> None:
    modules = list(unpacked.rglob("*.py"))
    assert unpacked / "function_app.py" in modules
    for module in modules:
        compiled = module.parent / "__pycache__" / f"{module.stem}.{sys.implementation.cache_tag}.pyc"
        # PEP 552: the second word has bit 0 for a hash instead of a time, and bit 1 for a look at the source.
        assert compiled.read_bytes()[4:8] == b"\x01\x00\x00\x00", module
    own = (unpacked / "customers" / "__pycache__" / "api.cpython-313.pyc").read_bytes()
    assert b"/home/site/wwwroot/customers/api.py" in own


def test_the_zip_holds_what_the_folder_holds_and_the_host_may_read_it(made: Made) -> None:
    with zipfile.ZipFile(made.archive) as archive:
        entries = archive.infolist()
    # With the file azd ships __pycache__, and without the file itself.
    assert {entry.filename for entry in entries} == contents(made.folder).keys() - {".funcignore"}
    assert {(entry.create_system, entry.external_attr >> 16 & 0o777) for entry in entries} == {(3, 0o644)}
    top = {entry.filename.partition("/")[0] for entry in entries}
    assert top == {*package.SHIPPED, ".python_packages", "__pycache__"}
    assert not any(entry.filename.startswith("customers/cli") for entry in entries)


def test_compiled_packages_are_for_azures_machines(unpacked: Path) -> None:
    libraries = {path.name for path in unpacked.rglob("*.so")}
    assert libraries
    assert [name for name in libraries if not name.endswith((".cpython-313-x86_64-linux-gnu.so", ".abi3.so"))] == []


def test_a_package_that_is_not_the_locked_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements.txt").write_text(f"idna==3.20 --hash=sha256:{'0' * 64}\n")
    monkeypatch.setattr(package, "TOP", tmp_path)
    with pytest.raises(package.PackageError, match="could not be installed"):
        package.install(tmp_path / "packages")


def test_what_is_left_out_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(package.PackageError, match="leaves out dns, which the packages no longer have"):
        package.leave_out(tmp_path, ["dns"])


def test_it_says_how_large_the_package_is(made: Made) -> None:
    assert made.said.startswith(f"state/package.zip: {made.archive.stat().st_size / 1e6:.1f} MB; ")
    told = re.search(r"`\.local/package\.zip`: (\d+) MB, and (\d+) MB unpacked", Path("infra/README.md").read_text())
    assert told
    for megabytes, count in zip(told.groups(), (package.size(made.archive), package.size(made.folder)), strict=True):
        assert abs(int(megabytes) - count / 1e6) < 2


def test_azd_restore_installs_the_app_and_nothing_beside_it(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(TOP, checkout, ignore=shutil.ignore_patterns(".*", "node_modules", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(checkout)]
    ended = subprocess.run(pip, capture_output=True, text=True, check=False)  # noqa: S603
    assert ended.returncode == 0, ended.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"customers", "booking_customers"}
    assert "customers/cli/reindex.py" in names
