"""The preflight: every file looked at once, every loss named, one line that says what it means."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from media.make_clips import make_clip
from tvr_bench.cli import main
from tvr_bench.datamodules import check_videos as module
from tvr_bench.datamodules.annotated import Counts
from tvr_bench.datamodules.check import Report, SplitReport


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A CSV of ten videos, of which one is missing and one broken in the test split."""
    lines = ["video,caption,split"]
    for i in range(10):
        split = "train" if i < 6 else "val" if i < 8 else "test"
        lines += [f"v{i}.mp4,number {i},{split}", f"v{i}.mp4,again {i},{split}"]
        if i != 9:
            make_clip(tmp_path / f"v{i}.mp4", count=5 + i, size=(48, 32))
    (tmp_path / "v8.mp4").write_bytes(b"no video at all")
    (tmp_path / "own.csv").write_text("\n".join(lines))
    return tmp_path / "own.csv"


def _check(own: Path, *more: str) -> int:
    words = [f"data.file={own}", f"paths.cache={own.parent / 'cache'}", "trainer.prepare_workers=0"]
    return main(["data", "check", "data=csv", *words, "--out", str(own.parent / "out"), *more])


def test_a_check_counts_names_and_judges(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _check(own) == 1
    shown = capsys.readouterr().out
    assert "2 of 2 test videos are missing or cannot be read, and count as misses" in shown
    assert "test, missing: v9.mp4" in shown and "test, unreadable: v8.mp4" in shown
    lines = [json.loads(line) for line in (own.parent / "out/manifest.jsonl").open()]
    assert [line["id"] for line in lines] == [f"v{i}.mp4" for i in range(10)]
    first = lines[0]
    data = (own.parent / "v0.mp4").read_bytes()
    assert first["sha256"] == hashlib.sha256(data).hexdigest() and first["bytes"] == len(data)
    assert (first["split"], first["frames"], first["width"], first["height"]) == (
        *("train", 5, 48, 32),
    )
    failed = [json.loads(line) for line in (own.parent / "out/failures.jsonl").open()]
    assert {line["id"]: line["stage"] for line in failed} == dict.fromkeys(
        ("v8.mp4", "v9.mp4"), "check"
    )


def test_a_whole_data_set_passes_and_a_second_look_reads_nothing(
    own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in (8, 9):
        make_clip(own.parent / f"v{i}.mp4", count=30 + i, size=(48, 32))
    assert _check(own, "--whole") == 0
    shown = capsys.readouterr()
    assert "the test split is whole" in shown.out and "check videos: 10/10" in shown.err
    assert not (own.parent / "out/failures.jsonl").exists()

    def never(*_: Any) -> None:
        raise AssertionError("this file was looked at before")

    monkeypatch.setattr(module, "_look_at", never)
    assert _check(own, "--whole") == 0


def test_what_was_understood_left_out_and_cut_is_noted(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = own.read_text().splitlines()
    own.write_text(lines[0].replace(",", ";") + ";fps\n" + "".join(
        f"{line.replace(',', ';')};25\n" for line in lines[1:]
    ))  # fmt: skip
    assert _check(own, "text.words=3") == 1
    shown = capsys.readouterr().out
    assert "note: own.csv: its columns are parted by semicolons" in shown
    assert "note: own.csv: left out: the column 'fps'" in shown
    assert "note: train: 12 of 12 captions have more than text.words=3 tokens and are cut" in shown


def test_a_killed_check_goes_on(
    own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SHARD", 2)
    look, seen = module._look_at, []

    def dies(path: Path, *how: Any) -> Any:
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.append(path)
        return look(path, *how)

    monkeypatch.setattr(module, "_look_at", dies)
    assert _check(own) == 130
    before, again = list(seen), []
    monkeypatch.setattr(module, "_look_at", lambda p, *how: again.append(p) or look(p, *how))
    assert _check(own) == 1
    assert len(before) == 4 and len(again) == 5 and not set(before) & set(again)


def test_a_clip_outside_of_its_video_and_one_that_is_no_video_are_named(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["video,caption,split,start,end", "v6.mp4,a,test,0,0.5", "v6.mp4,b,test,90,95"]
    own.write_text("\n".join(lines))
    assert _check(own) == 1
    shown = capsys.readouterr().out
    assert "1 of 2 test videos are missing or cannot be read" in shown
    lines = [json.loads(line) for line in (own.parent / "out/manifest.jsonl").open()]
    assert "error" not in lines[0]
    assert "a clip from 90.0 to 95.0 s has no part of a video" in lines[1]["error"]
    assert lines[0]["sha256"] == lines[1]["sha256"]


def test_a_check_leaves_its_files_in_the_cache_and_those_of_other_data_alone(
    own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (own.parent / "here").mkdir()
    monkeypatch.chdir(own.parent / "here")
    (own.parent / "two.csv").write_text("video,caption,split\nv0.mp4,a,test\n")
    for file, count in ((own, 10), (own.parent / "two.csv", 1), (own, 10)):
        words = [f"data.file={file}", "trainer.prepare_workers=0"]
        main(["data", "check", "data=csv", *words])
        shown = capsys.readouterr().out.splitlines()
        manifest = Path(next(line for line in shown if line.startswith("manifest")).split()[1])
        assert manifest.is_relative_to(".tvr_cache/reports")
        assert len(manifest.read_text().splitlines()) == count
    assert len(list(Path(".tvr_cache/reports").iterdir())) == 2
    assert [path.name for path in Path().iterdir()] == [".tvr_cache"]


def test_what_is_wrong_with_the_annotations_is_said_in_a_line(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own.write_text("video,caption,split\nv0.mp4,,test\n")
    assert _check(own) == 2
    assert "empty caption" in capsys.readouterr().err
    for words in (["data", "chek"], ["data"], ["data", "check", "data=msrvt"]):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\n") == 1


WHOLE = Counts(5, 5)


def _report(**splits: Any) -> Report:
    made = [
        SplitReport(name, **splits.get(name, {"clips": 5})) for name in ("train", "val", "test")
    ]
    return Report("x", made, [], Path("m"), Path("l"), splits.get("unlike", ""))


@pytest.mark.parametrize(
    ("splits", "good", "word"),
    [
        ({}, True, "no official size"),
        ({"test": {"clips": 5, "official": Counts(5, 5)}}, True, "comparable: both"),
        ({"test": {"clips": 5, "missing": ["a"]}}, False, "1 of 5 test videos"),
        ({"test": {"clips": 5, "unreadable": ["a", "b"]}}, False, "2 of 5 test videos"),
        ({"unlike": "other captions"}, False, "not comparable: other captions"),
        ({"test": {"error": "no file"}}, False, r"cannot be read \(no file\)"),
        (
            {"test": {"clips": 5, "official": WHOLE}, "train": {"clips": 9, "missing": ["a"]}},
            False,
            "evaluation of given weights is comparable.*1 of 9 training",
        ),
    ],
)  # fmt: skip
def test_the_verdict_follows_from_the_counts(splits: Any, good: bool, word: str) -> None:
    import re

    found, why = _report(**splits).verdict
    assert found is good and re.search(word, why)
