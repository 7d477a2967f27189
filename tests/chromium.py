"""Headless Chromium (Debian's), driven by playwright: what each test with a browser needs of it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path(os.environ.get("MESHCTL_CHROMIUM", "/usr/bin/chromium"))
PATIENCE_MS = 30_000


def driver(api: str) -> Any:
    """playwright's ``sync_api`` or ``async_api``. Without it, or without a browser, the test is
    skipped; with MESHCTL_REQUIRE_BROWSER=1 it fails."""
    if not CHROMIUM.exists():
        _left_out(f"there is no Chromium at {CHROMIUM}: scripts/test installs it")
    try:
        return import_module(f"playwright.{api}")
    except ImportError:
        _left_out("playwright is not installed: pip install -e '.[dev]'")


def launch(started: Any) -> Any:
    """The browser, of a driver that is started; to be awaited of the asynchronous one."""
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    return started.chromium.launch(executable_path=CHROMIUM, args=flags)


@asynccontextmanager
async def launched() -> AsyncIterator[Any]:
    """The asynchronous one, closed at the end."""
    async with driver("async_api").async_playwright() as started:
        browser = await launch(started)
        yield browser
        await browser.close()


def _left_out(reason: str) -> None:
    if os.environ.get("MESHCTL_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{reason} (MESHCTL_REQUIRE_BROWSER=1)", pytrace=False)
    pytest.skip(reason)
