"""What a dataset is made of: clips, queries and splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
