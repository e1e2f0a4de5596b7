"""What a dataset is made of: clips, queries and splits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tvr_bench.errors import UserError


@dataclass(frozen=True)
class Clip:
    """A video file, or the span from `start` to `end` of one, in seconds from its first picture."""

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


def checked(name: str, split: Split) -> Split:
    """Return the split; raises UserError for an empty one, repeated ids, empty or lost captions."""
    ids = [clip.id for clip in split.clips]
    if not ids:
        raise UserError(f"split '{name}' has no videos; give it some or choose another split")
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise UserError(f"split '{name}' names video '{twice}' twice; ids must be unique")
    known = set(ids)
    for query in split.queries:
        if not query.text.strip():
            raise UserError(f"query '{query.id}' of split '{name}' is empty; write its caption")
        if query.clip_id not in known:
            raise UserError(
                f"query '{query.id}' of split '{name}' is about video '{query.clip_id}', which "
                "the split does not hold"
            )
    if not split.queries:
        raise UserError(f"split '{name}' has no captions; give it some")
    return split
