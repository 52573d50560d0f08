"""Paths find functions as they do on the Functions host."""

import pytest

from infra.local.routing import Route, RouteError, Routes

APP = Routes(
    [
        Route("b_item", "books/{id}"),
        Route("a_ref", "books/$ref"),
        Route("books", "books", ["GET"]),
        Route("deep", "v1.0/{shelf}/books"),
        Route("zz", "{*path}"),
    ]
)


@pytest.mark.parametrize(
    ("path", "function", "values"),
    [
        ("/books", "books", {}),
        ("/BOOKS/", "books", {}),
        ("/books/$ref", "a_ref", {}),
        ("/books/%24REF", "a_ref", {}),
        ("/books/1", "b_item", {"id": "1"}),
        ("/books/a%40b%20c+d", "b_item", {"id": "a@b c+d"}),
        ("/books/a%2Fb%2fc", "b_item", {"id": "a%2Fb%2fc"}),
        ("/books/%2524", "b_item", {"id": "%24"}),
        ("/books/%C3%A9", "b_item", {"id": "é"}),
        ("/books/%FF", "b_item", {"id": "%FF"}),
        ("/v1.0/x/books", "deep", {"shelf": "x"}),
        ("/v1.0/../books", "books", {}),
        ("/none/of/these", "zz", {"path": "none/of/these"}),
        ("/", "zz", {"path": ""}),
    ],
)
def test_a_path_finds_its_function(path: str, function: str, values: dict[str, str]) -> None:
    assert APP.find("GET", path) == (function, values)


def test_functions_are_tried_by_name_and_literals_have_no_precedence() -> None:
    routes = Routes([Route("z_ref", "books/$ref"), Route("B_item", "books/{id}")])
    assert routes.find("GET", "/books/$ref") == ("B_item", {"id": "$ref"})


def test_a_wrong_method_is_a_miss() -> None:
    assert Routes([Route("books", "books", ["GET"])]).find("POST", "/books") is None


def test_two_slashes_in_a_row_match_a_catch_all_only() -> None:
    named = [Route("a", "books/{id}"), Route("b", "books"), Route("c", "books/{id?}/{n}"), Route("d", "{book}/{id}")]
    for path, rest in (("/books//1", "books//1"), ("//books", "/books"), ("/books//", "books/"), ("//", "")):
        assert Routes(named).find("GET", path) is None
        assert Routes([*named, Route("z", "{*rest}")]).find("GET", path) == ("z", {"rest": rest})


@pytest.mark.parametrize(
    ("template", "path", "values"),
    [
        ("a/{n?}", "/a", {}),
        ("a/{n=5}", "/a", {"n": "5"}),
        ("a/{n=5}", "/a/6", {"n": "6"}),
        ("a/{n:int}", "/a/6", {"n": "6"}),
        ("a/{n:int}", "/a/x", None),
        ("a/{n:int}", "/a/99999999999", None),
        ("a/{n:long}", "/a/99999999999", {"n": "99999999999"}),
        ("a/{n:guid}", "/a/7d3b1c52-4f0e-4b8a-9c61-0f2a5e8d9b34", {"n": "7d3b1c52-4f0e-4b8a-9c61-0f2a5e8d9b34"}),
        ("a/{n:guid}", "/a/7d3b", None),
        ("a/{n:alpha:maxlength(2)}", "/a/xy", {"n": "xy"}),
        ("a/{n:alpha:maxlength(2)}", "/a/xyz", None),
        ("a/{n:length(2,3)}", "/a/x", None),
        ("a/{n:length(3)}", "/a/xyz", {"n": "xyz"}),
        ("a/{n:minlength(2)}", "/a/x", None),
        ("a/{n:range(1,3)}", "/a/4", None),
        ("a/{n:min(2)}", "/a/2", {"n": "2"}),
        ("a/{n:max(2)}", "/a/3", None),
        ("a/{n:bool}", "/a/TRUE", {"n": "TRUE"}),
        ("a/{n:regex(^b|c$)}", "/a/xc", {"n": "xc"}),
        ("a/{n:required}", "/a", None),
        ("a/{*rest}", "/a", {"rest": ""}),
    ],
)
def test_parameters_and_constraints(template: str, path: str, values: dict[str, str] | None) -> None:
    found = Routes([Route("f", template)]).find("GET", path)
    assert found == (None if values is None else ("f", values))


@pytest.mark.parametrize("template", ["admin/x", "runtime", "a/{n:even}", "a/v{n}", "a/{n"])
def test_a_template_that_the_host_refuses_or_this_one_does_not_know_is_refused(template: str) -> None:
    with pytest.raises(RouteError):
        Route("f", template)
