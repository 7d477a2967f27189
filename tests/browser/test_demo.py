"""The dashboard as people start it, before a mesh as the demo makes it, in a real browser."""

import contextlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from browser.conftest import Seen

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from demokit.__main__ import clean_up
from demokit.acts import first_deploy
from demokit.acts.observed import traffic
from demokit.inventory import Ports
from demokit.load import send
from demokit.scene import MESHCTL, Scene
from demokit.services import Services

pytestmark = pytest.mark.timeout(600)

STOP_S = 30.0


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """The demo's mesh: web and api, users and cache behind it, on three local hosts."""
    ports = Ports.pick()
    directory = Path(tempfile.mkdtemp(prefix="meshctl-demo-"))
    scene = Scene(directory=directory, ports=ports, services=Services(ports=ports))
    try:
        first_deploy.show(scene)
        yield scene
    finally:
        clean_up(scene)


@pytest.fixture
def url(scene: Scene) -> Iterator[str]:
    """Of ``meshctl dashboard``, which runs meanwhile."""
    process = subprocess.Popen(
        [MESHCTL, "dashboard", "--no-open"],
        cwd=scene.directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()
        _, said = process.communicate(timeout=STOP_S)
        assert process.returncode == 0, said
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate(timeout=STOP_S)


def test_the_demo_s_mesh_is_seen_as_it_is(
    scene: Scene, url: str, opened: Callable[..., Seen]
) -> None:
    seen = opened()
    with traffic(scene.ports.web_to_api):
        page = seen.enter(url)
        call = page.wait_for_selector(
            ".link[aria-label^='web calls api'][aria-label*='/s']", state="attached"
        )
        assert "mTLS" in call.get_attribute("aria-label")
        page.wait_for_selector(
            ".link[aria-label^='api calls users'][aria-label*='/s']", state="attached"
        )
        names = page.eval_on_selector_all(
            ".node", "(all) => all.map((each) => each.getAttribute('aria-label'))"
        )
        for service in ("web", "api", "users"):
            assert any(re.match(rf"{service}\b", name) for name in names), names
    for view, shown in (
        ("hosts", "table tr:has-text('back-1')"),
        ("certificates", "table tr:has-text('users')"),
        ("configuration", "ol li:has-text('Generation 1')"),
    ):
        page.locator(f"#tab-{view}").click()
        page.wait_for_selector(f"main {shown}")
    assert seen.complaints == []
    assert all(request.startswith(url.partition("?")[0]) for request in seen.requests)


def test_an_endpoint_that_fails_is_seen_ejected_with_the_reason(
    scene: Scene, url: str, opened: Callable[..., Seen]
) -> None:
    # By latency, a failing endpoint would get too few requests to be ejected soon.
    scene.put_in_force("services: {api: {load_balancing: {algorithm: round_robin}}}\n")
    scene.services.breaks("api v2")
    try:
        page = opened().enter(url)
        page.locator("#tab-endpoints").click()
        # In a thread: the driver of the browser has this one's event loop.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(send, scene.ports.web_to_api, 60, "/hello").result()
        row = page.wait_for_selector("tr:has-text('ejected')")
        assert "503" in row.text_content()
    finally:
        scene.services.mends("api v2")
