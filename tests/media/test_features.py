"""Files of extracted features: both layouts, matched pairs, and whatever can be wrong with them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tvr_bench import config
from tvr_bench.datamodules.base import VideoTextDataModule
from tvr_bench.datamodules.types import Clip, Query, Split
from tvr_bench.errors import UserError
from tvr_bench.media.features import FeatureSpec, TextFeatures, VideoFeatures, read_lens
from tvr_bench.models.base import RetrievalModule
from tvr_bench.registry import create_model

F, R, REGION, GLOBAL, TEXT, WORDS = 3, 2, 5, 4, 6, 4
CLIPS = ["video0", "video3", "video2"]
QUERIES = [
    Query("q0", "a b", "video3"),
    Query("q1", "a", "video0"),
    Query("q2", "a b c d e", "video3"),
    Query("q3", "c", "video2"),
]
LENS = {"video0": [3], "video2": [1], "video3": [4, 7]}


def _values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def spec(tmp_path: Path) -> FeatureSpec:
    """Files as they are released: all videos in one data set, the words of a video in its own."""
    with h5py.File(tmp_path / "region.h5", "w") as file:
        file["vfeats"] = _values(4, F, R, REGION)
    with h5py.File(tmp_path / "global.h5", "w") as file:
        file["feats"] = _values(4, F, GLOBAL, seed=1)
    with h5py.File(tmp_path / "text.h5", "w") as file:
        for name, lens in LENS.items():
            file[name] = _values(sum(lens), TEXT, seed=int(name[-1]))
    (tmp_path / "lens.json").write_text(json.dumps(LENS))
    return FeatureSpec(
        region_file=str(tmp_path / "region.h5"),
        region_key="vfeats",
        global_file=str(tmp_path / "global.h5"),
        global_key="feats",
        text_file=str(tmp_path / "text.h5"),
        lens_file=str(tmp_path / "lens.json"),
        frames=F,
        regions=R,
        region_dim=REGION,
        global_dim=GLOBAL,
        text_dim=TEXT,
        words=WORDS,
    )


def test_a_clip_s_features_are_the_row_of_its_number(spec: FeatureSpec) -> None:
    store = VideoFeatures([*CLIPS, "video1.mp4"], spec)
    for clip_id, row in zip([*CLIPS, "video1.mp4"], (0, 3, 2, 1), strict=True):
        found = store.features(clip_id)
        assert np.array_equal(found["region"], _values(4, F, R, REGION)[row])
        assert np.array_equal(found["global"], _values(4, F, GLOBAL, seed=1)[row])
        assert found["frame_mask"].tolist() == [True] * F
        assert clip_id in store
    assert "video7" not in store
    pictures, real = store.get("video0")
    assert len(pictures) == len(real) == 0


def test_a_data_set_for_each_clip_is_read_too(spec: FeatureSpec, tmp_path: Path) -> None:
    for name, shape in (("region", (F, R, REGION)), ("global", (F, GLOBAL))):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            for i, clip_id in enumerate(("a clip.mp4", "b")):
                file[clip_id] = _values(*shape, seed=i).astype(np.float64)
    store = VideoFeatures(["b", "a clip.mp4"], spec)
    found = store.features("a clip.mp4")
    assert found["region"].dtype == np.float32
    assert np.array_equal(found["region"], _values(F, R, REGION, seed=0))
    assert np.array_equal(store.features("b")["global"], _values(F, GLOBAL, seed=1))


def test_a_query_s_words_are_those_of_its_caption(spec: FeatureSpec) -> None:
    store = TextFeatures(QUERIES, spec)
    rows = _values(11, TEXT, seed=3)
    expected = [rows[:4], _values(3, TEXT, seed=0), rows[4:8], _values(1, TEXT, seed=2)]
    for position, words in enumerate(expected):
        found = store.get(position)
        count = len(words)
        assert np.array_equal(found["text_features"][:count], words), position
        assert not found["text_features"][count:].any()
        assert found["text_features_mask"].tolist() == [i < count for i in range(WORDS)]


def test_words_of_each_caption_by_itself(spec: FeatureSpec, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "text.h5", "w") as file:
        for i, query in enumerate(QUERIES):
            file[query.id] = _values(i + 1, TEXT, seed=i)
    store = TextFeatures(QUERIES, replace(spec, lens_file=None))
    for i in range(4):
        found = store.get(i)
        assert np.array_equal(found["text_features"][: i + 1], _values(i + 1, TEXT, seed=i))
        assert found["text_features_mask"].sum() == i + 1


def test_a_store_travels_to_another_process(spec: FeatureSpec) -> None:
    store = VideoFeatures(CLIPS, spec)
    expected = store.features("video2")["region"]
    copy = pickle.loads(pickle.dumps(store))
    assert np.array_equal(copy.features("video2")["region"], expected)


def _fails(make: Callable[[], Any], *words: str) -> None:
    with pytest.raises(UserError) as error:
        make()
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("key", ["region_file", "global_file", "text_file"])
def test_a_missing_file_is_named(spec: FeatureSpec, key: str, tmp_path: Path) -> None:
    def open_(path: str | None) -> None:
        changed = replace(spec, **{key: path})
        TextFeatures(QUERIES, changed) if key == "text_file" else VideoFeatures(CLIPS, changed)

    _fails(lambda: open_(None), f"features.{key}=FILE.h5")
    _fails(lambda: open_("no.h5"), f"features.{key}=no.h5 does not exist")
    _fails(lambda: open_(str(tmp_path)), "does not exist")


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "middle"])
def test_a_damaged_file_is_named(spec: FeatureSpec, damage: str) -> None:
    path = Path(spec.region_file or "")
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "vfeats", data=_values(4, F, R, REGION), chunks=(1, F, R, REGION), compression="gzip"
        )
    whole = path.read_bytes()
    if damage == "middle":
        start = whole.index(b"TREE")  # of the chunks: found again, yet not to be read
        path.write_bytes(whole[:start] + bytes(40) + whole[start + 40 :])
    else:
        short = {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"no features\n"}
        path.write_bytes(short[damage])
    _fails(lambda: VideoFeatures(CLIPS, spec).features("video3"), "region.h5", "give another")


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((4, F + 1, R, REGION), "is 4x2x5 per video, not 3x2x5"),
        ((4, F, R, REGION + 1), "is 3x2x6 per video, not 3x2x5"),
        ((4, F, REGION), "is 3x5 per video"),
        ((3, F, R, REGION), "has 3 videos and no 'video3'"),
        ((0, F, R, REGION), "has 0 videos and no 'video0'"),
    ],
)
def test_wrong_shapes_are_told_with_both_shapes(
    spec: FeatureSpec, shape: tuple[int, ...], said: str
) -> None:
    with h5py.File(spec.region_file, "w") as file:
        file["vfeats"] = np.zeros(shape, np.float32)
    _fails(lambda: VideoFeatures(CLIPS, spec), said)


@pytest.mark.parametrize("content", [np.zeros((4, F, R, REGION), np.int64), b"text", 3.0, None])
def test_a_table_that_is_none(spec: FeatureSpec, content: Any) -> None:
    with h5py.File(spec.region_file, "w") as file:
        if content is None:
            file.create_group("vfeats")
        else:
            file["vfeats"] = content
    _fails(lambda: VideoFeatures(CLIPS, spec), "is no table of numbers")


@pytest.mark.parametrize("how", ["external link", "group", "soft link", "storage", "virtual"])
def test_a_file_that_leads_to_others_is_not_followed(
    spec: FeatureSpec, tmp_path: Path, how: str
) -> None:
    """Each of these would make a stranger's file show what stands in another of this machine."""
    other, shape = tmp_path / "other.h5", (4, F, R, REGION)
    with h5py.File(other, "w") as file:
        file["vfeats"] = _values(*shape)
    key = "vfeats"
    with h5py.File(spec.region_file, "w") as file:
        if how == "external link":
            file[key] = h5py.ExternalLink(str(other), key)
        elif how == "group":
            file["out"] = h5py.ExternalLink(str(other), "/")
            key = "out/vfeats"
        elif how == "soft link":
            file["elsewhere"] = h5py.ExternalLink(str(other), key)
            file[key] = h5py.SoftLink("/elsewhere")
        elif how == "storage":
            where = [(str(other), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset(key, shape, np.float32, external=where)
        else:
            layout = h5py.VirtualLayout(shape, np.float32)
            layout[:] = h5py.VirtualSource(str(other), key, shape)
            file.create_virtual_dataset(key, layout)
    said = "is no table" if how in ("storage", "virtual") else f"neither '{key}' nor clip"
    _fails(lambda: VideoFeatures(CLIPS, replace(spec, region_key=key)), said)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_are_none_are_found_when_they_are_read(spec: FeatureSpec, bad: float) -> None:
    values = _values(4, F, R, REGION).astype(np.float64)
    values[3, 1, 0, 2] = bad
    with h5py.File(spec.region_file, "w") as file:
        file["vfeats"] = values
    store = VideoFeatures(CLIPS, spec)
    assert np.isfinite(store.features("video2")["region"]).all()
    _fails(lambda: store.features("video3"), "NaN or infinite", "row 3 of 'vfeats'")


def test_missing_clips_and_captions_are_named(spec: FeatureSpec, tmp_path: Path) -> None:
    _fails(lambda: VideoFeatures(["video0", "video4"], spec), "4 videos", "video4")
    _fails(lambda: VideoFeatures(["my clip 2"], spec), "'my clip 2'", "video0, video1")
    _fails(lambda: VideoFeatures(CLIPS, replace(spec, region_key="x")), "neither 'x' nor", "video0")
    lens = tmp_path / "lens.json"
    for changed, said in (
        ({**LENS, "video3": [4]}, "1 captions of clip 'video3' and the data set 2"),
        ({**LENS, "video3": [4, 6]}, "11 words of clip 'video3' and features.lens_file 10"),
        ({"video3": [4, 7]}, "0 captions of clip 'video0'"),
    ):
        lens.write_text(json.dumps(changed))
        _fails(lambda: TextFeatures(QUERIES, spec), said)
    lens.write_text(json.dumps({**LENS, "video9": [2]}))
    TextFeatures(QUERIES, spec)  # more than are needed is nothing wrong
    _fails(lambda: TextFeatures(QUERIES, replace(spec, lens_file=None)), "no 'q0'")
    _fails(lambda: TextFeatures(QUERIES, replace(spec, text_dim=7)), "11x6, not words x 7")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"a": 3}',
        '{"a": [1.5]}',
        '{"a": [0]}',
        '{"a": [true]}',
        '{"a": [-1]}',
        '{"a": [99999999999]}',
        "\xff",
        "[" * 100_000,
    ],
)
def test_word_counts_that_are_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "lens.json"
    path.write_bytes(content.encode("latin-1"))
    _fails(lambda: read_lens(path), str(path))
    _fails(lambda: read_lens(tmp_path / "no.json"), "does not exist")


