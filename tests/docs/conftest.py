"""A browser, and what was left out where there is none."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.docs.browser import CHROMIUM, start_browser

collect_ignore = [] if CHROMIUM else ["test_page.py"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what was left out."""
    if not CHROMIUM:
        terminalreporter.write_line("Left out: the page in a browser. Install Chromium (apt-get install chromium).")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The machine's own Chromium."""
    with start_browser() as browser:
        yield browser
