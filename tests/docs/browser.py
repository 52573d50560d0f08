"""The machine's own Chromium."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def start_browser() -> Iterator[Browser]:
    """Start it; it connects to nothing by itself."""
    arguments = [
        *("--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            # Its sandbox does not run as root.
            chromium_sandbox=os.geteuid() != 0,
            args=arguments,
        )
        try:
            yield browser
        finally:
            browser.close()