class Released(VideoTextDataModule):
    """A data set without any video."""

    def read_split(self, name: str) -> Split:
        return Split(tuple(Clip(i, Path("nowhere.mp4")) for i in CLIPS), tuple(QUERIES))


def _settings(spec: FeatureSpec, *more: str) -> list[str]:
    names = ("region_file", "global_file", "text_file", "lens_file")
    files = [f"features.{name}={getattr(spec, name)}" for name in names]
    dims = [f"features.region_dim={REGION}", f"features.global_dim={GLOBAL}"]
    dims += [f"features.text_dim={TEXT}", f"features.regions={R}", f"video.frames={F}"]
    small = [f"text.words={WORDS}", "model.width=8", "model.heads=2", "trainer.batch_size=2"]
    small += ["trainer.prepare_workers=0"]
    return ["model=bicnet", "backbone=paper", *files, *dims, *small, *more]


def test_batches_hold_features_and_no_frames(spec: FeatureSpec, tmp_path: Path) -> None:
    cfg = config.load([*_settings(spec), f"paths.cache={tmp_path / 'cache'}"])
    assert cfg.backbone.name == "features" and not cfg.ocr.enabled
    data = Released(cfg)
    data.prepare()
    assert not (tmp_path / "cache" / "frames").exists()
    assert data.failed("test") == set()
    batch = next(iter(data.train_dataloader()))
    assert {key: tuple(value.shape[1:]) for key, value in batch.items() if value.ndim > 1} == {
        "region": (F, R, REGION),
        "global": (F, GLOBAL),
        "frame_mask": (F,),
        "text_features": (WORDS, TEXT),
        "text_features_mask": (WORDS,),
        "text_ids": (WORDS,),
        "text_mask": (WORDS,),
    }
    for clip, query in zip(batch["video_index"], batch["text_index"], strict=True):
        assert CLIPS[clip] == QUERIES[query].clip_id
    texts, videos = (next(iter(loader)) for loader in data.test_dataloader())
    assert texts["text_index"].tolist() == [0, 1, 2, 3]
    assert torch.equal(videos["region"][1], torch.from_numpy(_values(4, F, R, REGION)[3]))


