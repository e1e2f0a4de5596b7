"""What a dataset is made of: clips, queries and splits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Clip:
    """A video file, or the span from `start` to `end` (seconds) of one."""

    id: str
    path: Path
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Query:
    """A caption and the clip that it describes; `skill` and `group` where a data set has them."""

    id: str
    text: str
    clip_id: str
    skill: str = ""
    group: str = ""


@dataclass(frozen=True)
class Split:
    """One split: its gallery and its queries, in a fixed order."""

    clips: tuple[Clip, ...]
    queries: tuple[Query, ...]

    def one_caption(self, seed: int) -> Split:
        """Return the split with one query per clip, drawn by `seed`, the order kept."""
        by_clip: dict[str, list[int]] = {}
        for i, query in enumerate(self.queries):
            by_clip.setdefault(query.clip_id, []).append(i)
        rng = np.random.default_rng(seed)
        kept = sorted(some[int(rng.integers(len(some)))] for some in by_clip.values())
        return replace(self, queries=tuple(self.queries[i] for i in kept))
