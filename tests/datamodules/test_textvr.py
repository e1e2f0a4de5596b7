"""TextVR: its files read right or refused in one line, and the shuffled test set never scored."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.sets import broken_json, refused, saved_by_others, settings_at, write
from media.make_clips import make_clip
from real import DATA
from tiny import TINY_MODEL, TINY_RUN
from tvr_bench.config import load
from tvr_bench.datamodules.annotated import Counts
from tvr_bench.datamodules.textvr import TextVrDataModule, read_records
from tvr_bench.errors import UserError
from tvr_bench.files import settings_hash

REAL_FILES = DATA / "textvr"

real = pytest.mark.skipif(
    not (REAL_FILES / "TextVR_test.json").is_file(), reason="TextVR's own files are not there"
)


def record(path: str, *captions: str, text: str | None = None, **more: Any) -> dict[str, Any]:
    """Return a record in the form of the data set."""
    info = [{"caption": caption, "caption_info": {"duration": 0}} for caption in captions]
    videos = {"source": "s", "split": "test", "Kwai_OCR": text or path.replace(".mp4", ".json")}
    return {"path": path, "captions_info": info, "videos_info": videos, **more}


TEST = [
    record("Games/g-1_00.mp4", " The sign says STOP. "),
    record("News_Movie/_n2.mp4", "A Sign", text="Movie/_n2.json"),
    record("Activity/v_x_1.mp4", "the end"),
]
TRAIN = [record(f"Driving/{i}.mp4", f"Number {i}", f"it says {i}") for i in range(12)]
Make = Callable[..., TextVrDataModule]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A function that makes the data module over small files of the data set's form."""
    counts = {"train": Counts(None, 24), "test": Counts(3, 3)}
    monkeypatch.setattr(TextVrDataModule, "counts", counts)

    def made(
        *settings: str,
        test: Any = TEST,
        train: Any = TRAIN,
        folder: str = "",
        videos: str = "Videos",
    ) -> TextVrDataModule:
        named = {"test": test, "train": train}
        files = {f"{folder or '.'}/TextVR_{k}.json": v for k, v in named.items() if v is not None}
        write(files | {f"{videos or '.'}/{row['path']}": b"" for row in TEST}, tmp_path)
        return TextVrDataModule(settings_at(tmp_path, "data=textvr", *settings))

    return made


def test_the_test_has_one_caption_of_each_clip_in_lower_case(make: Make) -> None:
    split = make().split("test")
    assert [(c.id, c.path.parts[-3:]) for c in split.clips] == [
        ("Games__g-1_00", ("Videos", "Games", "g-1_00.mp4")),
        ("News_Movie___n2", ("Videos", "News_Movie", "_n2.mp4")),
        ("Activity__v_x_1", ("Videos", "Activity", "v_x_1.mp4")),
    ]
    assert [q.text for q in split.queries] == [" the sign says stop. ", "a sign", "the end"]
    as_they_are = make("data.lower=false").split("test")
    assert as_they_are.queries[1].text == "A Sign"
    spaces = make("text.normalise=spaces").split("test")
    assert spaces.queries[0].text == "the sign says stop."


def test_the_first_of_several_captions_is_tested(make: Make) -> None:
    rows = [record(row["path"], "First", "second") for row in TEST]
    assert [q.text for q in make(test=rows).split("test").queries] == ["first"] * 3


def test_training_has_all_captions_and_validation_the_first(make: Make) -> None:
    data = make("data.holdout=4")
    train, val = data.split("train"), data.split("val")
    assert (len(train.clips), len(train.queries)) == (8, 16)
    assert (len(val.clips), len(val.queries)) == (4, 4)
    assert not {c.id for c in train.clips} & {c.id for c in val.clips}
    assert all(q.text.startswith("number") for q in val.queries)
    everything = make("data.holdout=0")
    assert len(everything.split("train").clips) == len(everything.split("val").clips) == 12
    with pytest.raises(UserError, match=r"data\.holdout=12 leaves nothing"):
        make("data.holdout=12").split("train")


@pytest.mark.parametrize("folder", ["", "TextVR", "data/TextVR", "annotations"])
@pytest.mark.parametrize("videos", ["Videos", "Video", "", "resized/all"])
def test_files_are_found_in_any_layout(folder: str, videos: str, make: Make) -> None:
    clips = make(folder=folder, videos=videos).split("test").clips
    assert all(clip.path.is_file() for clip in clips)


def test_a_folder_of_another_spelling_is_no_missing_video(make: Make, tmp_path: Path) -> None:
    data = make()
    (tmp_path / "Videos" / "Activity").rename(tmp_path / "Videos" / "Activaty")
    assert data.missing("test") == []


