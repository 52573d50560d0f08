"""The real Azure CLI runs the registration script, and reads a deployment's outputs, against a stand-in of Azure."""

import json
from pathlib import Path
from typing import Any

from tests.support.cloud import Cloud, Graph

SCRIPT = "infra/app-registration.sh"
REGISTRATION = json.loads(Path("infra/app-registration.json").read_text())
AZURE_CLI = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"
ROLES = {role["value"]: role["id"] for role in REGISTRATION["appRoles"]}
UNKNOWN = "00000000-1111-4222-8333-444444444444"


def script(cloud: Cloud, *arguments: str, code: int = 0) -> tuple[str, str]:
    """Run the script; return what it says to a program, and to a person."""
    ended = cloud.run(SCRIPT, *arguments)
    assert ended.returncode == code, ended.stderr
    return ended.stdout, ended.stderr


def clients(app: dict[str, Any]) -> dict[str, list[str]]:
    """The applications that may get tokens for people, and the ids of what they may."""
    return {client["appId"]: client["delegatedPermissionIds"] for client in app["api"]["preAuthorizedApplications"]}


def test_create_makes_one_registration_that_lets_nobody_in(cloud: Cloud, graph: Graph) -> None:
    theirs = graph.add_application("booking-customers")
    graph.lag = 1
    printed, said = script(cloud, "create")
    (app,) = [app for app in graph.applications if app is not theirs]
    assert (printed, said) == (f"{app['appId']}\n", "")
    assert app["uniqueName"] == "booking-customers"
    assert app["identifierUris"] == [f"api://{app['appId']}"]
    assert app["api"]["preAuthorizedApplications"] == []
    assert app["appRoles"] == REGISTRATION["appRoles"]
    assert [claim["name"] for claim in app["optionalClaims"]["accessToken"]] == ["acct", "idtyp"]
    assert app["groupMembershipClaims"] == "ApplicationGroup"
    (principal,) = graph.service_principals
    assert (principal["appId"], principal["appRoleAssignmentRequired"]) == (app["appId"], True)
    assert graph.assignments == []
    assert theirs["appRoles"] == []


def test_create_again_keeps_what_others_added_and_brings_the_rest_up_to_date(cloud: Cloud, graph: Graph) -> None:
    other = {
        "id": "7a4c1b7e-94a5-4e4e-b7a0-0b8f6a3d2c11",
        "value": "Reports.Read",
        "isEnabled": True,
        "displayName": "Read reports",
        "description": "Read reports.",
        "allowedMemberTypes": ["Application"],
    }
    earlier = [{**role, "allowedMemberTypes": ["Application"]} for role in REGISTRATION["appRoles"][1:]]
    client = {"appId": AZURE_CLI, "delegatedPermissionIds": [ROLES["Bookings.Manage.All"]]}
    app = graph.add_application(
        "another name",
        appRoles=[other, *earlier],
        api={**REGISTRATION["api"], "preAuthorizedApplications": [client]},
        optionalClaims={"idToken": [], "accessToken": [{"name": "email"}], "saml2Token": []},
        groupMembershipClaims="SecurityGroup",
    )
    graph.add_service_principal(app["appId"])
    printed, _ = script(cloud, "create", "--client-id", app["appId"])
    assert printed == f"{app['appId']}\n"
    assert app["displayName"] == "another name"
    assert app["appRoles"][0] == other
    assert {role["id"]: role for role in app["appRoles"][1:]} == {role["id"]: role for role in REGISTRATION["appRoles"]}
    assert clients(app) == {AZURE_CLI: [ROLES["Bookings.Manage.All"]]}
    assert [claim["name"] for claim in app["optionalClaims"]["accessToken"]] == ["email", "acct", "idtyp"]
    assert app["groupMembershipClaims"] == "SecurityGroup"
    assert [principal["appRoleAssignmentRequired"] for principal in graph.service_principals] == [True]
    before = json.dumps(graph.applications)
    graph.requests.clear()
    script(cloud, "create", "--client-id", app["appId"])
    assert json.dumps(graph.applications) == before
    assert not any(request.startswith("PATCH applications") for request in graph.requests)


def test_create_finds_its_registration_again(cloud: Cloud, graph: Graph) -> None:
    first, _ = script(cloud, "create", "--name", "customers-of-contoso")
    graph.applications[0]["displayName"] = "Customers"
    again, _ = script(cloud, "create", "--name", "customers-of-contoso")
    assert again == first
    assert [app["displayName"] for app in graph.applications] == ["Customers"]
    assert len(graph.service_principals) == 1


def test_allow_lets_applications_users_and_groups_in(cloud: Cloud, graph: Graph) -> None:
    audience = script(cloud, "create")[0].strip()
    api = graph.service_principals[0]
    client = graph.add_service_principal(UNKNOWN, "nightly import")
    guest = graph.add_user("ann_example.com#EXT#@contoso.onmicrosoft.com")
    group = graph.add_group("reception")
    _, said = script(cloud, "allow", audience, UNKNOWN, "Bookings.ReadWrite.All")
    assert said == "The application nightly import has Bookings.ReadWrite.All, for all businesses.\n"
    _, said = script(cloud, "allow", audience, guest["userPrincipalName"], "Bookings.Read.All")
    assert said.startswith("The user ann_example.com#EXT# may sign in. ")
    assert "ALLOW_GUESTS" in said
    graph.lag = 1
    graph.hide(group)
    _, said = script(cloud, "allow", audience, group["id"], "Bookings.Read.All", code=1)
    assert f"no application, user or group {group['id']}" in said
    _, said = script(cloud, "allow", audience, group["id"], "Bookings.Read.All")
    assert said.startswith("The group reception may sign in. ")
    script(cloud, "allow", audience, group["id"], "Bookings.Read.All")
    held = [(made["principalId"], made["resourceId"], made["appRoleId"]) for made in graph.assignments]
    assert held == [
        (client["id"], api["id"], ROLES["Bookings.ReadWrite.All"]),
        (guest["id"], api["id"], ROLES["Bookings.Read.All"]),
        (group["id"], api["id"], ROLES["Bookings.Read.All"]),
    ]


