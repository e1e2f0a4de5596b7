"""The parts of EERCF's fused score: for every pair of a block, for aligned pairs, for one video.

Nothing is made per pair but products of the text with a video's tokens. In multiply-adds a pair
costs D for the video, 2FD + 2FF for frames and their TIB and JD for patches; the rest was done when
its text and its video were encoded. N texts, M videos, F frames, P patches, J = F * P, D width. A
part is [N, M] with `tib.pair_products`, and [N] where row i of the texts meets row i of the videos
(`tib.aligned_products`) or one video without the dimension M (`tib.products_of_one`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tvr_bench.models.layers import tib
from tvr_bench.models.layers.levels import FRAME, PATCH, TIB_FRAME, TIB_PATCH, VIDEO, Weights

Features = dict[str, Tensor]
Products = Callable[[Tensor, Tensor], Tensor]
_RECOMPUTE = 1 << 26  # products of text and patch above which training does not keep them


@dataclass(frozen=True)
class Parts:
    """The parts of the score; the fields are keys of `model.*`.

    They are read from the configuration once, not for every video of a search: that took a fifth
    of its time.
    """

    tau_frame: float
    tau_patch: float
    tib_tau_frame: float
    tib_tau_patch: float
    tib_detach: bool
    pair_block: int

    @classmethod
    def of(cls, options: Any) -> Parts:
        """Return the parts as the keys `model.*` say."""
        return cls(**{name: options[name] for name in cls.__dataclass_fields__})

    def scores(
        self,
        frame_map: Tensor,
        text: Features,
        video: Features,
        wanted: Weights,
        products: Products = tib.pair_products,
    ) -> dict[str, Tensor]:
        """Return the wanted parts in their order, each [N, M] or, see above, [N].

        `frame_map` [F, F] turns the weak weights of frames; the features are those of `Eercf`, in
        one precision.
        """
        found = {}
        if VIDEO in wanted:
            found[VIDEO] = products(text["query"], video["video"][..., None, :])[..., 0]
        if wanted.keys() & {FRAME, TIB_FRAME}:
            found |= self._frames(frame_map, text["text"], video, wanted, products)
        if wanted.keys() & {PATCH, TIB_PATCH}:
            found |= self._patches(text["text"], video, wanted, products)
        return {part: found[part] for part in wanted}

    def adapted(self, text: Tensor, video: Features, parts: set[str]) -> Features:
        """Return the TIB outputs `tib_frame`, `tib_patch` of matched pairs, unit vectors [B, D]."""
        found = {}
        if TIB_FRAME in parts:
            seen = tib.aligned_products(text, video["frames"])
            weights = self._gate(seen, self.tib_tau_frame, video["closed"])
            found[TIB_FRAME] = tib.gated_tokens(weights, video["temporal"])
        if TIB_PATCH in parts:
            seen = tib.aligned_products(text, video["patches"])
            weights = self._gate(seen, self.tib_tau_patch, _closed_patches(video))
            found[TIB_PATCH] = tib.gated_tokens(weights, video["patches"])
        return found

    def _frames(
        self, frame_map: Tensor, text: Tensor, video: Features, wanted: Weights, products: Products
    ) -> Features:
        found, closed = {}, video["closed"]
        seen = products(text, video["frames"])
        if FRAME in wanted:
            weights = tib.text_gate(seen, self.tau_frame, closed) @ frame_map
            found[FRAME] = tib.weighted_sum(weights, seen)
        if TIB_FRAME in wanted:
            weights = self._gate(seen, self.tib_tau_frame, closed)
            values = products(text, video["temporal"])
            found[TIB_FRAME] = tib.gated_cosine(weights, values, video["gram"])
        return found

    def _patches(
        self, text: Tensor, video: Features, wanted: Weights, products: Products
    ) -> Features:
        """Return the patch parts, made of a few videos at a time."""
        names = [part for part in (PATCH, TIB_PATCH) if part in wanted]
        tokens, closed = video["patches"], _closed_patches(video)

        def block(text: Tensor, tokens: Tensor, closed: Tensor) -> tuple[Tensor, ...]:
            seen = products(text, tokens)
            found = []
            if PATCH in names:
                found.append(tib.weighted_sum(tib.text_gate(seen, self.tau_patch, closed), seen))
            if TIB_PATCH in names:
                weights = self._gate(seen, self.tib_tau_patch, closed)
                found.append(tib.gated_cosine_of_sum(weights, seen, tokens))
            return tuple(found)

        size = max(1, self.pair_block // len(text))
        large = torch.is_grad_enabled() and len(text) * closed.numel() > _RECOMPUTE
        if products is not tib.pair_products or (len(tokens) <= size and not large):
            return dict(zip(names, block(text, tokens, closed), strict=True))
        blocks = [
            checkpoint(block, text, *one, use_reentrant=False, preserve_rng_state=False)
            if large
            else block(text, *one)
            for one in zip(tokens.split(size), closed.split(size), strict=True)
        ]
        parts = [torch.cat(part, -1) for part in zip(*blocks, strict=True)]
        return dict(zip(names, parts, strict=True))

    def _gate(self, seen: Tensor, tau: float, closed: Tensor) -> Tensor:
        weights = tib.text_gate(seen, tau, closed)
        return weights.detach() if self.tib_detach else weights


def weighted(weights: Weights, parts: Features) -> Tensor:
    """Return the weighted sum of the parts, of their shape."""
    (first, weight), *others = weights.items()
    score = weight * parts[first]
    for part, weight in others:
        score = score.add(parts[part], alpha=weight)
    return score


def _closed_patches(video: Features) -> Tensor:
    """Return bool [M, J] or [J], whether a patch is of a frame that gets no weight."""
    closed = video["closed"]
    patches = video["patches"].shape[-2] // closed.shape[-1]
    return closed[..., None].expand(*closed.shape, patches).flatten(-2)
