"""Anybody's own videos: every kind of CSV is read right or refused in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny import TINY_MODEL, TINY_RUN
from tvr_bench.config import load
from tvr_bench.datamodules.csv import CsvDataModule, Row, assign_splits, build_split, read_rows
from tvr_bench.datamodules.tokens import build_tokenizer
from tvr_bench.datamodules.types import Split
from tvr_bench.errors import UserError
from tvr_bench.media.video import read_frames, segment_centres

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a CSV file and return its path."""

    def make(content: str | bytes) -> Path:
        path = tmp_path / "my.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def _rows(path: Path) -> list[tuple[str, str, str]]:
    return [(row.video, row.caption, row.split) for row in read_rows(path)[0]]


def _splits(rows: list[Row]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row.split, []).append(row.video)
    return found


LONG = "dog " * 2500 + "!"
GOOD = {
    "plain": (
        "video,caption\na.mp4,a dog\nb.mp4,a cat\n",
        [("a.mp4", "a dog", ""), ("b.mp4", "a cat", "")],
    ),
    "no last line end": ("video,caption\na.mp4,a dog", [("a.mp4", "a dog", "")]),
    "byte-order mark": (b"\xef\xbb\xbfvideo,caption\na.mp4,a dog\n", [("a.mp4", "a dog", "")]),
    "CRLF": ("video,caption\r\na.mp4,a dog\r\n", [("a.mp4", "a dog", "")]),
    "CR": ("video,caption\ra.mp4,a dog\r", [("a.mp4", "a dog", "")]),
    "empty lines": ("video,caption\n\na.mp4,a dog\n\n\n", [("a.mp4", "a dog", "")]),
    "spaces and case": (" Video , CAPTION\n a.mp4 ,  a dog \n", [("a.mp4", "a dog", "")]),
    "another order": ("caption,split,video\na dog,Test,a.mp4\n", [("a.mp4", "a dog", "test")]),
    "quotes": ('video,caption\na.mp4,"a ""big"" dog, wet"\n', [("a.mp4", 'a "big" dog, wet', "")]),
    "line end in a caption": (
        'video,caption\na.mp4,"a dog\nruns"\n',
        [("a.mp4", "a dog\nruns", "")],
    ),
    "emoji": ("video,caption\na.mp4,a 🐕‍🦺 barks\n", [("a.mp4", "a 🐕‍🦺 barks", "")]),
    "other scripts": ("video,caption\n映像.mp4,ένα σκυλί 犬\n", [("映像.mp4", "ένα σκυλί 犬", "")]),
    "10,000 characters": (f"video,caption\na.mp4,{LONG}\n", [("a.mp4", LONG, "")]),
    "formula": ("video,caption\na.mp4,=1+1\n", [("a.mp4", "=1+1", "")]),
    "same file by two names": (
        "video,caption\n./a.mp4,a dog\nb/../a.mp4,it barks\n",
        [("a.mp4", "a dog", ""), ("a.mp4", "it barks", "")],
    ),
}

