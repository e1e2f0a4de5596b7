"""MSR-VTT: its splits from every layout, and files that are broken, cut or of something else."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.sets import (
    Files,
    broken_json,
    refused,
    saved_by_others,
    settings_at,
    texts_of,
    write,
)
from tvr_bench.datamodules.annotated import Counts
from tvr_bench.datamodules.msrvtt import MsrvttDataModule, differences
from tvr_bench.errors import UserError

# a data set of ten clips with two captions each, of which two test 1k-A
PARTS = {"train": range(4), "val": range(4, 6), "test": range(6, 10)}
CLIPS = [f"video{i}" for part in PARTS.values() for i in part]
TEST = {"video8": "Clip 8,  caption 1", "video6": "clip 6 caption 0"}
INDEX = {"video8": 1, "video6": 0}
Make = Callable[..., MsrvttDataModule]


def _captions(clip: str) -> list[str]:
    return [f"clip {clip[5:]} caption 0", f"Clip {clip[5:]},  caption {1}"]


def _official(*parts: str) -> Files:
    """Return an official file; sentences are in no order of videos."""
    videos = [
        {"video_id": f"video{i}", "split": part, "start time": 7.5, "end time": 17.5 + i}
        for part in parts
        for i in PARTS[part]
    ]
    ids = sorted((video["video_id"] for video in videos), reverse=True)
    sentences = [{"caption": text, "video_id": one} for one in ids for text in _captions(one)]
    return {"info": {}, "videos": videos, "sentences": sentences}


def _ce() -> Files:
    rows = [{"image_id": one, "caption": text} for one in CLIPS for text in _captions(one)]
    return {"images": [{"id": one} for one in CLIPS], "annotations": rows}


def _csv(rows: dict[str, str]) -> str:
    lines = [f'ret{i},msr{one[5:]},{one},"{text}"' for i, (one, text) in enumerate(rows.items())]
    return "\n".join(["key,vid_key,video_id,sentence", *lines, ""])


def _ids(*ids: str) -> str:
    return "\n".join(ids)


NOT_TEST = [one for one in CLIPS if one not in TEST]
LISTS = {
    "MSRVTT_train.9k.csv": _ids("video_id", *NOT_TEST),
    "MSRVTT_train.7k.csv": _ids("video_id", *CLIPS[5::-1]),
    "MSRVTT_test.full.csv": _ids("video_id", *CLIPS[6:]),
}
CE_LISTS = {
    "train_list_jsfusion.txt": _ids(*NOT_TEST),
    "val_list_jsfusion.txt": _ids(*TEST),
    "jsfusion_val_caption_idx.pkl": pickle.dumps(INDEX),
    "train_list_miech.txt": _ids("video0", "video6", "video9"),
    "test_list_miech.txt": _ids("video8", "video1"),
}
PAIR = {
    "train_val_videodatainfo.json": _official("train", "val"),
    "test_videodatainfo.json": _official("test"),
}
JSFUSION = {"MSRVTT_JSFUSION_test.csv": _csv(TEST)}


def _in(folder: str, files: Files) -> Files:
    return {f"{folder}/{name}": content for name, content in files.items()}


LAYOUTS = {
    "official, in the root": PAIR | JSFUSION,
    "official and lists": _in("official", PAIR) | _in("csv", JSFUSION | LISTS),
    "CLIP4Clip": _in("msrvtt_data", {"MSRVTT_data.json": _official(*PARTS)} | JSFUSION | LISTS),
    "Frozen": {"annotation/MSR_VTT.json": _ce()}
    | _in("high-quality/structured-symlinks", CE_LISTS),
    "CE": {"MSR_VTT.json": _ce()} | _in("structured-symlinks", CE_LISTS),
    "CE lists, official captions": PAIR | _in("ce_lists", CE_LISTS),
}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A function that writes files and returns the data module over them."""
    monkeypatch.setattr(MsrvttDataModule, "parts", PARTS)
    monkeypatch.setattr(MsrvttDataModule, "one_each", 2)
    monkeypatch.setattr(MsrvttDataModule, "miech", 3)
    monkeypatch.setattr(MsrvttDataModule, "per_clip", 2)

    def made(files: Files, *settings: str) -> MsrvttDataModule:
        write(files, tmp_path)
        return MsrvttDataModule(settings_at(tmp_path, "data=msrvtt", "data.holdout=1", *settings))

    return made


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_same_splits(layout: str, make: Make) -> None:
    data = make(LAYOUTS[layout])
    assert texts_of(data, "test") == {one: [text] for one, text in TEST.items()}
    assert [clip.id for clip in data.split("test").clips] == list(TEST)
    train, val = texts_of(data, "train"), texts_of(data, "val")
    assert len(train) == 7 and len(val) == 1
    assert sorted(train | val) == NOT_TEST
    assert all(texts == _captions(one) for one, texts in (train | val).items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_official_split(layout: str, make: Make) -> None:
    data = make(LAYOUTS[layout], "data.split=full")
    for part, numbers in PARTS.items():
        assert texts_of(data, part) == {f"video{i}": _captions(f"video{i}") for i in numbers}
        assert data.official(part) == Counts(len(numbers), 2 * len(numbers))


def test_lengths_are_known_where_a_file_has_them(make: Make) -> None:
    data = make(LAYOUTS["official and lists"], "data.split=full")
    for part in PARTS:
        data.split(part)
    assert data.seconds_of == {one: 10.0 + i for i, one in enumerate(CLIPS)}
    videos = [{"video_id": "video0", "start time": None}, "video1", {"video_id": ["video2"]}, {}]
    odd = _official(*PARTS) | {"videos": videos}
    again = make(_with("data.json", odd), "data.split=full", "data.annotations=msrvtt_data")
    again.cfg.data.annotations = f"{data.cfg.data.root}/msrvtt_data"
    assert len(again.split("train").clips) == 4 and again.seconds_of == {}


def test_without_a_hold_out_all_train_and_some_of_them_validate(make: Make) -> None:
    data = make(LAYOUTS["CLIP4Clip"], "data.holdout=0")
    assert list(texts_of(data, "train")) == NOT_TEST
    assert set(texts_of(data, "val")) <= set(NOT_TEST)
    with pytest.raises(UserError, match=r"data\.holdout=8 leaves nothing"):
        make({}, "data.holdout=8").split("train")


@pytest.mark.parametrize(("layout", "order"), [("CLIP4Clip", CLIPS[5::-1]), ("CE", CLIPS[:6])])
def test_7k_is_the_official_train_and_val_in_the_order_of_its_list(
    layout: str, order: list[str], make: Make
) -> None:
    data = make(LAYOUTS[layout], "data.train=7k", "data.holdout=0")
    assert list(texts_of(data, "train")) == order


def test_1kb_is_refused_unless_it_is_meant(make: Make) -> None:
    data = make(LAYOUTS["CE"], "data.split=1kb")
    for part in PARTS:
        with pytest.raises(UserError, match=r"453 .* 296 .*data\.force_1kb=true"):
            data.split(part)
    forced = ["data.split=1kb", "data.force_1kb=true"]
    data = make({}, *forced)
    assert texts_of(data, "test") == {one: _captions(one)[:1] for one in ("video8", "video1")}
    both = texts_of(data, "train") | texts_of(data, "val")
    assert both == {one: _captions(one) for one in ("video0", "video6", "video9")}
    assert any("1k-A" in line for line in data.notes())
    short = {"structured-symlinks/train_list_miech.txt": _ids("video0", "video6")}
    with pytest.raises(UserError, match=r"2 videos.* instead of the official 3"):
        make(short, *forced).split("train")


def test_videos_are_found_below_the_root(make: Make, tmp_path: Path) -> None:
    (tmp_path / "MSRVTT_Videos" / "all").mkdir(parents=True)
    for name in ("video6.webm", "video8.mp4", "video8.webm"):
        (tmp_path / "MSRVTT_Videos" / "all" / name).touch()
    clips = make(LAYOUTS["CLIP4Clip"]).split("test").clips
    names = [clip.path.relative_to(tmp_path).as_posix() for clip in clips]
    assert names == ["MSRVTT_Videos/all/video8.mp4", "MSRVTT_Videos/all/video6.webm"]


def _changed(**rows: Any) -> Files:
    """Return CLIP4Clip's files, `rows` put into the second sentence, which is of video9."""
    value = _official(*PARTS)
    value["sentences"][1].update(rows)
    return LAYOUTS["CLIP4Clip"] | {"msrvtt_data/MSRVTT_data.json": value}


def _with(name: str, content: Any, layout: str = "CLIP4Clip") -> Files:
    (place,) = (place for place in LAYOUTS[layout] if place.endswith(name))
    return LAYOUTS[layout] | {place: content}


def _without(name: str, layout: str = "CLIP4Clip") -> Files:
    return {place: c for place, c in LAYOUTS[layout].items() if not place.endswith(name)}


WHOLE = json.dumps(_official(*PARTS))
ALSO = {"caption": "a dog", "video_id": "video9"}
LONG = "dog " * 2500 + "!"
GOOD = {
    "emoji and other scripts": (_changed(caption="a 🐕‍🦺 and a 犬"), "a 🐕‍🦺 and a 犬"),
    "10,000 characters": (_changed(caption=LONG), LONG),
    "spaces stay": (_changed(caption="  a  dog "), "  a  dog "),
    "a caption twice": (_changed(caption=_captions("video9")[0]), _captions("video9")[0]),
    "markup": (_changed(caption="<b>=1+1</b>"), "<b>=1+1</b>"),
    **{k: (_with("data.json", v), None) for k, v in saved_by_others(_official(*PARTS)).items()},
}
BAD = {
    "no file": ({}, r"needs MSRVTT_JSFUSION_test\.csv \(or val_list"),
    "no captions": (_without("data.json"), r"needs MSRVTT_data\.json \(or MSR_VTT\.json, train"),
    **{k: (_with("data.json", v), s) for k, (v, s) in broken_json(_official(*PARTS)).items()},
    "latin-1": (_with("data.json", WHOLE.replace("clip 9", "é").encode("latin-1")), "not UTF-8"),
    "something else": (_with("data.json", {"images": []}), "no list 'sentences' or 'annotations'"),
    "no list": (_with("data.json", {"sentences": {"a": 1}}), "no list 'sentences'"),
    "rows of text": (_with("data.json", {"sentences": ["a dog"]}), "entry 1 of 'sentences'"),
    "no caption": (_changed(caption=None), "entry 2 of 'sentences' has no text"),
    "empty caption": (_changed(caption=""), "entry 2 of 'sentences' has no text"),
    "blank caption": (_changed(caption=" \n"), "entry 2 of 'sentences' has no text"),
    "number as a caption": (_changed(caption=7), "entry 2 of 'sentences' has no text"),
    "list as an id": (_changed(video_id=["video9"]), "entry 2 of 'sentences' has no text"),
    "unknown clip": (_changed(video_id="video10"), "captions of 'video10', and the clips are"),
    "hostile id": (_changed(video_id="../../etc/passwd"), r"captions of '\.\./\.\./etc/passwd'"),
    "line end in an id": (_changed(video_id="video9\n"), r"captions of 'video9\\n'"),
    "a caption of another": (_changed(video_id="video8"), "(1|3) captions of 'video[89]' instead"),
    "too many": (
        _with("data.json", {"sentences": [*json.loads(WHOLE)["sentences"], ALSO]}),
        "3 captions of 'video9' instead of 2",
    ),
    "a clip without": (
        _with("data.json", {"sentences": json.loads(WHOLE)["sentences"][2:]}),
        "no captions of 'video9'",
    ),
    "half of the pair": (
        _without("test_videodatainfo.json", "official and lists"),
        r"needs test_videodatainfo\.json",
    ),
    "the same half twice": (
        _with("test_videodatainfo.json", _official("train", "val"), "official and lists"),
        "no captions of 'video6'",
    ),
    "no sentences": (_without("JSFUSION_test.csv"), r"needs MSRVTT_JSFUSION_test\.csv"),
    "no column": (_with("JSFUSION_test.csv", "key,video_id\nret0,video6\n"), "column 'sentence'"),
    "an unquoted comma": (
        _with("JSFUSION_test.csv", "video_id,sentence\nvideo6,a dog, wet\nvideo8,a cat\n"),
        "too many cells",
    ),
    "too few cells": (
        _with("JSFUSION_test.csv", "video_id,sentence\nvideo6,a dog\nvideo8\n"),
        "too few cells",
    ),
    "a sentence of a training clip": (
        _with("JSFUSION_test.csv", _csv({"video6": "a", "video1": "b"})),
        "names 'video1', of which there are no captions",
    ),
    "a sentence is empty": (
        _with("JSFUSION_test.csv", _csv({"video6": "a", "video8": " "})),
        "query 'video8#0' of split 'test' is empty",
    ),
    "a clip twice": (
        _with("JSFUSION_test.csv", _csv({"video6": "a"}) + 'ret1,msr6,video6,"b"\n'),
        "names 'video6' twice",
    ),
    "one sentence": (
        _with("JSFUSION_test.csv", _csv({"video6": "a"})),
        "has 1 sentences instead of 2",
    ),
    "a cut list": (
        _with("train.9k.csv", _ids("video_id", *NOT_TEST[:-1])),
        "7 videos and is not the official list of 8: 'video9'",
    ),
    "a list with a test clip": (
        _with("train.9k.csv", _ids("video_id", *NOT_TEST, "video6")),
        "9 videos and is not the official list of 8: 'video6'",
    ),
    "a list with a clip twice": (
        _with("train.9k.csv", _ids("video_id", *NOT_TEST, "video0")),
        "names 'video0' twice",
    ),
    "no index": (
        _without("caption_idx.pkl", "CE"),
        r"needs jsfusion_val_caption_idx\.pkl",
    ),
    "an index that calls": (
        _with("caption_idx.pkl", b"cos\nsystem\n(S'true'\ntR.", "CE"),
        "GLOBAL at byte 0 .* or bring MSRVTT_JSFUSION_test.csv",
    ),
    "an index of another kind": (
        _with("caption_idx.pkl", pickle.dumps("dog"), "CE"),
        "holds no positions by video",
    ),
    "an index that is short": (
        _with("caption_idx.pkl", pickle.dumps({"video8": 1}), "CE"),
        "no position of a caption of 'video6'",
    ),
    "an index beyond the captions": (
        _with("caption_idx.pkl", pickle.dumps(INDEX | {"video8": 2}), "CE"),
        "no position of a caption of 'video8'",
    ),
    "an index from the end": (
        _with("caption_idx.pkl", pickle.dumps(INDEX | {"video8": -1}), "CE"),
        "no position of a caption of 'video8'",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_odd_captions_come_through(name: str, make: Make) -> None:
    files, expected = GOOD[name]
    texts = texts_of(make(files, "data.split=full"), "test")["video9"]
    assert texts == [_captions("video9")[0], expected or _captions("video9")[1]]


@pytest.mark.parametrize("name", BAD)
def test_broken_files_are_named_in_one_line(name: str, make: Make) -> None:
    files, expected = BAD[name]
    data = make(files)
    with refused(expected):
        for part in PARTS:
            data.split(part)


def test_lists_of_the_official_split_are_held_to_it(make: Make) -> None:
    # CLIP2Video's script writes the validation list under this name
    files = _with("test.full.csv", _ids("video_id", *CLIPS[4:6]))
    with pytest.raises(UserError, match="2 videos and is not the official list of 4: 'video4'"):
        make(files, "data.split=full").split("test")


def test_what_sets_a_sentence_apart_from_captions() -> None:
    own = {one: ("A dog: it  barks!", "two cats") for one in "abcdef"}
    sentences = {
        "a": "A dog: it  barks!",
        "b": "A dog: it barks!",
        "c": " two cats",
        "d": "A dog it barks",
        "e": "A dog it barked",
        "f": "a dog: it  barks!",
    }
    kinds = dict.fromkeys("bc", "white space") | {"d": "punctuation"} | dict.fromkeys("ef", "words")
    assert differences(sentences, own) == kinds
    assert differences({"z": "two cats"}, own) == {"z": "words"}


def test_notes_say_what_differs_and_what_validates(make: Make) -> None:
    data = make(_with("JSFUSION_test.csv", _csv(TEST | {"video8": "Clip 8 caption 1"})))
    assert data.notes() == [
        "1 of the 8 training clips validate",
        "1 of 2 test sentences are not word for word among the 2 captions of their clip: 1 differ "
        "in punctuation (video8)",
    ]
    assert make(LAYOUTS["CLIP4Clip"], "data.holdout=0").notes() == []
    assert make({}, "data.split=full").notes() == []
