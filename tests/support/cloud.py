"""A stand-in of what the Azure CLI talks to in Azure, for the real CLI: Microsoft Graph, Resource Manager, sign-in.

It stores what it is sent, and refuses what Graph refuses, for app registrations. Sources: "application resource
type", "Upsert application", "Upsert servicePrincipal", "appRoleAssignment resource type" (Microsoft Graph v1.0), and
the messages as seen by others, in terraform-provider-azuread and msgraph-bicep-types. It can't tell which tokens Entra
ID would then give out.
"""

import json
import os
import re
import secrets
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
from aiohttp import web

from tests.support.tls import tls

TENANT = "5f0e5b0c-6a0c-4a53-8a3b-3d0f6c1f0b11"
SUBSCRIPTION = "c0ffee00-1111-4222-8333-444455556666"
_IDENTITY_HEADER = "only-for-this-run"

type Object = dict[str, Any]
type Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """What Graph refuses: the status, code and message of its answer, and the code of its one detail."""

    def __init__(self, status: int, code: str, message: str, detail: str | None = None) -> None:
        super().__init__(message)
        self.response = web.json_response(
            {
                "error": {
                    "code": code,
                    "message": message,
                    **({"details": [{"code": detail, "message": message}]} if detail else {}),
                    "innerError": {"date": "2026-01-01T00:00:00", "request-id": str(uuid.uuid4())},
                }
            },
            status=status,
        )


def bad(message: str, code: str = "Request_BadRequest", detail: str | None = None) -> Refused:
    """Refuse a request that Graph can't carry out."""
    return Refused(400, code, message, detail)


def not_found(key: str) -> Refused:
    """Refuse to know an object."""
    return Refused(
        404,
        "Request_ResourceNotFound",
        f"Resource '{key}' does not exist or one of its queried reference-property objects are not present.",
    )


