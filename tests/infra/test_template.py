"""The templates in infra/: no mistake that needs no type tables, locked down, and in step with the app."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from customers.settings import Settings
from tests.bicep import Expression, Template, Value

INFRA = Path("infra")
ACCOUNTS = ("storage", "packages")
TEMPLATES = sorted(INFRA.glob("*.bicep"))
# For local use; deployed, the service refuses the first, and has no need of the second.
LOCAL_SETTINGS = {"CUSTOMERS_STORAGE", "TOKEN_METADATA_URL"}
# https://learn.microsoft.com/azure/role-based-access-control/built-in-roles
ROLES = {
    "blobDataOwner": "b7e6dc6d-f1e8-4753-8033-0f276bb0955b",  # Storage Blob Data Owner
    "blobDataContributor": "ba92f5b4-2d11-453d-a403-e96b0029c9fe",  # Storage Blob Data Contributor
    "tableDataContributor": "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3",  # Storage Table Data Contributor
    "metricsPublisher": "3913510d-42f4-4e42-8a64-420c390055eb",  # Monitoring Metrics Publisher
}


def template(name: str) -> Template:
    """One of the templates."""
    return Template(INFRA / f"{name}.bicep")


def properties(name: str, resource: str) -> Any:
    """The properties of a resource in a template."""
    return template(name).of_kind("resource")[resource].body["properties"]


def settings() -> dict[str, Value]:
    """The app's own settings, as the template makes them, with the defaults of its parameters in place of these."""
    main = template("main")
    params: Any = main.of_kind("module")["api"].body["params"]
    defaults = {name: declaration.value for name, declaration in main.of_kind("param").items()}
    made: dict[str, Value] = {}
    for name, value in params["settings"].items():
        text = value.text if isinstance(value, Expression) else ""
        parameter = re.sub(r"^string\((\w+)\)$", r"\1", text)
        made[name] = defaults.get(parameter, value)
    return made


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_has_no_mistake(path: Path) -> None:
    assert Template(path).problems() == []


@pytest.mark.parametrize(
    ("file", "right", "wrong", "problem"),
    [
        ("storage", "kind: 'StorageV2'", "kind 'StorageV2'", "syntax"),
        ("storage", "parent: account\n", "parent: acount\n", "no symbol acount"),
        ("storage", "name: guid(customers", "name: gid(customers", "no function gid"),
        ("endpoints", "name: service\n", "name: servce\n", "no symbol servce"),
        ("function", "identityId}': {}", "identity}': {}", "no symbol identity"),
        ("main", "    sku: storageSku\n", "    skew: storageSku\n", "storage.bicep has no parameter skew"),
        ("main", "    sku: storageSku\n", "", "storage.bicep needs sku"),
        ("main", "api.outputs.url", "api.outputs.uri", "function.bicep has no output uri"),
        ("main", "network!.outputs.id", "network!.outputs.ids", "network.bicep has no output ids"),
        ("main", "'network.bicep'", "'networks.bicep'", "no file networks.bicep"),
        ("main", "email: alertEmail", "email: ''", "alertEmail is not used"),
    ],
)
def test_a_mistake_is_found(tmp_path: Path, file: str, right: str, wrong: str, problem: str) -> None:
    path = Path(shutil.copytree(INFRA, tmp_path / "infra", ignore=shutil.ignore_patterns("local"))) / f"{file}.bicep"
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong, 1))
    assert any(problem in found for found in Template(path).problems())


def test_every_file_is_part_of_the_deployment() -> None:
    modules = {module.of for path in TEMPLATES for module in Template(path).of_kind("module").values()}
    assert {path.name for path in TEMPLATES} == {"main.bicep", *modules}
    read = {name for path in TEMPLATES for name in re.findall(r"loadTextContent\('(.+?)'\)", path.read_text())}
    assert {f"queries/{path.name}" for path in (INFRA / "queries").iterdir()} == read


def test_azds_parameters_are_the_templates() -> None:
    given = json.loads((INFRA / "main.parameters.json").read_text())["parameters"]
    params = template("main").of_kind("param")
    assert given.keys() <= params.keys()
    assert {name for name, declaration in params.items() if not declaration.has_default} <= given.keys()
    for name, value in given.items():
        _, told, default = value["value"].strip("${}").partition("=")
        if told and params[name].has_default:
            assert default == json.dumps(params[name].value).strip('"')


def test_the_workflow_passes_on_every_variable() -> None:
    needed = set(re.findall(r"\$\{(\w+)", (INFRA / "main.parameters.json").read_text()))
    given = re.findall(
        r"^      (\w+): \$\{\{ (?:vars|inputs)\.", Path(".github/workflows/deploy.yml").read_text(), re.MULTILINE
    )
    assert set(given) == needed | {"AZURE_SUBSCRIPTION_ID"}


