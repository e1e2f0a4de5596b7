"""Scene text that others read: the same windows and words as our own."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from given_case import FPS, SIGNS, SPEC, street, track
from make_clips import make_clip
from ocr_clips import ColourEngine

from tvr_bench.datamodules.types import Clip
from tvr_bench.errors import UserError
from tvr_bench.files import Ledger
from tvr_bench.media import given_text
from tvr_bench.media.captioner import read_windows
from tvr_bench.media.given_files import read_tracks
from tvr_bench.media.given_text import GivenSpec, build_given
from tvr_bench.media.windows import WindowSpec
from tvr_bench.parts import Part


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clip with the signs."""
    return street(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def kwai(tmp_path: Path) -> GivenSpec:
    """Kwai's file of the clip `street`, its tracks in no order."""
    tracks = {
        str(100 - i): track(t.upper(), list(f), 0.9, (x, y)) for i, (t, (x, y, f)) in _signs()
    }
    (tmp_path / "kwai").mkdir()
    (tmp_path / "kwai" / "street.json").write_text(json.dumps(tracks))
    return GivenSpec("kwai", tmp_path / "kwai")


@pytest.fixture
def tracks(tmp_path: Path) -> GivenSpec:
    """The same as a file of tracks."""
    lines = [
        {"video": "street", "text": t, "score": 0.9, "start": f[0] / FPS, "end": (f[-1] + 1) / FPS}
        for _, (t, (_, _, f)) in reversed(list(_signs()))
    ]
    path = tmp_path / "tracks.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return GivenSpec("tracks", tmp_path)


def _signs() -> Any:
    return enumerate(SIGNS.items())


def build(
    given: GivenSpec, clips: Sequence[Clip], spec: WindowSpec = SPEC, **how: Any
) -> dict[str, list[str]]:
    names = how.pop("names", {c.id: (c.id,) for c in clips})
    root = how.pop("root", given.place.parent / "cache")
    return build_given(clips, names, given, spec, root, **{"ledger": Ledger(), **how})


def test_windows_and_words_are_the_captioners(
    video: Path, kwai: GivenSpec, tracks: GivenSpec
) -> None:
    for spec in (SPEC, replace(SPEC, windows=3), replace(SPEC, xi=0.4), replace(SPEC, max_words=2)):
        ours = [w.caption for w in read_windows(video, spec, ColourEngine())]
        assert any("bakery" in caption for caption in ours)
        assert build(kwai, [Clip("street", video)], spec)["street"] == ours
        others = build(tracks, [Clip("street", video)], spec)["street"]
        if (
            spec.max_words > 2
        ):  # a file of tracks has no places, so signs of one moment have no order
            assert [sorted(o.split()) for o in others] == [sorted(o.split()) for o in ours]


def test_a_part_of_a_video_has_the_text_of_its_seconds(
    video: Path, kwai: GivenSpec, tracks: GivenSpec
) -> None:
    part = Clip("street", video, 1.0, 3.0)
    spec = replace(SPEC, windows=2)
    for given in (kwai, tracks):
        assert build(given, [part], spec)["street"] == ["hotel", "hotel bakery"]


def test_words_are_folded_dropped_and_counted_as_our_own(video: Path, tmp_path: Path) -> None:
    said = {
        "Café £1.30": 0.9,
        "出口 exit": 0.9,
        "a 7": 0.9,
        "doubtful": 0.49,
        "SURE!": 0.5,
        "sure": 0.9,
        "---": 0.9,
    }
    tracks = {str(i): track(t, [0], s, (5, 20 * i)) for i, (t, s) in enumerate(said.items())}
    (tmp_path / "street.json").write_text(json.dumps(tracks))
    found = build(GivenSpec("kwai", tmp_path), [Clip("street", video)], root=tmp_path / "cache")
    assert found["street"] == ["cafe 1.30 exit 7 sure", "", "", ""]


def test_text_is_ordered_by_its_first_frame_then_by_lines(video: Path, tmp_path: Path) -> None:
    tracks = {
        "1": track("third", [1, 2], at=(5, 5)),
        "2": track("second", [0], at=(90, 52)),
        "3": track("first", [0], at=(5, 50)),
    }
    (tmp_path / "street.json").write_text(json.dumps(tracks))
    found = build(GivenSpec("kwai", tmp_path), [Clip("street", video)], root=tmp_path / "cache")
    assert found["street"][0] == "first second third"


def test_text_that_goes_and_comes_back_is_not_there_between(video: Path, tmp_path: Path) -> None:
    (tmp_path / "street.json").write_text(json.dumps({"1": track("ticker", [0, 1, 35])}))
    found = build(GivenSpec("kwai", tmp_path), [Clip("street", video)], root=tmp_path / "cache")
    assert found["street"] == ["ticker", "", "", "ticker"]


def test_text_of_one_moment_is_in_the_window_of_that_moment(video: Path, tmp_path: Path) -> None:
    for second, windows in ((0, [0]), (0.999, [0]), (1, [1]), (3.999, [3])):
        line = {"video": "street", "text": "flash", "start": second, "end": second}
        (tmp_path / "tracks.jsonl").write_text(json.dumps(line))
        found = build(GivenSpec("tracks", tmp_path), [Clip("street", video)])["street"]
        assert [i for i, caption in enumerate(found) if caption] == windows


def test_a_text_longer_than_any_window_is_in_all_of_them(video: Path, tmp_path: Path) -> None:
    line = {"video": "street", "text": "logo", "start": 0.5, "end": 3.5}
    (tmp_path / "tracks.jsonl").write_text(json.dumps(line))
    found = build(GivenSpec("tracks", tmp_path), [Clip("street", video)], replace(SPEC, xi=0.2))
    assert found["street"] == ["logo"] * 4


def test_frames_are_those_of_a_video_of_any_rate_unless_told(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "slow.mp4", count=8, fps=2, size=(48, 32))
    (tmp_path / "slow.json").write_text(json.dumps({"1": track("late", [6, 7])}))
    own = GivenSpec("kwai", tmp_path)
    assert build(own, [Clip("slow", path)])["slow"] == ["", "", "", "late"]
    told = replace(own, fps=4.0)
    assert build(told, [Clip("slow", path)])["slow"] == ["", "late", "", ""]


def test_frames_that_the_video_has_not_are_named(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "slow.mp4", count=8, fps=2, size=(48, 32))
    (tmp_path / "slow.json").write_text(json.dumps({"1": track("x2", [0, 100])}))
    ledger = Ledger()
    assert build(GivenSpec("kwai", tmp_path), [Clip("slow", path)], ledger=ledger) == {}
    (entry,) = ledger.entries
    assert entry.stage == "ocr" and "at 50.5 s" in entry.message and "given_fps" in entry.message


def test_seconds_after_the_end_are_named(video: Path, tmp_path: Path) -> None:
    line = {"video": "street", "text": "x2", "start": 1000, "end": 2000}
    (tmp_path / "tracks.jsonl").write_text(json.dumps(line))
    ledger = Ledger()
    assert build(GivenSpec("tracks", tmp_path), [Clip("street", video)], ledger=ledger) == {}
    assert "at 2000.0 s, and the video ends at 4.0 s; give seconds" in ledger.entries[0].message


def test_a_second_build_reads_no_file_again(
    video: Path, kwai: GivenSpec, tracks: GivenSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [Clip("street", video)]
    first = [build(given, clips) for given in (kwai, tracks)]
    with monkeypatch.context() as patch:
        patch.setattr(given_text, "open_video", None)
        assert [build(given, clips) for given in (kwai, tracks)] == first
    text = (kwai.place / "street.json").read_text()
    (kwai.place / "street.json").write_text(text.replace("HOTEL", "MOTEL"))
    assert build(kwai, clips)["street"][0] == "motel"
    assert build(kwai, clips, replace(SPEC, min_score=0.95))["street"] == [""] * 4
    assert build(kwai, clips, replace(SPEC, side=32, votes=9))["street"][0] == "motel"


@pytest.mark.slow
def test_processes_place_the_same_as_one(video: Path, kwai: GivenSpec, tmp_path: Path) -> None:
    clips = [Clip(f"c{i}", video, 0.0, 2.0 + i / 2) for i in range(4)]
    names = {c.id: ("street",) for c in clips}
    alone = build(kwai, clips, names=names, root=tmp_path / "one")
    assert build(kwai, clips, names=names, root=tmp_path / "two", workers=2) == alone
    assert len(set(map(tuple, alone.values()))) > 1


def test_what_is_missing_is_empty_and_on_the_ledger_each_time(
    video: Path, kwai: GivenSpec, tmp_path: Path
) -> None:
    (kwai.place / "broken.json").write_text("{")
    (kwai.place / "gone.json").write_text("{}")
    (kwai.place / "bad.json").write_text("{}")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    clips = [Clip(name, video) for name in ("street", "untold", "broken")]
    clips += [Clip("gone", tmp_path / "gone.mp4"), Clip("bad", tmp_path / "bad.mp4")]
    for _ in range(2):
        ledger = Ledger()
        assert set(build(kwai, clips, ledger=ledger)) == {"street"}
        lines = {entry.id: entry.message for entry in ledger.entries}
        assert set(lines) == {"untold", "broken", "gone", "bad"}
        assert {entry.stage for entry in ledger.entries} == {"ocr"}
        assert "untold.json is not there" in lines["untold"]
        assert "broken.json is not readable JSON" in lines["broken"]


def test_a_clip_without_a_line_is_on_the_ledger_and_one_without_text_is_not(
    video: Path, tracks: GivenSpec
) -> None:
    with open(tracks.tracks, "a", encoding="utf-8") as file:
        file.write('\n{"video": "bare"}\n')
    ledger = Ledger()
    clips = [Clip(name, video) for name in ("street", "bare", "untold")]
    found = build(tracks, clips, ledger=ledger)
    assert set(found) == {"street", "bare"} and found["bare"] == [""] * 4
    assert [entry.id for entry in ledger.entries] == ["untold"]
    assert "has no line about untold" in ledger.entries[0].message


def test_the_first_name_with_text_is_read(video: Path, kwai: GivenSpec, tracks: GivenSpec) -> None:
    names = {"a": ("x" * 300, "nowhere/a", "street", "b")}
    for given in (kwai, tracks):
        assert build(given, [Clip("a", video)], names=names)["a"][0] == "hotel"


def test_a_part_of_the_work_is_done_by_each_of_several(video: Path, kwai: GivenSpec) -> None:
    clips = [Clip(f"c{i}", video, 0.0, 1.0 + i / 10) for i in range(12)]
    names = {c.id: ("street",) for c in clips}
    done = [set(build(kwai, clips, names=names, part=Part(i, 2))) for i in (0, 1)]
    assert done[0] and done[0] < done[1] == {c.id for c in clips}, "the second finds the first's"


def test_a_clip_that_took_too_long_is_tried_again_under_another_limit(
    video: Path, kwai: GivenSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(title: str, shards: Any, work: Any, **_: Any) -> None:
        for shard in shards:
            work(replace(shard, lost={0: "took longer than 9 s"}), lambda: None)

    clips, spec = [Clip("street", video)], replace(SPEC, timeout=9.0)
    with monkeypatch.context() as patch:
        patch.setattr(given_text, "run_shards", lose)
        build(kwai, clips, spec)
    ledger = Ledger()
    assert build(kwai, clips, spec, ledger=ledger) == {}
    assert "took longer than 9 s" in ledger.entries[0].message
    again = build(kwai, clips, replace(spec, timeout=60.0))
    assert again["street"][0] == "hotel"


def test_a_pipe_is_not_waited_for(video: Path, kwai: GivenSpec, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "street.mp4")
    os.mkfifo(kwai.place / "other.json")
    ledger = Ledger()
    clips = [Clip("street", tmp_path / "street.mp4"), Clip("other", video)]
    assert build(kwai, clips, ledger=ledger) == {}
    assert {entry.id for entry in ledger.entries} == {"street", "other"}


@pytest.mark.parametrize(
    ("source", "place", "expected"),
    [
        ("kwai", "nowhere", "nowhere is no folder"),
        ("kwai", "tracks.jsonl", "is no folder"),
        ("kwai", ".", r"holds no scene text of any of 1 clips, such as other\.json"),
        ("tracks", "nowhere", "there is no .*nowhere"),
        ("tracks", "kwai", r"there is no .*kwai.tracks\.jsonl"),
        ("tracks", ".", "names none of 1 clips; .* such as other"),
        ("tracks", "tracks.jsonl", "names none of 1 clips"),
    ],
)
def test_a_wrong_place_is_said(
    source: str, place: str, expected: str, video: Path, kwai: GivenSpec, tracks: GivenSpec
) -> None:
    given = GivenSpec(source, tracks.place / place)
    with pytest.raises(UserError, match=expected) as error:
        build(given, [Clip("other", video)])
    assert "\n" not in str(error.value)


def test_a_snapshot_in_the_hubs_cache_gives_its_files(video: Path, kwai: GivenSpec) -> None:
    repository = kwai.place.parent / "datasets--someone--text"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (kwai.place / "street.json").rename(repository / "blobs" / "abcd")
    (snapshot / "street.json").symlink_to("../../blobs/abcd")
    assert "street" in build(GivenSpec("kwai", snapshot), [Clip("street", video)])


@pytest.mark.parametrize("name", ["../secret", "/secret", "link/secret", "loop", "link"])
def test_nothing_outside_of_the_folder_is_opened(name: str, video: Path, kwai: GivenSpec) -> None:
    outside = kwai.place.parent
    (outside / "secret.json").write_text(json.dumps({"1": track("secret", [0])}))
    (kwai.place / "link").symlink_to(outside)
    (kwai.place / "link.json").symlink_to(outside / "secret.json")
    (kwai.place / "loop.json").symlink_to(kwai.place / "loop.json")
    clips = [Clip("street", video), Clip("a", video)]
    names = {"street": ("street",), "a": (name,)}
    try:
        assert "a" not in build(kwai, clips, names=names)
    except UserError as error:
        assert "leads out of ocr.given" in str(error)


@pytest.mark.slow
def test_a_million_tracks_are_read_in_bounded_memory(video: Path, tmp_path: Path) -> None:
    with open(tmp_path / "tracks.jsonl", "w", encoding="utf-8") as file:
        for i in range(1_000_000):
            second = i // 1000 % 4
            line = {"video": f"v{i % 1000}", "text": f"word{i}", "start": second, "end": second + 1}
            file.write(json.dumps(line) + "\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clips = [Clip(f"v{i}", video) for i in range(0, 1000, 100)]
    found = build(GivenSpec("tracks", tmp_path), clips)
    assert all(len(caption.split()) == 32 for windows in found.values() for caption in windows)
    few = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert few - before < 50_000, "kB: only what is asked for is held"
    read_tracks(tmp_path / "tracks.jsonl", {f"v{i}" for i in range(1000)}, SPEC)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - few < 800_000
