"""The scores of an opaque similarity as one matrix, or only their ranks.

N texts, M videos of the gallery.
"""

from __future__ import annotations

from torch import Tensor

from tvr_bench.errors import UserError
from tvr_bench.evaluation.ranks import Ranks
from tvr_bench.evaluation.scoring import (
    BlockScores,
    BlockSize,
    Features,
    Similarity,
    matrix_gb,
    rank_both,
)


def score_matrix(
    similarity: Similarity,
    text: Features,
    video: Features,
    block: BlockSize = None,
    max_gb: float | None = None,
    present: Tensor | None = None,
) -> Tensor:
    """Return the scores of all pairs, float32 [N, M] on the CPU.

    `block` is (texts, videos) per call of `similarity`, `present` bool [M] marks the videos that
    have features: the others are columns of NaN. Raises UserError where the matrix would exceed
    `max_gb` (10^9 bytes).
    """
    scores = BlockScores(similarity, text, video, block, present)
    if max_gb is not None and matrix_gb(*scores.shape) > max_gb:
        raise UserError(
            f"{scores.shape[0]} x {scores.shape[1]} scores take {matrix_gb(*scores.shape):.2f} GB, "
            f"but {max_gb:g} are allowed; raise eval.max_matrix_gb or keep ranks only"
        )
    return scores.matrix()


def stream_ranks(
    similarity: Similarity,
    text: Features,
    video: Features,
    gold: Tensor,
    block: BlockSize = None,
    present: Tensor | None = None,
) -> tuple[Ranks, Ranks]:
    """Return the ranks text-to-video [N] and video-to-text [M], keeping no matrix.

    Two passes: the scores of the right pairs first, then counts. `gold` int [N] is the video of
    each text; a video without a text must be left out of the second ranks by the caller.
    """
    return rank_both(BlockScores(similarity, text, video, block, present), gold)
