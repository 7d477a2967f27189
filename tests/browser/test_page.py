"""The dashboard's page in a real browser: what it shows, by keyboard, in both themes, and what it
never does."""

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import made
from browser.conftest import Seen, Server, shop

from meshctl.dashboard.past import Past

VIEWS = ("graph", "services", "routes", "endpoints", "hosts", "certificates", "configuration")
VIEWS_ALL = (*VIEWS, "denials")
Open = Callable[..., Seen]

CONTRASTS = (Path(__file__).parent / "contrast.js").read_text()


def test_the_graph_appears_with_figures_that_change(opened: Open, dashboard: Server) -> None:
    page = opened().enter(dashboard.url)
    assert page.locator(".node").count() == len(
        {name for row in made.SHOP for name in row[:2]} | {"reports", "postgres", "warehouse"}
    )
    orders = page.locator(".node", has_text="orders")
    assert re.search(r"\d+\.\d/s · 9\d\.\d\s%", orders.text_content())
    before = orders.locator(".figures").text_content()
    page.wait_for_function(
        """(before) => [...document.querySelectorAll(".node")]
          .find((node) => node.textContent.includes("orders"))
          .querySelector(".figures").textContent !== before""",
        arg=before,
    )


def test_nodes_stay_where_they_are_while_figures_change(opened: Open, dashboard: Server) -> None:
    page = opened().enter(dashboard.url)
    places = "() => [...document.querySelectorAll('.node')].map((n) => n.getAttribute('transform'))"
    figures = "() => document.querySelector('#sums').textContent"
    before, then = page.evaluate(places), page.evaluate(figures)
    page.wait_for_function(
        "(then) => document.querySelector('#sums').textContent !== then", arg=then
    )
    assert page.evaluate(places) == before


def test_health_and_security_are_told_without_colour(opened: Open, dashboard: Server) -> None:
    page = opened().enter(dashboard.url)
    page.wait_for_selector(".link[aria-label*='failing']", state="attached")
    orders = page.locator(".node", has_text="orders")
    assert "✕" in orders.text_content()
    assert "failing" in orders.get_attribute("aria-label")
    dash = "(link) => getComputedStyle(link.querySelector('.line')).strokeDasharray"
    link = page.locator(".link[aria-label^='stock calls warehouse']")
    assert "plaintext" in link.get_attribute("aria-label")
    safe = page.locator(".link[aria-label^='gateway calls web']")
    assert "mTLS" in safe.get_attribute("aria-label")
    assert link.evaluate(dash) != "none"
    assert safe.evaluate(dash) == "none"


def test_the_keyboard_alone_reaches_every_view(opened: Open, dashboard: Server) -> None:
    seen = opened()
    page = seen.enter(dashboard.url)
    focus = "() => document.activeElement.id"
    for number, view in enumerate(VIEWS_ALL, start=1):
        page.keyboard.press(str(number))
        assert page.evaluate(focus) == f"tab-{view}"
        assert page.get_attribute(f"#tab-{view}", "aria-selected") == "true"
        page.wait_for_selector("main tbody tr, main .node, main .history li")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focus) == "tab-graph"
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focus) == "tab-denials"
    page.keyboard.press("2")
    page.keyboard.press("/")
    page.keyboard.type("pay")
    page.wait_for_function("() => document.querySelectorAll('main tbody tr').length === 1")
    page.keyboard.press("Escape")
    page.wait_for_function("() => document.querySelectorAll('main tbody tr').length > 1")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="hidden")
    assert seen.complaints == []


def test_arrows_walk_along_calls_and_enter_opens_them(opened: Open, dashboard: Server) -> None:
    page = opened().enter(dashboard.url)
    page.keyboard.press("/")
    page.keyboard.type("gateway")
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel h2:text-is('gateway')")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.locator(".node", has_text="gateway").focus()
    spoken = "() => document.activeElement.getAttribute('aria-label')"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(spoken).startswith("gateway calls ")
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel h2:has-text('gateway →')")
    assert "mTLS" in page.inner_text("#panel .facts")
    page.keyboard.press("Escape")
    page.wait_for_selector("#panel", state="hidden")
    assert page.evaluate(spoken).startswith("gateway calls ")
    page.keyboard.press("ArrowRight")
    assert re.match("(api|web), well", page.evaluate(spoken))
    page.keyboard.press("n")
    page.wait_for_selector("text=Neighbourhood of")
    assert page.locator(".node").count() < 8


def test_a_panel_has_charts_of_the_time_before_it_was_opened(
    opened: Open, dashboard: Server
) -> None:
    page = opened().enter(dashboard.url)
    page.locator(".node", has_text="orders").click()
    page.wait_for_function(
        "() => (document.querySelector('.stroke')?.getAttribute('d') ?? '').length > 40"
    )
    panel = page.inner_text("#panel")
    assert "of the last" in panel
    assert "requests failed." in panel
    assert "3 calls were denied by policy." in panel
    assert "no intention of orders allows it" in panel


