"""SignVid as a data set: scenes from a seed, rendered once, read like any other videos."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tvr_bench.datamodules.base import VideoTextDataModule
from tvr_bench.datamodules.signvid.build import build
from tvr_bench.datamodules.signvid.render import render_all
from tvr_bench.datamodules.signvid.spec import PRESETS, Scene, Sizes, spec_hash
from tvr_bench.datamodules.types import Clip, Query, Split
from tvr_bench.files import settings_hash
from tvr_bench.registry import register_dataset


@register_dataset("signvid")
class SignVidDataModule(VideoTextDataModule):
    """Rendered videos with four skills; the gallery holds each query's hard negatives."""

    @property
    def variant(self) -> str:
        """The preset."""
        return str(self.cfg.data.preset)

    def units(self, split: Split) -> dict[str, str]:
        """Return each clip's group of hard negatives, which are scenes of one draw."""
        return {query.clip_id: query.group or query.clip_id for query in split.queries}

    @cached_property
    def scenes(self) -> dict[str, list[Scene]]:
        """The scenes of every split."""
        data = self.cfg.data
        preset = PRESETS[data.preset]
        given = {name: getattr(data, name) for name in ("train", "val", "test")}
        sizes = Sizes(**{k: getattr(preset, k) if v is None else int(v) for k, v in given.items()})
        return build(sizes, data.seed)

    @cached_property
    def root(self) -> Path:
        """The folder of the videos; its name follows from what they show."""
        every = [scene for scenes in self.scenes.values() for scene in scenes]
        return self.cache / "signvid" / f"{self.cfg.data.preset}-{spec_hash(every)}"

    def videos_hash(self, name: str) -> str:
        """Return the hash of what the videos of a split show.

        Their bytes depend on the version of the encoder, which makes no other data set.
        """
        return settings_hash(spec_hash(self.scenes[name]), 64)

    def materialise(self) -> None:
        """Render every video that is not there yet."""
        every = [scene for scenes in self.scenes.values() for scene in scenes]
        render_all(every, self.root, self.workers)

    def read_split(self, name: str) -> Split:
        """Return the scenes of a split as clips and captions."""
        scenes = self.scenes[name]
        clips = tuple(Clip(scene.id, self.root / f"{scene.id}.mp4") for scene in scenes)
        return Split(clips, tuple(q for scene in scenes for q in _queries(scene)))


def _queries(scene: Scene) -> Sequence[Query]:
    texts = (scene.caption, *scene.paraphrases)
    return [
        Query(f"{scene.id}#{i}", text, scene.id, scene.skill, scene.group)
        for i, text in enumerate(texts)
    ]
