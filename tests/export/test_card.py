"""The card of an exported model: the record's numbers, and names as they are."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from tvr_bench.card import write_card
from tvr_bench.cli import main
from tvr_bench.export import CARD_FILE
from tvr_bench.leaderboard.record import RECORD_FILE, Record, load_record


def test_the_card_has_the_numbers_of_the_record(exported: Path, run: Path) -> None:
    card = (exported / CARD_FILE).read_text()
    record = load_record(run)
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "apache-2.0" and "tcard" in head["tags"]
    row = next(line for line in card.splitlines() if line.startswith("| text to video |"))
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    for cell, metric in zip(cells, ("R@1", "R@5", "R@10", "R@50", "MdR", "MnR"), strict=True):
        assert cell.split()[0] == f"{record.metrics.t2v[metric]:.1f}"
    low, high = (float(part.strip("\\[],")) for part in cells[0].split()[1:])
    assert low <= record.metrics.t2v["R@1"] <= high and low < high
    for text in ("apache-2.0", "model.heads=2", "load_model", "one caption per video", "16 videos"):
        assert text in card, text
    assert record.model.checkpoint_sha256 in card and "terms of their own" in card


def test_without_a_licence_the_card_says_so(run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), str(tmp_path / "new")]) == 0
    head = yaml.safe_load((tmp_path / "new" / CARD_FILE).read_text().split("---\n")[1])
    assert (head["license"], head["license_name"]) == ("other", "not-chosen")
    assert "not chosen yet" in (tmp_path / "new" / CARD_FILE).read_text()


def test_a_setting_with_spaces_stays_whole(run: Path, exported: Path) -> None:
    record = load_record(run)
    settings = record.settings | {"data.prompt": "a film of  the sea", "model.heads": "7"}
    card = write_card(record.model_copy(update={"settings": settings}), run, exported, None)
    line = next(line for line in card.splitlines() if "other than the defaults" in line)
    assert {"data.prompt=a film of the sea", "model.heads=7"} <= set(
        line.partition(": ")[2].split(", ")
    )


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


_PLAIN = {"h1", "h2", "p", "ul", "li", "strong", "code", "pre"} | {
    *("table", "thead", "tbody", "tr", "th", "td"),
}


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[x](javascript:alert(1))",
        "![x](http://e.org/x.png)",
        "a | b",
        "two\nlines\n# head",
        "`code`",
        "&lt;b&gt;",
        "license: mit\n---\n",
        "{{ 7 * 7 }} {data}",
    ],
)
def test_names_in_the_card_are_shown_letter_by_letter(
    hostile: str, run: Path, exported: Path
) -> None:
    record = json.loads((run / RECORD_FILE).read_text())
    record["model"] |= {"name": hostile, "backbone": hostile}
    record["data"] |= {"name": hostile, "variant": hostile, "failed": [hostile]}
    record["efficiency"]["device"] = hostile
    skill = next(iter(record["metrics"]["by_skill"].values()))
    record["metrics"]["by_skill"][hostile] = skill
    card = write_card(Record.model_validate_json(json.dumps(record)), run, exported, None)
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "other"
    assert " ".join(hostile.split()) in yaml.safe_load(head)["tags"]
    page = _Elements()
    page.feed(MarkdownIt("commonmark").enable("table").render(body))
    assert page.found <= _PLAIN
    assert f"{' '.join(hostile.split())} on " in page.text
    rows = [line for line in body.splitlines() if line.startswith("| text to video")]
    assert len(rows) == 1 and rows[0].count(" | ") == 6