class Graph:
    """Microsoft Graph's applications, service principals, users, groups and assignments of one tenant."""

    def __init__(self) -> None:
        self.applications: list[Object] = []
        self.service_principals: list[Object] = []
        self.users: list[Object] = []
        self.groups: list[Object] = []
        self.assignments: list[Object] = []
        self.requests: list[str] = []
        """The method and the path of every request."""
        self.lag = 0
        """How many lookups of a new object fail before it is found."""
        self.busy = 0
        """How many of the next requests are one too many."""
        self.may_write = True
        self._unseen: dict[str, int] = {}

    # What a test sets up.

    def add_application(self, name: str, **properties: Any) -> Object:
        """Register an application, as others would."""
        app = self._new_application({"displayName": name, **properties}, None)
        self._unseen.clear()
        return app

    def add_service_principal(self, app_id: str, name: str = "a client") -> Object:
        """Make a service principal of an application of this tenant or another."""
        principal = _directory_object(appId=app_id, displayName=name, appRoleAssignmentRequired=False)
        self.service_principals.append(principal)
        return principal

    def add_user(self, sign_in_name: str) -> Object:
        """Make a user."""
        user = _directory_object(userPrincipalName=sign_in_name, displayName=sign_in_name.partition("@")[0])
        self.users.append(user)
        return user

    def add_group(self, name: str) -> Object:
        """Make a security group."""
        group = _directory_object(displayName=name, securityEnabled=True)
        self.groups.append(group)
        return group

    def hide(self, thing: Object) -> None:
        """Have an object look as if it were made just now."""
        self._unseen[thing["id"]] = self.lag

    # What the CLI asks for.

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request, or say why not."""
        path = request.match_info["path"]
        self.requests.append(f"{request.method} {path}")
        try:
            self._admit(request.method)
            body = await request.json() if request.can_read_body else {}
            create = request.headers.get("Prefer") == "create-if-missing"
            return self._route(request.method, path, body, create=create, query=dict(request.query))
        except Refused as refused:
            return refused.response

    def _admit(self, method: str) -> None:
        if self.busy:
            self.busy -= 1
            raise Refused(429, "TooManyRequests", "Too many requests.")
        if method != "GET" and not self.may_write:
            raise Refused(403, "Authorization_RequestDenied", "Insufficient privileges to complete the operation.")

    def _route(
        self, method: str, path: str, body: Object, *, create: bool, query: dict[str, str]
    ) -> web.StreamResponse:
        match method, *path.split("/"):
            case "GET", ("applications" | "servicePrincipals") as kind:
                return web.json_response({"value": self._filter(kind, query["$filter"])})
            case "POST", "servicePrincipals":
                return web.json_response(self._shown(self._new_principal(body)), status=201)
            case "POST", "servicePrincipals", key, "appRoleAssignedTo":
                return web.json_response(self._assign(self._seen("servicePrincipals", key), body), status=201)
            case "GET", kind, key:
                return web.json_response(self._shown(self._seen(kind, key)))
            case "GET" | "PATCH", segment:
                return self._by_key(method, segment, body, create=create)
            case "PATCH", "applications", key:
                self._update_application(self._seen("applications", key), body)
                return web.Response(status=204)
        raise Refused(400, "BadRequest", f"The stand-in has no {method} {path}.")

    def _by_key(self, method: str, segment: str, body: Object, *, create: bool) -> web.StreamResponse:
        """Serve an object by its alternate key: ``applications(appId='…')``."""
        named = re.fullmatch(r"(applications|servicePrincipals)\((appId|uniqueName)='([^']+)'\)", segment)
        if named is None:
            raise Refused(400, "BadRequest", f"Resource not found for the segment '{segment}'.")
        kind, key, value = named.groups()
        found = self._find(kind, lambda thing: thing.get(key) == value)
        if method == "GET" or not create:
            thing = self._seen(kind, found["id"] if found else value)
            if method == "GET":
                return web.json_response(self._shown(thing))
        if found:
            if kind == "applications":
                self._update_application(found, body)
            else:
                found.update(body)
            return web.Response(status=204)
        if kind == "applications":
            if key != "uniqueName":
                raise bad("The key of an upsert must be uniqueName.")
            return web.json_response(self._shown(self._new_application(body, value)), status=201)
        return web.json_response(self._shown(self._new_principal({**body, "appId": value})), status=201)

    def _all(self, kind: str) -> list[Object]:
        kinds = {
            "applications": self.applications,
            "servicePrincipals": self.service_principals,
            "users": self.users,
            "groups": self.groups,
        }
        if kind == "directoryObjects":
            return [thing for things in kinds.values() for thing in things]
        return kinds[kind]

    def _find(self, kind: str, wanted: Callable[[Object], bool]) -> Object | None:
        return next((thing for thing in self._all(kind) if wanted(thing)), None)

    def _seen(self, kind: str, key: str) -> Object:
        """The object by its id or sign-in name, unless it is too new to be seen."""
        thing = self._find(kind, lambda thing: key in {thing["id"], thing.get("userPrincipalName")})
        if thing is None or self._is_too_new(thing):
            raise not_found(key)
        return thing

    def _is_too_new(self, thing: Object) -> bool:
        left = self._unseen.get(thing["id"], 0)
        self._unseen[thing["id"]] = left - 1
        return left > 0

    def _filter(self, kind: str, expression: str) -> list[Object]:
        asked = re.fullmatch(r"appId eq '([^']+)'", expression)
        if asked is None:
            raise bad(f"The stand-in can't filter by {expression}.", "Request_UnsupportedQuery")
        return [self._shown(thing) for thing in self._all(kind) if thing["appId"] == asked[1]]

    def _shown(self, thing: Object) -> Object:
        """An object as Graph shows it: a service principal has its application's roles, and roles have an origin."""
        shown = dict(thing)
        if thing in self.users:
            shown["@odata.type"] = "#microsoft.graph.user"
        elif thing in self.groups:
            shown["@odata.type"] = "#microsoft.graph.group"
        elif thing in self.service_principals:
            shown["@odata.type"] = "#microsoft.graph.servicePrincipal"
            app = self._find("applications", lambda app: app["appId"] == thing["appId"])
            shown["appRoles"] = app["appRoles"] if app else []
        else:
            shown["@odata.type"] = "#microsoft.graph.application"
        shown["appRoles"] = [{**role, "origin": "Application"} for role in shown.get("appRoles", [])]
        return shown

    def _new_application(self, body: Object, unique_name: str | None) -> Object:
        if "displayName" not in body:
            raise bad("A value is required for property 'displayName' of resource 'Application'.")
        app = _directory_object(
            appId=str(uuid.uuid4()),
            displayName=None,
            uniqueName=unique_name,
            signInAudience="AzureADMyOrg",
            groupMembershipClaims=None,
            identifierUris=[],
            api={"requestedAccessTokenVersion": None, "oauth2PermissionScopes": [], "preAuthorizedApplications": []},
            appRoles=[],
            optionalClaims=None,
            spa={"redirectUris": []},
        )
        self._update_application(app, body)
        self.applications.append(app)
        self.hide(app)
        return app

    def _new_principal(self, body: Object) -> Object:
        app_id = body["appId"]
        app = self._find("applications", lambda app: app["appId"] == app_id)
        if app is None or self._is_too_new(app):
            raise bad(
                f"The appId '{app_id}' of the service principal does not reference a valid application object.",
                detail="NoBackingApplicationObject",
            )
        if self._find("servicePrincipals", lambda principal: principal["appId"] == app_id):
            raise Refused(409, "Request_MultipleObjectsWithSameKeyValue", "The service principal name is in use.")
        principal = _directory_object(**{"displayName": app["displayName"], "appRoleAssignmentRequired": False, **body})
        self.service_principals.append(principal)
        self.hide(principal)
        return principal

    def _update_application(self, app: Object, change: Object) -> None:
        """Change properties; those of a complex property, such as ``api``, one by one."""
        for name in change:
            if name not in app:
                raise bad(f"Invalid property '{name}'.")
            if name in {"id", "appId", "uniqueName"}:
                raise bad(f"Property '{name}' is read-only and cannot be set.")
        new = {**app, **change, "api": {**app["api"], **change.get("api", {})}}
        _check_permissions(app, new)
        known = {scope["id"] for scope in new["api"]["oauth2PermissionScopes"]}
        clients = new["api"]["preAuthorizedApplications"]
        if any(not known.issuperset(client["delegatedPermissionIds"]) for client in clients):
            raise bad(
                "Property api.preAuthorizedApplications.delegatedPermissionIds names no permission.", "InvalidValue"
            )
        if len({client["appId"] for client in clients}) < len(clients):
            raise bad("Property api.preAuthorizedApplications names an application twice.", "InvalidValue")
        for uri in new["identifierUris"]:
            if app["appId"] not in uri:
                raise bad("Values of identifierUris property must use a verified domain or the appId.", "InvalidValue")
        for uri in new["spa"]["redirectUris"]:
            if not uri.startswith(("https://", "http://localhost")):
                raise bad(f"Reply address {uri} must begin with https or be localhost.", "InvalidValue")
        app.update(new)

    def _assign(self, resource: Object, body: Object) -> Object:
        principal = self._find("directoryObjects", lambda thing: thing["id"] == body["principalId"])
        if body["resourceId"] != resource["id"] or principal is None or self._is_too_new(principal):
            raise bad("Not a valid reference update.")
        member = "Application" if principal in self.service_principals else "User"
        roles = self._shown(resource)["appRoles"]
        if not any(role["id"] == body["appRoleId"] and member in role["allowedMemberTypes"] for role in roles):
            raise bad("Permission being assigned was not found on application.")
        if body in ({name: held[name] for name in body} for held in self.assignments):
            raise bad("Permission being assigned already exists on the object", "Request_BadRequest")
        self.assignments.append({"id": str(uuid.uuid4()), **body})
        return self.assignments[-1]


