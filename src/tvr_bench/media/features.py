"""Features that others have extracted: one HDF5 file each of regions, of whole frames and of words.

F frames, R regions of a frame, D width, L words, N videos. Two layouts are read: one data set for
all videos, whose row is the number of a clip called `video<number>` (MSR-VTT, MSVD), or one data
set per clip, named by its id. Shapes and ids are checked when a store is made, numbers when they
are read; `check_files` tells of a missing file before anything is made. Nothing here imports torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvr_bench.errors import UserError
from tvr_bench.media.hdf5 import FeatureFile
from tvr_bench.schema import Config

if TYPE_CHECKING:
    from tvr_bench.datamodules.types import Query

_LARGEST_LENS = 256 << 20  # bytes of the JSON file; MSR-VTT's 200,000 captions are below 2 MB
_NUMBERED = re.compile(r"video(\d{1,9})(?:\.\w+)?")


@dataclass(frozen=True)
class FeatureSpec:
    """Which files are read, by which names, and what shape is expected of them."""

    region_file: str | None
    region_key: str
    global_file: str | None
    global_key: str
    text_file: str | None
    lens_file: str | None
    frames: int
    regions: int
    region_dim: int
    global_dim: int
    text_dim: int
    words: int


def feature_spec(cfg: Config, frames: int) -> FeatureSpec:
    """Return the features that the configuration asks for, with `frames` per clip.

    Raises UserError where frames are to be changed that nobody decodes.
    """
    if cfg.trainer.shift or cfg.trainer.mirror:
        raise UserError(
            "features cannot be shifted or mirrored; set trainer.shift=0 trainer.mirror=false"
        )
    f = cfg.features
    return FeatureSpec(
        region_file=f.region_file,
        region_key=f.region_key,
        global_file=f.global_file,
        global_key=f.global_key,
        text_file=f.text_file,
        lens_file=f.lens_file,
        frames=frames,
        regions=f.regions,
        region_dim=f.region_dim,
        global_dim=f.global_dim,
        text_dim=f.text_dim,
        words=cfg.text.words,
    )


def check_files(spec: FeatureSpec) -> None:
    """Raise UserError for the first file that was not named or does not exist."""
    for key in ("region_file", "global_file", "text_file"):
        FeatureFile(f"features.{key}", getattr(spec, key))


class VideoFeatures:
    """Regions and whole frames by clip id; stands where a store of decoded frames would."""

    def __init__(self, clip_ids: Sequence[str], spec: FeatureSpec) -> None:
        """Find every clip in both files; raises UserError for the first that is missing."""
        self.frames = spec.frames
        self._region = _ClipTable(
            FeatureFile("features.region_file", spec.region_file),
            spec.region_key,
            clip_ids,
            (spec.frames, spec.regions, spec.region_dim),
        )
        self._global = _ClipTable(
            FeatureFile("features.global_file", spec.global_file),
            spec.global_key,
            clip_ids,
            (spec.frames, spec.global_dim),
        )
        self._ids = frozenset(clip_ids)

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self._ids

    def get(self, clip_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the pictures of a clip, of which there are none, and which are real."""
        return np.zeros((0, 1, 1, 3), np.uint8), np.zeros(0, bool)

    def features(self, clip_id: str) -> dict[str, np.ndarray]:
        """Return `region` [F, R, D], `global` [F, D] and `frame_mask` [F] of a clip.

        Raises UserError for numbers that are none.
        """
        return {
            "region": self._region.read(clip_id),
            "global": self._global.read(clip_id),
            "frame_mask": np.ones(self.frames, bool),
        }