def test_storage_takes_no_key_no_plain_http_and_shows_nothing() -> None:
    for name in ACCOUNTS:
        account = properties(name, "account")
        assert account["allowSharedKeyAccess"] is False
        assert account["allowBlobPublicAccess"] is False
        assert account["allowCrossTenantReplication"] is False
        assert account["supportsHttpsTrafficOnly"] is True
        assert account["minimumTlsVersion"] == "TLS1_2"
    assert properties("packages", "packages")["publicAccess"] == "None"


def test_storage_is_closed_to_the_internet_in_a_private_network() -> None:
    for name in ACCOUNTS:
        account = properties(name, "account")
        assert account["publicNetworkAccess"] == Expression(
            "privateNetwork ? 'Disabled' : 'Enabled'", ("Disabled", "Enabled")
        )
        assert account["networkAcls"]["defaultAction"].choices == ("Deny", "Allow")
    variables = template("endpoints").of_kind("var")
    services: Any = variables["services"].value
    targets: Any = variables["targets"].value
    assert services == ["blob", "table"]
    assert [(target["account"].text, target["service"]) for target in targets] == [
        ("storageName", "blob"),
        ("storageName", "table"),
        ("packagesName", "blob"),
    ]
    assert all(services[int(target["zone"])] == target["service"] for target in targets)


def test_deleted_blobs_and_containers_can_be_restored() -> None:
    for name in ACCOUNTS:
        blobs = properties(name, "blobs")
        for policy in ("deleteRetentionPolicy", "containerDeleteRetentionPolicy"):
            assert blobs[policy] == {"enabled": True, "days": 7}


def test_the_app_cannot_replace_its_own_package() -> None:
    params: Any = {name: module.body["params"] for name, module in template("main").of_kind("module").items()}
    assert params["packages"]["principalId"].text == "packagesIdentity.outputs.principalId"
    assert params["storage"]["principalId"].text == "identity.outputs.principalId"
    assert params["packages"]["name"] != params["storage"]["name"]
    deployment = properties("function", "app")["functionAppConfig"]["deployment"]["storage"]
    assert deployment["authentication"]["userAssignedIdentityResourceId"].text == "packagesIdentityId"
    host: Any = template("function").of_kind("var")["hostSettings"].value
    assert host["AzureWebJobsStorage__clientId"].text == "identityClientId"
    assert params["api"]["packagesIdentityId"].text == "packagesIdentity.outputs.id"
    assert params["api"]["identityClientId"].text == "identity.outputs.clientId"


def test_storage_logs_are_optional_and_complete() -> None:
    operations = properties("storage", "operations")
    assert "['StorageRead', 'StorageWrite', 'StorageDelete']" in (INFRA / "storage.bicep").read_text()
    assert operations["workspaceId"].text == "logsWorkspaceId"


def test_logs_can_be_capped() -> None:
    assert properties("monitoring", "workspace")["workspaceCapping"] == {"dailyQuotaGb": Expression("dailyQuotaGb")}


def test_bodies_over_the_limit_of_the_host_raise_no_alert_and_are_counted() -> None:
    failed, too_long = ((INFRA / "queries" / f"{name}.kql").read_text() for name in ("failed", "too_long"))
    assert "join kind=leftanti tooLong on OperationId" in failed
    for query in (failed, too_long):
        assert "OuterMessage has 'Request body too large' or InnermostMessage has 'Request body too large'" in query


def test_the_app_speaks_https_only_and_takes_no_publishing_password() -> None:
    app = properties("function", "app")
    assert app["httpsOnly"] is True
    assert app["siteConfig"]["minTlsVersion"] == "1.2"
    assert "ftpsState" not in app["siteConfig"]  # Flex Consumption refuses it
    resources = template("function").of_kind("resource")
    for site in ("ftp", "scm"):
        assert resources[site].of.startswith("Microsoft.Web/sites/basicPublishingCredentialsPolicies@")
        assert resources[site].body["name"] == site
        assert resources[site].body["properties"] == {"allow": False}


def test_the_app_runs_on_flex_consumption_as_its_identity() -> None:
    resources = template("function").of_kind("resource")
    assert resources["plan"].body["sku"] == {"name": "FC1", "tier": "FlexConsumption"}
    assert properties("function", "plan") == {"reserved": True}
    config = properties("function", "app")["functionAppConfig"]
    assert config["runtime"] == {"name": "python", "version": "3.13"}
    assert config["deployment"]["storage"]["authentication"]["type"] == "UserAssignedIdentity"
    assert resources["app"].body["identity"] == {
        "type": "UserAssigned",
        "userAssignedIdentities": {"${identityId}": {}, "${packagesIdentityId}": {}},
    }