def _directory_object(**properties: Any) -> Object:
    return {"id": str(uuid.uuid4()), **properties}


def _check_permissions(old: Object, new: Object) -> None:
    """Refuse scopes and roles that contradict each other, and changes of those that are in use."""
    scopes, roles = new["api"]["oauth2PermissionScopes"], new["appRoles"]
    for entries in (scopes, roles):
        if len({entry["id"] for entry in entries}) < len(entries):
            raise bad("Request contains a property with duplicate values.", detail="DuplicateValue")
        if any("origin" in entry for entry in entries):
            raise bad("Property origin is read-only and cannot be set.")
    for scope in scopes:
        for role in roles:
            if (scope["value"] == role["value"]) != (scope["id"] == role["id"]):
                raise bad("It contains duplicate value. Please provide unique value.", detail="DuplicateValue")
            if scope["id"] == role["id"] and (scope["adminConsentDisplayName"], scope["isEnabled"]) != (
                role["displayName"],
                role["isEnabled"],
            ):
                raise bad("A scope and a role of one id must agree.", detail="ConflictingValue")
    _check_changes(old["api"]["oauth2PermissionScopes"], scopes)
    _check_changes(old["appRoles"], roles)


def _check_changes(before: list[Object], after: list[Object]) -> None:
    """Refuse to change or delete a permission that is enabled; to disable it is all that can be done."""
    kept = {entry["id"]: entry for entry in after}
    for entry in before:
        if entry["isEnabled"] and {**entry, "isEnabled": None} != {**kept.get(entry["id"], {}), "isEnabled": None}:
            raise bad(
                "Permission (scope or role) cannot be deleted or updated unless disabled first.",
                "CannotDeleteOrUpdateEnabledEntitlement",
            )