def test_only_what_fails_can_be_shown_and_a_list_instead(opened: Open, dashboard: Server) -> None:
    page = opened().enter(dashboard.url)
    page.keyboard.press("f")
    page.wait_for_function("() => document.querySelectorAll('.node').length < 10")
    assert page.locator(".node", has_text="search").count() == 0
    page.keyboard.press("l")
    page.wait_for_selector("main table")
    assert page.locator("th[aria-sort]").inner_text().startswith("State")
    page.click("th:has-text('Rate') button")
    assert page.get_attribute("th:has-text('Rate')", "aria-sort") == "descending"
    rates = page.locator("main tbody td:nth-child(5)").all_inner_texts()
    assert rates[0].startswith("1")
    assert rates[-1] == "\N{EN DASH}"


def test_each_view_says_what_it_is_for(opened: Open, dashboard: Server) -> None:
    page = opened().enter(dashboard.url)
    expected = {
        "4": "5 failures in a row, the last one 503",
        "5": "6, published is 7",
        "6": "the signer on host-4 does not answer",
        "7": "services.orders.timeouts.request",
        "8": "no intention of orders allows it",
    }
    for key, words in expected.items():
        page.keyboard.press(key)
        page.wait_for_selector(f"main >> text={words}")
    page.keyboard.press("7")
    page.click("text=Show the difference")
    page.wait_for_selector("text=From generation 6 to 7")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read_in_both_themes(opened: Open, dashboard: Server, scheme: str) -> None:
    page = opened(color_scheme=scheme, reduced_motion="reduce").enter(dashboard.url)
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) > 384) == (scheme == "light")
    for number in range(1, len(VIEWS_ALL) + 1):
        page.keyboard.press(str(number))
        page.wait_for_selector("main tbody tr, main .node, main .history li")
        found = page.evaluate(CONTRASTS)
        assert found["bad"] == []
        assert found["count"] > 20
    page.keyboard.press("1")
    page.locator(".node", has_text="search").click()
    page.wait_for_selector("#panel section")
    panel = [each for each in page.evaluate(CONTRASTS)["bad"] if "panel" in each]
    assert panel == []
    page.keyboard.press("?")
    assert page.evaluate(CONTRASTS)["bad"] == []


def test_the_switch_goes_before_the_systems_colours(opened: Open, dashboard: Server) -> None:
    page = opened(color_scheme="light").enter(dashboard.url)
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.keyboard.press("t")
    page.keyboard.press("t")
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    page.wait_for_selector(".node")
    assert page.evaluate(ground) == dark


@pytest.mark.parametrize("width", [320, 768, 1920])
def test_no_width_needs_sideways_scrolling(opened: Open, dashboard: Server, width: int) -> None:
    page = opened(viewport={"width": width, "height": 700}).enter(dashboard.url)
    for number in range(1, len(VIEWS_ALL) + 1):
        page.keyboard.press(str(number))
        page.wait_for_selector("main tbody tr, main .node, main .history li")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_it_asks_no_other_server_and_complains_of_nothing(opened: Open, dashboard: Server) -> None:
    seen = opened()
    page = seen.enter(dashboard.url)
    for number in range(1, len(VIEWS_ALL) + 1):
        page.keyboard.press(str(number))
    page.keyboard.press("1")
    page.locator(".node", has_text="orders").click()
    page.wait_for_selector("#panel section")
    assert seen.complaints == []
    assert len(seen.requests) > 10
    assert {url for url in seen.requests if not url.startswith(dashboard.guard.address)} == set()


def test_the_token_leaves_the_address_bar_and_the_history(opened: Open, dashboard: Server) -> None:
    seen = opened()
    page = seen.enter(dashboard.url)
    assert dashboard.guard.token not in page.url
    assert dashboard.guard.token not in page.evaluate("() => document.referrer + document.cookie")
    page.reload()
    page.wait_for_selector(".node")
    assert page.evaluate("() => history.length") <= 2


def test_names_paths_and_reasons_with_markup_stay_text(opened: Open) -> None:
    with shop(markup=True) as server:
        seen = opened()
        page = seen.page
        page.add_init_script("window.hacked = () => { window.isHacked = true; }")
        seen.enter(server.url)
        for number in range(1, len(VIEWS_ALL) + 1):
            page.keyboard.press(str(number))
            page.wait_for_selector("main tbody tr, main .node, main .history li")
        page.keyboard.press("1")
        page.locator(".node", has_text="orders<img").click()
        page.wait_for_selector("#panel h2:has-text('<img')")
        page.wait_for_selector("#panel section")
        assert page.locator("main img, aside img, main script, aside script").count() == 0
        assert page.evaluate("() => window.isHacked") is None
        assert seen.complaints == []


def test_markup_by_a_mistake_of_ours_is_refused_by_the_browser(
    opened: Open, dashboard: Server
) -> None:
    page = opened().enter(dashboard.url)
    told = page.evaluate(
        "() => { try { document.body.innerHTML = '<b>x</b>'; return 'done'; }"
        " catch (error) { return error.name; } }"
    )
    assert told == "TypeError"


