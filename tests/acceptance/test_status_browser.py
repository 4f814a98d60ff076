"""The status page in Chromium, served by the real server: its content, and attacks on it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from core.layer import Layer
from sql.history import Brews, JobRun, record_job_runs, record_sample
from sql.transaction import transaction
from tests.integration.sql.database import Database, digest_of
from tests.servers.layers import layer_bytes
from tests.servers.process import require
from tests.servers.push import push_image
from tests.servers.registry import Registry
from tests.web_server import front_of, served

SCOPE = "tests/status-browser"
HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"


@dataclass
class Scene:
    """The page's address, its database, and all requests and console messages of pages."""

    url: str
    database: Database
    open_page: Callable[..., Page]
    requested: list[str]
    complaints: list[str]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = require("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"], timeout=180_000)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def filled(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Database]]:
    """A served app. Of the image `v1` one of two layers is brewed; two failed, one for a hostile reason."""
    with front_of(registry.netloc, tmp_path_factory.mktemp("status")) as front:
        database = Database(front.parts.engine, front.parts.tables)
        now = int(time.time())
        image = push_image(registry, SCOPE, "v1", [layer_bytes(3000, 950), layer_bytes(1000, 951)])
        database.enqueue(image.layers[0].digest, size=3000, scope=SCOPE, now=now - 60)
        database.complete(database.claim_one(now=now), size=3000, now=now)
        for name, reason in (("a", HOSTILE), ("b", "no such blob " + "x" * 300)):
            database.enqueue(digest_of(name), scope=SCOPE, now=now - 60)
            database.set_aside(database.claim_one(now=now), reason=reason, now=now - 30)
        scopes = (f"{SCOPE}/{'long-name-' * 8}",)
        database.enqueue_all([Layer(digest_of(number), scopes) for number in range(1234)], now=now - 30)
        with transaction(database.engine) as connection:
            record_sample(connection, database.tables, Brews(17, 5_400_000_000, 2), None, now=now)
            run = JobRun("brew", now, 3.0, "failed", HOSTILE + "q" * 180)
            record_job_runs(connection, database.tables, [run])
        with served(front) as netloc:
            yield f"http://{netloc}", database


@pytest.fixture
def scene(browser: Browser, filled: tuple[str, Database]) -> Iterator[Scene]:
    requested: list[str] = []
    complaints: list[str] = []
    contexts = []

    def open_page(path: str = "/", **options: object) -> Page:
        context = browser.new_context(**options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)

        def requests(request: Request) -> None:
            requested.append(request.url)

        def complains(message: ConsoleMessage) -> None:
            complaints.append(message.text)

        page.on("request", requests)
        page.on("console", complains)
        page.goto(filled[0] + path)
        return page

    yield Scene(filled[0], filled[1], open_page, requested, complaints)
    for context in contexts:
        context.close()


def tile(page: Page, label: str) -> str:
    """Return the figure below this label, with its unit."""
    return page.locator(".tile", has_text=label).locator(".figure").inner_text().strip()


def test_the_figures_are_those_of_the_database(scene: Scene) -> None:
    page = scene.open_page(java_script_enabled=False)
    status = scene.database.status(now=int(time.time()))

    assert tile(page, "Layers waiting") == f"{status.waiting_count:,}" == "1,234"
    assert tile(page, "Being brewed") == str(status.locked_count) == "0"
    assert tile(page, "Set aside") == str(status.set_aside_count) == "2"
    assert tile(page, "Brewed in the last hour") == "17"
    assert re.sub(r"\s+", " ", tile(page, "Read in the last hour")) == "5.40 GB"
    rows = page.locator("tr", has_text="no such blob").first.locator("td.number").all_inner_texts()
    assert rows == ["1", "0"]
    assert page.locator(".chart").count() == 3


def test_it_follows_the_colours_of_the_system(scene: Scene) -> None:
    page = scene.open_page()

    def colours(scheme: Literal["light", "dark"]) -> tuple[int, int]:
        """Return the lightness of the page and of its text."""
        page.emulate_media(color_scheme=scheme)
        style = "getComputedStyle(document.body)"
        found = page.evaluate(f"[{style}.backgroundColor, {style}.color]")
        background, text = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in found)
        return background, text

    light, dark = colours("light"), colours("dark")

    assert light[0] > 3 * 230 > 3 * 60 > light[1]
    assert dark[0] < 3 * 40 < 3 * 200 < dark[1]


@pytest.mark.parametrize("path", ["/", "/?hours=168", f"/?q={SCOPE}:v1", f"/?q={digest_of('b')}"])
def test_a_narrow_screen_need_not_scroll_sideways(scene: Scene, path: str) -> None:
    page = scene.open_page(path)
    for width in (320, 400, 768):
        page.set_viewport_size({"width": width, "height": 640})

        assert page.evaluate("document.documentElement.scrollWidth") <= width
        beyond = page.evaluate(
            "[...document.querySelectorAll('body *:not(svg *)')].filter("
            f"one => one.getBoundingClientRect().right > {width} + 1).map(one => one.outerHTML)"
        )
        assert beyond == []
        overlapping = page.evaluate(
            "[...document.querySelectorAll('.plot')].filter(plot => {"
            "const boxes = [...plot.querySelectorAll('text')].map(text => text.getBoundingClientRect())"
            ".filter(box => box.width);"
            "return boxes.some((box, at) => at && box.left < boxes[at - 1].right)}).length"
        )
        assert overlapping == 0


def test_a_search_by_keyboard_leads_to_an_image_and_on_to_its_layer(scene: Scene) -> None:
    page = scene.open_page(java_script_enabled=False)
    page.get_by_label("Image or digest").fill(f" {SCOPE}:v1 ")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?q=*")

    share = re.sub(r"\s+", " ", page.locator(".share").inner_text())
    assert share == "75 % 1 of 2 layers brewed, 3.00 kB of 4.00 kB"
    page.locator("a.digest").first.click()
    page.get_by_text("rbtorrent:").wait_for()
    assert page.locator(".state").inner_text() == "brewed"
    page.get_by_role("link", name="docker-torrents").click()
    page.locator(".tiles").wait_for()


def test_ranges_and_reloading_are_links(scene: Scene) -> None:
    page = scene.open_page(java_script_enabled=False)
    page.get_by_role("link", name="24 hours").click()
    page.get_by_text("mean of 15 minutes").first.wait_for()
    page.get_by_role("link", name="Reload every 30 seconds").click()
    page.get_by_role("link", name="stop").wait_for()

    assert page.locator("meta[http-equiv=refresh]").get_attribute("content") == "30"
    assert page.locator("nav b").inner_text() == "24 hours"


def test_hostile_text_has_no_effect_and_nothing_is_fetched_from_elsewhere(scene: Scene) -> None:
    for path in ("/", f"/?q={digest_of('a')}", f"/?q={HOSTILE}"):
        page = scene.open_page(path)
        page.wait_for_load_state("load")
        assert page.get_by_text("document.title = 'taken'").first.is_visible()
        assert page.title() != "taken"
        assert page.locator("script, img, iframe").count() == 0

    assert all(url.startswith((scene.url, "data:")) for url in scene.requested)
    # The policy blocked nothing: the page complies with it.
    assert [text for text in scene.complaints if "status of 404" not in text] == []


def test_the_policy_stops_scripts_even_if_one_got_in(scene: Scene) -> None:
    page = scene.open_page()
    with page.expect_console_message(lambda message: "Content Security Policy" in message.text):
        page.evaluate(
            "document.body.append("
            "Object.assign(document.createElement('script'), {text: 'document.title = 1'}))"
        )

    assert page.title() == "docker-torrents"