class TextFeatures:
    """Word features by the position of a query in its split.

    With `lens_file` the file has the words of all captions of a clip one after the other, and the
    JSON says how many each caption has; the captions of a clip are those of the split, in its
    order. Without it there is one data set per query, named by its id.
    """

    def __init__(self, queries: Sequence[Query], spec: FeatureSpec) -> None:
        """Find the rows of every query; raises UserError for the first that is missing."""
        self.words, self.dim = spec.words, spec.text_dim
        self.file = FeatureFile("features.text_file", spec.text_file)
        if spec.lens_file is None:
            self._spans = [(q.id, 0, self._rows(q.id)) for q in queries]
        else:
            self._spans = self._stacked(queries, read_lens(Path(spec.lens_file)))

    def get(self, query: int) -> dict[str, np.ndarray]:
        """Return `text_features` [L, D], zero behind the caption, and `text_features_mask` [L].

        A caption of more than L words loses its end.
        """
        name, start, stop = self._spans[query]
        count = min(stop - start, self.words)
        features = np.zeros((self.words, self.dim), np.float32)
        features[:count] = self.file.read(name, slice(start, start + count))
        return {"text_features": features, "text_features_mask": np.arange(self.words) < count}

    def _rows(self, name: str) -> int:
        shape = self.file.shape(name)
        if len(shape) != 2 or shape[1] != self.dim or not shape[0]:
            raise UserError(
                f"{self.file.path} has '{name}' as {_by(shape)}, not words x {self.dim}; give "
                "another features.text_file or set features.text_dim"
            )
        return shape[0]

    def _stacked(
        self, queries: Sequence[Query], lens: dict[str, list[int]]
    ) -> list[tuple[str, int, int]]:
        """Return (clip id, first row, end) of every query."""
        captions: dict[str, list[int]] = {}
        for position, query in enumerate(queries):
            captions.setdefault(query.clip_id, []).append(position)
        spans: dict[int, tuple[str, int, int]] = {}
        for clip_id, positions in captions.items():
            ends = list(accumulate(lens.get(clip_id, [])))
            if len(ends) != len(positions):
                raise UserError(
                    f"features.lens_file has {len(ends)} captions of clip '{clip_id}' and the data "
                    f"set {len(positions)}; extract the features of exactly these captions"
                )
            if (rows := self._rows(clip_id)) != ends[-1]:
                raise UserError(
                    f"{self.file.path} has {rows} words of clip '{clip_id}' and "
                    f"features.lens_file {ends[-1]}; the two must be of one extraction"
                )
            for position, start, end in zip(positions, [0, *ends], ends, strict=False):
                spans[position] = (clip_id, start, end)
        return [spans[position] for position in range(len(queries))]


def read_lens(path: Path) -> dict[str, list[int]]:
    """Return the number of words of each caption by clip id; raises UserError for anything else."""
    if not path.is_file():
        raise UserError(f"features.lens_file={path} does not exist; give the JSON of word counts")
    if path.stat().st_size > _LARGEST_LENS:
        raise UserError(f"features.lens_file={path} is too large to be word counts; give another")
    try:
        lens = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"features.lens_file={path} is not readable JSON; give another") from error
    if not isinstance(lens, dict) or not all(_are_counts(value) for value in lens.values()):
        raise UserError(
            f"features.lens_file={path} must map a clip id to the word counts of its captions"
        )
    return lens


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 < n < 1 << 31 for n in value)


class _ClipTable:
    """Where the features of a clip stand in a file of either layout."""

    def __init__(
        self, file: FeatureFile, key: str, clip_ids: Sequence[str], shape: tuple[int, ...]
    ) -> None:
        self.file, self.key, self.by_row = file, key, file.holds(key)
        if self.by_row:
            found = file.shape(key)
            self._check(key, found[1:], shape)
            rows = found[0] if found else 0
            for clip_id in clip_ids:
                if _number(clip_id) >= rows:
                    raise UserError(f"{file.path} has {rows} videos and no '{clip_id}' among them")
        else:
            for clip_id in clip_ids:
                if not file.holds(clip_id):
                    raise UserError(
                        f"{file.path} has neither '{key}' nor clip '{clip_id}'; give another "
                        f"{file.key} or its key"
                    )
                self._check(clip_id, file.shape(clip_id), shape)

    def read(self, clip_id: str) -> np.ndarray:
        """Return the features of a clip."""
        if self.by_row:
            return self.file.read(self.key, _number(clip_id))
        return self.file.read(clip_id)

    def _check(self, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if found != expected:
            raise UserError(
                f"'{name}' of {self.file.path} is {_by(found)} per video, not {_by(expected)}; set "
                "video.frames, features.regions and the dims of features, or give another file"
            )


def _number(clip_id: str) -> int:
    """Return the row of a clip called `video<number>`, whatever its ending."""
    match = _NUMBERED.fullmatch(clip_id)
    if match is None:
        raise UserError(
            f"clip '{clip_id}' has no row in a file of all videos: call the clips video0, video1, "
            "..., or store one data set per clip id"
        )
    return int(match[1])


def _by(shape: Sequence[int]) -> str:
    return "x".join(str(n) for n in shape) or "a single number"
