"""The walk over all blocks of two sets of vectors that counts both directions at once.

A fast first pass decides every pair whose score is further from its limit than the pass can be
wrong; the others are scored exactly. Where a pass leaves too many pairs of a block undecided, the
next more precise one takes the block. So no count depends on the block, the pass, the number of
threads or the device.

N texts, V videos, G clips that have texts, K pairs, n and m the texts and videos of a block.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tvr_bench.evaluation.counting import count_nan
from tvr_bench.evaluation.exact import ExactPass, exact_scores
from tvr_bench.evaluation.first_pass import PASSES, FirstPass
from tvr_bench.evaluation.ranks import Floats
from tvr_bench.evaluation.undecided import Block, Direction, Limits

# Share of a block's pairs above which the next pass costs less than scoring the pairs exactly.
_MOST = {"bf16": 1 / 256, "fp32": 1 / 64, "fp64": 1 / 64}


@dataclass(frozen=True)
class Wanted:
    """The right pairs of a walk and their scores.

    `column` int64 [N] is each text's video among the V, -1 where it could not be read; these
    pairs take no part. `text_limit` and `video_limit`, float64 [N] and [V], are the best exact
    scores of right pairs. With `sizes` int64 [G] the texts of a clip, which lie together, compete
    for a video as one, by their best score.
    """

    column: Tensor
    text_limit: Tensor
    video_limit: Tensor
    sizes: Tensor | None = None


@dataclass(frozen=True)
class _Step:
    """A pass with its limits; `most` is the share of pairs that it may leave undecided."""

    scores: Callable[[slice, slice], Tensor]
    text: Limits
    video: Limits
    most: float | None  # None where scores are exact


class Walk:
    """Counts of both directions: `by_text` and `by_video` are complete after `run`.

    `query_ms` float64 [N] is each text's share of the time, `nan_scores` how many scores are NaN.
    """

    def __init__(
        self, text: Tensor, video: Tensor, wanted: Wanted, kind: str, block: tuple[int, int]
    ) -> None:
        """Take vectors float32 [N, D] and [V, D], the first pass and the block's texts x videos."""
        self.text, self.video, self.wanted = text, video, wanted
        self.rows, self.columns = self._cut(block)
        self.kinds = PASSES[PASSES.index(kind) :]
        self.by_text = Direction(wanted.text_limit, self._score)
        back = self._score_back if wanted.sizes is None else self._score_clips
        self.by_video = Direction(wanted.video_limit, back)
        self.nan_scores = 0
        self.query_ms: Floats = np.zeros(len(text))
        self._start = 0
        self._steps: dict[int, _Step] = {}
        self.area = max(_length(rows) for rows in self.rows) * _length(self.columns[0])
        self._flags = text.new_empty(self.area)

    def run(self) -> None:
        """Score every pair."""
        for columns in self.columns:
            for place, rows in enumerate(self.rows):
                start = time.perf_counter()
                self._take(place, columns, self._start)
                took = 1000 * (time.perf_counter() - start)
                self.query_ms[rows] += took / _length(rows)
        self.by_text.settle()
        self.by_video.settle()

    def _take(self, place: int, columns: slice, number: int) -> None:
        """Count one block with a pass, or where that leaves too much undecided with the next."""
        step, rows = self._step(number), self.rows[place]
        scores = step.scores(rows, columns)
        if number == 0 and self.kinds[0] == "fp64":  # vectors that are finite have no NaN
            self.nan_scores += count_nan(scores)
        self._leave_out(scores, rows, columns)
        forth = Block(scores, step.text.part(rows), 1, self._flags)
        first = rows.start if self.wanted.sizes is None else self._clips[place].start
        best = scores if self.wanted.sizes is None else self._best(scores, rows, place)
        back = Block(best, step.video.part(columns), 0, self._flags)
        if step.most is not None and forth.undecided + back.undecided > step.most * scores.numel():
            if self.kinds[number] == "bf16":  # one block says what the next ones are like
                self._start = number + 1
            self._take(place, columns, number + 1)
            return
        self.by_text.add(forth, rows, columns.start, step.most is None)
        self.by_video.add(back, columns, first, step.most is None)

    def _step(self, number: int) -> _Step:
        """Return the pass of this number, made when it is first needed; the last one is exact."""
        if number not in self._steps:
            limits = self.wanted.text_limit, self.wanted.video_limit
            if number < len(self.kinds):
                made = FirstPass(self.kinds[number], self.text, self.video, self.area)
                errors = made.text_error, made.video_error
                bounds = [
                    Limits(made.limit(limit - error), made.limit(limit + error))
                    for limit, error in zip(limits, errors, strict=True)
                ]
                step = _Step(made.scores, bounds[0], bounds[1], _MOST[self.kinds[number]])
            else:
                exact = ExactPass(self.text, self.video)
                bounds = [Limits(limit, limit) for limit in limits]
                step = _Step(exact.scores, bounds[0], bounds[1], None)
            self._steps[number] = step
        return self._steps[number]

    def _leave_out(self, scores: Tensor, rows: slice, columns: slice) -> None:
        """Make the scores of right pairs NaN: they compete with nothing."""
        column = self.wanted.column[rows]
        here = ((column >= columns.start) & (column < columns.stop)).nonzero().flatten()
        cell = here * scores.shape[1] + column[here] - columns.start
        scores.view(-1).index_fill_(0, cell, torch.nan)

    def _best(self, scores: Tensor, rows: slice, place: int) -> Tensor:
        """Return the best score of each clip of the block's texts, [clips, m]; NaN without one."""
        clips = self._clips[place]
        numbers = scores.nan_to_num_(-torch.inf, torch.inf, -torch.inf)
        best = scores.new_full((_length(clips), scores.shape[1]), -torch.inf)
        line = (self._clip[rows] - clips.start)[:, None].expand_as(numbers)
        best.scatter_reduce_(0, line, numbers, "amax")
        return best.masked_fill_(best == -torch.inf, torch.nan)

    def _score(self, texts: Tensor, videos: Tensor) -> Tensor:
        return exact_scores(self.text, self.video, texts, videos)

    def _score_back(self, videos: Tensor, texts: Tensor) -> Tensor:
        return self._score(texts, videos)

    def _score_clips(self, videos: Tensor, clips: Tensor) -> Tensor:
        """Return the best exact score of all texts of a clip with a video, float64 [K]."""
        assert self.wanted.sizes is not None
        sizes = self.wanted.sizes[clips]
        pair = torch.arange(len(clips), device=clips.device).repeat_interleave(sizes)
        first = (self.wanted.sizes.cumsum(0) - self.wanted.sizes)[clips]
        offset = torch.arange(len(pair), device=clips.device) - (sizes.cumsum(0) - sizes)[pair]
        scores = self._score(first[pair] + offset, videos[pair])
        best = scores.new_full((len(clips),), -torch.inf)
        best.scatter_reduce_(0, pair, scores.nan_to_num(-torch.inf, torch.inf, -torch.inf), "amax")
        return best.masked_fill(best == -torch.inf, torch.nan)

    def _cut(self, block: tuple[int, int]) -> tuple[list[slice], list[slice]]:
        """Return the texts and the videos of the blocks; a clip's texts stay in one block."""
        height, width = block
        if self.wanted.sizes is None:
            return _slices(len(self.text), height), _slices(len(self.video), width)
        sizes = self.wanted.sizes.tolist()
        edges, firsts, end = [0], [0], 0
        for clip, size in enumerate(sizes):
            if end + size - edges[-1] > height and end > edges[-1]:
                edges.append(end)
                firsts.append(clip)
            end += size
        self._clips = [slice(*pair) for pair in pairwise([*firsts, len(sizes)])]
        place = torch.arange(len(sizes), device=self.text.device)
        self._clip = place.repeat_interleave(self.wanted.sizes)
        rows = [slice(*pair) for pair in pairwise([*edges, end])]
        tallest = max(_length(part) for part in rows)
        return rows, _slices(len(self.video), max(1, min(width, height * width // tallest)))


def _slices(items: int, size: int) -> list[slice]:
    return [slice(at, min(at + size, items)) for at in range(0, items, size)]


def _length(part: slice) -> int:
    return int(part.stop - part.start)
