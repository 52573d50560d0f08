"""What the templates in infra/ would deploy: locked down, and in step with the app.

The snapshots are two deployments as the Bicep compiler evaluates them: one with the defaults, and one with everything
that is optional. ``make test-infra`` holds that they are those of the templates. What only Azure can tell is an
expression in brackets.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from customers.settings import Settings

INFRA = Path("infra")
TEMPLATES = sorted(INFRA.glob("*.bicep"))
MAIN = (INFRA / "main.bicep").read_text()
PARAMETERS = dict(re.findall(r"^param (\w+) \w+(?: = (.+))?$", MAIN, re.MULTILINE))
"""The parameters of the deployment, and their defaults in Bicep's language; empty where one must be given."""
DEPLOYMENTS = ("defaults", "everything")
DEFAULTS, EVERYTHING = (json.loads(Path(f"tests/infra/{name}.snapshot.json").read_text()) for name in DEPLOYMENTS)
both = pytest.mark.parametrize("snapshot", [DEFAULTS, EVERYTHING], ids=DEPLOYMENTS)

# For local use; deployed, the service refuses the first, and has no need of the second.
LOCAL_SETTINGS = {"CUSTOMERS_STORAGE", "TOKEN_METADATA_URL"}
# Settings that the templates have, and the app does not read yet.
NEW_SETTINGS = {"BUSINESS_ACCESS"}
# https://learn.microsoft.com/azure/role-based-access-control/built-in-roles
ROLES = {
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
    "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3": "Storage Table Data Contributor",
    "3913510d-42f4-4e42-8a64-420c390055eb": "Monitoring Metrics Publisher",
}


def resources(snapshot: Mapping[str, Any], kind: str) -> list[Any]:
    """The resources of a type."""
    return [resource for resource in snapshot["predictedResources"] if resource["type"] == kind]


def only(snapshot: Mapping[str, Any], kind: str, name: str = "") -> Any:
    """The one resource of a type whose name begins like this."""
    (found,) = (resource for resource in resources(snapshot, kind) if resource["name"].startswith(name))
    return found


def properties(snapshot: Mapping[str, Any], kind: str, name: str = "") -> Any:
    """The properties of such a resource."""
    return only(snapshot, kind, name)["properties"]


def app_settings(snapshot: Mapping[str, Any]) -> dict[str, str]:
    """The settings of the Function App."""
    listed = properties(snapshot, "Microsoft.Web/sites")["siteConfig"]["appSettings"]
    settings = {setting["name"]: setting["value"] for setting in listed}
    assert len(settings) == len(listed)
    return settings


def own_settings(snapshot: Mapping[str, Any]) -> dict[str, str]:
    """The settings of the app itself, with values for what only Azure can tell."""
    known_to_azure = {
        "CUSTOMERS_STORAGE__tableServiceUri": "https://stabc.table.core.windows.net",
        "CUSTOMERS_STORAGE__clientId": "3f0c8a1e-6d7b-4f52-9a35-c2e1d4b7a860",
        "TOKEN_AUTHORITY": "https://login.microsoftonline.com/",
    }
    hosts = re.compile("AzureWebJobs|APPLICATIONINSIGHTS_|FUNCTIONS_")
    made = {name: value for name, value in app_settings(snapshot).items() if not hosts.match(name)}
    expressions = {name for name, value in made.items() if value.startswith("[")}
    assert expressions <= known_to_azure.keys() <= made.keys()
    return {**made, **{name: known_to_azure[name] for name in expressions}, "WEBSITE_INSTANCE_ID": "1"}


@both
def test_the_compiler_had_nothing_to_say(snapshot: Mapping[str, Any]) -> None:
    assert snapshot["diagnostics"] == []


def test_every_optional_parameter_is_switched_on_in_the_second_deployment() -> None:
    given, defaults = (
        dict(re.findall(r"^param (\w+) = (.+)$", Path(f"tests/infra/{name}.bicepparam").read_text(), re.MULTILINE))
        for name in reversed(DEPLOYMENTS)
    )
    assert {name for name, default in PARAMETERS.items() if not default} == defaults.keys()
    assert given.keys() == PARAMETERS.keys()
    assert [name for name, value in given.items() if value == PARAMETERS[name]] == []


