"""What published data sets share: files, counts, look-up, missing videos, broken files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from media.make_clips import make_clip
from tiny import TINY_MODEL, TINY_RUN
from tvr_bench import config
from tvr_bench.datamodules import annotation_files, text_files
from tvr_bench.datamodules.annotated import AnnotatedDataModule, Counts, Entry, held_out
from tvr_bench.errors import UserError

VIDEOS = 6


class Published(AnnotatedDataModule):
    """A data set of one JSON file, id -> captions; every split is the same."""

    wanted: Counts | None = None

    def read_entries(self, name: str) -> list[Entry]:
        found = annotation_files.read_json(self.file("all.json", "annotations/all.json"), dict)
        return [
            Entry(key, annotation_files.texts_of(texts, key), (f"{key}.mp4",))
            for key, texts in found.items()
        ]

    def official(self, name: str) -> Counts | None:
        return self.wanted


class Joined(Published):
    """The same with one paragraph per video."""

    captions = "paragraph"


Make = Callable[..., Published]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A function that makes the data module over a folder of its own."""
    (tmp_path / "videos").mkdir()
    for i in range(VIDEOS):
        make_clip(tmp_path / "videos" / f"v{i}.mp4", count=4, size=(48, 32))
    (tmp_path / "annotations").mkdir()
    texts = {f"v{i}": [f" Number {i} ", f"it says  {i * 7}"] for i in range(VIDEOS)}
    (tmp_path / "annotations" / "all.json").write_text(json.dumps(texts))

    def made(*settings: str, cls: type[Published] = Published, root: str = "") -> Published:
        words = [*TINY_MODEL, *TINY_RUN, "data=csv", "model=meanpool"]
        cfg: Any = config.load([*words, f"paths.cache={tmp_path / 'cache'}", *settings])
        from omegaconf import OmegaConf

        OmegaConf.set_readonly(cfg, False)
        OmegaConf.set_struct(cfg, False)
        data = {"name": "published", "root": root or str(tmp_path), "allow_missing": False}
        cfg.data = OmegaConf.create(data | {"annotations": "", "videos": ""})
        return cls(cfg)

    return made


def test_files_are_found_and_captions_stay_as_they_are(make: Make, tmp_path: Path) -> None:
    data = make()
    split = data.split("test")
    assert [clip.path for clip in split.clips] == [
        tmp_path / "videos" / f"v{i}.mp4" for i in range(VIDEOS)
    ]
    assert [q.text for q in split.queries[:2]] == [" Number 0 ", "it says  0"]
    assert data.annotation_files == {"all.json": tmp_path / "annotations" / "all.json"}


def test_captions_can_be_put_in_order_and_joined(make: Make) -> None:
    assert make("text.normalise=spaces").split("test").queries[1].text == "it says 0"
    assert make("text.normalise=lower").split("test").queries[0].text == "number 0"
    split = make("text.normalise=lower", cls=Joined).split("test")
    assert len(split.queries) == VIDEOS and split.queries[1].text == "number 1 it says 7"


def test_another_size_than_the_official_one_is_refused(make: Make) -> None:
    data = make()
    data.wanted = Counts(VIDEOS, 2 * VIDEOS)
    assert data.split("test")
    other = make()
    other.wanted = Counts(VIDEOS + 1, 2 * VIDEOS)
    with pytest.raises(
        UserError, match=r"6 videos and 12 captions instead of the official 7.*12.*all\.json"
    ):
        other.split("test")


def test_missing_videos_are_refused_or_counted(make: Make, tmp_path: Path) -> None:
    (tmp_path / "videos" / "v2.mp4").unlink()
    with pytest.raises(UserError, match=r"1 of 6 videos of split 'test'.*v2\.mp4.*allow_missing"):
        make().prepare(["test"])
    data = make()
    data.cfg.data.allow_missing = True
    data.prepare()
    assert [clip.id for clip in data.missing("test")] == ["v2"]
    assert data.failed("test") == data.failed("train") == {"v2"}
    assert len(data.split("test").clips) == VIDEOS


