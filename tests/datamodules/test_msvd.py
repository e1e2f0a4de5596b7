"""MSVD: the same captions from every one of its forms, and files that are broken or hostile."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.sets import Files, broken_json, refused, settings_at, texts_of, write
from real import DATA
from tvr_bench import config
from tvr_bench.datamodules.annotated import Counts
from tvr_bench.datamodules.msvd import MsvdDataModule, read_corpus
from tvr_bench.errors import UserError

REAL = DATA / "msvd"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real annotations are not there")

# six clips, sorted by name as MSVD's are; the split of each, and its number
NAMES = ["-aB_c_5_15", "0_1_2", "_x_3_9", "f_40_6", "f_4_20", "zz_0_8"]
PARTS = {"train": NAMES[:3], "val": NAMES[3:4], "test": NAMES[4:]}
COUNTS = {"train": Counts(3, 6), "val": Counts(1, 2), "test": Counts(2, 4)}
CAPTIONS = {one: [f"a dog barks {i} times", f"it is  number {i}"] for i, one in enumerate(NAMES)}
SPOKEN = {one: [text.split(" ") for text in texts] for one, texts in CAPTIONS.items()}
Make = Callable[..., MsvdDataModule]

LISTS = {f"{part}_list.txt": "\n".join(names) for part, names in PARTS.items()}
MAPPING = {"youtube_mapping.txt": "".join(f"{n} vid{i}\n" for i, n in enumerate(NAMES, 1))}


def _sentences(part: str) -> str:
    lines = [
        f"vid{NAMES.index(one) + 1}\t{text}\n" for one in PARTS[part] for text in CAPTIONS[one]
    ]
    return "".join(lines)


def _corpus(*names: str, extra: str = "") -> str:
    lines = ["VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description"]
    for one in names:
        place = ",".join(one.rsplit("_", 2))
        lines += [f'{place},1,clean,9,English,"{text}"' for text in CAPTIONS[one]]
        lines += [f"{place},1,clean,9,German,ein Hund", f"{place},1,clean,9,English,"]
    return "\n".join([*lines, extra])


SENTENCES = {f"sents_{part}_lc_nopunc.txt": _sentences(part) for part in PARTS}
LAYOUTS: dict[str, Files] = {
    "X-Pool": {"captions_msvd.json": CAPTIONS} | LISTS,
    "X-Pool alone": {"captions_msvd.json": CAPTIONS},
    "CLIP4Clip": {
        f"msvd_data/{name}": content
        for name, content in ({"raw-captions.pkl": pickle.dumps(SPOKEN)} | LISTS).items()
    },
    "sentences and mapping": SENTENCES | MAPPING,
    "sentences and lists": SENTENCES | LISTS,
    "corpus": {"MSR Video Description Corpus.csv": _corpus(*NAMES)},
    "corpus in parts": {f"metadata/{part}.csv": _corpus(*names) for part, names in PARTS.items()},
}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A function that writes files and returns the data module over them."""
    monkeypatch.setattr(MsvdDataModule, "counts", COUNTS)

    def made(files: Files) -> MsvdDataModule:
        write(files, tmp_path)
        return MsvdDataModule(settings_at(tmp_path, "data=msvd"))

    return made


def _length(name: str) -> float:
    _, start, end = name.rsplit("_", 2)
    return float(end) - float(start)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_form_has_the_same_splits(layout: str, make: Make) -> None:
    data = make(LAYOUTS[layout])
    for part, names in PARTS.items():
        assert texts_of(data, part) == {one: CAPTIONS[one] for one in names}
        assert [clip.id for clip in data.split(part).clips] == names
    assert data.seconds_of == {one: _length(one) for one in NAMES}


def test_the_corpus_is_said_to_be_one(make: Make) -> None:
    assert make(LAYOUTS["X-Pool"]).unlike_papers() == ""
    data = make(LAYOUTS["X-Pool"])
    root = Path(data.cfg.data.root)
    (root / "captions_msvd.json").unlink()
    (root / "video_corpus.csv").write_text(_corpus(*NAMES))
    line = data.unlike_papers()
    assert "4 in the test split, where the papers have 4" in line and "raw-captions.pkl" in line