def test_a_mesh_without_traffic_says_what_to_do(opened: Open) -> None:
    with shop(is_quiet=True) as server:
        page = opened().enter(server.url)
        page.wait_for_selector("h2:text-is('No traffic yet')")
        assert "meshctl status" in page.inner_text("main")
        page.keyboard.press("2")
        page.wait_for_selector("h2:text-is('No services yet')")


def test_a_source_that_fails_says_so_in_its_place(opened: Open) -> None:
    from meshctl.errors import Unreachable  # noqa: PLC0415

    error = Unreachable("Consul does not answer", hint="meshctl check")

    def sources(past: Past) -> tuple[Any, ...]:
        return made.Live(past), made.greeting(), made.Fixed("history", error), made.status()

    with Server(sources) as server:
        page = opened().enter(server.url)
        page.wait_for_selector(".node")
        page.keyboard.press("7")
        page.wait_for_selector(".problem >> text=Consul does not answer")
        assert "meshctl check" in page.inner_text(".problem")


def test_a_lost_server_is_told_and_found_again(opened: Open) -> None:
    seen = opened()
    with shop() as server:
        page = seen.enter(server.url)
        page.wait_for_selector("#live:has-text('live')")
        port = server.port
    page.wait_for_selector("#live:has-text('not connected')")
    assert "tries again by itself" in page.inner_text("#notice")
    assert page.locator(".node").count() > 5
    # Another one on its port: its address is a new one, and the page says so.
    with Server(lambda past: (made.Live(past), made.greeting()), port):
        page.wait_for_selector("#notice >> text=started anew")


def test_a_stream_that_broke_is_opened_again(opened: Open, dashboard: Server) -> None:
    seen = opened()
    seen.page.add_init_script("""
        window.streams = [];
        const Real = EventSource;
        window.EventSource = class extends Real {
          constructor(...words) { super(...words); window.streams.push(this); }
        };
    """)
    page = seen.enter(dashboard.url)
    page.wait_for_selector("#live:has-text('live')")
    page.evaluate("() => window.streams[0].dispatchEvent(new Event('error'))")
    page.wait_for_function(
        "() => window.streams.length === 2 && window.streams[1].readyState === 1"
    )
    page.wait_for_selector("#live:has-text('live')")
    assert page.evaluate("() => window.streams[0].readyState") == 2
    assert page.is_hidden("#notice >> text=tries again")


def test_a_mesh_of_200_services_is_grouped_and_refreshed_within_a_second(opened: Open) -> None:
    def sources(past: Past) -> tuple[Any, ...]:
        return made.Large(past), *made.slow_ones()

    with Server(sources) as server:
        seen = opened(viewport={"width": 1440, "height": 900})
        page = seen.enter(server.url)
        assert 10 < page.locator(".node").count() < 60
        assert page.locator(".node", has_text="more services").count() > 0
        durations = page.wait_for_function(
            """() => {
              const all = performance.getEntriesByName("refresh").map((each) => each.duration);
              return all.length >= 4 && all;
            }"""
        ).json_value()
        # The shown figures are of a look a second ago at most, if drawing takes less than that.
        assert sorted(durations)[len(durations) // 2] < 1000, durations
        for number in range(2, 5):
            page.keyboard.press(str(number))
            page.wait_for_selector("main tbody tr")
        page.keyboard.press("1")
        page.keyboard.press("/")
        page.keyboard.type("svc-112")
        page.keyboard.press("Enter")
        page.wait_for_selector("#panel h2:text-is('svc-112')")
        page.wait_for_function("() => document.querySelectorAll('.node').length < 25")
        assert seen.complaints == []


@pytest.mark.parametrize(
    "headers",
    [
        "Host: evil.test",
        "Host: 127.0.0.1",
        "Host: {own}\r\nHost: evil.test",
        "Host: {own}\r\nOrigin: http://evil.test",
        "Host: {own}\r\nOrigin: null",
    ],
)
def test_a_wrong_host_or_origin_is_refused_even_with_the_token(
    dashboard: Server, headers: str
) -> None:
    own = f"127.0.0.1:{dashboard.port}"
    with socket.create_connection(("127.0.0.1", dashboard.port), timeout=30) as asking:
        request = f"GET /?token={dashboard.guard.token} HTTP/1.1\r\n{headers.format(own=own)}\r\n"
        asking.sendall(f"{request}Connection: close\r\n\r\n".encode())
        answer = asking.makefile("rb").read()
    assert re.match(rb"HTTP/1\.[01] 4\d\d ", answer), answer
    assert b"Set-Cookie" not in answer


def test_a_drawing_has_callers_left_no_overlap_and_keeps_its_order(
    opened: Open, dashboard: Server
) -> None:
    """Sixty random graphs, half of them with cycles, each with one service more afterwards."""
    page = opened().enter(dashboard.url)
    assert page.evaluate((Path(__file__).parent / "layout.js").read_text()) == []
