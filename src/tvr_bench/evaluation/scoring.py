"""Scores of all pairs, made block by block in float32, and the ranks they give.

N texts, M videos of the gallery, V videos that could be read (V <= M), K pairs.
A video without features has no score: NaN in a matrix, and a miss for the queries that want it.

Every score comes from one call of `similarity` on one block of a fixed size, so that ranks
repeat exactly. Blocks of another size give the same ranks as far as the similarity itself keeps
a score the same in any block; matrix products may differ in the last bit. Where the score is a
dot product of one vector per item, `vector_scores` has ranks that no block can change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tvr_bench.errors import UserError
from tvr_bench.evaluation.counting import count_nan, count_rows
from tvr_bench.evaluation.ranks import Floats, Ranks, best_gold, rank_pairs
from tvr_bench.evaluation.top import Top

Features = dict[str, Tensor]  # every tensor is [items, ...]
Similarity = Callable[[Features, Features], Tensor]
BlockSize = Sequence[int] | int | None  # texts x videos; None is everything at once


class PairScores(Protocol):
    """The scores of all pairs of N texts and M videos, wherever they are."""

    @property
    def shape(self) -> tuple[int, int]:
        """N texts and M videos."""
        ...

    def gather(self, texts: Tensor, videos: Tensor) -> Tensor:
        """Return the scores of some pairs, float32 [K] on the CPU."""
        ...

    def best_of(self, group: Tensor, groups: int) -> Tensor:
        """Return the best score of each of G groups of texts with each video, float32 [G, M]."""
        ...

    def count(self, by_text: Tensor, by_video: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return how many scores are > and == by_text [N] per text, then by_video [M] per video."""
        ...


