"""What a page shows: titles, warnings, links, what was found, and papers only where they belong."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from leaderboard.fake_runs import SKILLS, evaluate, make_split, write_run
from tvr_bench.leaderboard.chart import Chart, Label, Mark, place_labels
from tvr_bench.leaderboard.record import load_ranks, load_record, save_record
from tvr_bench.leaderboard.result import ranks_of
from tvr_bench.leaderboard.table import build_leaderboard


def _csv(root: Path, name: str, title: str, annotations: str, clips: int = 64) -> None:
    write_run(
        root,
        name,
        split=make_split(clips),
        data__name="csv",
        data__variant="",
        data__title=title,
        data__annotations_sha256=annotations * 64,
    )


def test_a_csv_is_titled_by_its_file_and_two_of_one_name_by_their_annotations(
    tmp_path: Path,
) -> None:
    _csv(tmp_path, "a", "cats.csv", "a")
    _csv(tmp_path, "b", "dogs.csv", "b")
    _csv(tmp_path, "c", "dogs.csv", "c")
    found = build_leaderboard(tmp_path, tmp_path / "out")
    page, text = (path.read_text() for path in (found.html, found.markdown))
    for title in (
        "csv cats.csv, test",
        "csv dogs.csv, test, annotations bbbbbbbb",
        "csv dogs.csv, test, annotations cccccccc",
    ):
        assert f"<h2><bdi>{title}</bdi></h2>" in page
        assert f"\n## {title}\n" in text


def test_a_test_of_few_queries_is_warned_of(tmp_path: Path) -> None:
    _csv(tmp_path, "a", "few.csv", "a", clips=16)
    found = build_leaderboard(tmp_path, tmp_path / "out")
    assert "16 queries are too few" in found.html.read_text()
    assert "**16 queries are too few" in found.markdown.read_text()
    _csv(tmp_path, "a", "few.csv", "a", clips=64)
    assert "too few" not in build_leaderboard(tmp_path, tmp_path / "out").html.read_text()


def test_only_papers_of_data_on_the_board_are_open(tmp_path: Path) -> None:
    write_run(tmp_path, "a", data__name="msvd", data__variant="")
    page = build_leaderboard(tmp_path, tmp_path / "out").html.read_text()
    summaries = re.findall(r"<details( open)?>\s*<summary>(\w+)</summary>", page)
    assert ("", "msrvtt") in summaries and (" open", "msvd") in summaries
    assert [name for state, name in summaries if state] == ["msvd"]


def test_rows_link_to_their_run_and_guessing_has_a_row(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs", "a", split=make_split(64))
    (folder / "retrieval.png").write_bytes(b"png")
    found = build_leaderboard(tmp_path / "runs", tmp_path)
    page = found.html.read_text()
    for address in re.findall(r'<td[^>]*>.*?<a href="([^"]+)"', page):
        assert (tmp_path / address).exists()
    for address in ("runs/a/", "runs/a/record.json", "runs/a/retrieval.png"):
        assert f'<a href="{address}">' in page
    chance = page.partition("<tfoot>")[2].partition("</tfoot>")[0]
    assert "chance" in chance and "<bdi>1.6</bdi>" in chance and "<bdi>32.5</bdi>" in chance
    assert "links" not in found.csv.read_text().splitlines()[0]


def test_a_few_queries_show_what_was_found_instead(tmp_path: Path) -> None:
    split = make_split(64)
    run = write_run(tmp_path, "a", strength=-3.0, split=split)
    record, arrays = load_record(run), load_ranks(load_record(run), run)
    result = evaluate(split, dict.fromkeys(SKILLS, -3.0), 0)
    result.best = np.tile(np.array([7, 3, -1], np.int32), (len(split.queries), 1))
    kept = ranks_of(result, split)
    more = {name: kept[name] for name in ("t2v_found", "gallery_ids", "sample_found_texts")}
    save_record(record, run, {**arrays, **more})
    kept = load_ranks(record, run)
    assert kept["t2v_found"].dtype == np.int32 and kept["t2v_found"][0].tolist() == [7, 3, -1]
    assert kept["gallery_ids"].tolist() == [clip.id for clip in split.clips]
    page = build_leaderboard(tmp_path, tmp_path / "out").html.read_text()
    assert f"found: {split.queries[7].text}" in page


def test_every_point_has_its_label() -> None:
    chart = Chart("t", "x", "y", [], [])
    marks = [Mark(300.0, 200.0, None, None, 0, "m", Label(0, 0, f"a model {i}")) for i in range(40)]
    assert all(mark.label is not None for mark in place_labels(marks, chart))