def test_corpus_captions_keep_their_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "video_corpus.csv"
    path.write_text(
        _corpus(NAMES[0], extra='-aB_c,5,15,1,clean,9,English,"Two\r\n\r\nlines, 犬"\n')
    )
    assert read_corpus([path]) == {NAMES[0]: (*CAPTIONS[NAMES[0]], "Two\r\n\r\nlines, 犬")}


@pytest.mark.parametrize(
    ("way", "suffix"), [("{name}", ".avi"), ("vid{number}", ".mp4"), ("video{zero}", ".webm")]
)
def test_videos_are_found_however_they_are_called(
    way: str, suffix: str, make: Make, tmp_path: Path
) -> None:
    (tmp_path / "MSVD_Videos" / "some").mkdir(parents=True)
    names = [way.format(name=one, number=i + 1, zero=i) for i, one in enumerate(NAMES)]
    for name in names:
        (tmp_path / "MSVD_Videos" / "some" / f"{name}{suffix}").touch()
    data = make(LAYOUTS["X-Pool"])
    found = [clip.path.name for part in PARTS for clip in data.split(part).clips]
    assert found == [f"{name}{suffix}" for name in names]
    assert not any(data.missing(part) for part in PARTS)


def test_ways_of_naming_are_not_mixed(make: Make, tmp_path: Path) -> None:
    for name in ("zz_0_8.avi", "video3.mp4", "vid5.mp4"):  # two are of another data set
        (tmp_path / name).touch()
    data = make(LAYOUTS["X-Pool"])
    paths = [clip.path for part in PARTS for clip in data.split(part).clips]
    assert [path.name for path in paths if path.is_file()] == ["zz_0_8.avi"]
    assert data.missing("val")[0].path == tmp_path / "f_40_6.avi"


def test_videos_numbered_from_one_under_the_other_name_are_refused(
    make: Make, tmp_path: Path
) -> None:
    for i in range(1, 7):
        (tmp_path / f"video{i}.avi").touch()
    with pytest.raises(UserError, match=r"has a video6, but MSVD's videos are video0 to video5"):
        make(LAYOUTS["X-Pool"]).split("test")


def test_links_are_followed_where_they_lead_nowhere_else(make: Make, tmp_path: Path) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    for folder in (data, other):
        folder.mkdir()
    (other / "captions.json").write_text(json.dumps(CAPTIONS))
    (data / "captions_msvd.json").symlink_to(other / "captions.json")
    (data / "zz_0_8.avi").touch()
    (data / f"{VAL}.avi").symlink_to("zz_0_8.avi")
    (data / "loop.avi").symlink_to("loop.txt")
    (data / "loop.txt").symlink_to("loop.avi")
    module = make({})
    module.cfg.data.root = str(data)
    assert texts_of(module, "val") == {VAL: CAPTIONS[VAL]}
    assert not module.missing("val")
    (data / "vid1.avi").symlink_to(other / "captions.json")
    again = make({})
    again.cfg.data.root = str(data)
    with pytest.raises(UserError, match=r"vid1\.avi is a link that leads out of"):
        again.split("val")


def test_the_mapping_decides_on_numbers(make: Make, tmp_path: Path) -> None:
    (tmp_path / "vid6.avi").touch()
    turned = "".join(f"{n} vid{i}\n" for i, n in enumerate(NAMES[::-1], 1))
    data = make(LAYOUTS["X-Pool"] | {"youtube_mapping.txt": turned})
    assert data.split("train").clips[0].path == tmp_path / "vid6.avi"


def _json(captions: Any) -> Files:
    return LAYOUTS["X-Pool"] | {"captions_msvd.json": CAPTIONS | captions}


def _tokens(value: Any) -> Files:
    payload = value if isinstance(value, bytes) else pickle.dumps(value)
    return LAYOUTS["CLIP4Clip"] | {"msvd_data/raw-captions.pkl": payload}


def _sents(text: str, part: str = "val") -> Files:
    return SENTENCES | MAPPING | {f"sents_{part}_lc_nopunc.txt": text}


def _list(text: str) -> Files:
    return LAYOUTS["X-Pool"] | {"val_list.txt": text}


