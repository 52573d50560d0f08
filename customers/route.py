"""What a route is: a path, and what each method does at it. ``routes.py`` has the table of them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import azure.functions as func

from customers.auth import Permission
from customers.operations import Operations
from customers.query import Option
from customers.request import Request
from customers.surface import Surface

type Handler = Callable[[Operations, Request], Awaitable[func.HttpResponse]]


class Operation(NamedTuple):
    """What a method does at a path.

    ``permission`` is None if no token is needed. ``options`` are the query options that it supports; any other one is
    an error, except where they are None: then nobody looks at them.
    """

    handler: Handler
    permission: Permission | None
    options: Sequence[Option] | None = ()


class Route(NamedTuple):
    """A path: the name of its function, its template in the host's notation, and its operations by method."""

    name: str
    template: str
    operations: Mapping[str, Operation]
    surface: Surface | None = None

    def match(self, segments: Sequence[str]) -> dict[str, str] | None:
        """Return the values of the parameters if the decoded segments of a path fit, else None."""
        values: dict[str, str] = {}
        parts = self.template.split("/")
        if parts[-1].startswith("{*"):
            name = parts.pop()[2:-1]
            values[name] = "/".join(segments[len(parts) :])
            segments = segments[: len(parts)]
        if len(parts) != len(segments):
            return None
        for part, segment in zip(parts, segments, strict=True):
            if part.startswith("{"):
                if not segment:
                    return None
                values[part[1:-1]] = segment
            elif part.lower() != segment.lower():
                return None
        return values