class BlockScores:
    """Scores that are made again each time they are asked for, one block at a time.

    `query_ms` (float64 [N], each text's share of the time its blocks took) adds up over all passes;
    `nan_scores` is that of the last count. `top`, if there is one, is told of every score by
    `matrix` and by `count`, one of which is to be called.
    """

    top: Top | None = None

    def __init__(
        self,
        similarity: Similarity,
        text: Features,
        video: Features,
        block: BlockSize = None,
        present: Tensor | None = None,
    ) -> None:
        """Take features of N texts and V videos; `present` bool [M] says which videos they are."""
        texts, videos = _items(text, "text"), _items(video, "video")
        present = torch.ones(videos, dtype=torch.bool) if present is None else present.cpu()
        if int(present.sum()) != videos:
            raise UserError(
                f"{int(present.sum())} videos are said to be present, but there are features of "
                f"{videos}; give one row of features per readable video"
            )
        self.similarity, self.text, self.video = similarity, text, video
        self.columns = torch.nonzero(present).flatten()
        self.shape = (texts, len(present))
        self.sides = _sides(block, texts, videos)
        self.nan_scores = 0
        self.query_ms: Floats = np.zeros(texts)

    @property
    def pairs_scored(self) -> int:
        """How many pairs there are to score, however often that is done."""
        return self.shape[0] * len(self.columns)

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """Yield the texts and the videos of each block; videos outside, as they are larger."""
        height, width = self.sides
        for left in range(0, len(self.columns), width):
            for top in range(0, self.shape[0], height):
                yield (
                    slice(top, min(top + height, self.shape[0])),
                    slice(left, min(left + width, len(self.columns))),
                )

    def score(self, texts: slice, videos: slice) -> Tensor:
        """Return the float32 scores of one block, [texts, videos], on the features' device."""
        start = time.perf_counter()
        with torch.inference_mode():
            scores = self.similarity(_part(self.text, texts), _part(self.video, videos)).float()
        if scores.is_cuda:
            torch.cuda.synchronize(scores.device)
        expected = (texts.stop - texts.start, videos.stop - videos.start)
        if tuple(scores.shape) != expected:
            raise UserError(
                f"similarity returned the shape {tuple(scores.shape)} for {expected[0]} texts and "
                f"{expected[1]} videos; it must return one score per pair, [N, M]"
            )
        self.query_ms[texts] += 1000 * (time.perf_counter() - start) / expected[0]
        return scores

    def matrix(self) -> Tensor:
        """Return all scores, float32 [N, M] on the CPU; NaN where a video is not present."""
        matrix = torch.full(self.shape, torch.nan)
        for texts, videos in self.blocks():
            scores = self.score(texts, videos)
            self._tell(texts, videos, scores)
            matrix[texts, self.columns[videos]] = scores.cpu()
        return matrix

    def best_of(self, group: Tensor, groups: int) -> Tensor:
        """Return the best score of each of G groups of texts with each video, float32 [G, M].

        `group` int64 [N] is each text's. NaN where no text of the group has a number.
        """
        best = torch.full((groups, self.shape[1]), -torch.inf)
        for texts, videos in self.blocks():
            _raise(best, group[texts], self.columns[videos], self.score(texts, videos).cpu())
        return best.masked_fill(best == -torch.inf, torch.nan)

    def gather(self, texts: Tensor, videos: Tensor) -> Tensor:
        """Return the scores of some pairs, float32 [K] on the CPU; blocks without one are skipped.

        `texts` and `videos` are positions, int64 [K].
        """
        position = torch.full((self.shape[1],), -1)
        position[self.columns] = torch.arange(len(self.columns))
        values = torch.full(texts.shape, torch.nan)
        order = torch.argsort(position[videos], stable=True)
        wanted = position[videos][order]
        for rows, columns in self.blocks():
            first, last = torch.searchsorted(wanted, torch.tensor([columns.start, columns.stop]))
            here = order[int(first) : int(last)]
            here = here[(texts[here] >= rows.start) & (texts[here] < rows.stop)]
            if len(here):
                scores = self.score(rows, columns).cpu()
                inner = (texts[here] - rows.start, position[videos[here]] - columns.start)
                values[here] = scores[inner]
        return values

    def count(self, by_text: Tensor, by_video: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return how many scores are > and == by_text [N] per text, then by_video [M] per video.

        Each int64, on the CPU; the blocks are thrown away.
        """
        device = next(iter(self.text.values())).device
        by_text, by_video = by_text.to(device), by_video[self.columns].to(device)
        found_texts = torch.zeros(2, self.shape[0], dtype=torch.int64, device=device)
        found_videos = torch.zeros(2, len(self.columns), dtype=torch.int64, device=device)
        self.nan_scores = 0
        for texts, videos in self.blocks():
            scores = self.score(texts, videos)
            self._tell(texts, videos, scores)
            found_texts[:, texts] += torch.stack(count_rows(scores, by_text[texts]))
            found_videos[:, videos] += torch.stack(count_rows(scores.T, by_video[videos]))
            self.nan_scores += count_nan(scores)
        gallery = torch.zeros(2, self.shape[1], dtype=torch.int64)
        gallery[:, self.columns] = found_videos.cpu()
        found_texts = found_texts.cpu()
        return found_texts[0], found_texts[1], gallery[0], gallery[1]

    def _tell(self, texts: slice, videos: slice, scores: Tensor) -> None:
        if self.top is not None:
            self.top.add(texts, self.columns[videos], scores)


class MatrixScores:
    """Scores that lie in a matrix [N, M]."""

    def __init__(self, matrix: Tensor) -> None:
        """Take the matrix as it is, without a copy."""
        self.matrix = matrix
        self.shape = (matrix.shape[0], matrix.shape[1])

    def best_of(self, group: Tensor, groups: int) -> Tensor:
        """Return the best score of each of G groups of texts with each video, float32 [G, M].

        `group` int64 [N] is each text's. NaN where no text of the group has a number.
        """
        best = torch.full((groups, self.shape[1]), -torch.inf)
        _raise(best, group, torch.arange(self.shape[1]), self.matrix.float().cpu())
        return best.masked_fill(best == -torch.inf, torch.nan)

    def gather(self, texts: Tensor, videos: Tensor) -> Tensor:
        """Return the scores of some pairs, float32 [K] on the CPU."""
        return self.matrix[texts, videos].float().cpu()

    def count(self, by_text: Tensor, by_video: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return how many scores are > and == by_text [N] per text, then by_video [M] per video."""
        return *count_rows(self.matrix, by_text), *count_rows(self.matrix.T, by_video)


def rank_both(
    scores: PairScores, gold: Tensor, values: Tensor | None = None
) -> tuple[Ranks, Ranks]:
    """Return the ranks text-to-video [N] and video-to-text [M], each direction on its own.

    `gold` int64 [N] is the video of each text, so all texts of a video are right for it;
    `values` [N] their scores, where they are known. A video without a text has the last rank.
    """
    texts, videos = scores.shape
    values = scores.gather(torch.arange(texts), gold) if values is None else values
    text_best, text_ties = best_gold(values, torch.arange(texts), texts)
    video_best, video_ties = best_gold(values, gold, videos)
    counts = scores.count(text_best, video_best)
    return (
        Ranks.from_counts(counts[0], counts[1], text_ties, videos),
        Ranks.from_counts(counts[2], counts[3], video_ties, texts),
    )


def rank_grouped(scores: PairScores, gold: Tensor) -> Ranks:
    """Return the ranks video-to-text [M] where a clip's texts compete as one, by their best score.

    `gold` int64 [N] is the video of each text. This is how CLIP4Clip and its kin rank; a video
    without a text has the last rank.
    """
    clips, group = gold.unique(return_inverse=True)
    best = scores.best_of(group, len(clips))
    return rank_pairs(best.T, clips, torch.arange(len(clips)))


def matrix_gb(texts: int, videos: int) -> float:
    """Return the size of a float32 matrix of scores in 10^9 bytes."""
    return texts * videos * 4 / 1e9


def _sides(block: BlockSize, texts: int, videos: int) -> tuple[int, int]:
    """Return the texts and videos of one block, at least 1 x 1."""
    if block is None:
        return max(1, texts), max(1, videos)
    height, width = (block, block) if isinstance(block, int) else block
    if min(height, width) < 1:
        raise UserError(f"a block of {height} x {width} pairs is empty; use at least 1 x 1")
    return height, width


def _items(features: Features, side: str) -> int:
    """Return how many items the features describe; UserError where their tensors disagree."""
    lengths = {name: len(tensor) for name, tensor in features.items()}
    if len(set(lengths.values())) != 1:
        raise UserError(f"{side} features must share their first dimension, but have {lengths}")
    return next(iter(lengths.values()))


def _raise(best: Tensor, group: Tensor, videos: Tensor, scores: Tensor) -> None:
    """Raise `best` [G, M] to the scores [n, m] of texts of `group` [n] with `videos` [m]."""
    numbers = scores.masked_fill(scores.isnan(), -torch.inf)
    found = torch.full((len(best), len(videos)), -torch.inf)
    found.scatter_reduce_(0, group[:, None].expand_as(numbers), numbers, "amax")
    best[:, videos] = torch.maximum(best[:, videos], found)


def _part(features: Features, items: slice) -> Features:
    return {name: tensor[items] for name, tensor in features.items()}