VAL = NAMES[3]
LONG = "dog " * 2500 + "!"
GOOD = {
    "emoji": (_json({VAL: ["a 🐕‍🦺", "a 犬"]}), ["a 🐕‍🦺", "a 犬"]),
    "10,000 characters": (_json({VAL: [LONG, "b"]}), [LONG, "b"]),
    "a caption twice": (_json({VAL: ["a", "a"]}), ["a", "a"]),
    "spaces stay": (_json({VAL: ["  a  b ", "a"]}), ["  a  b ", "a"]),
    "captions of other clips": (_json({"other_1_2": ["a"]}), CAPTIONS[VAL]),
    "tokens": (_tokens(SPOKEN | {VAL: [["a", "犬"], ["b"]]}), ["a 犬", "b"]),
    "sentences, CRLF": (_sents(_sentences("val").replace("\n", "\r\n")), CAPTIONS[VAL]),
    "sentences, byte-order mark": (_sents("\ufeff" + _sentences("val")), CAPTIONS[VAL]),
    "sentences, empty lines": (_sents("\n" + _sentences("val") + "\n\n"), CAPTIONS[VAL]),
    "sentences, odd signs": (
        _sents("vid4\ta\x85b\tc\nvid4\ta\u2028b\n"),
        ["a\x85b\tc", "a\u2028b"],
    ),
    "list, CRLF and byte-order mark": (_list(f"\ufeff{VAL}\r\n\r\n"), CAPTIONS[VAL]),
}
BAD = {
    "nothing": ({}, r"needs captions_msvd\.json \(or raw-captions\.pkl, sents_.*, MSR Video"),
    **{
        k: (_json({}) | {"captions_msvd.json": v}, s) for k, (v, s) in broken_json(CAPTIONS).items()
    },
    "no captions": (_json({VAL: []}), "'f_40_6' has captions that are no list"),
    "a caption is a number": (_json({VAL: ["a", 1]}), "'f_40_6' has captions that are no list"),
    "a caption is empty": (_json({VAL: ["a", ""]}), "query 'f_40_6#1' of split 'val' is empty"),
    "a caption is lost": (_json({VAL: ["a"]}), "1 captions instead of the official 1.* 2"),
    "a clip is lost": (
        LISTS | {"captions_msvd.json": {VAL: ["a"]}},
        "split 'train' names '-aB_c_5_15', of which there are no captions",
    ),
    "a clip too many, no lists": (
        {"captions_msvd.json": CAPTIONS | {"other_1_2": ["a"]}},
        r"7 videos have captions and MSVD has 6; bring train_list\.txt",
    ),
    "a list is missing": (
        {name: content for name, content in LAYOUTS["X-Pool"].items() if "val" not in name},
        r"needs val_list\.txt",
    ),
    "a list is cut": (_list(""), "name 5 videos, 5 of them different, and MSVD has 6"),
    "a list names one twice": (_list(f"{VAL}\n{VAL}"), "name 7 videos, 6 of them different"),
    "a test clip validates": (_list(NAMES[5]), "name 6 videos, 5 of them different"),
    "an unknown clip": (_list("other_1_2"), "'other_1_2', of which there are no captions"),
    "a hostile id": (
        _list("../../etc/passwd")
        | {"captions_msvd.json": CAPTIONS | {"../../etc/passwd": ["a", "b"]}},
        r"names a video '\.\./\.\./etc/passwd', which is no safe name",
    ),
    "an id like an option": (_list("--help"), "'--help', of which there are no captions"),
    "a list in UTF-16 without a mark": (
        _list("") | {"val_list.txt": VAL.encode("utf-16-le")},
        "looks like UTF-16-LE",
    ),
    "a pickle that calls": (_tokens(b"cos\nsystem\n(S'true'\ntR."), "GLOBAL at byte 0"),
    "a pickle that is cut": (_tokens(pickle.dumps(SPOKEN)[:-9]), "no readable pickle|last frame"),
    "a pickle of a list": (_tokens([SPOKEN]), "must hold captions by video"),
    "a pickle of texts": (_tokens(SPOKEN | {VAL: ["a dog"]}), "'f_40_6' has captions that are no"),
    "a pickle without captions": (_tokens(SPOKEN | {VAL: []}), "'f_40_6' has no list of captions"),
    "a pickle of empty tokens": (
        _tokens(SPOKEN | {VAL: [[], ["a"]]}),
        "'f_40_6' has captions that",
    ),
    "a pickle of numbers": (_tokens(SPOKEN | {VAL: [[1]]}), "BININT1 at byte .* plain values"),
    "sentences without a mapping": (
        SENTENCES,
        r"needs youtube_mapping\.txt \(or train_list\.txt\)",
    ),
    "sentences of one part": (
        {name: text for name, text in (SENTENCES | MAPPING).items() if "train" not in name},
        r"needs sents_train_lc_nopunc\.txt",
    ),
    "a sentence without a tab": (_sents("vid4 a dog\n"), "line 1 has no caption"),
    "an empty sentence": (_sents("vid4\ta\nvid4\t \n"), "line 2 has no caption"),
    "a sentence of nothing": (_sents("vid44\ta\n"), "line 1 is about 'vid44', which no video is"),
    "a mapping of something else": (
        SENTENCES | {"youtube_mapping.txt": "a_1_2 video1\n"},
        "has a line 'a_1_2 video1'",
    ),
    "a mapping with one twice": (
        SENTENCES | {"youtube_mapping.txt": "a_1_2 vid1\nb_1_2 vid1\n"},
        "names a video twice",
    ),
    "a corpus of something else": (
        {"video_corpus.csv": "video,caption\na,b\n"},
        "column 'VideoID'",
    ),
    "a cut corpus": ({"video_corpus.csv": _corpus(*NAMES[:5])}, "5 videos have captions and MSVD"),
}


