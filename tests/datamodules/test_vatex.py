"""VATEX: HGR's partition from every layout, CLIP2Video's list by name only, and broken files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.sets import (
    Files,
    broken_json,
    refused,
    saved_by_others,
    settings,
    settings_at,
    texts_of,
    write,
)
from real import DATA
from tvr_bench import config
from tvr_bench.datamodules.annotated import Counts
from tvr_bench.datamodules.vatex import VatexDataModule, read_records
from tvr_bench.errors import UserError

REAL = DATA / "vatex"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real lists are not there")

TRAIN = ["-aB_c_000001_000011", "_x0_000002_000012", "a-b_000003_000013"]
HALVES = {
    "val": ["va1_000004_000014", "va2_000005_000015", "va3_000006_000016"],
    "test": ["te1_000007_000017", "te2_000008_000018", "te3_000009_000019"],
}
PARTS = {"train": TRAIN} | HALVES
SEC = ["te2_000008_000018", "va3_000006_000016", "va1_000004_000014"]
COUNTS = {part: Counts(3, 6) for part in PARTS}
NAMES = [one for names in PARTS.values() for one in names]
CAPTIONS = {one: [f"Clip {i}, caption 0.", f"It is  number {i}"] for i, one in enumerate(NAMES)}
Make = Callable[..., VatexDataModule]


def _records(*names: str) -> list[Any]:
    return [{"videoID": one, "enCap": CAPTIONS[one], "chCap": ["一个人"] * 2} for one in names]


LISTS = {f"{part}_list.txt": "\n".join(names) for part, names in PARTS.items()}
SEC_LIST = {"test1k5_sec_list.txt": "\n".join(SEC) + "\n"}
OFFICIAL = {
    "vatex_training_v1.0.json": _records(*TRAIN),
    "vatex_validation_v1.0.json": _records(*HALVES["test"], *HALVES["val"]),
}
BY_ID = {one: {"enCap": texts, "chCap": ["一"]} for one, texts in CAPTIONS.items()}


def _in(folder: str, files: Files) -> Files:
    return {f"{folder}/{name}": content for name, content in files.items()}


LAYOUTS = {
    "HGR": _in("annotation/RET", {"ref_captions.json": CAPTIONS}) | LISTS | SEC_LIST,
    "CLIP2Video": _in("vatex_data", {"vatex_data.json": BY_ID} | LISTS | SEC_LIST),
    "official": OFFICIAL | LISTS | SEC_LIST,
    "official, without a training list": {
        name: content
        for name, content in (OFFICIAL | LISTS | SEC_LIST).items()
        if "train_l" not in name
    },
}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A function that writes files and returns the data module over them."""
    monkeypatch.setattr(VatexDataModule, "counts", COUNTS)

    def made(files: Files, *settings: str) -> VatexDataModule:
        write(files, tmp_path)
        return VatexDataModule(settings_at(tmp_path, "data=vatex", *settings))

    return made


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_same_splits(layout: str, make: Make) -> None:
    data = make(LAYOUTS[layout])
    for part, names in PARTS.items():
        assert texts_of(data, part) == {one: CAPTIONS[one] for one in names}
        assert [clip.id for clip in data.split(part).clips] == names
    assert data.seconds_of == dict.fromkeys(NAMES, 10.0)
    assert data.notes() == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_other_list_is_tested_where_it_is_named(layout: str, make: Make) -> None:
    data = make(LAYOUTS[layout], "data.test_list=sec")
    assert list(texts_of(data, "test")) == SEC
    assert sorted(texts_of(data, "val")) == sorted(set(NAMES[3:]) - set(SEC))
    assert list(texts_of(data, "train")) == TRAIN
    (line,) = data.notes()
    assert "2 clips of HGR's val and 1 of its test" in line


def test_a_list_with_another_name_is_not_looked_for(make: Make) -> None:
    files = {name: c for name, c in LAYOUTS["HGR"].items() if name != "test_list.txt"}
    with pytest.raises(UserError, match=r"needs test_list\.txt"):
        make(files).split("test")
    with pytest.raises(UserError, match=r"data\.test_list=second .* hgr, sec"):
        settings("data=vatex", "data.test_list=second")