def test_every_file_is_part_of_the_deployment() -> None:
    texts = [path.read_text() for path in TEMPLATES]
    used = {name for text in texts for name in re.findall(r"(?m)^(?:module \w+|import \{.+\} from) '(.+?)'", text)}
    assert {path.name for path in TEMPLATES} == {"main.bicep", *used}
    read = {name for text in texts for name in re.findall(r"loadTextContent\('(.+?)'\)", text)}
    assert {f"queries/{path.name}" for path in (INFRA / "queries").iterdir()} == read


def test_azds_parameters_are_the_templates() -> None:
    given = json.loads((INFRA / "main.parameters.json").read_text())["parameters"]
    assert given.keys() <= PARAMETERS.keys()
    assert {name for name, default in PARAMETERS.items() if not default} <= given.keys()
    for name, value in given.items():
        _, has_default, default = value["value"].strip("${}").partition("=")
        if has_default and PARAMETERS[name]:
            assert default == PARAMETERS[name].strip("'")


def test_the_workflow_passes_on_every_variable() -> None:
    needed = set(re.findall(r"\$\{(\w+)", (INFRA / "main.parameters.json").read_text()))
    given = re.findall(
        r"^      (\w+): \$\{\{ (?:vars|inputs)\.", Path(".github/workflows/deploy.yml").read_text(), re.MULTILINE
    )
    assert set(given) == needed | {"AZURE_SUBSCRIPTION_ID"}


@both
def test_outputs_have_names_that_resource_manager_keeps(snapshot: Mapping[str, Any]) -> None:
    # It makes AZURE_NAME to azurE_NAME (Azure/bicep#9360).
    assert set(snapshot["outputs"]) == {"resourceGroupName", "functionAppName", "baseUrl", "tableServiceUri"}
    assert all(re.fullmatch("[a-z]+([A-Z][a-z]+)*", name) for name in snapshot["outputs"])
    assert snapshot["outputs"]["resourceGroupName"] == "rg-my-customers"
    assert snapshot["outputs"]["functionAppName"] == only(snapshot, "Microsoft.Web/sites")["name"]


def test_what_is_documented_and_run_reads_the_outputs_that_there_are() -> None:
    files = [INFRA / "README.md", *Path(".github/workflows").glob("*.yml"), *(INFRA / "azd").iterdir()]
    texts = [path.read_text() for path in files]
    read = {name for text in texts for name in re.findall(r"azd env get-value (\w+)|\$\(output (\w+)\)", text)}
    names = {one or other for one, other in read} - {"TOKEN_AUDIENCE"}  # which a hook sets
    assert names
    assert names <= DEFAULTS["outputs"].keys()


@both
def test_a_deployment_can_be_repeated_and_predicted(snapshot: Mapping[str, Any]) -> None:
    # A saved search that is put again is a 409 (Azure/bicep-types-az#1548).
    assert resources(snapshot, "Microsoft.OperationalInsights/workspaces/savedSearches") == []
    # Names that only a deployment knows are left out of what-if. The suffix of storage is known to Azure before it.
    names = [resource["name"] for resource in snapshot["predictedResources"]]
    assert [name for name in names if "reference(" in name] == []
    assert len(names) == len({resource["id"] for resource in snapshot["predictedResources"]})
    for assignment in resources(snapshot, "Microsoft.Authorization/roleAssignments"):
        assert re.fullmatch("[0-9a-f-]{36}", assignment["name"])


@both
def test_storage_takes_no_key_no_plain_http_and_shows_nothing(snapshot: Mapping[str, Any]) -> None:
    accounts = resources(snapshot, "Microsoft.Storage/storageAccounts")
    assert len(accounts) == 2
    for account in accounts:
        assert account["properties"]["allowSharedKeyAccess"] is False
        assert account["properties"]["allowBlobPublicAccess"] is False
        assert account["properties"]["allowCrossTenantReplication"] is False
        assert account["properties"]["supportsHttpsTrafficOnly"] is True
        assert account["properties"]["minimumTlsVersion"] == "TLS1_2"
    (container,) = resources(snapshot, "Microsoft.Storage/storageAccounts/blobServices/containers")
    assert container["properties"]["publicAccess"] == "None"


