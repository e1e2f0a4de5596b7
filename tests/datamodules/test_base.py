"""The shared datamodule: caches, batches, failures, and what is wrong with a split."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from media.make_clips import make_clip
from tiny import TINY_MODEL, TINY_RUN
from tvr_bench import config
from tvr_bench.datamodules import base
from tvr_bench.datamodules.base import SPLITS, VideoTextDataModule
from tvr_bench.datamodules.types import Clip, Query, Split, checked
from tvr_bench.errors import UserError
from tvr_bench.files import Ledger

COUNTS = {"train": 11, "val": 3, "test": 5}


class Toy(VideoTextDataModule):
    """Clips of one colour gradient each, two captions per training clip, groups of two."""

    root: Path
    materialised = 0

    def materialise(self) -> None:
        self.materialised += 1

    def read_split(self, name: str) -> Split:
        clips = [Clip(f"{name}{i}", self.root / f"{name}{i}.mp4") for i in range(COUNTS[name])]
        return Split(
            tuple(clips),
            tuple(
                Query(
                    f"{clip.id}#{k}",
                    f"{clip.id} caption {k} to the left",
                    clip.id,
                    "",
                    f"g{i // 2}",
                )
                for i, clip in enumerate(clips)
                for k in range(2 if name == "train" else 1)
            ),
        )


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the toy data set."""
    root = tmp_path_factory.mktemp("toy")
    for name, count in COUNTS.items():
        for i in range(count):
            make_clip(root / f"{name}{i}.mp4", count=4 + i, size=(48, 32))
    return root


@pytest.fixture
def toy(videos: Path, tmp_path: Path) -> Callable[..., Toy]:
    """Make the toy data set with settings of one's own."""

    def make(*settings: str, root: Path = videos, ledger: Ledger | None = None) -> Toy:
        words = [*TINY_MODEL, *TINY_RUN, f"paths.cache={tmp_path / 'cache'}", *settings]
        data = Toy(config.load(["data=csv", *words]), ledger=ledger)
        data.root = root
        return data

    return make


def _copy(videos: Path, target: Path, damaged: Sequence[str], missing: Sequence[str] = ()) -> Path:
    target.mkdir()
    for path in videos.iterdir():
        if path.stem not in missing:
            content = b"no video" if path.stem in damaged else path.read_bytes()
            (target / path.name).write_bytes(content)
    return target


def _epoch(data: VideoTextDataModule, epoch: int) -> list[dict[str, torch.Tensor]]:
    loader = data.train_dataloader()
    plan: Any = loader.batch_sampler
    plan.set_epoch(epoch)
    return list(loader)


def test_a_batch_has_the_shapes_and_types_of_the_contract(toy: Callable[..., Toy]) -> None:
    data = toy("trainer.batch_size=4")
    data.prepare()
    batches = _epoch(data, 0)
    assert len(batches) == COUNTS["train"] // 4
    shapes = {key: (tuple(value.shape), value.dtype) for key, value in batches[0].items()}
    assert shapes == {
        "text_ids": ((4, 32), torch.int64),
        "text_mask": ((4, 32), torch.bool),
        "frames": ((4, 3, 3, 32, 48), torch.uint8),
        "frame_mask": ((4, 3), torch.bool),
        "text_index": ((4,), torch.int64),
        "video_index": ((4,), torch.int64),
    }
    queries = data.split("train").queries
    for batch in batches:
        owners = [queries[i].clip_id for i in batch["text_index"].tolist()]
        assert owners == [f"train{i}" for i in batch["video_index"].tolist()]


