"""``browse.py CHROMIUM WANTED``: reads the dashboard's address from standard input, opens it, and
prints what its graph shows as one JSON document once WANTED is the label of one of its calls."""

import json
import os
import sys

from playwright.sync_api import sync_playwright

PATIENCE_MS = 60_000


def main(chromium: str, wanted: str) -> None:
    url = sys.stdin.readline().strip()
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page()
        complaints: list[str] = []
        page.on("console", lambda said: complaints.append(said.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        page.wait_for_selector(
            f".link[aria-label^='{wanted}'][aria-label*='/s']",
            state="attached",
            timeout=PATIENCE_MS,
        )
        labels = "(all) => all.map((each) => each.getAttribute('aria-label'))"
        seen = {
            "services": page.eval_on_selector_all(".node", labels),
            "calls": page.eval_on_selector_all(".link", labels),
            "complaints": complaints,
        }
        browser.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
