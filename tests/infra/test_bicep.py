"""The real Bicep compiler finds nothing in the templates, and finds each of the mistakes that are made here.

``make test-infra`` runs it. Where there is no compiler, it fails.
"""

from pathlib import Path

import pytest

from tests.support import bicep

# In which file, what is right, the mistake, and what is said of it. The compiler finds all of these at once.
MISTAKES = [
    ("storage.bicep", "parent: account\n", "parent: acount\n", 'The name "acount" does not exist'),
    ("storage.bicep", "name: guid(customers", "name: gid(customers", 'The name "gid" does not exist'),
    ("storage.bicep", "allowSharedKeyAccess:", "allowSharedKeyAcess:", '"allowSharedKeyAcess" is not allowed'),
    ("storage.bicep", "tables@2025-01-01", "tables@2025-01-02", "BCP081"),
    ("packages.bicep", "enabled: true, days: 7", "enabled: 'yes', days: 7", 'The property "enabled" expected'),
    ("storage.bicep", "guid(account.id, identity.id,", "guid(account.id, identity.properties.principalId,", "BCP120"),
    ("storage.bicep", "param tags Tags", "param tags object", "use-user-defined-types"),
    ("packages.bicep", "  kind: 'StorageV2'\n", "", '"kind"'),
    ("function.bicep", "httpsOnly:", "httpOnly:", '"httpOnly" is not allowed'),
    ("function.bicep", "name: 'ftp'", "name: 'ftps'", "'ftp' | 'scm'"),
    ("function.bicep", "type: 'UserAssigned'\n", "type: 'Assigned'\n", "'UserAssigned'"),
    ("function.bicep", "name: 'http', instanceCount", "name: 'http', count", '"count" is not allowed'),
    ("function.bicep", "#disable-next-line BCP037", "//", '"siteUpdateStrategy" is not allowed'),
    ("monitoring.bicep", "DisableLocalAuth:", "disableLocalAuth:", '"disableLocalAuth" is not allowed'),
    ("alerts.bicep", "severity: 2\n    enabled: true\n", "enabled: true\n", '"severity"'),
    ("alerts.bicep", "'queries/failed.kql'", "'queries/fails.kql'", "fails.kql"),
    ("network.bicep", "addressPrefix: '10.0.0.0/25'", "addressPrefix: ['10.0.0.0/25']", '"addressPrefix" expected'),
    ("endpoints.bicep", "privateDnsZones@2024-06-01", "privateDnsZones@2020-06-02", "BCP081"),
    ("main.bicep", "    sku: zoneRedundant &&", "    skew: zoneRedundant &&", '"skew" is not allowed'),
    ("main.bicep", "    tableName: names.table\n", "", '"tableName"'),
    ("main.bicep", "api.outputs.url", "api.outputs.uri", '"uri"'),
    ("main.bicep", "'workbook.bicep'", "'workbooks.bicep'", "workbooks.bicep"),
    ("main.bicep", "email: alertEmail", "email: ''", "no-unused-params"),
    ("main.bicep", "identity 'identity.bicep' = {", "identity 'identity.bicep' = {\n  name: 'x'", "no-module-name"),
]


def copied(to: Path, *mistakes: tuple[str, str, str]) -> Path:
    """A copy of the templates with mistakes: in which file, what is right, and what is wrong."""
    bicep.copy_templates(Path(), to)
    for file, right, wrong in mistakes:
        path = to / file
        text = path.read_text()
        assert right in text, right
        path.write_text(text.replace(right, wrong, 1))
    return to


@pytest.fixture(scope="module")
def compiler() -> Path:
    """The compiler."""
    try:
        return bicep.find()
    except bicep.BicepError as error:
        pytest.fail(str(error), pytrace=False)


def test_the_templates_have_no_problem(compiler: Path) -> None:
    assert list(bicep.problems(compiler)) == []


def test_a_mistake_is_found(compiler: Path, tmp_path: Path) -> None:
    root = copied(tmp_path, *((f"infra/{file}", right, wrong) for file, right, wrong, _ in MISTAKES))
    found = list(bicep.problems(compiler, root))
    missed = [
        mistake for mistake in MISTAKES if not any(mistake[0] in problem and mistake[3] in problem for problem in found)
    ]
    assert missed == []


def test_a_mistake_of_syntax_is_found(compiler: Path, tmp_path: Path) -> None:
    root = copied(tmp_path, ("infra/storage.bicep", "kind: 'StorageV2'", "kind 'StorageV2'"))
    assert any("storage.bicep" in problem and "BCP018" in problem for problem in bicep.problems(compiler, root))


def test_a_name_that_only_the_deployment_knows_is_found(compiler: Path, tmp_path: Path) -> None:
    email = "\n    email: alertEmail"
    wrong = ("infra/main.bicep", f"storageName: names.storage{email}", f"storageName: api.outputs.url{email}")
    problems = list(bicep.problems(compiler, copied(tmp_path, wrong)))
    assert ["what-if-short-circuiting" in problem for problem in problems] == [True]


def test_another_layout_and_other_snapshots_are_found(compiler: Path, tmp_path: Path) -> None:
    # The types leave some values open, so only the snapshots show a mistake in them.
    root = copied(
        tmp_path,
        ("infra/storage.bicep", "'TLS1_2'", "'TLS12'"),
        ("infra/main.bicep", "output baseUrl string", "output  BASE_URL string"),
        ("tests/infra/everything.bicepparam", "param location =", "param location  ="),
    )
    assert [problem.partition(" ")[0].rstrip(":") for problem in bicep.problems(compiler, root)] == [
        "infra/main.bicep",
        "tests/infra/everything.bicepparam",
        "tests/infra/defaults.snapshot.json",
        "tests/infra/everything.snapshot.json",
    ]


@pytest.mark.parametrize(
    ("file", "right", "wrong", "problem"),
    [
        ("defaults", "'westeurope'", "'polandcentral'", "BCP033"),
        ("everything", "maximumInstanceCount = 1", "maximumInstanceCount = 0", "BCP333|BCP329|BCP327|BCP328"),
        ("everything", "'Standard_GZRS'", "'Standard_LRS'", "zoneRedundant needs storageSku"),
    ],
)
def test_a_deployment_that_cannot_be_is_refused(
    compiler: Path, tmp_path: Path, file: str, right: str, wrong: str, problem: str
) -> None:
    root = copied(tmp_path, (f"tests/infra/{file}.bicepparam", right, wrong))
    for other in root.glob("tests/infra/*.bicepparam"):
        if other.stem != file:
            other.unlink()
    with pytest.raises(bicep.BicepError, match=problem):
        bicep.snapshots(compiler, root)


def test_a_missing_compiler_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("AZURE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("BICEP", "nowhere/bicep")
    with pytest.raises(bicep.BicepError, match="there is no program nowhere/bicep"):
        bicep.find()
    monkeypatch.delenv("BICEP")
    with pytest.raises(bicep.BicepError, match="run az bicep install, put bicep on the PATH, or set BICEP"):
        bicep.find()


def test_the_compiler_is_what_is_set_or_on_the_path_or_the_azure_clis(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for folder in ("azure/bin", "path", "set"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "bicep").touch(mode=0o700)
    monkeypatch.setenv("AZURE_CONFIG_DIR", str(tmp_path / "azure"))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.delenv("BICEP", raising=False)
    assert bicep.find() == tmp_path / "azure/bin/bicep"
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert bicep.find() == tmp_path / "path/bicep"
    monkeypatch.setenv("BICEP", str(tmp_path / "set/bicep"))
    assert bicep.find() == tmp_path / "set/bicep"
