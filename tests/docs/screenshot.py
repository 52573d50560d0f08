"""Makes the picture of the page for README.md: ``make screenshot``."""

import tempfile
from pathlib import Path

from infra.local.run import TOP
from tests.conftest import free_port
from tests.docs.browser import start_browser
from tests.local.test_run import started, wait_for

PICTURE = Path(__file__).with_suffix(".png")


def main() -> None:
    """Start the service, send the example, and take the picture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("function_app.py", "customers", "host.json"):
            (folder / part).symlink_to(TOP / part)
        with (
            started(folder, PORT=str(free_port()), TABLE_PORT=str(free_port())) as process,
            start_browser() as browser,
        ):
            page = browser.new_page(viewport={"width": 1000, "height": 980})
            page.set_default_timeout(120_000)
            page.goto(wait_for(process, "/docs").split()[-1])
            page.get_by_role("button", name="Get a local token").click()
            page.get_by_role("button", name="Execute").click()
            page.locator(".live-responses-table").wait_for()
            # From the request to the response to it.
            page.locator(".opblock-post .execute-wrapper, .btn-group").first.evaluate(
                "buttons => window.scrollBy(0, buttons.getBoundingClientRect().top - 20)"
            )
            page.screenshot(path=PICTURE)


if __name__ == "__main__":
    main()