def _shuffle(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    infos = [row["captions_info"] for row in rows]
    return [
        {**row, "captions_info": info}
        for row, info in zip(rows, infos[1:] + infos[:1], strict=True)
    ]


def _know(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the small test file the official one."""
    pairs = sorted(
        (Path(r["path"]).stem, " ".join(r["captions_info"][0]["caption"].lower().split()))
        for r in TEST
    )
    monkeypatch.setattr(TextVrDataModule, "pairs_hash", settings_hash(pairs))
    monkeypatch.setattr(
        TextVrDataModule, "captions_hash", settings_hash(sorted(t for _, t in pairs))
    )


@pytest.mark.parametrize("disguise", ["as it is", "in another order", "tidied", "by other paths"])
def test_official_captions_at_other_clips_are_refused(
    disguise: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    _know(monkeypatch)
    text = json.dumps({"rows": _shuffle(TEST)})
    if disguise == "tidied":
        text = text.replace('" The sign says STOP. "', '"the sign  says stop."')
    if disguise == "by other paths":
        text = text.replace('"path": "', '"path": "deeper/')
    rows = json.loads(text)["rows"]
    if disguise == "in another order":
        rows = rows[::-1]
    with pytest.raises(
        UserError, match=r"TextVR_test\.json has the test captions shuffled"
    ) as error:
        make(test=rows).split("test")
    assert "fetch TextVR_test.json from the data set's repository" in str(error.value)


def test_the_official_pairs_pass_in_any_order(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    _know(monkeypatch)
    assert len(make(test=TEST[::-1]).split("test").clips) == 3


def test_the_competitions_file_alone_is_refused(make: Make, tmp_path: Path) -> None:
    data = make(test=None)
    (tmp_path / "TextVR_test_rand.json").write_text(json.dumps(TEST))
    with pytest.raises(UserError, match=r"_rand\.json has the test captions shuffled"):
        data.split("test")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"test": None}, r"needs TextVR_test\.json"),
        ({"train": None}, r"needs TextVR_train\.json"),
        ({"test": TEST[:2]}, "2 videos and 2 captions instead of the official 3"),
        ({"train": TRAIN[:11]}, "22 captions instead of the official .*24.*TextVR_train"),
        ({"train": TEST}, "3 captions instead of the official .*24"),
        ({"test": [TEST[0], TEST[1], TEST[1]]}, "names video 'News_Movie___n2' twice"),
        ({"test": [*TEST[:2], record("a/b.mp4", "x") | {"path": "a__b.mp4"}]}, ""),
    ],
)
def test_missing_files_and_wrong_counts_are_named(
    settings: dict[str, Any], expected: str, make: Make
) -> None:
    data = make("data.holdout=2", **settings)
    if not expected:
        assert data.split("test").clips[2].id == "a__b"
        return
    with refused(expected):
        data.split("test")
        data.split("train")


LONG = "sign " * 2000
TEST_CAPTION = " The sign says STOP. "
GOOD = {
    "plain": (json.dumps(TEST), TEST_CAPTION),
    **{k: (v, TEST_CAPTION) for k, v in saved_by_others(TEST).items()},
    "emoji": (json.dumps([record("a/b.mp4", "a 🐕‍🦺 café")], ensure_ascii=False), "a 🐕‍🦺 café"),
    "escapes": (json.dumps([record("a/b.mp4", "a 🐕‍🦺 café")]), "a 🐕‍🦺 café"),
    "10,000 characters": (json.dumps([record("a/b.mp4", LONG)]), LONG),
    "further keys": (json.dumps([record("a/b.mp4", "x", extra=[1])]), "x"),
    "the same caption twice": (json.dumps([record("a/b.mp4", "x", "x")]), "x"),
    "no file of text": (json.dumps([record("a/b.mp4", "x") | {"videos_info": None}]), "x"),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_files_are_read(name: str, tmp_path: Path) -> None:
    content, caption = GOOD[name]
    write({"TextVR_test.json": content}, tmp_path)
    path = tmp_path / "TextVR_test.json"
    assert read_records(path)[0].captions[0] == caption


def _with(**changes: Any) -> str:
    return json.dumps([TEST[0], {**TEST[1], **changes}])


BAD = {
    **broken_json(TEST),
    "a number": ("[1]", "record 1 is no object"),
    "no path": (_with(path=None), "record 2 has no text 'path'"),
    "path is a list": (_with(path=["a"]), "record 2 has no text 'path'"),
    "empty path": (_with(path=""), "no safe name"),
    "path leads out": (_with(path="../../etc/passwd.mp4"), "record 2 names a video.*no safe name"),
    "absolute path": (_with(path="/etc/passwd.mp4"), "no safe name"),
    "path with NUL": (_with(path="a\0.mp4"), "NUL character"),
    "no captions": (_with(captions_info=[]), "record 2 has no list 'captions_info'"),
    "captions missing": (_with(captions_info=None), "record 2 has no list 'captions_info'"),
    "captions are text": (_with(captions_info="x"), "record 2 has no list 'captions_info'"),
    "caption is no object": (_with(captions_info=["x"]), "record 2 has a caption that is no text"),
    "caption is a number": (_with(captions_info=[{"caption": 7}]), "caption that is no text"),
    "caption is missing": (_with(captions_info=[{}]), "caption that is no text"),
    "blank caption": (_with(captions_info=[{"caption": " \n"}]), "caption that is no text"),
    "text file is a number": (_with(videos_info={"Kwai_OCR": 1}), "'Kwai_OCR' that is no text"),
    "text file leads out": (_with(videos_info={"Kwai_OCR": "../a.json"}), "no safe name"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line_with_the_place(name: str, tmp_path: Path) -> None:
    content, expected = BAD[name]
    write({"TextVR_test.json": content}, tmp_path)
    path = tmp_path / "TextVR_test.json"
    with refused(expected, path, longest=300):
        read_records(path)


def _kwai(folder: Path, place: str, text: str) -> None:
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    box = [0, 0, 9, 0, 9, 9, 0, 9, 0, 1]
    path.write_text(json.dumps({"1": {"text": text, "score": 0.9, "tracks": {"0": box}}}))


def test_scene_text_is_read_from_the_file_that_the_record_names(make: Make, tmp_path: Path) -> None:
    words = [*TINY_MODEL, *TINY_RUN, "ocr.enabled=true", "ocr.windows=2", "ocr.source=kwai"]
    data = make(*words, f"ocr.given={tmp_path / 'ocr'}", f"paths.cache={tmp_path / 'cache'}")
    for i, row in enumerate(TEST):
        make_clip(tmp_path / "Videos" / row["path"], count=4, size=(48, 32))
        _kwai(tmp_path / "ocr", row["videos_info"]["Kwai_OCR"], f"sign {i}")
    _kwai(tmp_path / "ocr", "News_Movie/_n2.json", "a wrong one")
    from tvr_bench.datamodules.tokens import build_tokenizer

    data.tokenizer = build_tokenizer(data.cfg, ["sign"])
    data.prepare(["test"])
    assert [data.windows(c.id) for c in data.split("test").clips] == [
        [f"sign {i}", ""] for i in range(3)
    ]
    assert data.ledger.entries == []


def test_an_edition_with_other_clips_text_is_refused_where_that_is_read(
    make: Make, tmp_path: Path
) -> None:
    rows = [record(row["path"], "x", text=f"Driving/{i}.json") for i, row in enumerate(TEST)]
    given = ("ocr.source=kwai", f"ocr.given={tmp_path}")
    with pytest.raises(UserError, match=r"as Kwai_OCR, the scene text of other clips \(3 of 3\)"):
        make(*given, test=rows).split("test")
    assert len(make(test=rows).split("test").clips) == 3
    assert len(make(*given, "ocr.enabled=false", test=rows).split("test").clips) == 3


@real
def test_the_real_test_file(tmp_path: Path) -> None:
    settings = [f"data.annotations={REAL_FILES}", f"data.videos={tmp_path}"]
    data = TextVrDataModule(load(["data=textvr", "data.allow_missing=true", *settings]))
    split = data.split("test")
    assert (len(split.clips), len(split.queries)) == (2_727, 2_727)
    assert len({q.text for q in split.queries}) > 2_400
    assert all(q.text == q.text.lower() for q in split.queries)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", clip.id) for clip in split.clips)
    other = sum(
        clip.id.split("__")[0] != data.text_names(clip)[0].split("/")[0] for clip in split.clips
    )
    assert other == 113
    assert len(data.missing("test")) == 2_727


@real
@pytest.mark.parametrize("name", ["TextVR_test.json", "TextVR_test_rand.json"])
def test_the_real_shuffled_file_is_refused_under_either_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes((REAL_FILES / "TextVR_test_rand.json").read_bytes())
    data = TextVrDataModule(load(["data=textvr", f"data.root={tmp_path}"]))
    with pytest.raises(UserError, match=rf"{name} has the test captions shuffled"):
        data.split("test")


@real
def test_the_real_file_passes_no_check_by_chance(tmp_path: Path) -> None:
    """Two captions exchanged are enough to be refused."""
    rows = json.loads((REAL_FILES / "TextVR_test.json").read_text())
    rows[0]["captions_info"], rows[1]["captions_info"] = (
        rows[1]["captions_info"],
        rows[0]["captions_info"],
    )
    (tmp_path / "TextVR_test.json").write_text(json.dumps(rows))
    data = TextVrDataModule(load(["data=textvr", f"data.root={tmp_path}"]))
    with pytest.raises(UserError, match="shuffled"):
        data.split("test")