def test_what_is_not_there_is_named(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root=.*no folder"):
        make(root=str(tmp_path / "none")).split("test")
    data = make()
    data.cfg.data.root = ""
    with pytest.raises(UserError, match=r"needs data\.root=FOLDER"):
        data.split("test")
    (tmp_path / "annotations" / "all.json").rename(tmp_path / "other.json")
    with pytest.raises(UserError, match=r"needs all\.json \(or annotations/all\.json\) in"):
        make().split("test")


def test_a_hostile_id_is_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "annotations" / "all.json").write_text(json.dumps({"../../etc/passwd": ["a"]}))
    with pytest.raises(UserError, match="no safe name"):
        make().split("test")


def test_held_out_clips_are_the_same_whatever_the_order() -> None:
    entries = [Entry(f"v{i}", ("a",), (f"v{i}",)) for i in range(1000)]
    train, val = held_out(entries, 100)
    again, same = held_out(entries[::-1], 100)
    assert (len(train), len(val)) == (900, 100)
    assert train == again[::-1] and val == same[::-1]
    whole, seen = held_out(entries, 0, size=50)
    assert whole == entries and len(seen) == 50
    with pytest.raises(UserError, match=r"data\.holdout=1000"):
        held_out(entries, 1000)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "not readable JSON"),
        (b"{", "not readable JSON"),
        (b"[1, 2]", "must hold an object"),
        (b'"text"', "must hold an object"),
        (b"\xff\xfe{", "begins as UTF-16 does, but is not UTF-16 at byte 2"),
        (b"[" * 100_000, "not readable JSON"),
        (b'{"a": 1}', "no list of texts"),
        (b'{"a": []}', "no list of texts"),
        (b'{"a": [1]}', "no list of texts"),
        (b'{"a": ["b", null]}', "no list of texts"),
        (b'{"a": {"b": "c"}}', "no list of texts"),
        (b'{"a": ["  "]}', "is empty"),
        (b"{}", "has no videos"),
    ],
    ids=lambda value: ascii(value)[:24],
)
def test_broken_annotations_are_named(
    make: Make, tmp_path: Path, content: bytes, word: str
) -> None:
    (tmp_path / "annotations" / "all.json").write_bytes(content)
    with pytest.raises(UserError, match=word) as error:
        make().split("test")
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


def test_a_byte_order_mark_emoji_and_long_captions_are_read(make: Make, tmp_path: Path) -> None:
    texts = {"v0": ["\U0001f600 hey", "x" * 10_000]}
    (tmp_path / "annotations" / "all.json").write_bytes(
        b"\xef\xbb\xbf" + json.dumps(texts, ensure_ascii=False).encode()
    )
    assert [q.text for q in make().split("test").queries] == texts["v0"]


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "_LARGEST", 10)
    (tmp_path / "a.json").write_text(json.dumps(["x" * 20]))
    with pytest.raises(UserError, match="larger than"):
        annotation_files.read_json(tmp_path / "a.json", list)


def test_tables_and_lists_say_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfid,text\r\nv0,one\r\nv1,two\r\n")
    assert annotation_files.read_table(path, ["id", "text"])[1] == {"id": "v1", "text": "two"}
    with pytest.raises(UserError, match="no column 'video'"):
        annotation_files.read_table(path, ["video"])
    path.write_text("id,text\nv0\n")
    with pytest.raises(UserError, match="line 2 has too few cells"):
        annotation_files.read_table(path, ["id", "text"])
    path.write_text("a\n\n  b \n")
    assert annotation_files.read_list(path) == ["a", "b"]
    known = {"a": 1, "b": 2}
    assert annotation_files.in_order(["b", "a"], known, "x") == ["b", "a"]
    for ids, word in ((["a", "a"], "twice"), (["c"], "no captions")):
        with pytest.raises(UserError, match=word):
            annotation_files.in_order(ids, known, "x")
