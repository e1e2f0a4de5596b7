"""DiDeMo: descriptions joined by Flickr id or by name, T-MASS's tables, odd file names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.sets import broken_json, refused, saved_by_others, settings, write
from real import DATA
from tvr_bench.datamodules.annotated import Counts
from tvr_bench.datamodules.annotation_files import read_table
from tvr_bench.datamodules.didemo import DidemoDataModule, flickr_id
from tvr_bench.errors import UserError

REAL = DATA / "didemo"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real annotation files are not there")

HERE = ("data=didemo", "data.root=.")
LONG = "it rains " * 1200
HEADER = "success,video_path,starts,ends,text,formatted_data\n"
MOV, MP4, DOT = "1@N02_77_aa.mov", "1@N02_77_aa.mp4", "2@N02_88_bb."

Make = Callable[..., DidemoDataModule]


def described(*rows: tuple[Any, Any]) -> list[dict[str, Any]]:
    """Return annotations of (video, description) rows."""
    return [
        {"num_segments": 6, "description": text, "times": [[0, 0]] * 4, "video": video}
        for video, text in rows
    ]


SMALL = {
    "test_data.json": described((MOV, "one"), (DOT, "a cat"), (MP4, "two "), (MOV, "three")),
    "test_list.txt": f"{DOT}\n{MOV}\n",
}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A function that writes annotation files and returns the data module over them."""
    monkeypatch.setattr(DidemoDataModule, "counts", {"all": {}, "clip4clip": {}, "tmass": {}})
    monkeypatch.chdir(tmp_path)

    def made(files: dict[str, Any], selection: str = "all") -> DidemoDataModule:
        write(files, tmp_path)
        return DidemoDataModule(settings(*HERE, f"data.selection={selection}"))

    return made


def _texts(data: DidemoDataModule, name: str = "test") -> list[tuple[str, str]]:
    return [(query.clip_id, query.text) for query in data.split(name).queries]


def test_no_description_is_lost_to_another_extension(make: Make) -> None:
    expected = [("1@N02_77_aa", "one two  three"), ("2@N02_88_bb", "a cat")]
    assert _texts(make(SMALL)) == expected, "in the order of the json"
    assert _texts(make({"test_data.json": SMALL["test_data.json"]})) == expected, "without a list"
    clips = make(SMALL).split("test").clips
    assert {(clip.start, clip.end) for clip in clips} == {(0.0, 31.0)}
    note = make(SMALL).notes()[2]
    assert "1 of 4 descriptions" in note and "are kept (data.selection=all)" in note


def test_the_smaller_selection_loses_them_and_says_so(make: Make) -> None:
    data = make(SMALL, "clip4clip")
    assert _texts(data) == [("1@N02_77_aa", "one three"), ("2@N02_88_bb", "a cat")]
    assert (
        "1 of 4 descriptions" in data.notes()[2] and "are lost, as in CLIP4Clip" in data.notes()[2]
    )
    Path("test_list.txt").unlink()
    with pytest.raises(UserError, match=r"needs test_list\.txt"):
        make({"test_data.json": SMALL["test_data.json"]}, "clip4clip").split("test")


def test_the_list_chooses_the_videos(make: Make) -> None:
    rows = [*SMALL["test_data.json"], *described(("3@N02_99_cc.avi", "not listed"))]
    for selection in ("all", "clip4clip"):
        data = make(SMALL | {"test_data.json": rows}, selection)
        assert [clip.id for clip in data.split("test").clips] == ["1@N02_77_aa", "2@N02_88_bb"]
    files = {"train_data.json": rows, "val_data.json": rows}
    Path("test_list.txt").unlink()
    notes = make(files).notes()
    assert "train_list.txt is not there; all videos of train_data.json are used" in notes
    Path("test_data.json").unlink()
    assert make({}).notes()[2] == "test_data.json is not there"


