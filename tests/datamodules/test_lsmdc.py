"""LSMDC: tab-separated lines as they are, ids with dots, clips with several sentences."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tvr_bench.config import load
from tvr_bench.datamodules.annotated import Counts
from tvr_bench.datamodules.lsmdc import LsmdcDataModule, read_rows
from tvr_bench.errors import UserError
from tvr_bench.schema import Config

TEST = "LSMDC16_challenge_1000_publictect.csv"
TRAIN = "LSMDC16_annos_training.csv"
VAL = "LSMDC16_annos_val.csv"
LONG = "SOMEONE runs " * 900

Make = Callable[..., LsmdcDataModule]


def clip_id(movie: str, second: int) -> str:
    """Return an id in the form of the data set's."""
    return f"{movie}_00.23.{second:02}.000-00.23.{second + 2:02}.886"


def line(clip: str, sentence: str) -> str:
    """Return one line of an annotation file."""
    times = ("00.23.23.000", "00.23.28.886") * 2
    return "\t".join((clip, *times, sentence))


A, B, C = clip_id("3001_BLUE_BOAT", 1), clip_id("3001_BLUE_BOAT", 4), clip_id("0002_A_Tale", 7)


@cache
def settings() -> Config:
    """Return the settings of a data set in the working folder; reading them takes a while."""
    return load(["data=lsmdc", "data.root=."])


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A function that writes annotation files and returns the data module over them."""
    monkeypatch.setattr(LsmdcDataModule, "counts", {})
    monkeypatch.chdir(tmp_path)

    def made(files: dict[str, str | bytes]) -> LsmdcDataModule:
        for name, content in files.items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return LsmdcDataModule(settings())

    return made


def test_a_clip_with_several_sentences_is_one_clip(make: Make) -> None:
    lines = [line(A, "SOMEONE sits."), line(C, "It rains."), line(A, "He stands.")]
    data = make({TRAIN: "\n".join(lines) + "\n", VAL: line(B, "x"), TEST: line(C, "y")})
    split = data.split("train")
    assert [clip.id for clip in split.clips] == [A, C]
    assert [(q.clip_id, q.text) for q in split.queries] == [
        (A, "SOMEONE sits."),
        (A, "He stands."),
        (C, "It rains."),
    ]
    assert all(clip.start is None and clip.end is None for clip in split.clips)
    assert data.notes() == [
        "train: 1 of 2 clips have several sentences",
        "val: 0 of 1 clips have several sentences",
        "val has 1 sentences; LSMDC's readme states 7,408",
        "test: 0 of 1 clips have several sentences",
    ]


@pytest.mark.parametrize(
    "place", ["3001_BLUE_BOAT/{}.avi", "LSMDC_Videos/3001_BLUE_BOAT/{}.avi", "all/{}.mp4", "{}.avi"]
)
def test_videos_are_found_although_their_names_have_dots(place: str, make: Make) -> None:
    data, path = make({TEST: f"{line(A, 'x')}\n{line(B, 'y')}"}), Path(place.format(A))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    assert data.split("test").clips[0].path == path
    assert [clip.path for clip in data.missing("test")] == [Path(f"3001_BLUE_BOAT/{B}.avi")]


@pytest.mark.parametrize("folder", [".", "annotations", "LSMDC", "lsmdc_data", "lsmdc2016"])
def test_annotations_lie_in_any_usual_folder(folder: str, make: Make) -> None:
    assert make({f"{folder}/{TEST}": line(A, "x")}).split("test")


def test_a_missing_file_is_named(make: Make) -> None:
    data = make({TEST: line(A, "x")})
    with pytest.raises(UserError, match=r"needs LSMDC16_annos_training\.csv"):
        data.split("train")
    assert data.notes()[:2] == [f"{TRAIN} is not there", f"{VAL} is not there"]


@pytest.mark.parametrize(
    "split, file, wanted, expected",
    [
        ("test", TEST, Counts(3, 2), "has 2 videos and 2 captions .*official 3 and 2"),
        ("train", TRAIN, Counts(None, 3), "2 captions instead of the official 3 captions"),
    ],
)
def test_another_size_than_the_official_one_is_refused_with_the_file(
    split: str,
    file: str,
    wanted: Counts,
    expected: str,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = make({file: f"{line(A, 'x')}\n{line(B, 'y')}"})
    monkeypatch.setattr(LsmdcDataModule, "counts", {split: wanted})
    with pytest.raises(UserError, match=f"{expected}.*{file}"):
        data.split(split)
    monkeypatch.setattr(LsmdcDataModule, "counts", {split: Counts(None, 2)})
    assert data.split(split)


def test_the_official_counts_are_those_of_the_design() -> None:
    assert LsmdcDataModule.counts == {"train": Counts(None, 101_079), "test": Counts(1_000, 1_000)}


GOOD: dict[str, tuple[str | bytes, list[str]]] = {
    "plain": (f"{line(A, 'x')}\n{line(B, 'y')}\n", ["x", "y"]),
    "no last line end": (line(A, "x"), ["x"]),
    "byte-order mark": (b"\xef\xbb\xbf" + line(A, "x").encode(), ["x"]),
    "CRLF": (f"{line(A, 'x')}\r\n{line(B, 'y')}\r\n", ["x", "y"]),
    "empty lines": (f"\n{line(A, 'x')}\n\n\n{line(B, 'y')}\n", ["x", "y"]),
    "quotes": (
        f"{line(A, chr(34) + 'Hi, says SOMEONE.')}\n{line(B, 'y')}",
        ['"Hi, says SOMEONE.', "y"],
    ),
    "UTF-16": (line(A, "é").encode("utf-16"), ["é"]),
    "CR": (f"{line(A, 'x')}\r{line(B, 'y')}\r", ["x", "y"]),
    "200,000 characters": (line(A, "x" * 200_000), ["x" * 200_000]),
    "quotes inside": (line(A, 'The "old" man.'), ['The "old" man.']),
    "spaces": (line(A, "  two  spaces "), ["  two  spaces "]),
    "emoji": (line(A, "a 🐕‍🦺 barks"), ["a 🐕‍🦺 barks"]),
    "line separators": (line(A, "a\u2028b\x85c\x0cd"), ["a\u2028b\x85c\x0cd"]),
    "10,000 characters": (line(A, LONG), [LONG]),
    "a sentence twice": (f"{line(A, 'x')}\n{line(B, 'x')}\n", ["x", "x"]),
    "empty times": (f"{A}\t\t\t\t\tx", ["x"]),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_files_are_read_as_they_are(name: str, make: Make) -> None:
    content, expected = GOOD[name]
    assert [q.text for q in make({TEST: content}).split("test").queries] == expected


BAD: dict[str, tuple[str | bytes, str]] = {
    "empty file": ("", "has no videos"),
    "commas": (line(A, "x").replace("\t", ","), "line 1 has 1 fields"),
    "a line cut short": (f"{line(A, 'x')}\n{A}\t00.23", "line 2 has 2 fields"),
    "no sentence field": (line(A, "x").rpartition("\t")[0], "line 1 has 5 fields"),
    "a tab too many": (line(A, "x\ty"), "line 1 has 7 fields"),
    "an empty sentence": (line(A, ""), "line 1 has no sentence"),
    "a blank sentence": (f"{line(A, 'x')}\n{line(B, '  ')}", "line 2 has no sentence"),
    "no clip": (line("", "x"), "line 1 has no clip"),
    "only a space": (" \n", "has no videos"),
    "latin-1": (line(A, "café").encode("latin-1"), "not UTF-8"),
    "UTF-16 without a mark": (line(A, "x").encode("utf-16-le"), "looks like UTF-16-LE"),
    "1,000,001 characters": (line(A, "x" * 1_000_001), "more than 1,000,000 char.*line 1"),
    "an id that climbs": (line("../../etc/passwd", "x"), "no safe name"),
    "an absolute id": (line("/etc/passwd", "x"), "no safe name"),
    "an id with a space": (line("a b", "x"), "no safe name"),
    "an id in other letters": (line("фильм", "x"), "no safe name"),
    "an id of 200 letters": (line("a" * 200, "x"), "no safe name"),
    "a page of HTML": ("<html><body>401 Unauthorized</body></html>", "line 1 has 1 fields"),
}


@pytest.mark.parametrize("name", BAD)
def test_broken_files_are_one_line(name: str, make: Make) -> None:
    content, expected = BAD[name]
    with pytest.raises(UserError, match=expected) as error:
        make({TEST: content}).split("test")
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{line(A, 'x')}\n\n\nbroken\n")
    with pytest.raises(UserError, match=r"a\.csv line 4 has 1 fields"):
        read_rows(path)