def as_resource_manager_names(output: str) -> str:
    """An output's name in an answer of Resource Manager, which takes names for camel case (Azure/bicep#9360).

    >>> as_resource_manager_names("AZURE_FUNCTION_NAME"), as_resource_manager_names("baseUrl")
    ('azurE_FUNCTION_NAME', 'baseUrl')
    """
    upper = re.match(r"[A-Z]+(?![a-z])|[A-Z]?", output)
    start = upper[0] if upper else ""
    if len(start) > 1 and len(start) < len(output):
        start = start[:-1]
    return start.lower() + output[len(start) :]


async def _deployment(request: web.Request) -> Object:
    """What a request for a deployment says; the CLI puts the template's text into it, under a name without quotes."""
    return dict(json.loads((await request.text()).replace(", template:{", ', "template":{', 1)))


class ResourceManager:
    """Deployments of a subscription: they make nothing, and their outputs are what a test says."""

    def __init__(self) -> None:
        self.deployments: dict[str, Object] = {}
        self.values: Object = {}
        """The outputs' values by name; an output that is not in here has the value in the template."""
        self.sites: dict[str, str] = {}
        """The hosts of the deployment sites, by the paths of their apps."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        found: Object | None = None
        status = 200
        match request.method, *request.match_info["path"].strip("/").split("/"):
            case "GET", "tenants":
                found = {"value": [{"tenantId": TENANT}]}
            case "GET", "subscriptions":
                subscription = {
                    "id": f"/subscriptions/{SUBSCRIPTION}",
                    "subscriptionId": SUBSCRIPTION,
                    "tenantId": TENANT,
                    "displayName": "Stand-in",
                    "state": "Enabled",
                }
                found = {"value": [subscription]}
            case "POST", "subscriptions", _, "providers", "Microsoft.Resources", "deployments", name, "validate":
                found = self._made(name, await _deployment(request))
            case "PUT", "subscriptions", _, "providers", "Microsoft.Resources", "deployments", name:
                found, status = self._made(name, await _deployment(request)), 201
                self.deployments[name] = found
            case "GET", "subscriptions", _, "providers", "Microsoft.Resources", "deployments", name:
                found = self.deployments.get(name)
            case "GET", "subscriptions", _, *app if (path := "/".join(app)) in self.sites:
                hosts = [("Standard", "an-app.example"), ("Repository", self.sites[path])]
                states = [{"hostType": kind, "name": name, "sslState": "Disabled"} for kind, name in hosts]
                found = {"properties": {"hostNameSslStates": states}}
        if found is None:
            error = {"code": "NotFound", "message": f"The stand-in has no {request.method} {request.path}."}
            return web.json_response({"error": error}, status=404)
        return web.json_response(found, status=status)

    def _made(self, name: str, body: Object) -> Object:
        properties = body["properties"]
        outputs = {
            as_resource_manager_names(output): {
                "type": definition["type"].capitalize(),
                "value": self.values.get(output, definition.get("value")),
            }
            for output, definition in properties["template"].get("outputs", {}).items()
        }
        return {
            "id": f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Resources/deployments/{name}",
            "name": name,
            "type": "Microsoft.Resources/deployments",
            "location": body["location"],
            "properties": {
                "mode": properties["mode"],
                "parameters": properties.get("parameters", {}),
                "provisioningState": "Succeeded",
                "timestamp": "2026-01-01T00:00:00Z",
                "duration": "PT1S",
                "correlationId": str(uuid.uuid4()),
                "providers": [],
                "dependencies": [],
                "outputResources": [],
                "outputs": outputs,
            },
        }


class DeploymentSite:
    """The deployment site of an app on Flex Consumption. Source: "One deploy" in "Deployment technologies"."""

    def __init__(self) -> None:
        self.packages: list[tuple[str, bytes]] = []
        """The queries with which packages came, and the packages."""
        self.statuses: list[int | None] = []
        """What the next requests for the state of the deployment are answered with; None is a 503."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        match request.method, request.path:
            case "POST", "/api/publish" if request.content_type == "application/zip":
                self.packages.append((request.query_string, await request.read()))
                return web.json_response(str(uuid.uuid4()), status=202)
            case "GET", "/api/deployments/latest":
                status = self.statuses.pop(0)
                if status is None:
                    return web.Response(status=503, text="The service is unavailable.")
                return web.json_response({"id": "1", "status": status, "status_text": "", "complete": status > 2})
        return web.Response(status=404)