def test_telemetry_and_logs_take_no_key() -> None:
    assert properties("monitoring", "telemetry")["DisableLocalAuth"] is True
    assert properties("monitoring", "workspace")["features"] == {"disableLocalAuth": True}


def test_the_identity_may_do_what_it_must_and_no_more() -> None:
    granted = []
    for path in TEMPLATES:
        variables = Template(path).of_kind("var")
        for resource in Template(path).resources():
            if resource.of.startswith("Microsoft.Authorization/roleAssignments@"):
                role = re.search(r", (\w+)\)$", properties(path.stem, resource.name)["roleDefinitionId"].text)
                scope = resource.body["scope"]
                assert role
                assert isinstance(scope, Expression)
                assert variables[role[1]].value == ROLES[role[1]]
                granted.append((scope.text, role[1]))
    assert sorted(granted) == [
        ("account", "blobDataOwner"),
        ("customers", "tableDataContributor"),
        ("packages", "blobDataContributor"),
        ("telemetry", "metricsPublisher"),
    ]


def test_no_secret_is_read_or_written() -> None:
    for path in TEMPLATES:
        assert not re.search(r"listKeys|AccountKey|InstrumentationKey|secure\(", path.read_text(), re.IGNORECASE)


def test_every_setting_of_the_app_is_set_and_no_other() -> None:
    read = {field.alias for field in Settings.model_fields.values() if field.alias}
    # What only Azure sets goes by other names, and has no alias.
    assert settings().keys() == read - LOCAL_SETTINGS


def test_the_settings_are_the_apps_own_defaults() -> None:
    needed = {
        "CUSTOMERS_STORAGE__tableServiceUri": "https://stabc.table.core.windows.net",
        "CUSTOMERS_STORAGE__clientId": "3f0c8a1e-6d7b-4f52-9a35-c2e1d4b7a860",
        "TOKEN_TENANT_ID": "7d3b1c52-4f0e-4b8a-9c61-0f2a5e8d9b34",
        "TOKEN_AUDIENCE": "0e6fdb1f-8a1c-4a59-8b8e-0a3d4d1a3c55",
        "WEBSITE_INSTANCE_ID": "1",
    }
    known_to_azure = {
        "TOKEN_AUTHORITY": "https://login.microsoftonline.com/",
        "CUSTOMERS_TABLE": template("storage").of_kind("resource")["customers"].body["name"],
    }
    made = {name: str(value) for name, value in {**settings(), **known_to_azure, **needed}.items()}
    assert Settings.from_environment(made) == Settings.from_environment(needed)


def test_the_host_uses_its_identity_and_a_limit_above_the_apps() -> None:
    host = template("function").of_kind("var")["hostSettings"].value
    assert isinstance(host, dict)
    assert host == {
        "AzureWebJobsStorage__accountName": Expression("hostStorageName"),
        "AzureWebJobsStorage__credential": "managedidentity",
        "AzureWebJobsStorage__clientId": Expression("identityClientId"),
        "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": Expression("string(4 * bodyLimit)"),
        "APPLICATIONINSIGHTS_CONNECTION_STRING": Expression("applicationInsightsConnectionString"),
        "APPLICATIONINSIGHTS_AUTHENTICATION_STRING": Expression("'ClientId=${identityClientId};Authorization=AAD'"),
    }


def test_alerts_watch_failures_durations_and_throttling() -> None:
    rules: Any = template("alerts").of_kind("var")["rules"].value
    for rule in rules:
        query = (INFRA / re.findall(r"'(.+)'", rule["query"].text)[0]).read_text()
        assert f"summarize {rule['measure']} = " in query
    assert [rule["measure"] for rule in rules] == ["failed", "p95"]
    (throttling,) = properties("alerts", "throttling")["criteria"]["allOf"]
    assert throttling["metricName"] == "Transactions"
    assert "ClientThrottlingError" in throttling["dimensions"][0]["values"]


def test_sampling_never_drops_a_failure() -> None:
    logging = json.loads(Path("host.json").read_text())["logging"]
    excluded = logging["applicationInsights"]["samplingSettings"]["excludedTypes"].split(";")
    assert {"Request", "Exception", "Trace"} <= set(excluded)
    assert logging["logLevel"]["default"] == "Information"


def test_only_what_runs_is_shipped() -> None:
    ignored = [line for line in Path(".funcignore").read_text().splitlines() if line and not line.startswith("#")]
    shipped = {path.name for path in Path().iterdir() if not any(path.match(pattern.strip("/")) for pattern in ignored)}
    assert shipped == {"host.json", "requirements.txt", "function_app.py", "customers"}
