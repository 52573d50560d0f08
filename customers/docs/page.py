"""What is served of the description: the document, the page to try the service on, its files, and the way to it from /.

The viewer is Swagger UI. Its files are not in the repository: ``make viewer`` puts them into ``viewer/``, and they are
served only if they have the hashes in this file. A file's name in a URL contains its hash, so a browser keeps it for
good. The page runs nothing else, and connects to no other host than those in ``_policy``.

Of the other well-kept viewers, Redoc cannot send requests, and Scalar is more than twice as large. The wheels on PyPI
that carry Swagger UI depend on Django, Flask or FastAPI, so its files come from its npm package.

Sources: Content Security Policy Level 3; Subresource Integrity; RFC 9111 (caching) and RFC 8246 (immutable).
"""

import gzip
import zlib
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from hashlib import sha384
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import azure.functions as func
from pydantic_core import to_json
from werkzeug.http import parse_accept_header

from customers import response
from customers.docs.openapi import describe, sign_in_scope
from customers.errors import NotFound
from customers.request import JSON, Request
from customers.route import Route
from customers.settings import Settings

_HERE = Path(__file__).parent

# Of swagger-ui-dist, whose version infra/viewer/package.json says.
_VIEWER = {
    "swagger-ui-bundle.js": "sha384-gjRm0bEPMeTmMh5jT2cHccIwCUZSTd8YC+j0d0sXw0MdGEfScduGpSyF3ZSSLkX9",
    "swagger-ui.css": "sha384-WlYgdmXYOOBWL5apwjDEZwN+U3HmXSSu5R6V5aGxEcf7z+KuRNwBhoxKVN1i3D5I",
    "oauth2-redirect.js": "sha384-XuY48ztmqRBrZqX+bDrPUqkTumNohu9Bl+yztOEp/hDTS5qXIApmbiD04MrTFpjk",
}
_OWN = ("page.js", "page.css")
_MEDIA_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
_HTML = "text/html; charset=utf-8"

_ALWAYS = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

_FOR_GOOD = "public, max-age=31536000, immutable"
_ASK_AGAIN = "no-cache"

SIGNED_IN = "signed-in.html"
"""The file to which Entra ID leads back from a sign-in: its URL is the redirect URI of the page."""


class _File(NamedTuple):
    """A file of the page: its bytes, its hash (Subresource Integrity), and its name in URLs."""

    body: bytes
    integrity: str
    name: str


@cache
def _files() -> dict[str, _File]:
    """Read the files, by their names. Raises NotFound if the viewer is missing or not the one that is expected."""
    files = {name: _file(name, (_HERE / name).read_bytes()) for name in _OWN}
    for name, integrity in _VIEWER.items():
        try:
            files[name] = _file(name, gzip.decompress((_HERE / "viewer" / f"{name}.gz").read_bytes()))
        except (OSError, EOFError, zlib.error):  # missing, or cut short
            raise NotFound(
                "This package was made without the page's viewer. Run make viewer, then make the package again."
            ) from None
        if files[name].integrity != integrity:
            raise NotFound(f"{name} is not the version that the service expects. Run make viewer again.")
    return files


def _file(name: str, body: bytes) -> _File:
    digest = sha384(body)
    stem, _, suffix = name.rpartition(".")
    integrity = f"sha384-{b64encode(digest.digest()).decode()}"
    return _File(body, integrity, f"{stem}.{digest.hexdigest()[:16]}.{suffix}")


def description(request: Request, settings: Settings, routes: Sequence[Route]) -> func.HttpResponse:
    """The service's description. Raises NotFound if the settings turn it off."""
    _check_on(settings)
    if settings not in _descriptions:
        body = to_json(describe(routes, settings))
        _descriptions[settings] = body, _etag(body)
    body, etag = _descriptions[settings]
    return response.resource(request, body, JSON, {"ETag": etag, "Cache-Control": _ASK_AGAIN})


# Made once for each settings, of which a process has one.
_descriptions: dict[Settings, tuple[bytes, str]] = {}