class Cloud:
    """The stand-in's services, and the environment in which the Azure CLI talks to them and to nothing else."""

    def __init__(self, folder: Path, az: Path) -> None:
        self.graph = Graph()
        self.resource_manager = ResourceManager()
        self.site = DeploymentSite()
        self._certificate = folder / "certificate.pem"
        self._az = az
        self.environment = {
            "PATH": f"{az.parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "AZURE_CONFIG_DIR": str(folder / "azure"),
            "AZURE_CORE_COLLECT_TELEMETRY": "false",
            "AZURE_CORE_INSTANCE_DISCOVERY": "false",
            "IDENTITY_HEADER": _IDENTITY_HEADER,
            "REQUESTS_CA_BUNDLE": str(self._certificate),
            "CURL_CA_BUNDLE": str(self._certificate),
        }
        self._addresses: dict[str, str] = {}
        self._key = secrets.token_bytes(32)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Serve over https on free ports of this machine."""
        context = tls(self._certificate)
        runners = []
        try:
            for name, handler in (
                ("graph", self._for_holders("graph", "v1.0/", self.graph.answer)),
                ("management", self._for_holders("management", "", self.resource_manager.answer)),
                ("site", self._for_holders("management", "", self.site.answer)),
                ("identity", self._give_token),
            ):
                app = web.Application(client_max_size=0)
                app.router.add_route("*", "/{path:.*}", handler)
                runner = web.AppRunner(app)
                runners.append(runner)
                await runner.setup()
                await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
                self._addresses[name] = f"https://localhost:{runner.addresses[0][1]}/"
            self.environment["IDENTITY_ENDPOINT"] = self._addresses["identity"] + "token"
            yield
        finally:
            for runner in runners:
                await runner.cleanup()

    @property
    def site_host(self) -> str:
        """The host and port of the deployment site."""
        return self._addresses["site"].removeprefix("https://").rstrip("/")

    def run(
        self, *command: str, folder: Path | None = None, variables: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command that calls the Azure CLI, in a folder and with more variables."""
        environment = {**self.environment, **(variables or {})}
        return subprocess.run(  # noqa: S603
            command, env=environment, cwd=folder, capture_output=True, text=True, check=False
        )

    def sign_in(self) -> None:
        """Make the Azure CLI know this cloud, and sign it in."""
        management, graph = self._addresses["management"], self._addresses["graph"]
        cloud = {
            "name": "stand-in",
            "endpoints": {
                "management": management,
                "resourceManager": management,
                "activeDirectory": self._addresses["identity"],
                "activeDirectoryResourceId": management,
                "activeDirectoryGraphResourceId": graph,
                "microsoftGraphResourceId": graph,
            },
        }
        for command in (
            (
                "cloud",
                "register",
                "--name",
                "stand-in",
                "--skip-endpoint-discovery",
                "--cloud-config",
                json.dumps(cloud),
            ),
            ("cloud", "set", "--name", "stand-in"),
            ("login", "--identity"),
        ):
            ended = self.run(str(self._az), *command)
            if ended.returncode:
                raise RuntimeError(f"az {' '.join(command)}: {ended.stderr}")

    async def _give_token(self, request: web.Request) -> web.StreamResponse:
        """Sign the CLI in as a managed identity, as App Service does."""
        if request.path != "/token" or request.headers.get("X-IDENTITY-HEADER") != _IDENTITY_HEADER:
            return web.json_response({"error": "unauthorized_client"}, status=401)
        resource, until = request.query["resource"], int(time.time()) + 3600
        claims = {"aud": resource, "tid": TENANT, "oid": str(uuid.uuid4()), "exp": until}
        token = jwt.encode(claims, self._key, algorithm="HS256")
        return web.json_response(
            {"access_token": token, "expires_on": str(until), "resource": resource, "token_type": "Bearer"}
        )

    def _for_holders(self, name: str, version: str, handler: Handler) -> Handler:
        """Only for those who come with a token for this service."""

        async def checked(request: web.Request) -> web.StreamResponse:
            _, _, token = request.headers.get("Authorization", "").partition("Bearer ")
            address = self._addresses[name]
            try:
                jwt.decode(token, self._key, algorithms=["HS256"], audience=[address, address.rstrip("/")])
            except jwt.InvalidTokenError as invalid:
                error = {"code": "InvalidAuthenticationToken", "message": f"Access token validation failure: {invalid}"}
                return web.json_response({"error": error}, status=401)
            if not request.path.startswith(f"/{version}"):
                return web.json_response({"error": {"code": "BadRequest", "message": "Invalid version."}}, status=400)
            request.match_info["path"] = request.match_info["path"].removeprefix(version)
            return await handler(request)

        return checked
