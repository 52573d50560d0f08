"""The URLs of requests in a batch: however an SDK writes one, what was meant is done, or it is refused."""

from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from customers.errors import BadRequest
from customers.keys import is_key
from customers.member_url import WrongTarget, relative_url
from customers.query import Option, Query
from customers.routes import match, resolve


class Meant(NamedTuple):
    """What a URL is about: ids, and the query options."""

    business: str
    customer: str
    options: Mapping[str, str]


def read(url: str) -> Meant | None:
    """What the service takes a URL for; None if it refuses it, at once or when it looks at the options."""
    try:
        path, query_string = relative_url(url, "v1.0")
        _, ids = resolve(*match(f"v1.0/{path}"))
        query = Query.parse(query_string, tuple(Option), ids.get("businessId", ""))
    except (BadRequest, WrongTarget):
        return None
    if not all(is_key(value) for value in ids.values()):
        return None
    return Meant(ids.get("businessId", ""), ids.get("customerId", ""), query.sent)


def written(meant: Meant, of_path: Callable[[str], str], name: str, of_query: Callable[[str], str]) -> str:
    """The URL, by what writes a segment of the path, the names of the options, and a value."""
    path = f"/solutions/bookingBusinesses/{of_path(meant.business)}/customers"
    if meant.customer:
        path += f"/{of_path(meant.customer)}"
    options = "&".join(f"{name}{option}={of_query(value)}" for option, value in meant.options.items())
    return f"{path}?{options}" if options else path


# What the WHATWG URL Standard leaves as it is (4.4, percent-encode sets): JavaScript's Request writes URLs so.
_LEFT_IN_PATH = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"#<>?^`{}')
_LEFT_IN_QUERY = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "\"#<>'")

# The value as it is, as .NET writes it; and the ways of those who encode.
WAYS: dict[str, Callable[[Meant], str]] = {
    "Microsoft.Graph (.NET)": lambda meant: written(meant, str, "$", str),
    "Kiota (Python)": lambda meant: written(meant, lambda v: quote(v, safe=""), "%24", lambda v: quote(v, safe="")),
    "encodeURIComponent": lambda meant: written(
        meant, lambda v: quote(v, safe="!'()*~"), "$", lambda v: quote(v, safe="!'()*~")
    ),
    "encodeURI": lambda meant: written(
        meant, lambda v: quote(v, safe=";/?:@&=+$,!'()*~"), "$", lambda v: quote(v, safe=";/?:@&=+$,!'()*~")
    ),
    "fetch's Request": lambda meant: written(
        meant, lambda v: quote(v, safe=_LEFT_IN_PATH), "$", lambda v: quote(v, safe=_LEFT_IN_QUERY)
    ),
    "form": lambda meant: written(
        meant, lambda v: quote(v, safe=""), "%24", lambda v: quote(v, safe=" ").replace(" ", "+")
    ),
}
# What the client itself has to encode, as it has to for a request alone.
OWN_CARE = {"encodeURI": "%", "fetch's Request": "%"}

_nasty = st.text(
    " ab0+&#%/?='\"$éß\U0001f600.;,:@!*()[]{}|\\^`~-_<>2B5t\u00a0", min_size=1, max_size=12
) | st.sampled_from(
    [
        "a+b",
        "a&$top=2",
        "50%25",
        "a%2Bb",
        "o'b&$filter=x",
        "100%",
        "%",
        "a%20b",
        "x?",
        "x#y",
        "&",
        "'",
        "''",
        "$count=true",
    ]
)
_keys = _nasty.filter(is_key)


def _comparison(text: str) -> st.SearchStrategy[str]:
    quoted = "'" + text.replace("'", "''") + "'"
    return st.sampled_from(
        [
            f"emailAddress eq {quoted}",
            f"startswith(displayName,{quoted})",
            f"not(startswith(displayName,{quoted}))",
            f"(displayName ne {quoted})",
        ]
    )


_filters = st.lists(_nasty.flatmap(_comparison), min_size=1, max_size=2).map(" and ".join)
_options = st.fixed_dictionaries(
    {},
    optional={
        "filter": _filters,
        "top": st.sampled_from(["2", "10"]),
        "select": st.sampled_from(["id", "id,displayName"]),
        "count": st.just("true"),
        "orderby": st.just("id asc"),
    },
)
_meant = st.builds(Meant, _keys, st.one_of(st.just(""), _keys), _options)


@pytest.mark.parametrize("way", WAYS)
@given(meant=_meant)
def test_what_was_meant_is_done_or_refused(way: str, meant: Meant) -> None:
    texts = (meant.business, meant.customer, *meant.options.values())
    assume(not any(character in text for text in texts for character in OWN_CARE.get(way, "")))
    assert read(WAYS[way](meant)) in (meant, None)