def page(request: Request, settings: Settings) -> func.HttpResponse:
    """The page to try the service on. Raises NotFound if the settings turn it off, or its viewer is missing."""
    _check_on(settings)
    files = _files()
    attributes = {"data-issuer": settings.local_issuer, "data-client": settings.docs_client_id}
    if settings.docs_client_id:
        attributes["data-scope"] = sign_in_scope(settings)
    given = "".join(f' {name}="{escape(str(value))}"' for name, value in attributes.items() if value)
    return _html(
        request,
        "Booking customers",
        f'<body{given} data-signed-in="/docs/{SIGNED_IN}">'
        "<header><h1>Try the service</h1>"
        '<p id="local" hidden><button type="button">Get a local token</button> <span role="status"></span></p></header>'
        '<div id="viewer"><noscript>This page needs JavaScript. The description is at /openapi.json.</noscript></div>'
        "</body>",
        styles=(files["swagger-ui.css"], files["page.css"]),
        scripts=(files["swagger-ui-bundle.js"], files["page.js"]),
        policy=_policy(settings),
    )


def home(request: Request) -> func.HttpResponse:
    """What a person sees who opens the service's address in a browser."""
    return _html(
        request,
        "Booking customers",
        "<body><main><h1>Booking customers</h1>"
        "<p>This is an HTTP API for the customers of a booking business, in Microsoft Graph's language.</p>"
        '<p><a href="/docs">Read about it and try it</a>, or get its <a href="/openapi.json">OpenAPI description</a>.'
        "</p></main></body>",
        styles=(_file("page.css", (_HERE / "page.css").read_bytes()),),
    )


def file(request: Request, settings: Settings) -> func.HttpResponse:
    """A file of the page. Raises NotFound if there is none of this name."""
    _check_on(settings)
    name = request.ids["file"]
    if name == SIGNED_IN:
        return _html(request, "Signed in", "<body></body>", scripts=(_files()["oauth2-redirect.js"],))
    for found in _files().values():
        if found.name == name:
            media_type = _MEDIA_TYPES[name[name.rindex(".") :]]
            return _compressed(request, found, media_type)
    raise NotFound("The page has no such file.")


def _compressed(request: Request, found: _File, media_type: str) -> func.HttpResponse:
    headers = {"ETag": f'"{found.integrity}"', "Cache-Control": _FOR_GOOD, "Vary": "Accept-Encoding"}
    if not parse_accept_header(request.header("accept-encoding"))["gzip"]:
        return response.resource(request, found.body, media_type, headers)
    return response.resource(request, _zipped(found), media_type, {**headers, "Content-Encoding": "gzip"})


@cache
def _zipped(found: _File) -> bytes:
    return gzip.compress(found.body, mtime=0)


def _check_on(settings: Settings) -> None:
    if not settings.docs:
        raise NotFound("The description is turned off in this deployment.")


def _policy(settings: Settings) -> str:
    """Where the page may connect to: the service, and where it gets tokens."""
    issuers = [settings.local_issuer, settings.authority if settings.docs_client_id else None]
    origins = ["'self'", *("://".join(urlsplit(issuer)[:2]) for issuer in issuers if issuer)]
    # The icons in the viewer's style sheet are data: URLs.
    return f"script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src {' '.join(origins)}"


def _html(
    request: Request,
    title: str,
    body: str,
    *,
    styles: Sequence[_File] = (),
    scripts: Sequence[_File] = (),
    policy: str = "script-src 'self'; style-src 'self'; img-src data:",
) -> func.HttpResponse:
    links = [f'<link rel="stylesheet" href="/docs/{one.name}" integrity="{one.integrity}">' for one in styles]
    links += [f'<script defer src="/docs/{one.name}" integrity="{one.integrity}"></script>' for one in scripts]
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{title}</title><link rel="icon" href="data:,">{"".join(links)}</head>{body}</html>\n'
    ).encode()
    headers = {
        "ETag": _etag(html),
        "Cache-Control": _ASK_AGAIN,
        "Content-Security-Policy": f"default-src 'none'; {policy}; {_ALWAYS}",
        "Referrer-Policy": "no-referrer",
        "Vary": "Accept",
    }
    return response.resource(request, html, _HTML, headers)


def _etag(body: bytes) -> str:
    return f'"{sha384(body).hexdigest()[:32]}"'
