"""Text-condition against a loop over pairs and tokens."""

from __future__ import annotations

import math

import pytest
import torch

from tvr_bench.models.layers.condition import TextCondition
from tvr_bench.models.layers.masking import attendable, masked_mean

N, M, T, D = 3, 4, 5, 6


def _sample() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(N, D, generator=generator, dtype=torch.float64)
    tokens = torch.randn(M, T, D, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 0]]).bool()
    return text, tokens, mask


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("features", ["raw", "unit"])
def test_equals_a_loop(rescale: bool, features: str) -> None:
    text, tokens, mask = _sample()
    factors = TextCondition(0.7, rescale, features)(text, tokens, mask)
    for m in range(M):
        for n in range(N):
            expected = [0.0] * T
            for i in range(T):
                if mask[m, i]:
                    dot = float(text[n] @ tokens[m, i])
                    if features == "unit":
                        dot /= float(text[n].norm() * tokens[m, i].norm())
                    expected[i] = math.exp(dot / 0.7)
            count = int(mask[m].sum()) if rescale else 1
            expected = [count * e / sum(expected) for e in expected]
            assert factors[m, :, n].tolist() == pytest.approx(expected, abs=1e-12)


def test_matched_is_the_diagonal() -> None:
    text, tokens, mask = _sample()
    condition = TextCondition(0.5)
    pairs = condition(text, tokens[:N], mask[:N])
    assert torch.equal(
        pairs.diagonal(dim1=0, dim2=2).T, condition.matched(text, tokens[:N], mask[:N])
    )


def test_low_temperature_keeps_one_token_and_high_keeps_all() -> None:
    text, tokens, mask = _sample()
    sharp = TextCondition(1e-3)(text, tokens, mask)
    flat = TextCondition(1e6)(text, tokens, mask)
    assert torch.allclose(sharp.amax(1), mask.sum(1, keepdim=True).double())
    assert torch.allclose(flat, mask[..., None].double(), atol=1e-4)


def test_masks_open_only_rows_without_any_token() -> None:
    mask = torch.tensor([[True, False], [False, False]])
    assert attendable(mask).tolist() == [[True, False], [True, True]]
    mean = masked_mean(torch.tensor([[[2.0], [8.0]], [[3.0], [5.0]]]), mask)
    assert mean.tolist() == [[2.0], [0.0]]
