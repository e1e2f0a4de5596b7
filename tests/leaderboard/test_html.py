"""The page: whole by itself, harmless whatever it is given, and used in a real browser."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from leaderboard.fake_runs import SKILLS, make_split, write_run
from tvr_bench import config
from tvr_bench.leaderboard.board import Board
from tvr_bench.leaderboard.html import render_html
from tvr_bench.leaderboard.table import build_leaderboard

EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
CAPTION = f"a street with a sign saying {EVIL} {{i}} {{skill}}"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


class _Seen(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.attributes: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes |= {name for name, _ in attrs}
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page of five models, three seeds each, hostile names, captions and a broken run."""
    root = tmp_path_factory.mktemp("page")
    runs = root / "runs"
    split = make_split(64, text=CAPTION.replace("{{", "{").replace("}}", "}"))
    reads = {**dict.fromkeys(SKILLS, 1.2), "scene_text": 4.0}
    for model, strength in (
        *(("tcard", reads), ("bicnet", 1.4), ("cret", 1.2), ("eercf", 1.6)),
        (f"evil{EVIL}", 0.2),
    ):
        for seed in range(3):
            name = f"{model[:4]}-{seed}"
            write_run(runs, name, model=model, seed=seed, strength=strength, split=split)
    settings = config.to_yaml(config.load(["model=tcard"])).partition("\n")[2]
    for k in (5, 10):
        write_run(
            runs,
            f"staged-{k}",
            model="eercf",
            strength=1.6 - 1 / k,
            split=split,
            config=settings.replace("two_stage: null", f"two_stage: {k}"),
            protocol__two_stage=k,
        )
    (runs / f"torn {EVIL.replace('/', '_')}").mkdir()
    (runs / f"torn {EVIL.replace('/', '_')}" / "record.json").write_text("{")
    return build_leaderboard(runs, root).html


