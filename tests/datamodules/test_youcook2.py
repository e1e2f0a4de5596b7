"""YouCook2: segments as clips, whole videos held out, both test sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.sets import broken_json, refused, saved_by_others, settings, write
from real import DATA
from tvr_bench.datamodules.annotated import Counts
from tvr_bench.datamodules.youcook2 import Youcook2DataModule
from tvr_bench.errors import UserError

REAL = DATA / "youcook2"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real annotation files are not there")

HERE = ("data=youcook2", "data.root=.")
JSON = "youcookii_annotations_trainval.json"
CSV = "validation_youcook.csv"
HEADER = "end,start,task,text,video_id\n"
DEEP = "raw/validation/113/-a_b.mkv"
LONG = "stir it " * 1300

Make = Callable[..., Youcook2DataModule]


def segment(text: Any = "cut it", span: Any = (3, 9)) -> dict[str, Any]:
    """Return one annotated segment."""
    return {"segment": list(span) if isinstance(span, tuple) else span, "id": 0, "sentence": text}


def video(*segments: dict[str, Any], subset: str = "validation") -> dict[str, Any]:
    """Return what the official file says of one video."""
    return {
        "duration": 50.5,
        "subset": subset,
        "recipe_type": "113",
        "annotations": list(segments),
        "video_url": "",
    }


def database(**videos: Any) -> dict[str, Any]:
    """Return the content of the official file."""
    return {"database": videos}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A function that writes annotation files and returns the data module over them."""
    monkeypatch.setattr(Youcook2DataModule, "counts", {})
    monkeypatch.chdir(tmp_path)

    def made(files: dict[str, Any], *words: str) -> Youcook2DataModule:
        write(files, tmp_path)
        return Youcook2DataModule(settings(*HERE, *words))

    return made


def test_every_segment_is_a_clip_of_its_span(make: Make) -> None:
    content = {
        "-a_b": video(segment("cut it", (3, 9)), segment(" fry it", (9.5, 20))),
        "other": video(segment(), subset="training"),
        "none": video(),
        "c": video(segment("cut it")),
    }
    content["c"]["duration"] = None
    data, path = make({JSON: database(**content)}, "data.test=official"), Path(DEEP)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    split = data.split("test")
    assert [(clip.id, clip.path, clip.start, clip.end) for clip in split.clips] == [
        ("-a_b_0", path, 3.0, 9.0),
        ("-a_b_1", path, 9.5, 20.0),
        ("c_0", Path("validation/113/c.mp4"), 3.0, 9.0),
    ]
    assert [q.text for q in split.queries] == ["cut it", " fry it", "cut it"]
    assert data.seconds_of == {"-a_b_0": 50.5, "-a_b_1": 50.5}


def test_the_other_test_set_needs_its_own_file(make: Make) -> None:
    rows = '20,9.5,113,"cut, then ""fry"" it",b\n9,3,113,cut it,a\n30,21,113, stir,b\n'
    split = make({CSV: HEADER + rows}).split("test")
    assert [(clip.id, clip.start, clip.end) for clip in split.clips] == [
        ("b_0", 9.5, 20.0),
        ("a_0", 3.0, 9.0),
        ("b_1", 21.0, 30.0),
    ]
    assert [q.text for q in split.queries] == ['cut, then "fry" it', "cut it", " stir"]


def test_which_test_set_is_never_chosen_silently(make: Make) -> None:
    data = make({JSON: database(a=video(segment()))})
    with pytest.raises(UserError, match=r"needs validation_youcook\.csv.*data\.test=official"):
        data.split("test")


def test_videos_are_held_out_whole(make: Make) -> None:
    texts = [segment(f"step {i}") for i in range(4)]
    videos = {f"t{i}": video(*texts, subset="training") for i in range(10)}
    data = make({JSON: database(**videos)}, "data.holdout=6")
    train, val = ({clip.id for clip in data.split(name).clips} for name in ("train", "val"))
    assert (len(train), len(val)) == (32, 8) and not train & val
    assert not {name.split("_")[0] for name in train} & {name.split("_")[0] for name in val}
    everything = make({JSON: database(**videos)}, "data.holdout=0")
    assert len(everything.split("train").clips) == len(everything.split("val").clips) == 40
    with pytest.raises(UserError, match=r"data\.holdout=37 leaves nothing of 40"):
        make({JSON: database(**videos)}, "data.holdout=37").split("train")