def test_storage_is_open_to_tokens_by_default() -> None:
    for account in resources(DEFAULTS, "Microsoft.Storage/storageAccounts"):
        assert account["properties"]["publicNetworkAccess"] == "Enabled"
        assert account["properties"]["networkAcls"]["defaultAction"] == "Allow"
    assert properties(DEFAULTS, "Microsoft.Web/sites")["virtualNetworkSubnetId"] is None
    assert not any(resource["type"].startswith("Microsoft.Network/") for resource in DEFAULTS["predictedResources"])


def test_storage_is_closed_to_the_internet_in_a_private_network() -> None:
    accounts = {account["id"]: account for account in resources(EVERYTHING, "Microsoft.Storage/storageAccounts")}
    for account in accounts.values():
        assert account["properties"]["publicNetworkAccess"] == "Disabled"
        assert account["properties"]["networkAcls"] == {"defaultAction": "Deny", "bypass": "None"}
    network = only(EVERYTHING, "Microsoft.Network/virtualNetworks")
    assert properties(EVERYTHING, "Microsoft.Web/sites")["virtualNetworkSubnetId"] == f"{network['id']}/subnets/app"
    connected = set()
    for endpoint in resources(EVERYTHING, "Microsoft.Network/privateEndpoints"):
        assert endpoint["properties"]["subnet"]["id"] == f"{network['id']}/subnets/endpoints"
        (connection,) = endpoint["properties"]["privateLinkServiceConnections"]
        (service,) = connection["properties"]["groupIds"]
        connected.add((connection["properties"]["privateLinkServiceId"].rpartition("/")[2][:2], service))
        group = properties(EVERYTHING, "Microsoft.Network/privateEndpoints/privateDnsZoneGroups", endpoint["name"])
        (zone,) = group["privateDnsZoneConfigs"]
        assert f"'{service}'" in zone["properties"]["privateDnsZoneId"]
    assert connected == {("st", "blob"), ("st", "table"), ("pk", "blob")}


@both
def test_deleted_blobs_and_containers_can_be_restored(snapshot: Mapping[str, Any]) -> None:
    services = resources(snapshot, "Microsoft.Storage/storageAccounts/blobServices")
    assert len(services) == 2
    for service in services:
        for policy in ("deleteRetentionPolicy", "containerDeleteRetentionPolicy"):
            assert service["properties"][policy] == {"enabled": True, "days": 7}


@both
def test_the_identities_may_do_what_they_must_and_no_more(snapshot: Mapping[str, Any]) -> None:
    granted = set()
    for assignment in resources(snapshot, "Microsoft.Authorization/roleAssignments"):
        scope = assignment["id"].partition("/providers/Microsoft.Authorization/")[0].split("/")
        role = ROLES[assignment["properties"]["roleDefinitionId"].rpartition("/")[2]]
        (identity,) = re.findall(r"userAssignedIdentities/id-(\w+)-", assignment["properties"]["principalId"])
        assert assignment["properties"]["principalType"] == "ServicePrincipal"
        granted.add((identity, role, scope[-2], re.sub("^(st|pk|appi).+", r"\1", scope[-1])))
    assert granted == {
        ("app", "Storage Blob Data Owner", "storageAccounts", "st"),
        ("app", "Storage Table Data Contributor", "tables", "customers"),
        ("app", "Monitoring Metrics Publisher", "components", "appi"),
        # The app cannot replace its own package.
        ("package", "Storage Blob Data Contributor", "containers", "packages"),
    }