def test_a_table_holds_whole_paragraphs(make: Make) -> None:
    rows = f'True,/x/all_videos/{MOV},tensor([[0]]),tensor([[31]]),"a, ""b""\n c ",/y.pth\n'
    rows += f"True,{DOT},tensor([[0]]),tensor([[31]]),a cat,/y.pth\n"
    data = make({"didemo_test_label.csv": HEADER + rows}, "tmass")
    assert _texts(data) == [("1@N02_77_aa", 'a, "b"\n c '), ("2@N02_88_bb", "a cat")]
    assert "30 and 3 videos fewer" in data.notes()[0]


def test_a_table_is_never_taken_for_the_descriptions(make: Make) -> None:
    data = make({"didemo_test_label.csv": HEADER})
    with pytest.raises(UserError, match=r"needs test_data\.json.*data\.selection=tmass"):
        data.split("test")
    with pytest.raises(UserError, match=r"needs val_data\.json in"):
        data.split("val")


@pytest.mark.parametrize(
    "file",
    [
        MOV,
        MP4,
        f"all/videos/{MOV}",
        f"{MOV}.mp4",
        "1@N02_77_aa.avi",
        "1@N02_77_aa.MOV",
        "1@N02_77_other.mp4",
        "77.mp4",
        "x_77_aa.3gp",
    ],
)
def test_a_video_is_found_by_name_and_by_flickr_id(file: str, make: Make) -> None:
    data, path = make(SMALL), Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    clips = {clip.id: clip for clip in data.split("test").clips}
    assert clips["1@N02_77_aa"].path == path
    assert [clip.id for clip in data.missing("test")] == ["2@N02_88_bb"]


@pytest.mark.parametrize("file", [DOT, f"{DOT}.mp4", "2@N02_88_bb.mp4", "88.webm"])
def test_a_name_that_ends_in_a_dot_is_found(file: str, make: Make) -> None:
    for selection in ("all", "clip4clip"):
        data = make(SMALL, selection)
        Path(file).write_bytes(b"x")
        clips = {clip.id: clip for clip in data.split("test").clips}
        assert clips["2@N02_88_bb"].path == Path(file)


def test_the_listed_file_comes_before_another_of_the_same_id(make: Make) -> None:
    data = make(SMALL)
    for name in (MP4, MOV):
        Path(name).write_bytes(b"x")
    assert data.split("test").clips[0].path == Path(MOV)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("26@N04_1234567890_0a1b.m4v", "1234567890"),
        ("26@N04_1234567890_0a1b.", "1234567890"),
        ("1234567890", "1234567890"),
        ("a_42", "42"),
        ("a_42b_c", "a_42b_c"),
        ("my_video_1", "my_video_1"),
        ("_7_", "_7_"),
        ("", ""),
    ],
)
def test_the_flickr_id_of_a_name(name: str, expected: str) -> None:
    assert flickr_id(name) == expected


@pytest.mark.parametrize("folder", [".", "annotations", "data", "ce_lists", "didemo"])
def test_annotations_lie_in_any_usual_folder(folder: str, make: Make) -> None:
    assert make({f"{folder}/{name}": text for name, text in SMALL.items()}).split("test")


@pytest.mark.parametrize(
    "selection, captions", [("all", 4), ("clip4clip", 3)], ids=["all", "clip4clip"]
)
def test_another_size_than_the_official_one_is_refused_with_the_file(
    selection: str, captions: int, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DidemoDataModule, "counts", {selection: {"test": Counts(2, captions)}})
    assert make(SMALL, selection).split("test")
    assert make(SMALL, selection).official("test") == Counts(2, None)
    short = SMALL | {"test_data.json": SMALL["test_data.json"][:3]}
    with pytest.raises(
        UserError, match=r"captions instead of the official 2 and .*test_data\.json"
    ):
        make(short, selection).split("test")


def test_training_videos_are_counted_where_there_is_a_list(make: Make) -> None:
    train = {name.replace("test", "train"): text for name, text in SMALL.items()}
    with pytest.raises(
        UserError, match="2 videos and 4 captions instead of the official 8,392 vid"
    ):
        make(train).split("train")
    Path("train_list.txt").unlink()
    assert make({"train_data.json": train["train_data.json"]}).split("train")