@pytest.mark.parametrize("folder", [".", "annotations", "csv", "YouCook2", "youcook2"])
def test_annotations_lie_in_any_usual_folder(folder: str, make: Make) -> None:
    assert make({f"{folder}/{CSV}": HEADER + "9,3,113,x,a\n"}).split("test")


@pytest.mark.parametrize(
    "which, split", [("official", "test"), ("milnce", "test"), ("train", "train")]
)
def test_another_size_than_the_official_one_is_refused(
    which: str, split: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = database(a=video(segment()), b=video(segment(), segment(), subset="training"))
    files = {JSON: content, CSV: HEADER + "9,3,113,x,a\n"}
    words = ["data.holdout=0", f"data.test={'milnce' if which == 'milnce' else 'official'}"]
    right = {"train": Counts(2, 2), "official": Counts(1, 1), "milnce": Counts(1, 1)}
    monkeypatch.setattr(Youcook2DataModule, "counts", right)
    assert make(files, *words).split(split)
    monkeypatch.setattr(Youcook2DataModule, "counts", right | {which: Counts(7, 7)})
    with pytest.raises(UserError, match=f"split '{split}' of youcook2 .*official 7 and 7"):
        make(files, *words).split(split)


def test_the_official_counts_are_those_of_the_design() -> None:
    counts = {name: found.clips for name, found in Youcook2DataModule.counts.items()}
    assert counts == {"train": 10_337, "official": 3_492, "milnce": 3_350}


GOOD: dict[str, tuple[Any, str]] = {
    **{k: (v, "x") for k, v in saved_by_others(database(a=video(segment("x")))).items()},
    "emoji": (database(a=video(segment("a 🐕‍🦺"))), "a 🐕‍🦺"),
    "escaped": (json.dumps(database(a=video(segment("🐕"))), ensure_ascii=True), "🐕"),
    "10,000 characters": (database(a=video(segment(LONG))), LONG),
    "from the first second": (database(a=video(segment("x", (0, 1)))), "x"),
    "beyond the duration": (database(a=video(segment("x", (45, 99)))), "x"),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_files_are_read_as_they_are(name: str, make: Make) -> None:
    content, expected = GOOD[name]
    split = make({JSON: content}, "data.test=official").split("test")
    assert [q.text for q in split.queries] == [expected]


SPAN = "segment 0 has no start and end"
BAD: dict[str, tuple[Any, str]] = {
    **broken_json(database(a=video(segment()))),
    "no database": ({"a": video(segment())}, "has no 'database'"),
    "a database that is a list": ({"database": []}, "has no 'database'"),
    "no videos": (database(), "has no videos"),
    "a video that is a text": (database(a="x"), "'a' has no list 'annotations'"),
    "no annotations": (database(a={"subset": "validation"}), "'a' has no list 'annotations'"),
    "no subset": (database(a={"annotations": []}), "'a' is of no subset"),
    "a subset that is a list": (database(a={"annotations": [], "subset": []}), "of no subset"),
    "another subset": (database(a=video(segment(), subset="testing")), "'a' is of no subset"),
    "a segment that is a text": (database(a=video("x")), "segment 0 is no object"),  # type: ignore[arg-type]
    "no sentence": (database(a=video(segment(None))), "segment 0 has no sentence"),
    "an empty sentence": (database(a=video(segment("x"), segment(" "))), "segment 1 has no sent"),
    "a sentence that is a list": (database(a=video(segment(["x"]))), "segment 0 has no sentence"),
    "no span": (database(a=video(segment("x", None))), SPAN),
    "a span of one": (database(a=video(segment("x", (1,)))), SPAN),
    "a span in words": (database(a=video(segment("x", ("1", "2")))), SPAN),
    "a span of truths": (database(a=video(segment("x", (False, True)))), SPAN),
    "reversed": (database(a=video(segment("x", (9, 3)))), SPAN),
    "of no length": (database(a=video(segment("x", (3, 3)))), SPAN),
    "negative": (database(a=video(segment("x", (-1, 3)))), SPAN),
    "no number": (database(a=video(segment("x", (float("nan"), 3)))), SPAN),
    "endless": (database(a=video(segment("x", (0, float("inf"))))), SPAN),
    "400 digits": (database(a=video(segment("x", (0, 10**400)))), SPAN),
    "an id that climbs": (database(**{"../a": video(segment())}), "no safe name"),
    "a recipe that climbs": (
        database(a=video(segment()) | {"recipe_type": "../../.."}),
        "no safe name",
    ),
    "an id of two lines": (database(**{"a\nb": video(segment())}), "no safe name"),
}


@pytest.mark.parametrize("name", BAD)
def test_broken_files_are_one_line(name: str, make: Make) -> None:
    content, expected = BAD[name]
    with refused(expected):
        make({JSON: content}, "data.test=official").split("test")


BAD_ROWS: dict[str, tuple[str | bytes, str]] = {
    "empty file": ("", "no column 'end'"),
    "header only": (HEADER, "has no videos"),
    "no header": ("9,3,113,x,a\n", "no column 'end'"),
    "a column missing": ("end,start,text,video_id\n9,3,x,a\n", "no column 'task'"),
    "colons": (HEADER.replace(",", ":") + "9:3:113:x:a\n", "no column"),
    "too few cells": (HEADER + "9,3,113,x\n", "line 2 has too few cells"),
    "an empty text": (HEADER + "9,3,113,,a\n", "row 1 has no sentence"),
    "a time in words": (HEADER + "9,3,113,x,a\nnine,3,113,x,a\n", "row 2 has a time that is no"),
    "no time": (HEADER + ",3,113,x,a\n", "row 1 has a time that is no number"),
    "reversed": (HEADER + "3,9,113,x,a\n", "row 1 has no start and end"),
    "no number": (HEADER + "nan,3,113,x,a\n", "row 1 has no start and end"),
    "endless": (HEADER + "inf,3,113,x,a\n", "row 1 has no start and end"),
    "no video": (HEADER + "9,3,113,x,\n", "no safe name"),
    "an id that climbs": (HEADER + "9,3,113,x,../a\n", "no safe name"),
    "a recipe that climbs": (HEADER + "9,3,../..,x,a\n", "no safe name"),
    "an open quote": (HEADER + '9,3,113,"x,a\n8,3,113,x,a\n', "too few cells"),
    "latin-1": ((HEADER + "9,3,113,é,a\n").encode("latin-1"), "not UTF-8"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_broken_tables_are_one_line(name: str, make: Make) -> None:
    content, expected = BAD_ROWS[name]
    with refused(expected):
        make({CSV: content}).split("test")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_tables_are_read_with_any_line_end_and_mark(end: str, mark: bytes, make: Make) -> None:
    text = f'{HEADER}9,3,113,a 🐕‍🦺,a\n19,13,113,"{LONG}",a\n'.replace("\n", end)
    split = make({CSV: mark + text.encode()}).split("test")
    assert [q.text for q in split.queries] == ["a 🐕‍🦺", LONG]


@real
def test_the_real_file_has_the_official_counts(tmp_path: Path) -> None:
    places = (f"data.annotations={REAL}", f"data.videos={tmp_path}", "data.test=official")
    data = Youcook2DataModule(settings(*HERE, *places))
    splits = {name: data.split(name) for name in ("train", "val", "test")}
    videos = {name: {clip.path.name for clip in split.clips} for name, split in splits.items()}
    assert len(splits["test"].clips) == 3_492 and len(videos["test"]) == 457
    assert len(splits["train"].clips) + len(splits["val"].clips) == 10_337
    assert len(videos["train"]) + len(videos["val"]) == 1_333
    assert not videos["train"] & videos["val"] and not videos["train"] & videos["test"]
    assert 500 <= len(splits["val"].clips) < 520
    listed = (REAL / "val_list.txt").read_text().split()
    paths = {clip.path.relative_to(tmp_path / "validation") for clip in splits["test"].clips}
    assert {path.with_suffix("").as_posix() for path in paths} == set(listed)