@both
def test_the_platform_reads_the_package_as_its_own_identity(snapshot: Mapping[str, Any]) -> None:
    storage = properties(snapshot, "Microsoft.Web/sites")["functionAppConfig"]["deployment"]["storage"]
    packages = only(snapshot, "Microsoft.Storage/storageAccounts", "pk")["name"]
    assert storage["type"] == "blobContainer"
    assert storage["value"] == (
        f"[format('{{0}}/{{1}}', format('https://{{0}}.blob.{{1}}', '{packages}', environment().suffixes.storage), "
        "'packages')]"
    )
    assert storage["authentication"]["type"] == "UserAssignedIdentity"
    assert "/id-package-" in storage["authentication"]["userAssignedIdentityResourceId"]


def test_storage_logs_are_optional_and_complete() -> None:
    assert resources(DEFAULTS, "Microsoft.Insights/diagnosticSettings") == []
    (setting,) = resources(EVERYTHING, "Microsoft.Insights/diagnosticSettings")
    assert "/tableServices/default/providers/" in setting["id"]
    assert setting["properties"]["workspaceId"] == only(EVERYTHING, "Microsoft.OperationalInsights/workspaces")["id"]
    assert setting["properties"]["logs"] == [
        {"category": category, "enabled": True} for category in ("StorageRead", "StorageWrite", "StorageDelete")
    ]


def test_logs_can_be_capped() -> None:
    quotas = [
        properties(snapshot, "Microsoft.OperationalInsights/workspaces")["workspaceCapping"]
        for snapshot in (DEFAULTS, EVERYTHING)
    ]
    assert quotas == [{"dailyQuotaGb": -1}, {"dailyQuotaGb": 5}]


def test_bodies_over_the_limit_of_the_host_raise_no_alert_and_are_counted() -> None:
    failed, too_long = ((INFRA / "queries" / f"{name}.kql").read_text() for name in ("failed", "too_long"))
    assert "join kind=leftanti tooLong on OperationId" in failed
    for query in (failed, too_long):
        assert "OuterMessage has 'Request body too large' or InnermostMessage has 'Request body too large'" in query


@both
def test_the_app_speaks_https_only_and_takes_no_publishing_password(snapshot: Mapping[str, Any]) -> None:
    app = properties(snapshot, "Microsoft.Web/sites")
    assert app["httpsOnly"] is True
    assert app["siteConfig"]["minTlsVersion"] == "1.2"
    assert "ftpsState" not in app["siteConfig"]  # Flex Consumption refuses it
    policies = resources(snapshot, "Microsoft.Web/sites/basicPublishingCredentialsPolicies")
    assert [policy["name"].rpartition("/")[2] for policy in policies] == ["ftp", "scm"]
    assert all(policy["properties"] == {"allow": False} for policy in policies)


@both
def test_the_app_runs_on_flex_consumption_as_its_identity(snapshot: Mapping[str, Any]) -> None:
    plan, app = only(snapshot, "Microsoft.Web/serverfarms"), only(snapshot, "Microsoft.Web/sites")
    assert plan["sku"] == {"name": "FC1", "tier": "FlexConsumption"}
    assert plan["properties"]["reserved"] is True
    assert app["properties"]["functionAppConfig"]["runtime"] == {"name": "python", "version": "3.13"}
    assert app["tags"]["azd-service-name"] == "api"
    identities = {
        identity["id"] for identity in resources(snapshot, "Microsoft.ManagedIdentity/userAssignedIdentities")
    }
    assert app["identity"]["type"] == "UserAssigned"
    assert app["identity"]["userAssignedIdentities"].keys() == identities
    assert len(identities) == 2


def test_a_deployment_lets_running_requests_finish_unless_told_otherwise() -> None:
    strategies = [
        properties(snapshot, "Microsoft.Web/sites")["functionAppConfig"]["siteUpdateStrategy"]
        for snapshot in (DEFAULTS, EVERYTHING)
    ]
    assert strategies == [{"type": "RollingUpdate"}, {"type": "Recreate"}]


