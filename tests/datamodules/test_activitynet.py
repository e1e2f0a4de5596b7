"""ActivityNet Captions: every layout gives the same paragraphs, every broken file one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.sets import broken_json, refused, saved_by_others, settings, write
from real import DATA
from tvr_bench.datamodules.activitynet import ActivityNetDataModule, read_ids
from tvr_bench.datamodules.annotated import Counts
from tvr_bench.errors import UserError

REAL = DATA / "activitynet"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real annotation files are not there")

HERE = ("data=activitynet", "data.root=.")
Make = Callable[..., ActivityNetDataModule]
LONG = "she runs " * 1200


def video(*sentences: str, duration: Any = 10.2) -> dict[str, Any]:
    """Return what the annotations say of one video."""
    spans = [[0, 1] for _ in sentences]
    return {"duration": duration, "timestamps": spans, "sentences": list(sentences)}


SMALL = {
    "train.json": {f"v_t{i}": video(f"One {i}.", f" Two {i}.") for i in range(5)},
    "val_1.json": {"v_a": video("A man sits.", " He stands. "), "v_b": video("A dog.")},
}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A function that writes annotation files and returns the data module over them."""
    monkeypatch.setattr(ActivityNetDataModule, "counts", {})
    monkeypatch.chdir(tmp_path)

    def made(files: dict[str, Any], *words: str) -> ActivityNetDataModule:
        write(files, tmp_path)
        return ActivityNetDataModule(settings(*HERE, "data.holdout=2", *words))

    return made


def test_sentences_are_joined_and_the_span_is_the_whole_duration(make: Make) -> None:
    data = make(SMALL)
    split = data.split("test")
    assert data.seconds_of == {"v_a": 10.2, "v_b": 10.2}
    assert [(q.clip_id, q.text) for q in split.queries] == [
        ("v_a", "A man sits.  He stands. "),
        ("v_b", "A dog."),
    ]
    assert [(clip.id, clip.start, clip.end) for clip in split.clips] == [
        ("v_a", 0.0, 11.0),
        ("v_b", 0.0, 11.0),
    ]
    stripped = make(SMALL, "data.strip=true").split("test")
    assert [q.text for q in stripped.queries] == ["A man sits. He stands.", "A dog."]


def test_training_videos_are_held_out_for_validation(make: Make) -> None:
    data = make(SMALL)
    train, val = data.split("train"), data.split("val")
    ids = {clip.id for split in (train, val) for clip in split.clips}
    assert (len(train.clips), len(val.clips)) == (3, 2) and ids == set(SMALL["train.json"])
    assert len(make(SMALL, "data.holdout=0").split("train").clips) == 5
    with pytest.raises(UserError, match=r"data\.holdout=5 leaves nothing"):
        make(SMALL, "data.holdout=5").split("train")


@pytest.mark.parametrize(
    "name", ["a.mp4", "v_a.mp4", "x/v1-2/val/v_a.mkv", "Activity_Videos/a.webm", "a.avi", "a.MP4"]
)
def test_videos_are_found_with_and_without_the_prefix(name: str, make: Make) -> None:
    data, path = make(SMALL), Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    assert data.split("test").clips[0].path == path
    assert [clip.path for clip in data.missing("test")] == [Path("b.mp4")]


def test_an_id_that_begins_with_the_prefix_loses_it_once(make: Make) -> None:
    data = make({"val_1.json": {"v_v_xy": video("A dog.")}})
    Path("v_xy.mp4").write_bytes(b"x")
    assert data.split("test").clips[0].path == Path("v_xy.mp4")