def test_hostile_text_becomes_no_markup(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    seen = _Seen()
    seen.feed(text)
    assert seen.tags["script"] == seen.tags["style"] == 1
    assert not {"img", "iframe", "object", "embed", "base", "form", "link"} & set(seen.tags)
    assert not [name for name in seen.attributes if name.startswith("on") or name == "style"]
    assert not [link for link in seen.links if re.match(r"[^/#?]*:|//", link)], "none leads away"
    assert len(seen.ids) == len(set(seen.ids))
    assert text.count("&lt;script&gt;window.hacked") > 10  # model, captions, broken run


def test_the_policy_names_the_hash_of_what_runs(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy[1].replace("&#39;", "'").split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for tag in ("script", "style"):
        (own,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert "http://" not in text and "https://" not in text and "url(" not in text


def test_groups_of_one_data_set_are_told_apart(page: Path) -> None:
    titles = re.findall(r"<h2><bdi>(.*?)</bdi></h2>", page.read_text(encoding="utf-8"))
    assert len(titles) == 3 and len(set(titles)) == 3
    assert "signvid small, test" in titles
    assert "signvid small, test, two stages, the model scores the top 5" in titles


def test_an_empty_board_is_a_page(tmp_path: Path) -> None:
    text = render_html(Board([], 0, [], [], []))
    assert "No run has left a record yet." in text
    assert text.rstrip().endswith("</html>")


def test_control_characters_and_endless_names_are_cut(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "a", model="x\x1b[31m\u202e" + "y" * 5_000)
    paths = build_leaderboard(tmp_path / "runs", tmp_path)
    text = paths.html.read_text(encoding="utf-8")
    assert "\x1b" not in text and "\u202e" not in text
    assert "y" * 400 not in text


def _browser_path() -> str:
    named = os.environ.get("CHROMIUM", "")
    return named or next((p for p in map(shutil.which, BROWSERS) if p), "")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a real browser; its path may stand in CHROMIUM."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not (path := _browser_path()):
        pytest.skip("no chromium is installed (set CHROMIUM to its path)")
    with api.sync_playwright() as playwright:
        # a browser started by root refuses its own sandbox
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = playwright.chromium.launch(executable_path=path, args=options)
        yield opened
        opened.close()


@pytest.fixture
def shown(browser: Any, page: Path) -> Iterator[tuple[Any, list[str]]]:
    """Return the page in the browser, 1280 pixels wide, and what it complained of or asked for."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    events: list[str] = []
    tab.on("console", lambda message: events.append(f"console: {message.text}"))
    tab.on("pageerror", lambda error: events.append(f"error: {error}"))
    tab.on("dialog", lambda dialog: events.append("dialog"))
    tab.on("request", lambda request: events.append(f"request: {request.url}"))
    tab.goto(page.as_uri())
    yield tab, [event for event in events if event != f"request: {page.as_uri()}"]
    tab.close()


def _column(tab: Any, head: str) -> list[float]:
    """Return what stands in a column of the first table, top to bottom."""
    script = """head => {
        const table = document.querySelector("table");
        const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
        const at = heads.findIndex(cell => cell.innerText.trim().startsWith(head));
        return [...table.tBodies[0].rows].map(row => row.cells[at].dataset.sort);
    }"""
    return [float(value) if value else float("nan") for value in tab.evaluate(script, head)]


def test_a_click_sorts_and_another_turns_the_order(shown: tuple[Any, list[str]]) -> None:
    tab, _ = shown
    head = tab.locator("table").first.locator("th", has_text="MnR").first
    button = head.locator("button")
    before = _column(tab, "MnR")
    button.click()
    assert _column(tab, "MnR") == sorted(before) != before[::-1]
    assert head.get_attribute("aria-sort") == "ascending"
    button.click()
    assert _column(tab, "MnR") == sorted(before, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    recall = tab.locator("table").first.locator("th", has_text="R@5").first
    recall.locator("button").click()
    assert _column(tab, "R@5") == sorted(_column(tab, "R@5"), reverse=True)
    assert tab.locator("table").first.locator("th[aria-sort]").count() == 1


def test_sorting_needs_no_mouse_and_keeps_gaps_last(shown: tuple[Any, list[str]]) -> None:
    tab, _ = shown
    button = tab.locator("table").first.locator("th", has_text="lead over").first.locator("button")
    for order in ("descending", "ascending"):
        button.focus()
        tab.keyboard.press("Enter")
        values = _column(tab, "lead over")
        assert values[-1] != values[-1]  # the last in rank leads nobody
        assert values[:-1] == sorted(values[:-1], reverse=order == "descending")


def test_numbers_are_not_sorted_as_words(shown: tuple[Any, list[str]]) -> None:
    tab, _ = shown
    script = """() => {
        const cells = ["10", "9", "", "100"].map(v => `<tr><td data-sort="${v}">${v}</td></tr>`);
        document.querySelector("table tbody").innerHTML = cells.join("");
        document.querySelector("table thead tr:last-child th button").click();
        return [...document.querySelectorAll("table:first-of-type tbody td")].slice(0, 4)
            .map(cell => cell.innerText);
    }"""
    assert tab.evaluate(script) == ["9", "10", "100", ""]


def test_its_figures_are_shown(shown: tuple[Any, list[str]]) -> None:
    tab, _ = shown
    figures = tab.locator("figure")
    titles = [figures.nth(i).locator("figcaption").inner_text() for i in range(figures.count())]
    assert "R@1 against time per query" in titles
    assert "What a model can tell apart" in titles
    assert tab.locator("#two-stages figure").count() == 1
    for i in range(figures.count()):
        box = figures.nth(i).locator("svg[role=img]").bounding_box()
        assert box["width"] > 300 and box["height"] > 150
    assert tab.locator("figure .mark").count() >= 10
    assert tab.locator("section").first.locator(".bar").count() == 5 * len(SKILLS)
    assert tab.locator("figure .mark").first.evaluate("e => getComputedStyle(e).fill") != "none"


def test_it_runs_nothing_foreign_and_asks_for_nothing(shown: tuple[Any, list[str]]) -> None:
    tab, events = shown
    for fold in tab.locator("summary").all():
        fold.click()
    assert events == []
    assert tab.evaluate("window.hacked") is None
    assert tab.locator("img").count() == 0
    assert EVIL in tab.locator("td.model bdi", has_text="evil").first.inner_text()
    captions = tab.locator("td.caption").all_inner_texts()
    assert captions and all(EVIL in caption for caption in captions)
    assert EVIL.replace("/", "_") in tab.locator("#left-out").inner_text()


def test_a_script_that_came_in_all_the_same_would_not_run(browser: Any, page: Path) -> None:
    """The policy holds even where escaping would have failed."""
    broken = page.with_name("broken.html")
    text = page.read_text(encoding="utf-8")
    broken.write_text(text.replace("<main>", f"<main>{EVIL}"), encoding="utf-8")
    tab = browser.new_page()
    tab.goto(broken.as_uri())
    assert tab.locator("main > img").count() == 1
    assert tab.evaluate("window.hacked") is None
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_its_window_and_can_be_read(browser: Any, page: Path, scheme: str) -> None:
    for width in (1280, 420):
        size = {"width": width, "height": 900}
        tab = browser.new_page(viewport=size, color_scheme=scheme)
        tab.goto(page.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        wide = "[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)"
        if width == 1280:
            assert max(tab.evaluate(wide)) <= 0
        assert _contrast(tab.evaluate(_COLOURS)) > 7
        tab.close()


_COLOURS = """() => {
    const section = getComputedStyle(document.querySelector("section"));
    return [section.backgroundColor, section.color];
}"""


def _contrast(colours: list[str]) -> float:
    """Return the contrast of two colours as WCAG 2 defines it."""
    shades = []
    for colour in colours:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        shades.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(shades) + 0.05) / (min(shades) + 0.05)