def test_the_app_scales_as_it_is_told() -> None:
    scales = [
        properties(snapshot, "Microsoft.Web/sites")["functionAppConfig"]["scaleAndConcurrency"]
        for snapshot in (DEFAULTS, EVERYTHING)
    ]
    assert scales == [
        {
            "instanceMemoryMB": 2048,
            "maximumInstanceCount": 100,
            "triggers": {"http": {"perInstanceConcurrency": 16}},
            "alwaysReady": [],
        },
        {
            "instanceMemoryMB": 512,
            "maximumInstanceCount": 1,
            "triggers": {"http": {"perInstanceConcurrency": 32}},
            "alwaysReady": [{"name": "http", "instanceCount": 1}],
        },
    ]


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [(DEFAULTS, (False, "Standard_LRS", "Standard_LRS")), (EVERYTHING, (True, "Standard_GZRS", "Standard_ZRS"))],
    ids=DEPLOYMENTS,
)
def test_an_app_over_several_zones_has_storage_over_several_zones(
    snapshot: Mapping[str, Any], expected: tuple[bool, str, str]
) -> None:
    plan = properties(snapshot, "Microsoft.Web/serverfarms")
    accounts = [only(snapshot, "Microsoft.Storage/storageAccounts", name) for name in ("st", "pk")]
    assert (plan["zoneRedundant"], *(account["sku"]["name"] for account in accounts)) == expected


@both
def test_telemetry_and_logs_take_no_key(snapshot: Mapping[str, Any]) -> None:
    assert properties(snapshot, "Microsoft.Insights/components")["DisableLocalAuth"] is True
    assert properties(snapshot, "Microsoft.OperationalInsights/workspaces")["features"] == {"disableLocalAuth": True}


def test_no_secret_is_read_or_written() -> None:
    for path in TEMPLATES:
        assert not re.search(r"listKeys|AccountKey|InstrumentationKey|secure\(", path.read_text(), re.IGNORECASE)


@both
def test_every_setting_of_the_app_is_set_and_no_other(snapshot: Mapping[str, Any]) -> None:
    read = {field.alias for field in Settings.model_fields.values() if field.alias}
    # What only Azure sets goes by other names, and has no alias.
    assert own_settings(snapshot).keys() - {"WEBSITE_INSTANCE_ID"} == (read - LOCAL_SETTINGS) | NEW_SETTINGS


def test_the_settings_are_the_apps_own_defaults() -> None:
    made = own_settings(DEFAULTS)
    needed = {
        name: made[name]
        for name in (
            *("CUSTOMERS_STORAGE__tableServiceUri", "CUSTOMERS_STORAGE__clientId", "WEBSITE_INSTANCE_ID"),
            *("TOKEN_TENANT_ID", "TOKEN_AUDIENCE"),
        )
    }
    assert Settings.from_environment(made) == Settings.from_environment(needed)


def test_the_app_takes_every_setting_that_can_be_deployed() -> None:
    made, usual = Settings.from_environment(own_settings(EVERYTHING)), Settings.from_environment(own_settings(DEFAULTS))
    same = {name for name in Settings.model_fields if getattr(made, name) == getattr(usual, name)}
    assert same == {"storage", "table_service_uri", "client_id", "table", "deployed", "tenant_id", "metadata_override"}


@both
def test_the_host_uses_its_identity_and_a_limit_above_the_apps(snapshot: Mapping[str, Any]) -> None:
    settings = app_settings(snapshot)
    host = {name: value for name, value in settings.items() if name.startswith(("AzureWebJobs", "FUNCTIONS_"))}
    client = host.pop("AzureWebJobsStorage__clientId")
    assert re.fullmatch(r"\[reference\('.+/userAssignedIdentities/id-app-\w+', '[\d-]+'\)\.clientId\]", client)
    assert settings["CUSTOMERS_STORAGE__clientId"] == client
    tables = settings["CUSTOMERS_STORAGE__tableServiceUri"]
    storage = only(snapshot, "Microsoft.Storage/storageAccounts", "st")["name"]
    assert tables == snapshot["outputs"]["tableServiceUri"]
    assert tables == f"[format('https://{{0}}.table.{{1}}', '{storage}', environment().suffixes.storage)]"
    # With an account name, the host also tries tables that it may not use (Azure/azure-functions-host#10995).
    assert host == {
        "AzureWebJobsStorage__blobServiceUri": tables.replace(".table.", ".blob."),
        "AzureWebJobsStorage__credential": "managedidentity",
        "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": str(4 * int(settings["BODY_LIMIT"])),
    }
    assert "'ClientId={0};Authorization=AAD'" in settings["APPLICATIONINSIGHTS_AUTHENTICATION_STRING"]
    assert settings["APPLICATIONINSIGHTS_CONNECTION_STRING"].endswith(".ConnectionString]")


