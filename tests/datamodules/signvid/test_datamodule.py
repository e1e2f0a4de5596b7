"""SignVid as a data set: splits from a seed, files rendered once, groups of hard negatives."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from tvr_bench import config
from tvr_bench.datamodules.signvid import datamodule
from tvr_bench.datamodules.signvid.datamodule import SignVidDataModule
from tvr_bench.datamodules.signvid.spec import PRESETS, SKILLS
from tvr_bench.errors import UserError
from tvr_bench.media.video import probe


def _data(*settings: str, root: Path | None = None) -> SignVidDataModule:
    cache = [f"paths.cache={root}"] if root else []
    return SignVidDataModule(config.load(["data.preset=tiny", *cache, *settings]))


def test_the_preset_decides_the_sizes_unless_they_are_given() -> None:
    sizes = {name: len(_data().split(name).clips) for name in ("train", "val", "test")}
    assert sizes == asdict(PRESETS["tiny"])
    assert len(_data("data.test=8").split("test").clips) == 8
    with pytest.raises(UserError, match="no multiple of 4"):
        _data("data.test=9").split("test")


def test_a_split_has_groups_of_four_of_every_skill() -> None:
    split = _data().split("test")
    assert len(split.queries) == len(split.clips)
    assert set(Counter(query.group for query in split.queries).values()) == {4}
    skills = Counter(query.skill for query in split.queries)
    assert set(skills) == set(SKILLS) and len(set(skills.values())) == 1


def test_only_training_clips_have_several_captions() -> None:
    data = _data()
    counts = {
        name: set(Counter(query.clip_id for query in data.split(name).queries).values())
        for name in ("train", "val", "test")
    }
    assert counts["val"] == counts["test"] == {1}
    assert min(counts["train"]) > 1
    queries = data.split("train").queries
    assert len({query.id for query in queries}) == len(queries)


def test_the_seed_of_the_scenes_changes_them_and_the_folder_and_the_run_seed_does_not() -> None:
    one, same, other = _data("seed=1"), _data("seed=2"), _data("data.seed=1")
    assert one.split("test") == same.split("test") != other.split("test")
    assert one.root == same.root != other.root
    assert one.annotations_hash("test") == same.annotations_hash("test")


def test_splits_share_no_caption() -> None:
    data = _data()
    captions = {n: {q.text for q in data.split(n).queries} for n in ("train", "val", "test")}
    assert not captions["train"] & captions["test"]
    assert not captions["val"] & captions["test"]


def test_videos_are_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = ("data.train=4", "data.val=4", "data.test=4", "trainer.prepare_workers=0")
    data = _data(*sizes, root=tmp_path)
    data.materialise()
    clips = [clip for name in ("train", "val", "test") for clip in data.split(name).clips]
    times = {clip.path: clip.path.stat().st_mtime_ns for clip in clips}
    assert len(times) == 12
    assert {clip.path.parent for clip in clips} == {data.root}
    scenes = {scene.id: scene for scenes in data.scenes.values() for scene in scenes}
    for clip in clips:
        info, scene = probe(clip.path), scenes[clip.id]
        assert (info.width, info.height) == scene.size
        assert (info.frames, info.fps) == (scene.frames, scene.fps)
    gone = clips[5].path
    gone.unlink()
    again = _data(*sizes, root=tmp_path)
    again.materialise()
    assert gone.exists()
    assert all(path.stat().st_mtime_ns == time for path, time in times.items() if path != gone)
    monkeypatch.setattr(datamodule, "render_all", lambda *_: pytest.fail("rendered again"))
    assert _data(*sizes, root=tmp_path).split("test") == data.split("test")


def test_no_scene_text_is_mirrored_in_a_caption() -> None:
    data = _data()
    for query in data.split("train").queries:
        assert data.mirror(data.mirror(query.text)) == query.text
    turned = [q for q in data.split("train").queries if data.mirror(q.text) != q.text]
    assert turned and {q.skill for q in turned} >= {"temporal", "relation"}