def test_a_model_trains_and_ranks_from_files(
    spec: FeatureSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RetrievalModule, "log", lambda *_, **__: None)
    cfg = config.load([*_settings(spec), f"paths.cache={tmp_path / 'cache'}"])
    data = Released(cfg)
    data.prepare()
    pairs = [
        ("backbone.name", "features"),
        ("model.width", 8),
        ("model.heads", 2),
        ("features.region_dim", REGION),
        ("features.global_dim", GLOBAL),
        ("features.text_dim", TEXT),
    ]
    model = create_model("bicnet", **dict(pairs))
    model.training_step(next(iter(data.train_dataloader())), 0).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    texts, videos = (next(iter(loader)) for loader in data.test_dataloader())
    with torch.no_grad():
        found = model.similarity(model.encode_text(texts), model.encode_video(videos))
    assert found.shape == (4, 3) and found.isfinite().all()


@pytest.mark.slow
def test_worker_processes_read_the_same(spec: FeatureSpec, tmp_path: Path) -> None:
    cfg = config.load([*_settings(spec), f"paths.cache={tmp_path / 'cache'}"])
    data = Released(cfg)
    data.prepare()
    items = data.test_dataloader()[1].dataset
    alone = [items[i]["region"] for i in range(3)]
    loaded = DataLoader(items, batch_size=1, sampler=range(3), num_workers=2)
    for expected, batch in zip(alone, loaded, strict=True):
        assert torch.equal(batch["region"][0], expected)


def test_features_are_neither_moved_nor_mirrored(spec: FeatureSpec, tmp_path: Path) -> None:
    for setting in ("trainer.shift=2", "trainer.mirror=true"):
        cfg = config.load([*_settings(spec, setting), f"paths.cache={tmp_path / 'cache'}"])
        _fails(Released(cfg).prepare, "trainer.shift=0 trainer.mirror=false")
