"""The report reads the same on a terminal and in a log, and fits in 80 columns."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from tvr_bench.leaderboard.console import print_report, report_text
from tvr_bench.leaderboard.record import Record, TrainedOn

RecordFactory = Callable[..., Record]
FILES = {"run folder": Path("runs/tcard-signvid-s0"), "leaderboard": Path("leaderboard.csv")}


def _row(text: str, start: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.strip().startswith(start))
    return line.split()


def test_everything_asked_for_is_there(make_record: RecordFactory) -> None:
    text = report_text(make_record(), FILES)
    assert _row(text, "direction")[1:] == ["R@1", "R@5", "R@10", "R@50", "MdR", "MnR"]
    assert _row(text, "text -> video")[3:] == ["48.1", "68.1", "78.1", "88.1", "2.0", "7.2"]
    assert _row(text, "video -> text")[3] == "46.6"
    assert _row(text, "chance")[1:] == ["0.5", "2.4", "4.8", "24.0", "104.5", "104.5"]
    assert _row(text, "scene_text") == ["scene_text", "52", "40.0", "60.0", "70.0", "96.2", "25.0"]
    assert "text found in 201 of 208 videos" in text
    assert _row(text, "failed") == ["failed", "none"]
    assert "ocr 2 min 27 s" in text and "all 7 min 12 s" in " ".join(text.split())
    assert _row(text, "run folder")[-1] == "runs/tcard-signvid-s0"
    assert "tied" not in text and "no score" not in text


def test_a_skill_at_chance_is_marked_without_colour(make_record: RecordFactory) -> None:
    text = report_text(make_record(), {})
    assert _row(text, "temporal")[-2:] == ["(23.0)", "25.0"]
    assert "no better than guessing" in text
    several = make_record().metrics.model_dump()["by_skill"]
    del several["temporal"]
    assert "guessing" not in report_text(make_record(metrics__by_skill=several), {})


@pytest.mark.parametrize(("right", "marked"), [(36.0, True), (37.5, False)])
def test_the_mark_follows_the_interval(
    make_record: RecordFactory, right: float, marked: bool
) -> None:
    # 52 queries at chance 25: 1.96 standard errors are 11.8 points
    skill = {"t2v": {}, "in_group": {"R@1": right, "chance_R@1": 25.0, "queries": 52}}
    text = report_text(make_record(metrics__by_skill={"relation": skill}), {})
    assert (f"({right})" in text) is marked


def test_bad_news_is_told(make_record: RecordFactory) -> None:
    record = make_record(
        data__failed=["a", "b", "c", "d"],
        data__missing_ids=["gone"],
        data__failures={"decode": 4, "ocr": 2},
        metrics__tied_queries={"t2v": 3, "v2t": 0},
        metrics__nan_queries={"t2v": 0, "v2t": 7},
        protocol__ocr={"enabled": False},
        data__queries=900,
        metrics__by_skill={},
        phases={},
    )
    text = " ".join(report_text(record, {}).split())
    assert "1 videos missing (gone); 4 videos unreadable (a, b, c, ...)" in text
    assert "each counts as a miss; failures.jsonl: decode 4, ocr 2" in text
    assert "tied 3 queries text -> video no score 7 queries video -> text" in text
    assert "scene text off" in text
    assert "chance, t -> v" in text
    assert "in group" not in text


def test_a_log_has_no_escapes_and_at_most_80_columns(make_record: RecordFactory) -> None:
    long = Path("runs") / ("x" * 150)
    text = report_text(make_record(data__failed=["y" * 70] * 3), {"picture": long})
    assert "\x1b" not in text
    assert max(len(line.rstrip()) for line in text.splitlines() if str(long) not in line) <= 80
    assert f" picture  {long}\n" in text


def test_a_terminal_gets_colour_and_the_same_words(make_record: RecordFactory) -> None:
    record = make_record()
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80, color_system="standard")
    print_report(record, FILES, terminal)
    assert isinstance(terminal.file, io.StringIO)
    coloured = terminal.file.getvalue()
    assert "\x1b[" in coloured
    plain = "".join(part.split("m", 1)[-1] for part in coloured.split("\x1b["))
    assert plain.split() == report_text(record, FILES).split()


def test_hostile_names_stay_text(make_record: RecordFactory) -> None:
    name = "[red]\x1b[2Jtcard[/nothing]\r\n:boom:"
    skill = {"[bold]a[/bold]": {"t2v": {}, "in_group": {}}}
    record = make_record(
        model__name=name,
        data__failed=[name],
        efficiency__device=name,
        phases={name: 1.0},
        metrics__by_skill=skill,
    )
    text = report_text(record, {"run folder": Path("[link=x]runs")})
    assert "\x1b" not in text and "\r" not in text
    assert text.count("[red]") == 4 and ":boom:" in text
    assert "[bold]a[/bold]" in text
    assert "[link=x]runs" in text


def test_a_note_of_the_record_is_printed(make_record: RecordFactory) -> None:
    record = make_record().model_copy(update={"notes": ["16 queries are too few"]})
    assert _row(report_text(record, {}), "note")[1:] == ["16", "queries", "are", "too", "few"]
    assert "note" not in report_text(make_record(), {})


def test_weights_of_other_data_say_so(make_record: RecordFactory) -> None:
    record = make_record()
    there = TrainedOn(data="msrvtt 1ka", annotations_sha256=None, clips=9000)
    protocol = record.protocol.model_copy(update={"trained_on": there})
    text = report_text(record.model_copy(update={"protocol": protocol}), {})
    assert " ".join(_row(text, "weights")) == "weights trained on msrvtt 1ka"
    assert "weights" not in report_text(record, {})