@both
def test_alerts_watch_failures_durations_and_throttling(snapshot: Mapping[str, Any]) -> None:
    measures = []
    for rule in resources(snapshot, "Microsoft.Insights/scheduledQueryRules"):
        (condition,) = rule["properties"]["criteria"]["allOf"]
        assert re.search(rf"\b{condition['metricMeasureColumn']} = ", condition["query"])
        measures.append(condition["metricMeasureColumn"])
    assert measures == ["failed", "p95"]
    (throttling,) = properties(snapshot, "Microsoft.Insights/metricAlerts")["criteria"]["allOf"]
    assert throttling["metricName"] == "Transactions"
    assert "ClientThrottlingError" in throttling["dimensions"][0]["values"]


def test_alerts_reach_whom_they_should() -> None:
    assert resources(DEFAULTS, "Microsoft.Insights/actionGroups") == []
    people = only(EVERYTHING, "Microsoft.Insights/actionGroups")
    (receiver,) = people["properties"]["emailReceivers"]
    assert receiver["emailAddress"] == "operations@contoso.com"
    for rule in resources(EVERYTHING, "Microsoft.Insights/scheduledQueryRules"):
        assert rule["properties"]["actions"]["actionGroups"] == [people["id"]]
    (action,) = properties(EVERYTHING, "Microsoft.Insights/metricAlerts")["actions"]
    assert action == {"actionGroupId": people["id"]}


@both
def test_the_workbook_shows_every_query_and_what_storage_throttles(snapshot: Mapping[str, Any]) -> None:
    workbook = properties(snapshot, "Microsoft.Insights/workbooks")
    workspace = only(snapshot, "Microsoft.OperationalInsights/workspaces")["id"]
    assert workbook["sourceId"] == workspace
    items = json.loads(workbook["serializedData"])["items"]
    contents = [item["content"] for item in items]
    (parameters,) = (content["parameters"] for content in contents if "parameters" in content)
    assert {parameter["name"] for parameter in parameters} == {"TimeRange", "RequestId"}
    queries = [content for content in contents if "query" in content]
    anything = {parameter["name"]: parameter["value"] for parameter in parameters}
    shown = {content["query"].replace("{RequestId}", str(anything["RequestId"])) for content in queries}
    assert shown == {path.read_text() for path in (INFRA / "queries").iterdir()}
    assert all(content["crossComponentResources"] == [workspace] for content in queries)
    (metrics,) = (content for content in contents if "metrics" in content)
    assert metrics["resourceIds"] == [only(snapshot, "Microsoft.Storage/storageAccounts", "st")["id"]]
    assert metrics["metrics"][0]["splitBy"] == "ResponseType"
    # The time is the reader's to choose, and not the query's.
    assert all(content["timeContextFromParameter"] == "TimeRange" for content in (*queries, metrics))
    assert not any("ago(" in content["query"] for content in queries)


def test_sampling_never_drops_a_failure() -> None:
    logging = json.loads(Path("host.json").read_text())["logging"]
    excluded = logging["applicationInsights"]["samplingSettings"]["excludedTypes"].split(";")
    assert {"Request", "Exception", "Trace"} <= set(excluded)
    assert logging["logLevel"]["default"] == "Information"


def test_only_what_runs_is_shipped() -> None:
    ignored = [line for line in Path(".funcignore").read_text().splitlines() if line and not line.startswith("#")]
    shipped = {path.name for path in Path().iterdir() if not any(path.match(pattern.strip("/")) for pattern in ignored)}
    assert shipped == {"host.json", "requirements.txt", "function_app.py", "customers"}