@pytest.mark.parametrize("name", GOOD)
def test_odd_captions_come_through(name: str, make: Make) -> None:
    files, expected = GOOD[name]
    assert texts_of(make(files), "val")[VAL] == expected


@pytest.mark.parametrize("name", BAD)
def test_broken_files_are_named_in_one_line(name: str, make: Make) -> None:
    files, expected = BAD[name]
    data = make(files)
    with refused(expected):
        for part in PARTS:
            data.split(part)


def _real(root: Path, videos: Path | None = None) -> MsvdDataModule:
    words = ["data=msvd", f"data.root={root}", f"data.videos={videos or root}"]
    return MsvdDataModule(config.load(words))


def _counts(data: MsvdDataModule) -> list[tuple[int, int]]:
    splits = [data.split(name) for name in PARTS]
    return [(len(split.clips), len(split.queries)) for split in splits]


def _linked(folder: Path, *places: str) -> Path:
    folder.mkdir()
    for place in places:
        (folder / Path(place).name).symlink_to(REAL / place)
    return folder


COUNTED = [(1200, 48_774), (100, 4_290), (670, 27_763)]
REAL_LISTS = ("train_list.txt", "val_list.txt", "test_list.txt")


@needs_real
def test_the_real_captions_in_every_text_form(tmp_path: Path) -> None:
    whole = _real(REAL)
    assert _counts(whole) == COUNTED
    alone = _real(_linked(tmp_path / "alone", "captions_msvd.json"))
    numbered = _real(_linked(tmp_path / "numbered", "youtube_mapping.txt", *SENTENCES))
    listed = _real(_linked(tmp_path / "listed", *REAL_LISTS, *SENTENCES))
    for other in (alone, numbered, listed):
        assert all(other.read_entries(name) == whole.read_entries(name) for name in PARTS)


@needs_real
@pytest.mark.slow
def test_the_real_captions_in_a_pickle(tmp_path: Path) -> None:
    whole = _real(REAL)
    data = _real(_linked(tmp_path / "pickle", *REAL_LISTS, "derived/raw-captions.pkl"))
    assert _counts(data) == COUNTED
    assert all(data.split(name).queries == whole.split(name).queries for name in PARTS)


@needs_real
def test_the_real_corpus() -> None:
    found = {part: read_corpus([REAL / "csv_corpus" / f"{part}.csv"]) for part in ("val", "test")}
    assert [sum(map(len, captions.values())) for captions in found.values()] == [4_291, 27_768]
    whole = _real(REAL)
    for part, captions in found.items():
        assert set(captions) == {clip.id for clip in whole.split(part).clips}


@needs_real
def test_real_clips_are_found(tmp_path: Path) -> None:
    clips = sorted((DATA / "videos" / "datasets").glob("msvd_*.avi"))
    for path in clips:
        (tmp_path / path.name.removeprefix("msvd_")).hardlink_to(path)
    data = _real(REAL, tmp_path)
    found = [c for part in PARTS for c in data.split(part).clips if c.path.is_file()]
    assert len(clips) == 5 and {c.path.name for c in found} == {f"{c.id}.avi" for c in found}
    assert {f"msvd_{c.id}.avi" for c in found} == {path.name for path in clips}