BAD = {
    "empty file": ("", "no column 'video'"),
    "header only": ("video,caption\n", "no rows"),
    "no header": ("a.mp4,a dog\n", "no column 'video'"),
    "no caption column": ("video,what\na.mp4,a dog\n", "no column 'caption'.*'video', 'what'"),
    "colons": ("video:caption\na.mp4:a dog\n", "must be video,caption and has 'video:caption'"),
    "unknown column": ("video,caption,splt\na.mp4,a dog,test\n", "'splt'.* Did you mean 'split'"),
    "column twice": ("video,caption,caption\na.mp4,a dog,a cat\n", "two columns 'caption'"),
    "empty caption": (
        "video,caption\na.mp4,a dog\nb.mp4,\n",
        "line 3 has an empty caption for 'b.mp4'; write",
    ),
    "blank caption": ('video,caption\na.mp4,"  "\n', "line 2 has an empty caption"),
    "too few cells": (
        "video,caption\na.mp4\n",
        "line 2 has an empty caption.*a line end in a text needs quotes",
    ),
    "no video": ("video,caption\n,a dog\n", "line 2 names no video"),
    "too many cells": ("video,caption\na.mp4,a dog, a cat\n", "line 2 has too many cells.*quotes"),
    "open quote": ('video,caption\na.mp4,"a dog\nb.mp4,a cat\n', "quotes"),
    "text after a quote": ('video,caption\na.mp4,"a" dog\n', "quotes"),
    "latin-1": ("video,caption\na.mp4,café\n".encode("latin-1"), r"not UTF-8 \(byte 23\)"),
    "UTF-16 without a mark": (
        "video,caption\na.mp4,a dog\n".encode("utf-16-le"),
        "looks like UTF-16-LE without its byte-order mark",
    ),
    "unknown split": ("video,caption,split\na.mp4,a dog,tst\n", "line 2.*'tst'.*'test'"),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_files_are_read(name: str, write: Write) -> None:
    content, expected = GOOD[name]
    assert _rows(write(content)) == expected


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line_with_the_place(name: str, write: Write) -> None:
    content, expected = BAD[name]
    path = write(content)
    with pytest.raises(UserError, match=expected) as error:
        read_rows(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_rows(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"is a folder; give a CSV with video,caption rows$"):
        read_rows(tmp_path)
    (tmp_path / "mine.csv").touch()
    with pytest.raises(UserError, match=r"is a folder.*such as .*/mine\.csv$"):
        read_rows(tmp_path)


def _named(count: int, text: str = "clip") -> list[Row]:
    return [Row(i + 2, f"{text}{i}.mp4", f"caption {i}", "") for i in range(count)]


def test_splits_are_about_80_10_10_and_depend_on_the_names_alone() -> None:
    rows = _named(1000)
    splits = {row.video: row.split for row in assign_splits(rows)}
    counts = {name: list(splits.values()).count(name) for name in ("train", "val", "test")}
    assert 770 <= counts["train"] <= 830
    assert 70 <= counts["val"] <= 130 and 70 <= counts["test"] <= 130
    turned = {row.video: row.split for row in assign_splits(rows[::-1])}
    fewer = {row.video: row.split for row in assign_splits(rows[:500])}
    assert turned == splits
    assert fewer == {video: splits[video] for video in fewer}


def test_the_share_of_a_name_never_changes() -> None:
    rows = assign_splits(_named(30))
    assert [row.line - 2 for row in rows if row.split == "val"] == [2, 6, 7, 11, 21, 22]
    assert [row.line - 2 for row in rows if row.split == "test"] == [14, 15, 17, 20]


def test_all_captions_of_a_video_stay_together() -> None:
    rows = assign_splits([row for row in _named(40) for _ in range(3)])
    for video in {row.video for row in rows}:
        assert len({row.split for row in rows if row.video == video}) == 1


@given(names=st.sets(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), min_size=4, max_size=12))
def test_a_handful_of_videos_fills_every_split(names: set[str]) -> None:
    found = _splits(assign_splits([Row(2, name, "x", "") for name in sorted(names)]))
    least = 2 if len(names) >= 8 else 1
    assert len(found["train"]) >= 2 and min(len(found["val"]), len(found["test"])) >= least
    assert sorted(name for part in found.values() for name in part) == sorted(names)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_to_three_videos_are_too_few(count: int) -> None:
    with pytest.raises(UserError, match=f"{count} videos cannot make train, val and test"):
        assign_splits(_named(count))


def test_given_splits_are_kept_and_checked() -> None:
    rows = [Row(2, "a", "x", "train"), Row(3, "b", "x", "test"), Row(4, "a", "y", "train")]
    assert assign_splits(rows) == rows
    with pytest.raises(UserError, match="line 4 has no split although others have"):
        assign_splits([*rows[:2], Row(4, "c", "x", "")])
    with pytest.raises(UserError, match="line 4: a is in 'train' and in 'test'"):
        assign_splits([*rows[:2], Row(4, "a", "x", "test")])


def test_a_split_has_its_videos_once_and_each_of_their_captions(tmp_path: Path) -> None:
    rows = [
        Row(2, "b.mp4", "a dog", "test"),
        Row(3, "a.mp4", "a cat", "test"),
        Row(4, "b.mp4", "a dog", "test"),
        Row(5, "c.mp4", "a cow", "val"),
    ]
    split = build_split("test", rows, tmp_path)
    assert [clip.id for clip in split.clips] == ["b.mp4", "a.mp4"]
    assert [clip.path for clip in split.clips] == [tmp_path / "b.mp4", tmp_path / "a.mp4"]
    assert [(q.clip_id, q.text) for q in split.queries] == [
        ("b.mp4", "a dog"),
        ("a.mp4", "a cat"),
        ("b.mp4", "a dog"),
    ]
    assert len({q.id for q in split.queries}) == 3
    assert build_split("train", rows, tmp_path) == Split((), ())


@pytest.mark.parametrize("video", ["../a.mp4", "x/../../a.mp4", "/etc/passwd", "a\0.mp4", ".."])
def test_a_path_outside_of_the_folder_is_refused(video: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(UserError, match=r"line 7: video .* lies outside"):
        build_split("test", [Row(7, video, "x", "test")], root)


@pytest.mark.parametrize(
    "video", ["sub/a.mp4", "a b.mp4", "-rf", "ü.mp4", ".a", "a" * 300, "con:1"]
)
def test_any_other_name_becomes_a_safe_id(video: str, tmp_path: Path) -> None:
    (clip,) = build_split("test", [Row(2, video, "x", "test")], tmp_path).clips
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", clip.id)
    assert clip.path == tmp_path / video


def test_names_that_look_alike_have_ids_of_their_own(tmp_path: Path) -> None:
    names = ["a/b.mp4", "a_b.mp4", "a b.mp4", "a?b.mp4", "a//b .mp4", "x" * 90, "x" * 91]
    split = build_split("test", [Row(2, name, "x", "test") for name in names], tmp_path)
    assert len({clip.id for clip in split.clips}) == len(names)


def test_the_data_module_reads_beside_the_file_or_under_the_root(write: Write) -> None:
    path = write("video,caption,split\nsub/a.mp4,a dog,test\n")
    data = CsvDataModule(load(["data=csv", f"data.file={path}"]))
    assert data.split("test").clips[0].path == path.parent / "sub" / "a.mp4"
    other = path.parent / "other"
    with pytest.raises(UserError, match=r"data\.root=.*other is no folder"):
        CsvDataModule(load(["data=csv", f"data.file={path}", f"data.root={other}"])).split("test")
    other.mkdir()
    data = CsvDataModule(load(["data=csv", f"data.file={path}", f"data.root={other}"]))
    assert data.split("test").clips[0].path == other / "sub" / "a.mp4"
    with pytest.raises(UserError, match="split 'val' has no videos"):
        data.split("val")
    with pytest.raises(UserError, match=r"needs data\.file=VIDEOS\.csv"):
        CsvDataModule(load(["data=csv"])).split("test")


def _spans(path: Path) -> list[tuple[str, float | None, float | None]]:
    return [(row.video, row.start, row.end) for row in read_rows(path)[0]]


GOOD_SPANS = {
    "both": ("1,2.5", (1.0, 2.5)),
    "start alone": ("1,", (1.0, None)),
    "end alone": (",2.5", (None, 2.5)),
    "neither": (",", (None, None)),
    "spaces": (" 1 , 2 ", (1.0, 2.0)),
    "from zero": ("0,0.5", (0.0, 0.5)),
    "minus zero": ("-0,1", (0.0, 1.0)),
    "short forms": (".5,3.", (0.5, 3.0)),
    "exponents": ("1e-3,1E2", (0.001, 100.0)),
    "two hours": ("7199.96,7200", (7199.96, 7200.0)),
}
BAD_SPANS = {
    "text": ("soon,2", "line 2 has start 'soon'; write seconds, such as 12.5"),
    "a clock of 61 seconds": ("0:61,2:00", "start '0:61'; write seconds, such as 12.5, or h:mm:ss"),
    "a clock of 61 minutes": ("1:61:00,2:00:00", "start '1:61:00'; write seconds"),
    "unit": ("1s,2s", "start '1s'; write seconds"),
    "NaN": ("1,nan", "end 'nan'; write seconds"),
    "infinite": ("1,inf", "end 'inf'; write seconds"),
    "too large": ("1,1e999", "end '1e999'; write seconds"),
    "python's digits": ("1_0,20", "start '1_0'; write seconds"),
    "other digits": ("\u0661,2", "write seconds, such as"),
    "hexadecimal": ("0x1,2", "start '0x1'; write seconds"),
    "negative": ("-1,2", "line 2 has start -1; seconds count from 0"),
    "negative end": (",-2", "line 2 has end -2; seconds count from 0"),
    "end before start": ("2,1", "line 2 ends at 1 s and starts at 2 s; the end must be"),
    "empty": ("2,2", "line 2 ends at 2 s and starts at 2 s"),
    "empty at the beginning": (",0", "line 2 ends at 0 s and starts at 0 s"),
    "decimal comma": ('"1,5",2', "start '1,5'; write seconds"),
    "one cell more": ("1,2,3", "line 2 has too many cells"),
}


@pytest.mark.parametrize("name", GOOD_SPANS)
def test_parts_of_videos_are_read(name: str, write: Write) -> None:
    cells, (start, end) = GOOD_SPANS[name]
    path = write(f"video,caption,start,end\na.mp4,a dog,{cells}\n")
    assert _spans(path) == [("a.mp4", start, end)]


@pytest.mark.parametrize("name", BAD_SPANS)
def test_bad_parts_are_one_line_with_the_place(name: str, write: Write) -> None:
    cells, expected = BAD_SPANS[name]
    path = write(f"video,caption,start,end\na.mp4,a dog,{cells}\n")
    with pytest.raises(UserError, match=re.escape(expected)) as error:
        read_rows(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_part_is_a_clip_of_its_own_that_its_captions_share(tmp_path: Path) -> None:
    rows = [
        Row(2, "a.mp4", "it sleeps", "test", 0.0, 1.5),
        Row(3, "a.mp4", "it wakes", "test", 1.5, None),
        Row(4, "a.mp4", "a dog", "test"),
        Row(5, "a.mp4", "it dreams", "test", 0.0, 1.5),
        Row(6, "b.mp4", "it sleeps", "test", 0.0, 1.5),
    ]
    split = build_split("test", rows, tmp_path)
    assert [(c.path.name, c.start, c.end) for c in split.clips] == [
        ("a.mp4", 0.0, 1.5),
        ("a.mp4", 1.5, None),
        ("a.mp4", None, None),
        ("b.mp4", 0.0, 1.5),
    ]
    ids = [clip.id for clip in split.clips]
    assert [q.clip_id for q in split.queries] == [ids[0], ids[1], ids[2], ids[0], ids[3]]
    assert ids[0].startswith("a.mp4_0-1.5-") and ids[1].startswith("a.mp4_1.5-")
    assert ids[2] == "a.mp4"
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", one) for one in ids)


def test_no_part_has_the_id_of_another_clip(tmp_path: Path) -> None:
    spans = [(1.0, 2.0), (1.0, 2.0000001), (None, 2.0), (2.0, None), (12.0, None), (1.0, 12.0)]
    parts = [Row(i, "a.mp4", "x", "test", *span) for i, span in enumerate(spans, 2)]
    alike = [Row(9, name, "x", "test") for name in ("a.mp4", "a.mp4_1-2", "a.mp4 1-2")]
    clips = build_split("test", [*parts, *alike], tmp_path).clips
    assert len({clip.id for clip in clips}) == len(parts) + len(alike)


def test_all_parts_of_a_video_stay_in_one_split() -> None:
    rows = [Row(2 + i, f"v{i % 10}.mp4", "x", "", float(i), i + 1.0) for i in range(40)]
    assigned = assign_splits(rows)
    assert [(r.start, r.end) for r in assigned] == [(r.start, r.end) for r in rows]
    for video in {row.video for row in assigned}:
        assert len({row.split for row in assigned if row.video == video}) == 1
    with pytest.raises(UserError, match=r"a\.mp4 is in 'train' and in 'test'"):
        assign_splits([Row(2, "a.mp4", "x", "train", 0.0, 1.0), Row(3, "a.mp4", "x", "test", 1.0)])


def test_the_frames_of_a_part_are_those_of_its_seconds(
    write: Write, tiny_video: Callable[..., Path], tmp_path: Path
) -> None:
    video = tiny_video("a.mp4", seconds=4, size=(48, 32))
    lines = ["a.mp4,whole,,", "a.mp4,first,0,2", "a.mp4,second,2,4"]
    path = write("\n".join(["video,caption,start,end,split", *(f"{one},test" for one in lines)]))
    words = [*TINY_MODEL, *TINY_RUN, f"paths.cache={tmp_path / 'cache'}"]
    data = CsvDataModule(load(["data=csv", f"data.file={path}", *words]))
    data.tokenizer = build_tokenizer(data.cfg, ["whole first second"])
    data.prepare(["test"])
    for i, (low, high) in enumerate([(0, 4), (0, 2), (2, 4)]):
        frames = data.items("test").video(i)["frames"].permute(0, 2, 3, 1).numpy()
        expected = read_frames(video, segment_centres(4.0, 3, low, high), (32, 48), "fast")
        assert np.array_equal(frames, expected)


def test_scene_text_that_others_read_is_filed_under_the_name_in_the_file(write: Write) -> None:
    path = write("video,caption,start,split\nsub/a.b.mp4,x,,test\nsub/a.b.mp4,y,3,test\n")
    data = CsvDataModule(load(["data=csv", f"data.file={path}"]))
    whole, part = data.split("test").clips
    assert data.text_names(whole)[:2] == data.text_names(part)[:2] == ("sub/a.b.mp4", "sub/a.b")
    assert data.text_names(part)[2] == part.id != whole.id