@pytest.mark.parametrize("way", ["Kiota (Python)", "encodeURIComponent"])
@given(meant=_meant)
def test_a_url_that_is_wholly_encoded_is_understood(way: str, meant: Meant) -> None:
    url = WAYS[way](meant)
    if way == "encodeURIComponent":
        # The one case in which it could also be one that is not encoded: escapes in strings only.
        assume("%20" in url)
    assert read(url) == meant


@given(meant=_meant)
def test_a_url_that_is_not_encoded_is_understood_if_something_shows_it(meant: Meant) -> None:
    assume(" " in "".join([meant.business, meant.customer, *meant.options.values()]))
    assert read(WAYS["Microsoft.Graph (.NET)"](meant)) == meant


CUSTOMERS = "solutions/bookingBusinesses/b/customers"


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        # As Microsoft.Graph 6.10 for .NET, msgraph-sdk for Python and microsoft-graph-client for JavaScript write it.
        (
            "/solutions/bookingBusinesses/a b@x.com/customers?$filter=emailAddress eq 'o''b+1@x'&$top=2",
            Meant("a b@x.com", "", {"filter": "emailAddress eq 'o''b+1@x'", "top": "2"}),
        ),
        (
            "/solutions/bookingBusinesses/a%20b%2B%C3%A9/customers?%24filter=displayName%20eq%20%27o%27%27b%2B1%26%27&%24top=2",
            Meant("a b+é", "", {"filter": "displayName eq 'o''b+1&'", "top": "2"}),
        ),
        (
            "/v1.0/solutions/bookingBusinesses/a%20b+%C3%A9@x.com/customers?$filter=emailAddress%20eq%20%27a%2Bb%40x%27",
            Meant("a b+é@x.com", "", {"filter": "emailAddress eq 'a+b@x'"}),
        ),
        # A string of the filter can have anything in it.
        (
            f"{CUSTOMERS}?$filter=displayName eq 'a&$top=1'&$top=2",
            Meant("b", "", {"filter": "displayName eq 'a&$top=1'", "top": "2"}),
        ),
        (f"{CUSTOMERS}?$filter=displayName eq '50%25 #?/é'", Meant("b", "", {"filter": "displayName eq '50%25 #?/é'"})),
        (
            f"{CUSTOMERS}?$filter=startswith(displayName,'a#b')",
            Meant("b", "", {"filter": "startswith(displayName,'a#b')"}),
        ),
        (f"{CUSTOMERS}?$filter=displayName%20eq%20%27a|b%27", Meant("b", "", {"filter": "displayName eq 'a|b'"})),
        (f"{CUSTOMERS}/a+b", Meant("b", "a+b", {})),
        (f"{CUSTOMERS}/a%2Bb", Meant("b", "a+b", {})),
        ("solutions/bookingBusinesses('o''b')/customers('a b')", Meant("o'b", "a b", {})),
        (f"{CUSTOMERS}?top=2", Meant("b", "", {"top": "2"})),
    ],
)
def test_a_url_is_understood(url: str, meant: Meant) -> None:
    assert read(url) == meant


@pytest.mark.parametrize(
    "url",
    [
        f"{CUSTOMERS}?$filter=startswith(emailAddress,'a+b')",  # a plus or a space
        f"{CUSTOMERS}?$filter=emailAddress%20eq%20'a+b'",
        f"{CUSTOMERS}?%24filter=emailAddress+eq+%27a%27",
        f"{CUSTOMERS}?$filter=startswith(displayName,'50%25')",  # 50% or 50%25
        f"{CUSTOMERS}?$filter=displayName%20eq%20%27%E9%27",
        f"{CUSTOMERS}/x?",  # the customer x, or one whose id ends so
        f"{CUSTOMERS}/x/",
        f"{CUSTOMERS}?&$top=2",
    ],
)
def test_an_ambiguous_url_is_refused_with_what_to_do(url: str) -> None:
    with pytest.raises(BadRequest, match="Percent-encode it wholly"):
        relative_url(url, "v1.0")


@pytest.mark.parametrize(
    "url",
    [
        "https://graph.microsoft.com/v1.0/solutions/bookingBusinesses/b/customers",
        "HTTP://127.0.0.1/x",
        "//127.0.0.1/x",
        "/beta/bookingBusinesses/b/customers",
        "Beta/bookingBusinesses/b/customers",
        "/$batch",
        "%24Batch",
        "/v1.0/$batch",
    ],
)
def test_a_url_that_leads_elsewhere_makes_the_batch_a_wrong_one(url: str) -> None:
    with pytest.raises(WrongTarget):
        relative_url(url, "v1.0")