def test_allow_says_what_to_do_about_an_application_without_a_service_principal(cloud: Cloud, graph: Graph) -> None:
    audience = script(cloud, "create")[0].strip()
    client = graph.add_application("nightly import")
    _, said = script(cloud, "allow", audience, client["appId"], "Bookings.Read.All", code=1)
    advice = f"az ad sp create --id {client['appId']}"
    assert advice in said
    assert cloud.run(*advice.split()).returncode == 0
    script(cloud, "allow", audience, client["appId"], "Bookings.Read.All")
    assert len(graph.assignments) == 1


def test_an_older_registration_must_be_brought_up_to_date_before_people_are_let_in(cloud: Cloud, graph: Graph) -> None:
    app = graph.add_application(
        "older", appRoles=[{**role, "allowedMemberTypes": ["Application"]} for role in REGISTRATION["appRoles"]]
    )
    graph.add_service_principal(app["appId"])
    user = graph.add_user("ann@contoso.example")
    _, said = script(cloud, "allow", app["appId"], user["userPrincipalName"], "Bookings.Read.All", code=1)
    assert f"app-registration.sh create --client-id {app['appId']}" in said
    assert graph.assignments == []


def test_the_azure_cli_may_only_read_unless_more_is_asked_for(cloud: Cloud, graph: Graph) -> None:
    audience = script(cloud, "create")[0].strip()
    (app,) = graph.applications
    other = {"appId": UNKNOWN, "delegatedPermissionIds": [ROLES["Bookings.Manage.All"]]}
    app["api"]["preAuthorizedApplications"] = [other]
    for arguments, granted in (
        (["Bookings.Manage.All"], [ROLES["Bookings.Manage.All"]]),
        ([], [ROLES["Bookings.Read.All"]]),
    ):
        script(cloud, "cli", audience, *arguments)
        assert clients(app) == {UNKNOWN: other["delegatedPermissionIds"], AZURE_CLI: granted}
    script(cloud, "cli", audience, "none")
    assert clients(app) == {UNKNOWN: other["delegatedPermissionIds"]}


def test_a_page_gets_a_client_of_its_own_that_signs_people_in_without_a_secret(cloud: Cloud, graph: Graph) -> None:
    audience = script(cloud, "create")[0].strip()
    graph.lag = 1
    first, _ = script(cloud, "redirect", audience, "http://localhost:7071/docs")
    again, _ = script(cloud, "redirect", audience, "https://customers.example/docs", "Bookings.ReadWrite.All")
    api, page = graph.applications
    assert first == again == f"{page['appId']}\n"
    assert page["spa"]["redirectUris"] == ["http://localhost:7071/docs", "https://customers.example/docs"]
    assert api["spa"]["redirectUris"] == []
    assert clients(api) == {page["appId"]: [ROLES["Bookings.ReadWrite.All"]]}
    assert [principal["appId"] for principal in graph.service_principals] == [audience, page["appId"]]


def test_it_waits_while_graph_is_busy_and_says_which_right_is_missing(cloud: Cloud, graph: Graph) -> None:
    graph.may_write = False
    _, said = script(cloud, "create", code=1)
    assert said.endswith("You need the role Cloud Application Administrator in Microsoft Entra ID.\n")
    assert graph.applications == []
    graph.may_write = True
    script(cloud, "create")
    graph.busy = 1
    script(cloud, "cli", graph.applications[0]["appId"])
    assert AZURE_CLI in clients(graph.applications[0])


def test_an_unknown_audience_is_an_error(cloud: Cloud, graph: Graph) -> None:
    _, said = script(cloud, "allow", UNKNOWN, UNKNOWN, "Bookings.Read.All", code=1)
    assert said == (
        "Waiting for Microsoft Entra ID to catch up ...\n"
        f"This tenant has no registration {UNKNOWN}. Give the client ID that create printed, and sign in (az login) to "
        "the tenant in which it ran.\n"
    )
    assert graph.assignments == []


def test_a_deployment_gives_its_outputs_under_camel_case_names(cloud: Cloud, tmp_path: Path) -> None:
    template = tmp_path / "main.json"
    outputs = {
        "AZURE_FUNCTION_NAME": {"type": "string", "value": "func-1"},
        "baseUrl": {"type": "string", "value": "[reference('app').url]"},
    }
    schema = "https://schema.management.azure.com/schemas/2018-05-01/subscriptionDeploymentTemplate.json#"
    template.write_text(
        json.dumps({"$schema": schema, "contentVersion": "1.0.0.0", "resources": [], "outputs": outputs})
    )
    cloud.resource_manager.values["baseUrl"] = "https://func-1.example"
    made = cloud.run(
        *("az", "deployment", "sub", "create", "--name", "my-customers", "--location", "westeurope"),
        *("--template-file", str(template)),
    )
    assert made.returncode == 0, made.stderr
    assert list(json.loads(made.stdout)["properties"]["outputs"]) == ["azurE_FUNCTION_NAME", "baseUrl"]
    show = ("az", "deployment", "sub", "show", "--name", "my-customers", "--output", "tsv", "--query")
    assert cloud.run(*show, "properties.outputs.AZURE_FUNCTION_NAME.value").stdout == ""
    assert cloud.run(*show, "properties.outputs.baseUrl.value").stdout == "https://func-1.example\n"