def test_videos_are_found_by_id_or_by_the_mapping(make: Make, tmp_path: Path) -> None:
    mapping = {"vatex_mapping.txt": "".join(f"{one} video{i}\n" for i, one in enumerate(NAMES))}
    (tmp_path / "all_videos").mkdir()
    for i in range(len(NAMES)):
        (tmp_path / "all_videos" / f"video{i}.mp4").touch()
    assert len(make(LAYOUTS["HGR"]).missing("train")) == 3
    data = make(mapping)
    found = [clip.path.name for part in PARTS for clip in data.split(part).clips]
    assert found == [f"video{i}.mp4" for i in range(len(NAMES))]
    (tmp_path / "all_videos" / f"{NAMES[1]}.mkv").touch()
    again = make({})
    assert [clip.id for clip in again.missing("train")] == [NAMES[0], NAMES[2]]


def _ref(captions: Any) -> Files:
    return LAYOUTS["HGR"] | {"annotation/RET/ref_captions.json": CAPTIONS | captions}


def _record(**keys: Any) -> Files:
    records = _records(*TRAIN)
    records[1] = {key: value for key, value in (records[1] | keys).items() if value is not None}
    return LAYOUTS["official"] | {"vatex_training_v1.0.json": records}


def _list(part: str, text: Any) -> Files:
    return LAYOUTS["HGR"] | {f"{part}_list.txt": text}


