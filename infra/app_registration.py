"""Registers the API in Microsoft Entra ID and lets callers in, by Microsoft Graph, as whoever ``az login`` signed in.

A program of its own, run by app-registration.sh: the standard library and Python 3.9 suffice, so that it runs wherever
the Azure CLI does. What it registers is in app-registration.json. A scope and a role of one name share their id and
their texts, without which Entra ID refuses the second as a duplicate.

Sources: "Upsert application", "Upsert servicePrincipal", "Grant an appRoleAssignment for a service principal" and
"preAuthorizedApplication resource type" (Microsoft Graph v1.0); "Configure optional claims" (Microsoft Entra).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

REGISTRATION: dict[str, Any] = json.loads(Path(__file__).with_name("app-registration.json").read_text(encoding="utf-8"))
PERMISSIONS: dict[str, str] = {scope["value"]: scope["id"] for scope in REGISTRATION["api"]["oauth2PermissionScopes"]}
READ = "Bookings.Read.All"
NONE = "none"

AZURE_CLI = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"
"""The client ID of the Azure CLI, the same in every tenant."""

# Seconds between attempts. Entra ID promises nothing about how long a new object takes to be seen everywhere; minutes
# have been reported. A read waits less: a wrong ID is more likely than a slow replica.
_WRITE_PAUSES = (1, 2, 4, 8, 15, 30, 30, 30, 60)
_READ_PAUSES = (1, 2, 4)

_NOT_FOUND = "Request_ResourceNotFound"
# What Graph answers while an object, or a change to one, has not reached all its replicas.
_NOT_REPLICATED = (
    _NOT_FOUND,
    "NoBackingApplicationObject",
    "Not a valid reference update",
    "unless disabled first",
    "Permission being assigned was not found",
    "preAuthorizedApplications",
)
_BUSY = ("Too Many Requests", "Service Unavailable", "Gateway Timeout", "Bad Gateway")
_KINDS = {
    "#microsoft.graph.user": ("user", "User"),
    "#microsoft.graph.group": ("group", "User"),
    "#microsoft.graph.servicePrincipal": ("application", "Application"),
}
"""Types of principals: what they are called here, and the member type of a role that they may be assigned to."""


class Failure(Exception):
    """The command cannot be carried out; the message says what to do."""


class AzError(Failure):
    """What the Azure CLI, or Microsoft Graph through it, answered instead of a result."""

    def __init__(self, answer: str) -> None:
        self._answer = answer
        message = answer
        body = re.search(r"\((\{.*\})\)", answer, re.DOTALL)  # az rest says: Not Found({"error": ...})
        if body:
            try:
                error = json.loads(body[1])["error"]
                message = f"Microsoft Graph refused this: {error['message']} ({error['code']})"
            except (ValueError, LookupError, TypeError):
                pass  # then all of the answer is the message
        if "Authorization_RequestDenied" in answer:
            message += "\nYou need the role Cloud Application Administrator in Microsoft Entra ID."
        super().__init__(message)

    def is_any_of(self, texts: tuple[str, ...]) -> bool:
        """Whether the answer contains one of the texts."""
        return any(text in self._answer for text in texts)


class Graph:
    """Microsoft Graph v1.0 of the cloud that the Azure CLI is signed in to."""

    def __init__(self) -> None:
        az = shutil.which("az")
        if az is None:
            raise Failure("The Azure CLI is needed: https://aka.ms/install-azure-cli")
        self._az = az
        address = self._run("cloud", "show", "--query", "endpoints.microsoftGraphResourceId", "--output", "tsv")
        self._base = f"{address.strip().rstrip('/')}/v1.0/"

    def get(self, path: str) -> dict[str, Any]:
        """Read an object that is expected to exist. Raises AzError if it does not."""
        return self._patiently(_READ_PAUSES, "get", path)

    def registered(self, kind: str, client_id: str) -> dict[str, Any]:
        """Read the application or the service principal of a registration. Raises Failure if there is none."""
        try:
            return self.get(f"{kind}(appId='{client_id}')")
        except AzError as failure:
            if not failure.is_any_of((_NOT_FOUND,)):
                raise
            raise Failure(
                f"This tenant has no registration {client_id}. Give the client ID that create printed, and sign in "
                "(az login) to the tenant in which it ran."
            ) from failure

    def find(self, path: str) -> dict[str, Any] | None:
        """Read an object; None if there is none."""
        try:
            return self._patiently((), "get", path)
        except AzError as failure:
            if failure.is_any_of((_NOT_FOUND,)):
                return None
            raise

    def patch(self, path: str, body: dict[str, Any]) -> None:
        """Change properties of an object."""
        self._patiently(_WRITE_PAUSES, "patch", path, body)

    def upsert(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Make the object that an alternate key names, or change its properties. The new object, or else nothing."""
        return self._patiently(_WRITE_PAUSES, "patch", path, body, "--headers", "Prefer=create-if-missing")

    def post(self, path: str, body: dict[str, Any]) -> None:
        """Make an object."""
        self._patiently(_WRITE_PAUSES, "post", path, body)

    def _patiently(
        self, pauses: tuple[int, ...], method: str, path: str, body: dict[str, Any] | None = None, *options: str
    ) -> dict[str, Any]:
        """Send a request, again after a pause where Graph is busy or has not replicated what the request names."""
        for pause in pauses:
            try:
                return self._send(method, path, body, *options)
            except AzError as failure:
                if not failure.is_any_of(_BUSY + _NOT_REPLICATED):
                    raise
            if pause == pauses[2]:
                print("Waiting for Microsoft Entra ID to catch up ...", file=sys.stderr)
            time.sleep(pause)
        return self._send(method, path, body, *options)

    def _send(self, method: str, path: str, body: dict[str, Any] | None, *options: str) -> dict[str, Any]:
        if body is not None:
            options = (*options, "--body", "@-")  # on the command line, Windows would take the quotes out of it
        answer = self._run("rest", "--method", method, "--url", self._base + path, *options, body=body)
        return dict(json.loads(answer)) if answer.strip() else {}

    def _run(self, *arguments: str, body: dict[str, Any] | None = None) -> str:
        ended = subprocess.run(
            [self._az, *arguments, "--only-show-errors"],
            input=None if body is None else json.dumps(body),
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise AzError(ended.stderr.strip() or f"The Azure CLI ended with {ended.returncode}.")
        return ended.stdout


def merge(theirs: list[dict[str, Any]] | None, ours: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Our entries over theirs of the same key; entries of other keys, and what else is in theirs, stay."""
    rest = {entry[key]: entry for entry in ours}
    merged = []
    for entry in theirs or []:
        mine = rest.pop(entry[key], {})
        merged.append({**entry, **{name: value for name, value in mine.items() if not _same(entry.get(name), value)}})
    return merged + list(rest.values())


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal; the order of a list says nothing to Graph."""
    if isinstance(one, list) and isinstance(other, list):
        return sorted(one) == sorted(other)
    return bool(one == other)


def _writable(permissions: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Scopes or roles as Graph takes them back: it returns their origin, and rejects it in a request."""
    return [{name: value for name, value in entry.items() if name != "origin"} for entry in permissions or []]


def register(graph: Graph, app: dict[str, Any]) -> None:
    """Give an application all that app-registration.json says, and keep what others added."""
    api, claims, uris = app.get("api") or {}, app.get("optionalClaims") or {}, app.get("identifierUris") or []
    scopes, roles = _writable(api.get("oauth2PermissionScopes")), _writable(app.get("appRoles"))
    ours, uri, groups = REGISTRATION, f"api://{app['appId']}", app.get("groupMembershipClaims")
    new_scopes = merge(scopes, ours["api"]["oauth2PermissionScopes"], "id")
    new_roles = merge(roles, ours["appRoles"], "id")
    known = {
        "signInAudience": app["signInAudience"],
        "groupMembershipClaims": groups,
        "identifierUris": uris,
        "api": {
            "requestedAccessTokenVersion": api.get("requestedAccessTokenVersion"),
            "oauth2PermissionScopes": scopes,
        },
        "appRoles": roles,
        "optionalClaims": claims,
    }
    wanted = {
        "signInAudience": ours["signInAudience"],
        # Which groups a token names. Only those that are assigned, so that no user has too many, unless others said so.
        "groupMembershipClaims": ours["groupMembershipClaims"] if groups in (None, "None") else groups,
        "identifierUris": uris if uri in uris else [*uris, uri],
        "api": {
            "requestedAccessTokenVersion": ours["api"]["requestedAccessTokenVersion"],
            "oauth2PermissionScopes": new_scopes,
        },
        "appRoles": new_roles,
        "optionalClaims": {
            **claims,
            "accessToken": merge(claims.get("accessToken"), ours["optionalClaims"]["accessToken"], "name"),
        },
    }
    if wanted == known:
        return
    target = f"applications/{app['id']}"
    changed = {entry["id"] for entry in (*scopes, *roles) if entry not in (*new_scopes, *new_roles)}
    if changed:  # which Graph allows only while the permission is disabled
        disabled = {
            "api": {"oauth2PermissionScopes": _disabled(scopes, changed)},
            "appRoles": _disabled(roles, changed),
        }
        graph.patch(target, disabled)
    graph.patch(target, wanted)


def _disabled(entries: list[dict[str, Any]], ids: set[str]) -> list[dict[str, Any]]:
    return [{**entry, "isEnabled": False} if entry["id"] in ids else entry for entry in entries]


def create(graph: Graph, name: str, client_id: str | None) -> str:
    """Make the registration, or bring it up to date. Return its client ID.

    It is found by its unique name or its client ID, never by its display name, which anyone may give to an application.
    """
    path = f"applications(uniqueName='{name}')"
    app = graph.registered("applications", client_id) if client_id else graph.find(path)
    if app is None:
        app = graph.upsert(path, {"displayName": name, **REGISTRATION}) or graph.get(path)
    register(graph, app)
    # Entra ID then issues tokens only to those who are assigned.
    graph.upsert(f"servicePrincipals(appId='{app['appId']}')", {"appRoleAssignmentRequired": True})
    return str(app["appId"])


def find_principal(graph: Graph, who: str) -> dict[str, Any]:
    """The user, group or application that a sign-in name, a client ID or an object ID names."""
    if "@" in who:
        found = graph.find(f"users/{quote(who, safe='')}")
        principal = found and {"@odata.type": "#microsoft.graph.user", **found}
    else:
        application = graph.find(f"servicePrincipals(appId='{who}')")
        principal = (
            {"@odata.type": "#microsoft.graph.servicePrincipal", **application}
            if application
            else graph.find(f"directoryObjects/{who}")
        )
    if principal is None:
        raise Failure(
            f"This tenant has no application, user or group {who}. If it was made just now, try again in a minute. "
            "If it is the client ID of an application without a service principal here, run: "
            f"az ad sp create --id {who}"
        )
    if principal["@odata.type"] not in _KINDS:
        raise Failure(
            f"{who} is of the type {principal['@odata.type']}: give an application's client ID, or the object ID of a "
            "user, a group or a service principal."
        )
    return principal


def allow(graph: Graph, audience: str, who: str, permission: str) -> None:
    """Assign an application, a user or a group to a permission of the API. It is a success if it has that already."""
    api = graph.registered("servicePrincipals", audience)
    principal = find_principal(graph, who)
    kind, member = _KINDS[principal["@odata.type"]]
    roles = [role for role in api.get("appRoles") or [] if role["value"] == permission and role["isEnabled"]]
    if not roles or member not in roles[0]["allowedMemberTypes"]:
        raise Failure(
            f"The registration {audience} has no permission {permission} for a {kind}. If it should have, run this "
            f"first: app-registration.sh create --client-id {audience}"
        )
    assignment = {"principalId": principal["id"], "resourceId": api["id"], "appRoleId": roles[0]["id"]}
    try:
        graph.post(f"servicePrincipals/{api['id']}/appRoleAssignedTo", assignment)
    except AzError as failure:
        if not failure.is_any_of(("Permission being assigned already exists",)):
            raise
    name = principal.get("displayName") or who
    if member == "Application":
        print(f"The {kind} {name} has {permission}, for all businesses.", file=sys.stderr)
    else:
        print(
            f"The {kind} {name} may sign in. A person's token has the permissions of the application that got it: see "
            "the commands cli and redirect. In which businesses, python -m customers members says.",
            file=sys.stderr,
        )
    if "#EXT#" in (principal.get("userPrincipalName") or ""):
        print("This is a guest, whom the service refuses unless ALLOW_GUESTS is true.", file=sys.stderr)


def preauthorize(graph: Graph, app: dict[str, Any], client: str, permission: str) -> None:
    """Let a client application get tokens with one permission, and no other, for people who have been let in."""
    known = app["api"].get("preAuthorizedApplications") or []
    scopes = [scope["id"] for scope in app["api"]["oauth2PermissionScopes"] if scope["value"] == permission]
    if not scopes and permission != NONE:
        raise Failure(
            f"The registration has no permission {permission}. Run this first: "
            f"app-registration.sh create --client-id {app['appId']}"
        )
    entry = [{"appId": client, "delegatedPermissionIds": scopes}] if scopes else []
    wanted = [other for other in known if other["appId"] != client] + entry
    graph.patch(f"applications/{app['id']}", {"api": {"preAuthorizedApplications": wanted}})


def redirect(graph: Graph, audience: str, uri: str, permission: str) -> str:
    """Let a page in a browser sign people in, with the authorization code flow and PKCE. Return its client ID.

    The page is a client of the API, and so an application of its own: tokens name it, and a secret it has none.
    """
    api = graph.registered("applications", audience)
    path = f"applications(uniqueName='{audience}-page')"
    page = graph.find(path)
    if page is None:
        body = {
            "displayName": f"{api['displayName']} page",
            "signInAudience": REGISTRATION["signInAudience"],
            "spa": {"redirectUris": [uri]},
        }
        page = graph.upsert(path, body) or graph.get(path)
    known = (page.get("spa") or {}).get("redirectUris") or []
    if uri not in known:
        graph.patch(f"applications/{page['id']}", {"spa": {"redirectUris": [*known, uri]}})
    client = str(page["appId"])
    graph.upsert(f"servicePrincipals(appId='{client}')", {"displayName": page["displayName"]})
    preauthorize(graph, api, client, permission)
    return client


def _guid(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        raise argparse.ArgumentTypeError(f"must be an ID such as {AZURE_CLI}, not {text!r}")
    return text.lower()


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", text):
        raise argparse.ArgumentTypeError(
            f"must be 1 to 100 letters, digits, dots, hyphens or underscores, not {text!r}"
        )
    return text


def _who(text: str) -> str:
    return text if re.fullmatch(r"[^@\s]+@[^@\s]+", text) else _guid(text)


def _uri(text: str) -> str:
    if not re.fullmatch(r"(https://[^/?#*\s]+|http://localhost(:\d+)?)/[^?#*\s]*", text):
        raise argparse.ArgumentTypeError(
            f"must be the address of a page, beginning with https:// or http://localhost, not {text!r}"
        )
    return text


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="app-registration.sh",
        description="Registers the API in Microsoft Entra ID and lets callers in. Sign in first: az login. "
        "An application's permission is for all businesses of every deployment that accepts the registration's tokens; "
        "a person also needs a role in the business (python -m customers members).",
        epilog=f"The permissions: {', '.join(PERMISSIONS)}.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    made = commands.add_parser(
        "create",
        help="make the registration, or bring it up to date, and print its client ID, the AUDIENCE of its tokens",
    )
    which = made.add_mutually_exclusive_group()
    which.add_argument(
        "--name", type=_name, default="booking-customers", help="its unique name in the tenant (booking-customers)"
    )
    which.add_argument("--client-id", type=_guid, help="the client ID of a registration made otherwise")

    allowed = commands.add_parser("allow", help="let an application, a user or a group in")
    allowed.add_argument("audience", type=_guid, metavar="AUDIENCE", help="what create printed")
    allowed.add_argument(
        "who",
        type=_who,
        metavar="WHO",
        help="a client ID, a user's sign-in name, or the object ID of a user, a group or a managed identity",
    )
    allowed.add_argument("permission", choices=PERMISSIONS, metavar="PERMISSION")

    cli = commands.add_parser("cli", help="set what the Azure CLI may do for people who have been let in")
    cli.add_argument("audience", type=_guid, metavar="AUDIENCE", help="what create printed")
    cli.add_argument(
        "permission",
        nargs="?",
        choices=[*PERMISSIONS, NONE],
        default=READ,
        metavar="PERMISSION",
        help=f"{READ} if it is left off; none takes it back",
    )

    page = commands.add_parser(
        "redirect", help="let a page at URI sign people in, and print its client ID; none takes its permission back"
    )
    page.add_argument("audience", type=_guid, metavar="AUDIENCE", help="what create printed")
    page.add_argument("uri", type=_uri, metavar="URI", help="where the page is, such as https://example.com/docs")
    page.add_argument(
        "permission",
        nargs="?",
        choices=[*PERMISSIONS, NONE],
        default=READ,
        metavar="PERMISSION",
        help=f"{READ} if it is left off",
    )
    return parser


def main() -> None:
    """Carry out the command line. Exit codes: 0 done, 1 refused, 2 wrong usage."""
    given = _arguments().parse_args()
    try:
        graph = Graph()
        if given.command == "create":
            print(create(graph, given.name, given.client_id))
        elif given.command == "allow":
            allow(graph, given.audience, given.who, given.permission)
        elif given.command == "cli":
            preauthorize(graph, graph.registered("applications", given.audience), AZURE_CLI, given.permission)
        else:
            print(redirect(graph, given.audience, given.uri, given.permission))
    except Failure as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