LISTS: dict[str, dict[str, Any]] = {
    "official": {"val_ids.json": ["v_b", "v_gone", "v_c"]},
    "without the prefix": {"val_ids.json": ["b", "c", "gone"]},
    "CE": {"ce_lists/val_1_list.txt": "v_c\nv_b\n"},
    "both": {"val_ids.json": ["v_gone", "v_b", "v_c"], "val_1_list.txt": "v_b\r\nv_c"},
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_ids_chooses_and_what_it_names_too_many_is_noted(name: str, make: Make) -> None:
    captions = {key: video(key) for key in ("v_a", "v_b", "v_c")}
    data = make({"val_1.json": captions, "train.json": SMALL["train.json"]} | LISTS[name])
    assert [clip.id for clip in data.split("test").clips] == ["v_b", "v_c"], "order of val_1.json"
    notes = [line for line in data.notes() if "gone" in line]
    assert len(notes) == ("gone" in str(LISTS[name]))
    assert all("val_ids.json names 1 videos that have no captions" in line for line in notes)


@pytest.mark.parametrize("folder", [".", "annotations", "captions", "ActivityNet", "activitynet"])
def test_annotations_lie_in_any_usual_folder(folder: str, make: Make) -> None:
    assert make({f"{folder}/{name}": text for name, text in SMALL.items()}).split("train")


def test_bad_videos_are_left_out_only_if_asked_for(make: Make) -> None:
    files = {**SMALL, "bad_vids.txt": "v_b\nv_t1\n"}
    assert len(make(files).split("test").clips) == 2 and make(files).notes() == []
    data = make(files, "data.skip_bad=true", "data.holdout=1")
    assert [clip.id for clip in data.split("test").clips] == ["v_a"]
    assert len(data.split("train").clips) == 3 and "v_b, v_t1" in data.notes()[0]
    assert data.official("test") is None
    Path("bad_vids.txt").unlink()
    with pytest.raises(UserError, match=r"needs bad_vids\.txt"):
        make(SMALL, "data.skip_bad=true").split("test")


@pytest.mark.parametrize("split, file", [("test", "val_1.json"), ("train", "train.json")])
def test_another_size_than_the_official_one_is_refused_with_the_file(
    split: str, file: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"train": Counts(5, 11), "test": Counts(2, 4)}
    monkeypatch.setattr(ActivityNetDataModule, "counts", wanted)
    with pytest.raises(UserError, match=rf"split '{split}'.*instead of the official.*{file}"):
        make(SMALL).split(split)
    right = {"train": Counts(5, 10), "test": Counts(2, 3)}
    monkeypatch.setattr(ActivityNetDataModule, "counts", right)
    assert make(SMALL).split(split)
    assert make(SMALL).official("test") == Counts(2, None), "of paragraphs, there are no others"


GOOD: dict[str, tuple[Any, str]] = {
    **{k: (v, "x") for k, v in saved_by_others({"v_a": video("x")}).items()},
    "emoji": ({"v_a": video("a 🐕‍🦺", "b")}, "a 🐕‍🦺 b"),
    "escaped": (json.dumps({"v_a": video("a 🐕‍🦺")}), "a 🐕‍🦺"),
    "line separators": ({"v_a": video("a\u2028b\n", "\x85c")}, "a\u2028b\n \x85c"),
    "10,000 characters": ({"v_a": video(LONG)}, LONG),
    "a sentence twice": ({"v_a": video("x", "x")}, "x x"),
    "one empty sentence": ({"v_a": video("x", "", "y")}, "x  y"),
    "whole seconds": ({"v_a": video("x", duration=10)}, "x"),
    "reversed times": ({"v_a": video("x") | {"timestamps": [[5, 1]]}}, "x"),
    "no times": ({"v_a": {"duration": 3, "sentences": ["x"], "more": None}}, "x"),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_files_are_read_as_they_are(name: str, make: Make) -> None:
    content, expected = GOOD[name]
    assert [q.text for q in make({"val_1.json": content}).split("test").queries] == [expected]


def test_one_paragraph_of_two_videos_is_two_queries(make: Make) -> None:
    split = make({"val_1.json": {"v_a": video("x"), "v_b": video("x")}}).split("test")
    assert [(q.id, q.text) for q in split.queries] == [("v_a#0", "x"), ("v_b#0", "x")]


BAD: dict[str, tuple[Any, str]] = {
    **broken_json(SMALL["val_1.json"]),
    "no videos": ({}, "has no videos"),
    "a video that is a list": ({"v_a": ["x"]}, "'v_a' is no object"),
    "no duration": ({"v_a": {"sentences": ["x"]}}, "'v_a' has no duration"),
    "a duration in words": ({"v_a": video("x", duration="10")}, "'v_a' has no duration"),
    "a duration that is true": ({"v_a": video("x", duration=True)}, "'v_a' has no duration"),
    "no number": ({"v_a": video("x", duration=float("nan"))}, "'v_a' has the duration nan"),
    "endless": ({"v_a": video("x", duration=float("inf"))}, "'v_a' has the duration inf"),
    "400 digits": ({"v_a": video("x", duration=10**400)}, "'v_a' has the duration 1000"),
    "no length": ({"v_a": video("x", duration=0)}, "'v_a' has the duration 0"),
    "negative": ({"v_a": video("x", duration=-1)}, "'v_a' has the duration -1"),
    "no sentences": ({"v_a": {"duration": 3}}, "'v_a' has captions that are no list"),
    "an empty list": ({"v_a": video()}, "'v_a' has captions that are no list"),
    "sentences as one text": (
        {"v_a": {"duration": 3, "sentences": "x"}},
        "'v_a' has captions that are no list",
    ),
    "a sentence that is a number": (
        {"v_a": {"duration": 3, "sentences": ["x", 1]}},
        "'v_a' has captions that are no list",
    ),
    "blank sentences": ({"v_a": video(" ", "")}, "'v_a#0' of split 'test' is empty"),
    "an id that climbs": ({"v_../../x": video("x")}, "no safe name"),
    "an absolute id": ({"/etc/passwd": video("x")}, "no safe name"),
    "an id of two lines": ({"v_a\nb": video("x")}, "no safe name"),
    "an id with a zero byte": ({"v_a\0": video("x")}, "NUL character"),
    "an empty id": ({"": video("x")}, "no safe name"),
    "an id of 200 letters": ({"v" * 200: video("x")}, "no safe name"),
}


@pytest.mark.parametrize("name", BAD)
def test_broken_files_are_one_line(name: str, make: Make) -> None:
    content, expected = BAD[name]
    with refused(expected):
        make({"val_1.json": content}).split("test")


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("ids.json", '{"v_a": 1}', "must hold a list"),
        ("ids.json", '["v_a", 3]', "no text"),
        ("ids.json", '["v_a", "v_a"]', "names 'v_a' twice"),
        ("ids.json", '["v_a"', "not readable JSON"),
        ("ids.json", '["v_a\\n", "v_a\\n"]', r"names 'v_a\\n' twice"),
        ("list.txt", "v_a\nv_b\r\nv_a\n", "names 'v_a' twice"),
        ("list.txt", b"\xff\xfev_a", "begins as UTF-16"),
    ],
)
def test_broken_lists_are_one_line(
    name: str, content: str | bytes, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with refused(expected):
        read_ids(path)


@real
def test_the_real_files_have_the_official_counts(tmp_path: Path) -> None:
    def read(*words: str) -> ActivityNetDataModule:
        return ActivityNetDataModule(
            settings(*HERE, f"data.annotations={REAL}", f"data.videos={tmp_path}", *words)
        )

    data = read()
    splits = {name: data.split(name) for name in ("train", "val", "test")}
    sizes = {name: (len(s.clips), len(s.queries)) for name, s in splits.items()}
    assert sizes == {"train": (9_509, 9_509), "val": (500, 500), "test": (4_917, 4_917)}
    assert len({clip.id for split in splits.values() for clip in split.clips}) == 14_926
    listed = (REAL / "ce_lists" / "val_1_list.txt").read_text().split()
    assert [clip.id for clip in splits["test"].clips] == listed
    plain = json.loads((REAL / "val_1.json").read_text())
    assert [q.text for q in splits["test"].queries] == [
        " ".join(plain[key]["sentences"]) for key in listed
    ]
    assert [line.split(" videos")[0] for line in data.notes()] == [
        "train_ids.json names 15",
        "val_ids.json names 9",
    ]
    bad = read("data.skip_bad=true", "data.holdout=0")
    assert (len(bad.split("train").clips), len(bad.split("test").clips)) == (10_007, 4_916)