def test_workers_make_the_same_batches(toy: Callable[..., Toy]) -> None:
    epochs = []
    for workers in (0, 2):
        data = toy(f"trainer.workers={workers}", "trainer.shift=3", "trainer.mirror=true")
        data.prepare()
        loader = data.train_dataloader()
        plan: Any = loader.batch_sampler
        for epoch in (0, 1):
            plan.set_epoch(epoch)
            epochs.append(list(loader))
    assert [len(batches) for batches in epochs] == [1, 1, 1, 1]
    for one, other in zip(epochs[:2], epochs[2:], strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.keys() == b.keys()
            assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(epochs[0][0]["video_index"], epochs[1][0]["video_index"])


def test_ranks_share_each_batch(toy: Callable[..., Toy], monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy("trainer.batch_size=4", "eval.batch_size=2")
    data.prepare()
    whole = _epoch(data, 3)
    tested = ([[0, 1], [4]], [[2, 3], [0, 1]])
    monkeypatch.setattr(Toy, "_world", lambda self: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(Toy, "_rank", lambda self, rank=rank: rank)
        parts.append(_epoch(data, 3))
        texts, videos = data.test_dataloader()
        assert [b["text_index"].tolist() for b in texts] == tested[rank]
        assert [b["video_index"].tolist() for b in videos] == tested[rank]
    for batch, one, other in zip(whole, *parts, strict=True):
        for key, value in batch.items():
            assert torch.equal(torch.cat([one[key], other[key]]), value)


def test_test_loaders_hold_every_text_and_video_in_order(toy: Callable[..., Toy]) -> None:
    data = toy("eval.batch_size=2")
    data.prepare()
    for name, loaders in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        texts, videos = (list(loader) for loader in loaders)
        assert torch.cat([b["text_index"] for b in texts]).tolist() == list(range(COUNTS[name]))
        assert torch.cat([b["video_index"] for b in videos]).tolist() == list(range(COUNTS[name]))
        assert "frames" not in texts[0] and "text_ids" not in videos[0]


def test_prepare_does_its_work_once_and_only_for_the_splits_asked_for(
    toy: Callable[..., Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int] = []
    real = base.build_frames
    monkeypatch.setattr(
        base,
        "build_frames",
        lambda clips, *a, **k: built.append(len(clips)) or real(clips, *a, **k),
    )
    data = toy()
    data.prepare(["test"])
    assert (built, data.materialised) == ([5], 1)
    data.prepare()
    data.prepare_data()
    data.setup("fit")
    assert (built, data.materialised) == ([5, 11, 3], 2)
    assert data.seconds["frames"] > 0
    assert set(data.seconds) == {"render", "frames"}


def test_scene_text_is_read_once_per_clip_and_comes_as_windows(
    toy: Callable[..., Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(clips: Sequence[Clip], *_: Any, **__: Any) -> dict[str, list[str]]:
        return {clip.id: ["", f"sign {clip.id}", ""] for clip in clips if clip.id != "test1"}

    monkeypatch.setattr(base, "build_windows", read)
    data = toy("ocr.enabled=true", "ocr.windows=3")
    data.prepare()
    assert data.windows("test0") == ["", "sign test0", ""]
    assert data.windows("test1") == ["", "", ""]
    (videos,) = list(data.test_dataloader()[1])
    assert videos["ocr_ids"].shape == videos["ocr_mask"].shape == (5, 3, 32)
    assert videos["ocr_mask"].any(-1).tolist() == [
        [False, i != 1, False] for i in range(COUNTS["test"])
    ]


def test_unreadable_clips_are_on_the_ledger_and_leave_their_place(
    videos: Path, toy: Callable[..., Toy], tmp_path: Path
) -> None:
    root = _copy(videos, tmp_path / "damaged", ["train4", "test0"], missing=["test3"])
    ledger = Ledger(tmp_path / "failures.jsonl")
    allowed = ("trainer.max_bad_fraction=0.1", "data.allow_missing=true")
    data = toy(*allowed, root=root, ledger=ledger)
    data.prepare()
    assert data.failed("train") == {"train4"}
    assert data.failed("val") == set()
    assert data.failed("test") == {"test0", "test3"}
    lines = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert sorted((line["id"], line["stage"]) for line in lines) == [
        ("test0", "frames"),
        ("test3", "frames"),
        ("train4", "frames"),
    ]
    assert all(line["message"] and line["path"].startswith(str(root)) for line in lines)
    assert len(data.split("test").clips) == len(data.split("test").queries) == 5
    texts, gallery = data.test_dataloader()
    assert [i for b in texts for i in b["text_index"].tolist()] == [0, 1, 2, 3, 4]
    assert [i for b in gallery for i in b["video_index"].tolist()] == [1, 2, 4]
    seen = {i for e in range(9) for b in _epoch(data, e) for i in b["video_index"].tolist()}
    assert seen == set(range(COUNTS["train"])) - {4}
    again = toy(*allowed, root=root)
    again.prepare()
    assert again.failed("test") == {"test0", "test3"}, "the cache must remember failures"


def test_too_many_unreadable_training_clips_stop_the_run(
    videos: Path, toy: Callable[..., Toy], tmp_path: Path
) -> None:
    root = _copy(videos, tmp_path / "damaged", ["train1", "train4"])
    with pytest.raises(UserError, match=r"2 of 11 .*'train1'.*max_bad_fraction=0\.182") as error:
        toy(root=root, ledger=Ledger(tmp_path / "bad.jsonl")).prepare()
    assert "bad.jsonl" in str(error.value)
    allowed = toy("trainer.max_bad_fraction=0.182", root=root)
    allowed.prepare()
    assert len(allowed.items("train").readable) == 9


def test_the_tokenizer_learns_from_training_captions_or_is_given(toy: Callable[..., Toy]) -> None:
    data = toy()
    data.prepare(["test"])
    assert data.tokenizer is not None
    vocabulary = data.tokenizer.get_vocab()
    assert any("train" in token for token in vocabulary)
    assert not any("test" in token for token in vocabulary)
    other = toy()
    other.tokenizer = data.tokenizer
    other.prepare()
    assert other.tokenizer is data.tokenizer


def test_a_mirror_exchanges_sides_and_turns(toy: Callable[..., Toy]) -> None:
    data = toy()
    caption = "moves left, then turns clockwise to the right of the leftmost sign 'LEFT'"
    turned = "moves right, then turns counterclockwise to the left of the leftmost sign 'LEFT'"
    assert data.mirror(caption) == turned
    assert data.mirror(turned) == caption


def test_annotations_hash_follows_captions_and_not_their_order(toy: Callable[..., Toy]) -> None:
    data, turned, changed = toy(), toy(), toy()
    split = data.split("test")
    turned._splits["test"] = Split(split.clips[::-1], split.queries[::-1])
    other = Query("x", "another caption", split.queries[0].clip_id)
    changed._splits["test"] = Split(split.clips, (other, *split.queries[1:]))
    assert data.annotations_hash("test") == turned.annotations_hash("test")
    assert data.annotations_hash("test") != changed.annotations_hash("test")
    assert len(data.annotations_hash("test")) == 64


def test_a_data_set_must_define_its_splits(toy: Callable[..., Toy]) -> None:
    with pytest.raises(NotImplementedError, match="VideoTextDataModule must define read_split"):
        VideoTextDataModule(toy().cfg).split("train")
    assert SPLITS == ("train", "val", "test")


CLIP = Clip("a", Path("a.mp4"))


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (Split((), ()), "split 'val' has no videos"),
        (Split((CLIP,), ()), "split 'val' has no captions"),
        (Split((CLIP, CLIP), (Query("q", "x", "a"),)), "names video 'a' twice"),
        (Split((CLIP,), (Query("q", " ", "a"),)), "query 'q' of split 'val' is empty"),
        (Split((CLIP,), (Query("q", "x", "b"),)), "video 'b', which the split does not hold"),
    ],
)
def test_a_split_that_is_wrong_is_one_line(split: Split, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        checked("val", split)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["model=bicnet", "backbone=paper"], "features.region_file=FILE.h5"),
        (["ocr.enabled=true", "ocr.engine=easyocr", "ocr.weights=nowhere"], "craft_mlt_25k.pth"),
    ],
    ids=["features", "easyocr"],
)
def test_what_is_missing_is_said_before_anything_is_made(
    settings: list[str], expected: str, toy: Callable[..., Toy]
) -> None:
    data = toy(*settings)
    with pytest.raises(UserError, match=re.escape(expected)):
        data.prepare()
    assert data.materialised == 0
