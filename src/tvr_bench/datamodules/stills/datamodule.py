"""Stills as a data set: pictures of rendered scenes with captions of what they show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from random import Random
from typing import Any

from tvr_bench.datamodules.base import VideoTextDataModule
from tvr_bench.datamodules.signvid.captions import caption, paraphrases
from tvr_bench.datamodules.signvid.spec import DRAWING, Scene
from tvr_bench.datamodules.stills.draw import draw_stills, shown_hash
from tvr_bench.datamodules.stills.scenes import Still, build_scenes, draw_times, unlike
from tvr_bench.datamodules.types import Clip, Query, Split
from tvr_bench.errors import UserError
from tvr_bench.files import settings_hash
from tvr_bench.parts import Part
from tvr_bench.registry import register_dataset
from tvr_bench.settings import extracted, frame_spec

_STILLS_OF_TEST = 2  # of a scene of val and test


@register_dataset("stills")
class StillsDataModule(VideoTextDataModule):
    """Single pictures in groups of hard negatives; val and test are made as train is.

    They have scenes of their own, but no homes of their own: all three are of SignVid's train.
    """

    no_files = "the stills are drawn by every run that needs them: there are no files to check"

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        """Take what every data set takes; raises UserError for several frames, or for text."""
        super().__init__(*arguments, **keywords)
        video, held = self.cfg.video, self.cfg.eval.frames
        if extracted(self.cfg) or (video.frames, held or video.frames) != (1, 1):
            raise UserError("a still is one picture; leave video.frames=1 and backbone.name=tiny")
        if self.reads_text:
            raise UserError("the captions of stills tell no sign; set ocr.enabled=false")

    @property
    def variant(self) -> str:
        """The version of the renderer."""
        return f"drawing-{DRAWING}"

    @cached_property
    def scenes(self) -> dict[str, list[Scene]]:
        """The scenes of every split."""
        data = self.cfg.data
        counts = {"train": data.groups, "val": data.test_groups, "test": data.test_groups}
        return {name: build_scenes(name, count, data.seed) for name, count in counts.items()}

    @cached_property
    def stills(self) -> dict[str, list[Still]]:
        """The pictures of every split; no two of val or test have one caption."""
        data, scenes = self.cfg.data, self.scenes
        drawn = {
            name: unlike(draw_times(scenes[name], _STILLS_OF_TEST, _STILLS_OF_TEST, data.seed))
            for name in ("val", "test")
        }
        train = draw_times(scenes["train"], data.stills, data.together, data.seed)
        return {"train": list(train)} | {name: list(some) for name, some in drawn.items()}

    def units(self, split: Split) -> dict[str, str]:
        """Return each still's four scenes, which are of one draw."""
        return {query.clip_id: query.group.rpartition("-")[0] for query in split.queries}

    def videos_hash(self, name: str) -> str:
        """Return the hash of what the pictures of a split show."""
        return settings_hash(shown_hash(self.stills[name]), 64)

    def read_split(self, name: str) -> Split:
        """Return the stills of a split with their captions."""
        stills, nowhere = self.stills[name], self.cache / "stills"
        queries = (
            Query(f"{one.id}#0", one.caption, one.id, one.scene.skill, one.group) for one in stills
        )
        return Split(tuple(Clip(one.id, nowhere) for one in stills), tuple(queries))

    def missing(self, name: str) -> list[Clip]:
        """Return nothing: whatever is not there is drawn."""
        return []

    def texts_of_tokenizer(self, split: Split) -> Iterable[str]:
        """Return the captions, and those of the scenes as videos.

        The words of motion and of signs get tokens of their own, though no caption teaches them.
        """
        yield from super().texts_of_tokenizer(split)
        rng = Random(f"stills/{self.cfg.data.seed}/told")
        for scene in self.scenes["train"]:
            told = caption(scene)
            yield from (told, *paraphrases(replace(scene, caption=told), rng))

    def _decode(self, splits: Sequence[str], part: Part) -> None:
        for name in splits:
            self._frames[name] = draw_stills(
                self.stills[name],
                frame_spec(self.cfg, name),
                self.cache / "stills",
                workers=self.workers,
                part=part,
            )
