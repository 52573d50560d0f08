"""The page in a real browser: it opens on the README's request, sends it, and can be used by everyone."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Route, expect

from infra.local.issuer import AUTHORITY, Issuer
from infra.local.run import TOP
from tests.conftest import Service, StartService, free_port
from tests.local.test_run import started, wait_for

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
CLIENT = "3f0c8a1e-6d7b-4f52-9a35-c2e1d4b7a860"

expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page's address, as ``make run`` prints it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("function_app.py", "customers", "host.json"):
        (folder / name).symlink_to(TOP / name)
    with started(folder, PORT=str(free_port()), TABLE_PORT=str(free_port())) as process:
        yield wait_for(process, "/docs").split()[-1]


@contextmanager
def opened(browser: Browser, address: str, **options: object) -> Iterator[Page]:
    """Open the page. Nothing may be logged as an error, and no request may leave the machine."""
    page = browser.new_page(**options)  # type: ignore[arg-type]
    page.set_default_timeout(60_000)
    errors: list[str] = []
    requests: list[str] = []

    def log(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            errors.append(message.text)

    def note(request: Request) -> None:
        requests.append(request.url)

    page.on("console", log)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", note)
    page.goto(address)
    expect(page.get_by_role("button", name="Execute")).to_be_visible()
    try:
        yield page
    finally:
        page.close()
    # The browser itself logs each response of 400 or more.
    assert [error for error in errors if "the server responded with a status of 4" not in error] == []
    hosts = {urlsplit(url).hostname for url in requests if not url.startswith("data:")}
    assert hosts - {urlsplit(AUTHORITY).hostname} == {"127.0.0.1"}


def get_token(page: Page) -> None:
    """Press the button."""
    page.get_by_role("button", name="Get a local token").click()
    expect(page.get_by_role("status")).to_contain_text("has a token")


def response_of(page: Page, status: int) -> dict[str, object]:
    """What the page shows of the response."""
    shown = page.locator(".live-responses-table")
    expect(shown.locator(".response-col_status").last).to_contain_text(str(status))
    body: dict[str, object] = json.loads(shown.locator(".response-col_description pre").first.inner_text())
    return body


def test_it_opens_on_the_example_gets_a_token_and_shows_the_customer(browser: Browser, address: str) -> None:
    with opened(browser, address) as page:
        assert page.url.endswith("#/beta/betaAdd")
        expect(page.get_by_placeholder("businessId")).to_have_value("Contoso@contoso.onmicrosoft.com")
        expect(page.get_by_label("Request body")).to_have_value(
            json.dumps(
                {
                    "@odata.type": "#microsoft.graph.bookingCustomer",
                    "displayName": "Display Name value",
                    "emailAddress": "Email Address value",
                },
                indent=2,
            )
        )
        page.get_by_role("button", name="Execute").click()
        response_of(page, 401)
        get_token(page)
        page.get_by_role("button", name="Execute").click()
        customer = response_of(page, 201)
        assert (customer["displayName"], customer["emailAddress"]) == ("Display Name value", "Email Address value")
        assert customer["id"]


def test_it_shows_what_is_wrong_with_a_body(browser: Browser, address: str) -> None:
    with opened(browser, address) as page:
        get_token(page)
        page.get_by_label("Request body").fill('{"displayName": "", "age": 3}')
        page.get_by_role("button", name="Execute").click()
        error = response_of(page, 400)["error"]
        assert isinstance(error, dict)
        assert {detail["target"] for detail in error["details"]} == {"displayName", "emailAddress", "age"}


def test_a_token_is_pasted_and_a_request_sent_with_the_keyboard_alone(
    browser: Browser, service: Service, issuer: Issuer
) -> None:
    with opened(browser, f"{service.base}/docs") as page:
        page.get_by_role("button", name="Authorize").first.focus()
        page.keyboard.press("Enter")
        page.locator("#auth-bearer-value").focus()
        page.keyboard.type(issuer.token())
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Close").last.focus()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Execute").focus()
        page.keyboard.press("Enter")
        assert response_of(page, 201)["displayName"] == "Display Name value"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_it_has_no_serious_accessibility_fault(browser: Browser, address: str, scheme: str, width: int) -> None:
    with opened(browser, address, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        get_token(page)
        page.get_by_role("button", name="Execute").click()
        response_of(page, 201)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = page.evaluate(f"{AXE.read_text()}; axe.run()")
        serious = [
            (fault["id"], [node["html"] for node in fault["nodes"]])
            for fault in found["violations"]
            if fault["impact"] in ("serious", "critical")
        ]
        assert serious == []


def test_a_person_signs_in_with_a_code_verifier_and_no_secret(
    browser: Browser, start_service: StartService, issuer: Issuer
) -> None:
    sent: dict[str, list[str]] = {}

    def entra(route: Route) -> None:
        url = urlsplit(route.request.url)
        if url.path.endswith("/authorize"):
            sent.update(parse_qs(url.query))
            back = f"{sent['redirect_uri'][0]}?code=c0de&state={quote(sent['state'][0])}"
            route.fulfill(status=302, headers={"Location": back})
        else:
            sent.update(parse_qs(route.request.post_data or ""))
            route.fulfill(
                json={"access_token": issuer.token(), "token_type": "Bearer"},
                headers={"Access-Control-Allow-Origin": "*"},
            )

    with start_service(DOCS_CLIENT_ID=CLIENT) as service, opened(browser, f"{service.base}/docs") as page:
        page.context.route(f"{AUTHORITY}/**", entra)
        page.get_by_role("button", name="Authorize").first.click()
        dialog = page.locator(".modal-ux")
        expect(dialog.locator("[id^=client_secret]")).to_be_hidden()
        dialog.get_by_role("button", name="Apply given OAuth2 credentials").click()
        expect(dialog.get_by_text("Logout")).to_be_visible()
        dialog.get_by_role("button", name="Close").last.click()
        page.get_by_role("button", name="Execute").click()
        response_of(page, 201)
        assert sent["redirect_uri"] == [f"{service.base}/docs/signed-in.html"]
    challenge = base64.urlsafe_b64encode(hashlib.sha256(sent["code_verifier"][0].encode()).digest()).rstrip(b"=")
    assert (sent["code_challenge_method"], sent["code_challenge"]) == (["S256"], [challenge.decode()])
    assert (sent["client_id"], sent["grant_type"]) == ([CLIENT], ["authorization_code"])
    assert sent["scope"] == ["api://booking-customers/.default"]
    assert "client_secret" not in sent


def test_another_page_gets_no_local_token(browser: Browser, address: str, service: Service) -> None:
    with opened(browser, address) as page:
        issuer = page.evaluate("document.body.dataset.issuer")
    ask = """async (url) => {
      const read = (response) => response.text();
      const token = url.replace(/v2.0.*/, "oauth2/v2.0/token");
      const tries = [fetch(url), fetch(token, { method: "POST" }), fetch(token, { method: "POST", mode: "no-cors" })];
      return (await Promise.allSettled(tries.map((one) => one.then(read)))).map((one) => one.value ?? "refused");
    }"""
    # The start page of another service of this machine: another port is another origin.
    page = browser.new_page()
    page.route("http://other.example/*", lambda route: route.fulfill(body="<html></html>", content_type="text/html"))
    for url in (f"{service.base}/healthz", "http://other.example/"):
        page.goto(url)
        results = page.evaluate(ask, issuer)
        assert results[:2] == ["refused", "refused"]
        assert results[2] in ("", "refused")
    page.close()


def test_the_way_from_the_start_page(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(address.removesuffix("/docs"))
    page.get_by_role("link", name="try it").click()
    expect(page.get_by_role("button", name="Execute")).to_be_visible(timeout=60_000)
    page.close()
