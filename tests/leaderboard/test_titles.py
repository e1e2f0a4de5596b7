"""What the groups of a page are called, and what is said of a test that is too small."""

from __future__ import annotations

from pathlib import Path

from leaderboard.fake_runs import make_split, write_run
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
