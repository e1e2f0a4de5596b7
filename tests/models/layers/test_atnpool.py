"""Attention pooling against its sums, channel by channel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tvr_bench.models.layers.atnpool import AttentionPool, build_pool

BATCH, TOKENS, WIDTH, HEADS = 3, 4, 6, 2
KINDS = ["attention", "mean", "max"]


def _pool() -> AttentionPool:
    generator = torch.Generator().manual_seed(0)
    pool = AttentionPool(WIDTH).double()
    for parameter in pool.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).double()
    return pool


def _tokens() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, TOKENS, WIDTH, generator=generator, dtype=torch.float64)


def _mask() -> Tensor:
    return torch.arange(TOKENS) < torch.tensor([[TOKENS], [1], [3]])


def _gelu(x: float) -> float:
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def _slow(pool: AttentionPool, tokens: list[list[float]]) -> list[float]:
    """Return the pooled vector of valid tokens."""
    out = []
    share = WIDTH // HEADS
    for channel in range(WIDTH):
        head, column = divmod(channel, share)
        logits = []
        for token in tokens:
            hidden = [
                _gelu(
                    sum(token[d] * pool.weight1[head, d, e].item() for d in range(WIDTH))
                    + pool.bias1[head, e].item()
                )
                for e in range(WIDTH)
            ]
            logits.append(
                sum(hidden[e] * pool.weight2[head, e, column].item() for e in range(WIDTH))
                + pool.bias2[head, column].item()
            )
        weights = [math.exp(z) for z in logits]
        out.append(
            sum(w * token[channel] for w, token in zip(weights, tokens, strict=True)) / sum(weights)
        )
    return out


def test_every_channel_has_its_own_weights() -> None:
    pool, x, mask = _pool(), _tokens(), _mask()
    found = pool(x, mask)
    for i in range(BATCH):
        expected = torch.tensor(_slow(pool, x[i][mask[i]].tolist()), dtype=torch.float64)
        assert torch.allclose(found[i], expected, atol=1e-12)
    assert torch.allclose(found[1], x[1, 0], atol=1e-12)  # one token: itself


@pytest.mark.parametrize("kind", KINDS)
def test_masked_tokens_change_nothing(kind: str) -> None:
    pool, x, mask = build_pool(kind, WIDTH).double(), _tokens(), _mask()
    found = pool(x, mask)
    assert found.shape == (BATCH, WIDTH)
    assert torch.equal(pool(x.masked_fill(~mask[..., None], 50.0), mask), found)
    assert not torch.allclose(pool(x, torch.ones_like(mask)), found)
    nothing = pool(x, torch.zeros_like(mask))
    assert torch.allclose(nothing, pool(x, torch.ones_like(mask)), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_pooling_does_not_know_the_order(kind: str) -> None:
    pool, x, mask = build_pool(kind, WIDTH).double(), _tokens(), _mask()
    order = [2, 0, 3, 1]
    assert torch.allclose(pool(x[:, order], mask[:, order]), pool(x, mask), atol=1e-12)


def test_mean_and_max_are_what_they_say() -> None:
    x, mask = _tokens(), _mask()
    for i in range(BATCH):
        valid = x[i][mask[i]]
        assert torch.allclose(build_pool("mean", WIDTH)(x, mask)[i], valid.mean(0))
        assert torch.allclose(build_pool("max", WIDTH)(x, mask)[i], valid.amax(0))


def test_dropout_is_only_of_training() -> None:
    pool, x, mask = AttentionPool(WIDTH, 0.5).double(), _tokens(), _mask()
    assert not torch.equal(pool(x, mask), pool(x, mask))
    pool.eval()
    assert torch.equal(pool(x, mask), pool(x, mask))


def test_half_precision_weighs_in_single() -> None:
    pool, x, mask = AttentionPool(WIDTH), _tokens().float(), _mask()
    with torch.autocast("cpu", torch.bfloat16):
        half = pool(x, mask)
    assert torch.allclose(half.float(), pool(x, mask), atol=0.05)