ONE = TRAIN[1]
LONG = "dog " * 2500 + "!"
GOOD = {
    "emoji": (_ref({ONE: ["a 🐕‍🦺", "a 犬"]}), ["a 🐕‍🦺", "a 犬"]),
    "10,000 characters": (_record(enCap=[LONG, "b"]), [LONG, "b"]),
    "a caption twice": (_ref({ONE: ["a", "a"]}), ["a", "a"]),
    "spaces stay": (_record(enCap=["  a  b ", "a"]), ["  a  b ", "a"]),
    "captions of the public test": (_ref({"other_000001_000011": ["a"]}), CAPTIONS[ONE]),
    "no Chinese": (_record(chCap=None), CAPTIONS[ONE]),
    "list, CRLF and byte-order mark": (
        _list("train", "\ufeff" + "\r\n".join(TRAIN) + "\r\n\r\n"),
        CAPTIONS[ONE],
    ),
    **{
        name: (LAYOUTS["HGR"] | {"annotation/RET/ref_captions.json": content}, CAPTIONS[ONE])
        for name, content in saved_by_others(CAPTIONS).items()
    },
}
BAD = {
    "nothing": ({}, r"needs train_list\.txt \(or vatex_training_v1\.0\.json\)"),
    "no captions": (LISTS, r"needs ref_captions\.json \(or vatex_data\.json, vatex_training"),
    "half of the official files": (
        {name: c for name, c in LAYOUTS["official"].items() if "validation" not in name},
        r"needs vatex_validation_v1\.0\.json",
    ),
    "no validation list": (OFFICIAL, r"needs val_list\.txt"),
    **{
        name: (LAYOUTS["HGR"] | {"annotation/RET/ref_captions.json": content}, said)
        for name, (content, said) in broken_json(CAPTIONS).items()
    },
    "an official file of one object": (
        LAYOUTS["official"] | {"vatex_training_v1.0.json": BY_ID},
        "must hold a list",
    ),
    "no texts": (_ref({ONE: []}), f"'{ONE}' has captions that are no list"),
    "a text": (_ref({ONE: "a dog"}), f"'{ONE}' has captions that are no list"),
    "Chinese alone": (_ref({ONE: {"chCap": ["一"]}}), f"'{ONE}' has captions that are no list"),
    "a caption is a number": (_record(enCap=["a", 1]), f"'{ONE}' has captions that are no list"),
    "a caption is empty": (_record(enCap=["a", " "]), f"query '{ONE}#1' of split 'train' is empty"),
    "a caption is lost": (_record(enCap=["a"]), "5 captions instead of the official 3.* 6"),
    "no English": (_record(enCap=None), f"'{ONE}' has captions that are no list"),
    "no id": (_record(videoID=None), "record 2 has no text 'videoID'"),
    "a number as an id": (_record(videoID=7), "record 2 has no text 'videoID'"),
    "an id twice": (_record(videoID=TRAIN[0]), f"record 2 names '{TRAIN[0]}' again"),
    "a record of text": (
        LAYOUTS["official"] | {"vatex_training_v1.0.json": ["a dog"]},
        "record 1 has no text 'videoID'",
    ),
    "a list is cut": (_list("val", "\n".join(HALVES["val"][:2])), "instead of the official 3"),
    "a list names one twice": (
        _list("train", "\n".join([*TRAIN, ONE])),
        f"train, val and test together names '{ONE}' twice",
    ),
    "a test clip validates": (
        _list("val", "\n".join(HALVES["test"])),
        f"train, val and test together names '{HALVES['test'][0]}' twice",
    ),
    "an unknown clip": (
        _list("train", "\n".join([*TRAIN[:2], "z_1_2"])),
        "'z_1_2', of which there",
    ),
    "a hostile id": (
        _ref({"../../etc/passwd": ["a", "b"]})
        | {"train_list.txt": "\n".join([*TRAIN[:2], "../../etc/passwd"])},
        "'../../etc/passwd', which is no safe name",
    ),
    "a list in UTF-16 without a mark": (_list("train", ONE.encode("utf-16-le")), "UTF-16-LE"),
    "a mapping of something else": (
        LAYOUTS["HGR"] | {"vatex_mapping.txt": "a_1_2 vid1\n"},
        "has a line 'a_1_2 vid1', no 'ID videoN'",
    ),
    "a mapping with a path": (
        LAYOUTS["HGR"] | {"vatex_mapping.txt": f"{ONE} video/../../x\n"},
        "no 'ID videoN'",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_odd_captions_come_through(name: str, make: Make) -> None:
    files, expected = GOOD[name]
    assert texts_of(make(files), "train")[ONE] == expected


@pytest.mark.parametrize("name", BAD)
def test_broken_files_are_named_in_one_line(name: str, make: Make) -> None:
    files, expected = BAD[name]
    data = make(files)
    with refused(expected, longest=700):
        for part in PARTS:
            data.split(part)


def test_a_list_from_elsewhere_is_no_second_half(make: Make) -> None:
    files = LAYOUTS["HGR"] | {"test1k5_sec_list.txt": "\n".join([*SEC[:2], TRAIN[0]])}
    with pytest.raises(UserError, match=f"names '{TRAIN[0]}', of which"):
        make(files, "data.test_list=sec").split("test")


@needs_real
def test_the_real_lists(tmp_path: Path) -> None:
    """The captions are made up: ten of each clip, as the real ones are."""
    names = [line.split()[0] for line in (REAL / "vatex_mapping.txt").read_text().splitlines()]
    captions = {one: [str(i)] * 10 for i, one in enumerate(names)}
    (tmp_path / "ref_captions.json").write_text(json.dumps(captions))
    for path in REAL.glob("*_list.txt"):
        (tmp_path / path.name).symlink_to(path)

    def real(*settings: str) -> VatexDataModule:
        return VatexDataModule(config.load(["data=vatex", f"data.root={tmp_path}", *settings]))

    hgr, sec = real(), real("data.test_list=sec")
    counted = [(25_991, 259_910), (1_500, 15_000), (1_500, 15_000)]
    splits = [hgr.split(part) for part in PARTS]
    assert [(len(s.clips), len(s.queries)) for s in splits] == counted
    for data in (hgr, sec):
        ids = [entry.id for part in PARTS for entry in data.read_entries(part)]
        assert len(ids) == len(set(ids)) == 28_991
    tested = {clip.id for clip in sec.split("test").clips}
    shared = [len(tested & {clip.id for clip in hgr.split(p).clips}) for p in ("val", "test")]
    assert shared == [776, 724]
    assert "776 clips of HGR's val and 724 of its test" in sec.notes()[0]


@needs_real
def test_real_records_are_read() -> None:
    found = read_records(REAL / "sample" / "videocap5data.json")
    assert len(found) == 5 and {len(texts) for texts in found.values()} == {10}
