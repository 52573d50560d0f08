"""The URL of a request in a batch, which clients write in two ways: percent-encoded, or with every character as it is.

The SDKs for Python and JavaScript encode it, that for .NET does not: it writes a space, ``+``, ``&``, ``#`` and ``%``
as they are. Both readings of a URL are possible only if every character of it may stand in a URI; then it is taken for
encoded, and refused where the two readings differ and both make sense: the worst outcome would be a wrong answer.

Source: RFC 3986, 2 (characters) and 4.2 (relative references).
"""

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from customers.errors import BadRequest
from customers.surface import Surface

_VERSIONS = frozenset(surface.version for surface in Surface)
_ABSOLUTE = re.compile("[A-Za-z][A-Za-z0-9+.-]*:|//")

# No encoder leaves these as they are: a space, control and non-ASCII characters, and four more.
_LITERAL = re.compile('[^!-~]|["#<>]')
# Nor may a URI hold these, but browsers leave them in a query.
_TOLERATED = re.compile(r"[\\^`{|}\[\]]|%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")
# In $filter. A quote inside is doubled, which makes two strings side by side.
_STRING = re.compile("'[^']*'")


class RelativeUrl(NamedTuple):
    """The path and the query string of a URL relative to the version, percent-encoded."""

    path: str
    query_string: str


class WrongTarget(Exception):
    """A batch must not have this URL at all; the message says why."""


def relative_url(url: str, version: str) -> RelativeUrl:
    """Read a URL of a batch that was sent to ``version``.

    Raises WrongTarget if it is absolute, of another version or another batch, and BadRequest if it is ambiguous.
    """
    if _ABSOLUTE.match(url):
        raise WrongTarget(f"must be relative to /{version}, such as /solutions/…, not absolute")
    path, mark, query = url.removeprefix("/").partition("?")
    first, _, rest = path.partition("/")
    named = unquote(first).lower()
    if named in _VERSIONS:
        if named != version:
            raise WrongTarget(f"must be relative to /{version}, the version of the batch")
        path, named = rest, unquote(rest).lower()
    if named == "$batch":
        raise WrongTarget("must not be a batch itself")
    if path.endswith("/") or (mark and not query):
        # As the end of an id that was not encoded, it would be lost.
        raise _refused("It must not end with / or ?.")
    if _is_encoded(path, query):
        return _decoded(path, query)
    return RelativeUrl("/".join(quote(segment, safe="") for segment in path.split("/")), _encode(_options(query)))


def _is_encoded(path: str, query: str) -> bool:
    """Whether a URL is percent-encoded. Raises BadRequest if nobody can tell, and it makes a difference."""
    if _LITERAL.search(path) or _LITERAL.search(query):
        return False
    # Neither a key nor a filter outside its strings can have a percent sign of its own.
    if _ESCAPE.search(path) or _ESCAPE.search(_STRING.sub("", query)):
        return True
    if _TOLERATED.search(path) or _TOLERATED.search(query):
        return False
    if "+" in query or _ESCAPE.search(query):
        raise _refused("It is not clear whether it is percent-encoded.")
    return False


def _decoded(path: str, query: str) -> RelativeUrl:
    if "+" in query:
        raise _refused("A + could be a space or a plus.")
    try:
        options = [unquote(option, errors="strict") for option in _options(query)]
    except UnicodeDecodeError:
        raise _refused("It is not UTF-8.") from None
    return RelativeUrl(path, _encode(options))


def _options(query: str) -> list[str]:
    """The options of a query: split at each ``&`` that is not in a string of a filter."""
    options: list[str] = []
    in_string = False
    for part in query.split("&") if query else ():
        if in_string:
            options[-1] += f"&{part}"
        elif not part:
            raise _refused("It has an & without an option.")
        else:
            options.append(part)
        in_string ^= part.count("'") % 2 == 1
    return options


def _encode(options: list[str]) -> str:
    pairs = [option.partition("=") for option in options]
    return "&".join(f"{quote(name, safe='$')}{equals}{quote(value, safe='')}" for name, equals, value in pairs)


def _refused(why: str) -> BadRequest:
    return BadRequest(f"url: {why} Percent-encode it wholly: a space as %20, + as %2B, & as %26, ' as %27, % as %25.")