GOOD: dict[str, tuple[Any, str]] = {
    **{k: (v, "x") for k, v in saved_by_others(described((MOV, "x"))).items()},
    "emoji": (described((MOV, "a 🐕‍🦺")), "a 🐕‍🦺"),
    "escaped": (json.dumps(described((MOV, "🐕")), ensure_ascii=True), "🐕"),
    "line ends": (described((MOV, "a\nb\n"), (MOV, "c")), "a\nb\n c"),
    "10,000 characters": (described((MOV, LONG)), LONG),
    "a description twice": (described((MOV, "x"), (MOV, "x")), "x x"),
    "one empty description": (described((MOV, "x"), (MOV, ""), (MOV, "y")), "x  y"),
    "nothing but what is needed": ([{"video": MOV, "description": "x"}], "x"),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_files_are_read_as_they_are(name: str, make: Make) -> None:
    content, expected = GOOD[name]
    assert _texts(make({"test_data.json": content})) == [("1@N02_77_aa", expected)]


BAD: dict[str, tuple[Any, str]] = {
    **broken_json(SMALL["test_data.json"]),
    "half a character of a description": (
        json.dumps(described((MOV, "\ud800"))),
        "not readable JSON",
    ),
    "no descriptions": ([], "has no videos"),
    "a text": (["x"], "description 1 is no object"),
    "no video": ([*described((MOV, "x")), {"description": "x"}], "description 2 has no text 'vi"),
    "a video that is a number": (described((7, "x")), "description 1 has no text 'video'"),
    "no description": ([{"video": MOV}], "description 1 has no text 'description'"),
    "a description that is a list": (described((MOV, ["x"])), "no text 'description'"),
    "only empty ones": (described((MOV, ""), (MOV, " ")), "of split 'test' is empty"),
    "an id that climbs": (described(("../../a_1_b.mp4", "x")), "no safe name"),
    "an absolute id": (described(("/etc/passwd", "x")), "no safe name"),
    "an empty id": (described(("", "x")), "no safe name"),
    "only a dot": (described((".", "x")), "no safe name"),
    "an id of two lines": (described(("a\nb_1_c.mov", "x")), "no safe name"),
    "an id of 200 letters": (described(("a" * 200 + ".mov", "x")), "no safe name"),
    "two videos of one stem": (described(("a.mov", "x"), ("a.avi", "y")), "names video 'a' twice"),
}


@pytest.mark.parametrize("name", BAD)
def test_broken_files_are_one_line(name: str, make: Make) -> None:
    content, expected = BAD[name]
    with refused(expected):
        make({"test_data.json": content}).split("test")


@pytest.mark.parametrize(
    "content, expected",
    [
        ("", r"test_list\.txt is empty"),
        (f"{MOV}\n{MOV}\n", f"names '{MOV}' twice"),
        ("9@N02_99_zz.mov\n", "names '.*', of which there are no captions"),
        (b"\xff\xfea", "begins as UTF-16 does"),
    ],
)
@pytest.mark.parametrize("selection", ["all", "clip4clip"])
def test_broken_lists_are_one_line(
    selection: str, content: str | bytes, expected: str, make: Make
) -> None:
    with refused(expected):
        make(SMALL | {"test_list.txt": content}, selection).split("test")


def row(text: str, video: str = MOV) -> str:
    """Return one line of a table."""
    return f"True,/x/{video},tensor([[0]]),tensor([[31]]),{text},/y.pth\n"


BAD_ROWS: dict[str, tuple[str | bytes, str]] = {
    "empty file": ("", "no column 'video_path'"),
    "header only": (HEADER, "has no videos"),
    "no header": (row("x"), "no column 'video_path'"),
    "another header": (HEADER.replace("text", "caption") + row("x"), "no column 'text'"),
    "colons": ((HEADER + row("x")).replace(",", ":"), "no column 'video_path'"),
    "cut in a line": (HEADER + row("x") + "True,/x/a.mov", "line 3 has too few cells"),
    "a video twice": (HEADER + row("x") + row("y"), f"names '{MOV}' twice"),
    "an empty text": (HEADER + row(""), "of split 'test' is empty"),
    "a blank text": (HEADER + row('"  \n"'), "of split 'test' is empty"),
    "no video": (HEADER + row("x", ""), "no safe name"),
    "a video that climbs": (HEADER + row("x", ".."), "no safe name"),
    "a video of two lines": (HEADER + 'True,"a\nb.mov",0,31,x,y\n', "no safe name"),
    "latin-1": ((HEADER + row("é")).encode("latin-1"), "not UTF-8"),
    "1,000,001 characters": (HEADER + row("x" * 1_000_001), "a cell of more than 1,000,000 char"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_broken_tables_are_one_line(name: str, make: Make) -> None:
    content, expected = BAD_ROWS[name]
    with refused(expected):
        make({"didemo_test_label.csv": content}, "tmass").split("test")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_tables_are_read_with_any_line_end_and_mark(end: str, mark: bytes, make: Make) -> None:
    content = mark + (HEADER + row("a 🐕‍🦺") + row(LONG, DOT)).replace("\n", end).encode()
    data = make({"didemo_test_label.csv": content}, "tmass")
    assert [text for _, text in _texts(data)] == ["a 🐕‍🦺", LONG]


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], DidemoDataModule]:
    """A function that returns the data module over the real files, by selection."""

    def made(selection: str) -> DidemoDataModule:
        places = (f"data.annotations={REAL}", f"data.videos={tmp_path}")
        return DidemoDataModule(settings(*HERE, *places, f"data.selection={selection}"))

    return made


@real
def test_the_real_files_have_the_official_counts(read: Callable[[str], DidemoDataModule]) -> None:
    for selection, captions in (("all", (4_180, 4_021)), ("clip4clip", (4_109, 3_932))):
        data = read(selection)
        sizes = [(len(data.split(n).clips), len(data.split(n).queries)) for n in ("val", "test")]
        assert sizes == [(1_065, 1_065), (1_004, 1_004)]
        found = [data.read_entries(name) for name in ("val", "test")]
        assert tuple(sum(len(e.captions) for e in entries) for entries in found) == captions
        verb = "kept" if selection == "all" else "lost"
        assert [line.split(" descr")[0] for line in data.notes()[1:]] == [
            "val: 71 of 4,180",
            "test: 89 of 4,021",
        ]
        assert all(f"are {verb}" in line for line in data.notes()[1:])
    tables = read("tmass")
    sizes = [(len(s.clips), len(s.queries)) for s in map(tables.split, ("train", "val", "test"))]
    assert sizes == [(n, n) for n in (8_362, 1_062, 1_004)]


@real
@pytest.mark.parametrize("name, count", [("val", 1_062), ("test", 1_004)])
def test_the_real_tables_hold_the_join_of_the_real_descriptions(
    name: str, count: int, read: Callable[[str], DidemoDataModule]
) -> None:
    joined = dict(_texts(read("clip4clip"), name))
    rows = _texts(read("tmass"), name)
    assert len(rows) == count
    assert sum(text == joined[video] for video, text in rows) == count


@real
def test_every_real_name_of_a_list_or_a_table_gives_a_clip_of_its_own() -> None:
    names = [
        line
        for part in ("train", "val", "test")
        for line in (REAL / "ce_lists" / f"{part}_list.txt").read_text().split()
    ]
    assert len(names) == 8_392 + 1_065 + 1_004 and sum(n.endswith(".") for n in names) >= 154
    assert len({flickr_id(name) for name in names}) == len(names)
    assert all(flickr_id(name).isdigit() for name in names)
    rows = read_table(REAL / "tmass_csv" / "didemo_train_label.csv", ("video_path", "text"))
    assert {row["video_path"].rpartition("/")[2] for row in rows} <= set(names)
