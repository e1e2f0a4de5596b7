"""EERCF's levels and how much each of them counts, in the losses and in the score.

Five parts make a score: the video as a whole, its frames and patches weighed by the text, and the
outputs of the text-gated interaction block (TIB) on frames and on patches.
"""

from __future__ import annotations

from typing import Any

from tvr_bench.errors import UserError

VIDEO, FRAME, PATCH, TIB_FRAME, TIB_PATCH = "video", "frame", "patch", "tib_frame", "tib_patch"
PARTS = (VIDEO, FRAME, PATCH, TIB_FRAME, TIB_PATCH)  # the order of `rerank_weights`
Weights = dict[str, float]  # by part, in the order of PARTS, none of them zero
_GRANULARITY = {
    "video": {VIDEO},
    "frame": {VIDEO, FRAME, TIB_FRAME},
    "patch": set(PARTS),
}
_RELEASED = dict(zip(PARTS, (0.5, 0.8, 0.2, 0.2, 0.0), strict=True))


def trained_weights(options: Any) -> tuple[Weights, Weights]:
    """Return the weights inside the weak and inside the strong contrastive loss."""
    weak = {VIDEO: options.weak_video, FRAME: options.weak_frame, PATCH: options.weak_patch}
    strong = {TIB_FRAME: options.strong_frame, TIB_PATCH: options.strong_patch}
    return _kept(options, weak), _kept(options, strong) if options.strong else {}


def pearson_weights(options: Any) -> Weights:
    """Return the weights of the levels in the Pearson constraint; none where it is off."""
    weights = {
        VIDEO: options.pearson_video,
        TIB_FRAME: options.pearson_frame,
        TIB_PATCH: options.pearson_patch,
    }
    return _kept(options, weights) if options.pearson else {}


def scoring_weights(options: Any, weak: Weights, strong: Weights) -> Weights:
    """Return the weights of the fused score; raises UserError where none is left.

    `weak` and `strong` are what `trained_weights` returns, for `rerank=tied`.
    """
    if options.rerank == "released":
        return _kept(options, _RELEASED)
    if options.rerank == "tied":
        tied = {part: options.weak * weight for part, weight in weak.items()}
        return _kept(options, tied | {part: options.strong * w for part, w in strong.items()})
    if len(options.rerank_weights) != len(PARTS):
        raise UserError(f"model.rerank_weights must be five numbers, of {', '.join(PARTS)}")
    weights = _kept(options, dict(zip(PARTS, options.rerank_weights, strict=True)))
    if not weights:
        raise UserError(
            "no part is left in the score; give model.rerank_weights a number above 0 that "
            f"model.granularity={options.granularity} keeps"
        )
    return weights


def _kept(options: Any, weights: Weights) -> Weights:
    """Return the weights that are not zero, of the parts that the granularity has."""
    parts = _GRANULARITY[options.granularity]
    return {part: weights[part] for part in PARTS if part in parts and weights.get(part)}
