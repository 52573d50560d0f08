"""The description, the page and the way to it from /: who gets what, how long it may be kept, and how it is turned off.

What a browser makes of the page is in tests/docs.
"""

import gzip
import re
import subprocess
import sys
from base64 import b64encode
from hashlib import sha384

import httpx
import pytest

from infra.local.issuer import Issuer
from infra.local.run import TOP
from tests.conftest import StartService
from tests.support.batch import by_id, customers, get
from tests.support.graph import BETA, DOCUMENTED, assert_error

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def test_the_description_is_for_everyone_and_asked_for_again_by_its_etag(anonymous: httpx.Client) -> None:
    response = anonymous.get("/openapi.json")
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")
    assert response.json()["openapi"].startswith("3.1")
    assert response.headers["Cache-Control"] == "no-cache"
    again = anonymous.get("/openapi.json", headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert anonymous.get("/openapi.json").content == response.content


def test_the_examples_of_errors_are_what_the_service_returns(client: httpx.Client, issuer: Issuer) -> None:
    responses = client.get("/openapi.json").json()["components"]["responses"]
    path = BETA.format("Contoso@contoso.onmicrosoft.com")
    taken = {**DOCUMENTED, "id": "taken"}
    client.post(path, json=taken)
    reader = {"Authorization": f"Bearer {issuer.token({'scp': 'Bookings.Read.All'})}"}
    batch = [get("ada", f"{customers('b')}/nobody"), get("bob", customers("b"), dependsOn=["ada"])]
    returned = {
        "failedDependency": by_id(client.post("/v1.0/$batch", json={"requests": batch}))["bob"],
        "badRequest": client.post(path, json={"displayName": "Ada"}),
        "InvalidAuthenticationToken": client.get(path, headers={"Authorization": ""}),
        "accessDenied": client.post(path, json=DOCUMENTED, headers=reader),
        "notFound": client.get(f"{path}/nobody"),
        "methodNotAllowed": client.put(path, json=DOCUMENTED),
        "conflict": client.post(path, json=taken),
        "preconditionFailed": client.patch(f"{path}/taken", json={}, headers={"If-Match": '"old"'}),
        "contentTooLarge": client.post(path, content=bytes(1_048_577), headers={"Content-Type": "application/json"}),
        "unsupportedMediaType": client.post(path, content="x", headers={"Content-Type": "text/plain"}),
    }
    for code, response in returned.items():
        example = responses[code]["content"]["application/json"]["example"]["error"]
        found = response.json()["error"]
        assert {**found, "innerError": None} == {**example, "innerError": None}
    # The rest needs a fault to provoke; at least the service can say so.
    sources = "".join(path.read_text() for path in (TOP / "customers").glob("*.py"))
    for code in responses.keys() - returned.keys():
        message = responses[code]["content"]["application/json"]["example"]["error"]["message"]
        assert message.partition(" request-id")[0] in sources


def test_the_page_runs_and_loads_nothing_but_its_own_files(anonymous: httpx.Client) -> None:
    page = anonymous.get("/docs", headers=BROWSER)
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]* src=)|<style| on\w+=| style=", page.text)
    urls = re.findall(r' (?:src|href)="([^"]+)" integrity="([^"]+)"', page.text)
    assert len(urls) == 4
    assert len(urls) == len(re.findall("<script|stylesheet", page.text))
    for url, integrity in urls:
        file = anonymous.get(url)
        assert file.status_code == 200
        assert file.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert integrity == f"sha384-{b64encode(sha384(file.content).digest()).decode()}"


def test_a_file_is_compressed_for_those_who_can_read_that(anonymous: httpx.Client) -> None:
    (url,) = re.findall(r'src="(/docs/swagger-ui-bundle[^"]+)"', anonymous.get("/docs").text)
    plain = anonymous.get(url, headers={"Accept-Encoding": "identity"})
    with anonymous.stream("GET", url, headers={"Accept-Encoding": "gzip, br"}) as zipped:
        raw = b"".join(zipped.iter_raw())
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert len(raw) < 500_000
    assert gzip.decompress(raw) == plain.content
    assert "Content-Encoding" not in plain.headers
    assert "Content-Encoding" not in anonymous.get(url, headers={"Accept-Encoding": "gzip;q=0"}).headers


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_that_has_not_changed_keeps_its_type(anonymous: httpx.Client, path: str) -> None:
    page = anonymous.get(path, headers=BROWSER)
    again = anonymous.get(path, headers={**BROWSER, "If-None-Match": page.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["Content-Type"] == page.headers["Content-Type"]


@pytest.mark.parametrize("name", ["x", "page.js", "..%2Fpage.py", "swagger-ui-bundle.0000000000000000.js"])
def test_there_is_no_other_file(anonymous: httpx.Client, name: str) -> None:
    assert anonymous.get(f"/docs/{name}").status_code in (400, 404)


def test_a_person_is_led_to_the_page_and_a_client_told_that_nothing_is_there(anonymous: httpx.Client) -> None:
    home = anonymous.get("/", headers=BROWSER)
    assert (home.status_code, home.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert 'href="/docs"' in home.text
    assert_error(anonymous.get("/"), 404, "notFound")
    assert_error(anonymous.post("/", headers=BROWSER), 404, "notFound")
    assert_error(anonymous.get("/elsewhere", headers=BROWSER), 404, "notFound")


def test_the_settings_turn_all_of_it_off(start_service: StartService) -> None:
    with start_service(DOCS="false") as service, httpx.Client(base_url=service.base, headers=BROWSER) as client:
        for path in ("/openapi.json", "/docs", "/docs/signed-in.html", "/"):
            assert_error(client.get(path), 404, "notFound")


def test_nothing_of_it_is_imported_before_somebody_asks() -> None:
    look = (
        "import customers.routes, customers.api, sys; print([m for m in sys.modules if m.startswith('customers.docs')])"
    )
    ended = subprocess.run(  # noqa: S603
        [sys.executable, "-c", look], cwd=TOP, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"
