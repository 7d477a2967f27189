"""Pictures of the dashboard for the docs: a shop and a mesh of 200 services, light and dark."""

import sys
from pathlib import Path
from typing import Any

from browser import made
from browser.conftest import Server, shop
from chromium import PATIENCE_MS, launch
from playwright.sync_api import sync_playwright

from meshctl.dashboard.past import Past

SIZE = {"width": 1360, "height": 800}
LOOKS = 25
"""Before a picture of charts is taken, so that there is something on them."""


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as started:
        browser = launch(started)
        with shop(every_s=0.2) as server:
            page = entered(browser, server, "light")
            page.screenshot(path=folder / "dashboard-light.png")
            page = entered(browser, server, "dark")
            page.locator(".node", has_text="orders").click()
            page.mouse.move(500, 700)
            page.wait_for_function(
                "(looks) => (document.querySelector('.stroke').getAttribute('d') ?? '')"
                ".split('L').length > looks",
                arg=LOOKS,
            )
            page.screenshot(path=folder / "dashboard-dark.png")
        with Server(large) as server:
            for scheme in ("light", "dark"):
                page = entered(browser, server, scheme)
                page.screenshot(path=folder / f"dashboard-200-{scheme}.png")
        browser.close()


def large(past: Past) -> tuple[Any, ...]:
    return made.Large(past), *made.slow_ones()


def entered(browser: Any, server: Server, scheme: str) -> Any:
    page = browser.new_context(color_scheme=scheme, viewport=SIZE).new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(server.url)
    page.wait_for_selector(".node")
    return page


if __name__ == "__main__":
    main(Path(sys.argv[1]))
