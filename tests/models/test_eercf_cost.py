"""What EERCF's scores cost: memory, recomputation and FLOPs.

N texts, M videos, F frames, P patches, J = F * P, D width.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.eercf_case import (
    FRAMES,
    D,
    M,
    N,
    P,
    encode,
    make_batch,
    make_model,
    take,
    total_loss,
)
from models.largest import Largest
from tvr_bench.evaluation.efficiency import count_flops
from tvr_bench.models.layers import fused


def test_no_tensor_has_a_width_and_tokens_for_every_pair() -> None:
    texts = 32  # so many that N*M*F*D is the largest of all sizes
    model, batch = make_model(), make_batch(texts)
    text, video = encode(model, batch)
    limit = texts * M * FRAMES * D
    assert limit > 2 * max(texts * M * FRAMES * P, M * FRAMES * P * D)
    for score in (model.similarity, make_model(tib_train="pairwise").training_scores):
        with Largest() as seen:
            score(text, video)
        assert 0 < seen.elements < limit / 2


@pytest.mark.parametrize("block", [1, 2 * M, 10**6])
def test_blocks_and_recomputation_change_neither_scores_nor_gradients(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "_RECOMPUTE", 0 if block < 10**6 else 10**9)

    def gradient(**options: Any) -> tuple[Tensor, Tensor]:
        model, batch = make_model(strong_patch=0.5, tib_train="pairwise", **options), make_batch()
        batch["frames"].requires_grad_()
        total = total_loss(model, *encode(model, batch))
        total.backward()
        assert batch["frames"].grad is not None
        return total.detach(), batch["frames"].grad

    for found, expected in zip(gradient(pair_block=block), gradient(), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


def test_the_cost_of_a_pair_is_that_of_the_formula() -> None:
    """Multiply-adds: D for the video, 2FD + 2FF for frames and their TIB, JD for patches."""
    model = make_model()
    with torch.no_grad():
        text, video = encode(model, make_batch(N))
        per_pair = D + 2 * FRAMES * D + 2 * FRAMES**2 + FRAMES * P * D
        assert count_flops(lambda: model.similarity(text, video)) == 2 * N * M * per_pair
        one = take(video, [0])
        assert count_flops(lambda: model.rerank(text, one)) == 2 * N * per_pair
        pairs = take(text, [0, 1, 2]), take(video, [4, 4, 2])
        aligned = 2 * 3 * per_pair
        assert count_flops(lambda: model.rerank(*pairs)) == aligned
