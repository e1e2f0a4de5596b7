"""Ranks of items whose score is the dot product of one vector each: exact, without a matrix.

The ranks are those of `exact_scores`, whatever the block, the first pass, the number of threads
and the device are.

N texts, M videos of the gallery, V videos that could be read (V <= M), D width, K pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tvr_bench.errors import UserError
from tvr_bench.evaluation.exact import exact_scores
from tvr_bench.evaluation.first_pass import FirstPass, choose_pass, full_precision
from tvr_bench.evaluation.ranks import Floats, Ranks, best_gold
from tvr_bench.evaluation.vector_walk import Walk, Wanted

Vectors = Callable[[dict[str, Tensor]], Tensor]
_CPU_BLOCK = (512, 1024)  # 2 MB of scores, which stay in cache
_GPU_BLOCK = (8192, 8192)


class VectorScores:
    """The scores of all pairs of N texts and M videos, as vectors.

    `shape` is (N, M) and `columns` [V] the videos that have a vector. After `rank`, `query_ms`
    float64 [N] is each text's share of the time and `nan_scores` how many scores are NaN.
    """

    def __init__(
        self,
        text: Tensor,
        video: Tensor,
        present: Tensor | None = None,
        *,
        first_pass: str | None = None,
        block: tuple[int, int] | None = None,
    ) -> None:
        """Take vectors [N, D] and [V, D]; `present` bool [M] says which videos they are.

        `first_pass` (bf16, fp32, fp64) and `block` (texts, videos) change the speed and nothing
        else. Raises UserError where the vectors do not fit.
        """
        for name, side in (("texts", text), ("videos", video)):
            if side.ndim != 2 or side.shape[1] != text.shape[-1] or not side.numel():
                raise UserError(
                    f"score_vectors returned the shape {tuple(side.shape)} for {name}; it must "
                    "return one vector per item, [n, D], with the same D for texts and videos"
                )
        self.text, self.video = (side.detach().float().contiguous() for side in (text, video))
        present = torch.ones(len(video), dtype=torch.bool) if present is None else present.cpu()
        if int(present.sum()) != len(video):
            raise UserError(
                f"{int(present.sum())} videos are said to be present, but there are vectors of "
                f"{len(video)}; give one vector per readable video"
            )
        self.columns = torch.nonzero(present).flatten()
        self.shape = (len(text), len(present))
        self.position = torch.full((len(present),), -1)  # among the readable videos
        self.position[self.columns] = torch.arange(len(video))
        self.first_pass = first_pass
        self.block = block or (_CPU_BLOCK if text.device.type == "cpu" else _GPU_BLOCK)
        self.nan_scores = 0
        self.query_ms: Floats = np.zeros(len(text))

    @property
    def pairs_scored(self) -> int:
        """How many scores there are."""
        return len(self.text) * len(self.video)

    def gather(self, texts: Tensor, videos: Tensor) -> Tensor:
        """Return the exact scores of some pairs, float64 [K] on the CPU; NaN for no video."""
        place = self.position[videos]
        there = place >= 0
        scores = torch.full(texts.shape, torch.nan, dtype=torch.float64)
        pairs = (part[there].to(self.text.device) for part in (texts, place))
        with torch.inference_mode():
            scores[there] = exact_scores(self.text, self.video, *pairs).cpu()
        return scores

    def rank(
        self, gold: Tensor, values: Tensor | None = None, *, grouped: bool = False
    ) -> tuple[Ranks, Ranks]:
        """Return the ranks text-to-video [N] and video-to-text [M].

        `gold` int64 [N] is the video of each text, so all texts of a video are right for it, and
        the best counts; `values` [N] their exact scores, where they are known. `grouped`: the
        texts of a clip compete as one, by their best score. A video without a text has the last
        rank.
        """
        texts, videos = self.shape
        values = self.gather(torch.arange(texts), gold) if values is None else values
        text_best, text_ties = best_gold(values, torch.arange(texts), texts)
        if grouped:  # the best of a clip's scores, of which -inf is no number
            values = values.masked_fill(values == -torch.inf, torch.nan)
        video_best, video_ties = best_gold(values, gold, videos)
        order = torch.argsort(gold, stable=True) if grouped else torch.arange(texts)
        sizes = gold.unique(return_counts=True)[1] if grouped else None
        walk = self._walk(gold[order], text_best[order], video_best, order, sizes)
        above, level = (torch.zeros(2, count, dtype=torch.int64) for count in self.shape)
        above[:, order] = torch.stack([walk.by_text.above, walk.by_text.level]).cpu()
        level[:, self.columns] = torch.stack([walk.by_video.above, walk.by_video.level]).cpu()
        self.query_ms[order.numpy()] = walk.query_ms
        self.nan_scores = walk.nan_scores
        reached, rivals = video_ties, texts
        if sizes is not None:
            reached, rivals = video_ties.clamp_max(1), len(sizes)
        return (
            Ranks.from_counts(above[0], above[1] + text_ties, text_ties, videos),
            Ranks.from_counts(level[0], level[1] + reached, reached, rivals),
        )

    def matrix(self) -> Tensor:
        """Return all scores, float32 [N, M] on the CPU; NaN where a video has no vector."""
        matrix = torch.full(self.shape, torch.nan)
        height, width = self.block
        made = FirstPass("fp64", self.text, self.video, height * width)
        with torch.inference_mode():
            for left in range(0, len(self.video), width):
                columns = slice(left, min(left + width, len(self.video)))
                for top in range(0, len(self.text), height):
                    rows = slice(top, min(top + height, len(self.text)))
                    scores = made.scores(rows, columns)
                    matrix[rows, self.columns[columns]] = scores.float().cpu()
        return matrix

    def _walk(
        self, gold: Tensor, best: Tensor, back: Tensor, order: Tensor, sizes: Tensor | None
    ) -> Walk:
        """Return what a walk in this order of texts counted."""
        device, moved = self.text.device, not torch.equal(order, torch.arange(len(order)))
        text = self.text[order.to(device)] if moved else self.text
        wanted = Wanted(
            column=self.position[gold].to(device),
            text_limit=best.to(device),
            video_limit=back[self.columns].to(device),
            sizes=None if sizes is None else sizes.to(device),
        )
        with torch.inference_mode(), full_precision():
            kind = choose_pass(text, self.video, self.first_pass)
            walk = Walk(text, self.video, wanted, kind, self.block)
            walk.run()
        return walk


def rank_vectors(
    text: Tensor,
    video: Tensor,
    gold: Tensor,
    *,
    present: Tensor | None = None,
    grouped: bool = False,
) -> tuple[Ranks, Ranks]:
    """Return the ranks text-to-video [N] and video-to-text [M] of vectors [N, D] and [V, D].

    The arguments are those of `VectorScores` and of its `rank`.
    """
    return VectorScores(text, video, present).rank(gold, grouped=grouped)
