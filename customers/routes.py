"""The table of routes: every path and method of the service, and what each takes.

What needs to know the service's interface reads this table and nothing else.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from urllib.parse import unquote

import azure.functions as func

from customers.auth import Permission
from customers.operations import Operations
from customers.query import Option
from customers.request import Request
from customers.route import Operation, Route
from customers.surface import Surface, is_cast


def _customers(surface: Surface) -> tuple[Route, ...]:
    name, collection = f"{surface.name.lower()}_customers", surface.template
    read, write = Permission.READ, Permission.WRITE
    lists = (Option.TOP, Option.SKIPTOKEN, Option.COUNT, Option.SELECT, Option.FILTER, Option.ORDERBY)
    return (
        Route(
            name,
            collection,
            {"GET": Operation(Operations.list, read, lists), "POST": Operation(Operations.add, write)},
            surface,
        ),
        Route(
            f"{name}_count",
            f"{collection}/$count",
            {"GET": Operation(Operations.count, read, (Option.FILTER,))},
            surface,
        ),
        Route(
            f"{name}_ref",
            f"{collection}/$ref",
            {"POST": Operation(Operations.add_by_reference, write)},
            surface,
        ),
        Route(
            f"{name}_with_id",
            f"{collection}/{{customerId}}",
            {
                "GET": Operation(Operations.get, read, (Option.SELECT,)),
                "PATCH": Operation(Operations.update, write),
                "DELETE": Operation(Operations.delete, write),
            },
            surface,
        ),
    )


# What describes the service is imported when somebody asks for it: it is no part of a cold start.


async def _description(operations: Operations, request: Request) -> func.HttpResponse:
    """Describe the service to a machine, in OpenAPI 3.1."""
    from customers.docs import page  # noqa: PLC0415

    return page.description(request, operations.settings, ROUTES)


async def _page(operations: Operations, request: Request) -> func.HttpResponse:
    """Show a page to read about the service, and to try it."""
    from customers.docs import page  # noqa: PLC0415

    return page.page(request, operations.settings)


async def _file(operations: Operations, request: Request) -> func.HttpResponse:
    """Get a file of the page."""
    from customers.docs import page  # noqa: PLC0415

    return page.file(request, operations.settings)


batch = Operation(Operations.batch, Permission.BATCH)

# The host tries functions by name, A to Z, and takes the first whose route matches. So does match().
ROUTES: tuple[Route, ...] = tuple(
    sorted(
        (
            *(route for surface in Surface for route in _customers(surface)),
            *(
                Route(f"{version.replace('.', '_')}_batch", f"{version}/$batch", {"POST": batch})
                for version in dict.fromkeys(surface.version for surface in Surface)
            ),
            Route("docs", "docs", {"GET": Operation(_page, None, None)}),
            Route("docs_file", "docs/{file}", {"GET": Operation(_file, None, None)}),
            Route("healthz", "healthz", {"GET": Operation(Operations.health, None, None)}),
            Route("openapi", "openapi.json", {"GET": Operation(_description, None, None)}),
            Route("zz_not_found", "{*path}", {}),
        ),
        key=lambda route: route.name,
    )
)


_COLLECTION = Surface.V1_SOLUTIONS.template.rpartition("/")[2]

# What a key may follow, in lower case.
_KEYED = frozenset(
    name.lower()
    for route in ROUTES
    if route.surface
    for name, following in pairwise(route.template.split("/"))
    if following.startswith("{")
)
_KEY_IN_PARENTHESES = re.compile(r"([\w.]+)\((?:id=)?'((?:[^']|'')*)'\)")


def resolve(route: Route, values: Mapping[str, str]) -> tuple[Route, Mapping[str, str]]:
    """Return the route and the ids that a path means, if it is one of OData's other spellings of it.

    These have no functions of their own: keys in parentheses, as in ``customers('x')``, and a segment with the name of
    the customers' type, which changes nothing (OData 4.01 URL Conventions, 4.3 and 4.11).
    """
    if not route.operations:
        segments = values.get("path", "").split("/")
    elif is_cast(values.get("customerId", "").partition("(")[0]):
        segments = [values[part[1:-1]] if part.startswith("{") else part for part in route.template.split("/")]
    else:
        return route, values
    plain = _without_casts(_with_keys_as_segments(segments))
    found, ids = _find(plain)
    return (found, ids) if found.operations else (route, values)


def _with_keys_as_segments(segments: Sequence[str]) -> list[str]:
    plain: list[str] = []
    for segment in segments:
        keyed = _KEY_IN_PARENTHESES.fullmatch(segment)
        if keyed and (keyed[1].lower() in _KEYED or is_cast(keyed[1])):
            plain += [keyed[1], keyed[2].replace("''", "'")]
        else:
            plain.append(segment)
    return plain


def _without_casts(segments: Sequence[str]) -> list[str]:
    """Leave out each cast that follows the collection or the key of a customer."""
    plain: list[str] = []
    for segment in segments:
        follows = _COLLECTION in [previous.lower() for previous in plain[-2:]] and not plain[-1].startswith("$")
        if not (follows and is_cast(segment)):
            plain.append(segment)
    return plain


def match(path: str) -> tuple[Route, dict[str, str]]:
    """Find the route of a path, and the values of its parameters.

    As the Functions host does: each segment is percent-decoded once, except ``%2F``; a segment that is not UTF-8 stays
    encoded; literals ignore case; one slash at the end is ignored.
    """
    segments = [_decode(segment) for segment in path.removeprefix("/").removesuffix("/").split("/")]
    return _find(segments)


def _find(segments: Sequence[str]) -> tuple[Route, dict[str, str]]:
    """The first route that decoded segments fit; the last one takes any."""
    for route in ROUTES:
        values = route.match(segments)
        if values is not None:
            return route, values
    raise LookupError("/".join(segments))


def _decode(segment: str) -> str:
    try:
        return "".join(
            part if part.lower() == "%2f" else unquote(part, errors="strict") for part in re.split("(%2[fF])", segment)
        )
    except UnicodeDecodeError:
        return segment
