"""The text-gated interaction block, held to loops over texts, videos and tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_bench.models.layers import tib

N, M, T, D = 4, 3, 5, 8
TAU = 0.1


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _text(items: int = N) -> Tensor:
    return F.normalize(torch.randn(items, D, dtype=torch.float64), dim=-1)


def _tokens(items: int = M) -> Tensor:
    return F.normalize(torch.randn(items, T, D, dtype=torch.float64), dim=-1)


def _closed(items: int = M) -> Tensor:
    closed = torch.zeros(items, T).bool()
    closed[1, 2:] = True
    return closed


def _loop(text: Tensor, tokens: Tensor, closed: Tensor) -> tuple[list[float], Tensor, float, float]:
    """Return gate, adapted token, sum of gate times product, and cosine, of one pair."""
    products = [float(text @ token) for token in tokens]
    powers = [0.0 if shut else math.exp(p / TAU) for p, shut in zip(products, closed, strict=True)]
    gate = [power / sum(powers) for power in powers]
    mixed = torch.zeros(D, dtype=torch.float64)
    for weight, token in zip(gate, tokens, strict=True):
        mixed = mixed + weight * token
    cosine = float(text @ mixed) / math.sqrt(float(mixed @ mixed))
    return gate, mixed, sum(g * p for g, p in zip(gate, products, strict=True)), cosine


@pytest.mark.parametrize("short", [0, 64])
def test_every_pair_equals_the_loop(short: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tib, "_SHORT", short)
    text, tokens, closed = _text(), _tokens(), _closed()
    products = tib.pair_products(text, tokens)
    gate = tib.text_gate(products, TAU, closed)
    gram = tokens @ tokens.mT
    quadratic = tib.gated_cosine(gate, products, gram)
    explicit = tib.gated_cosine_of_sum(gate, products, tokens)
    sums, mixed = tib.weighted_sum(gate, products), tib.gated_tokens(gate, tokens)
    assert gate.shape == (N, M, T) and quadratic.shape == explicit.shape == sums.shape == (N, M)
    assert mixed.shape == (N, M, D)
    for n in range(N):
        for m in range(M):
            weights, token, total, cosine = _loop(text[n], tokens[m], closed[m])
            assert gate[n, m].tolist() == pytest.approx(weights)
            assert mixed[n, m].tolist() == pytest.approx((token / token.norm()).tolist())
            assert sums[n, m].item() == pytest.approx(total)
            assert quadratic[n, m].item() == pytest.approx(cosine, abs=1e-12)
            assert explicit[n, m].item() == pytest.approx(cosine, abs=1e-12)


def test_aligned_pairs_equal_the_diagonal() -> None:
    text, tokens, closed = _text(M), _tokens(), _closed()
    gram = tokens @ tokens.mT
    every = tib.pair_products(text, tokens)
    pairs = tib.aligned_products(text, tokens)
    assert torch.allclose(pairs, every.diagonal().T, atol=1e-12)
    gate, gates = tib.text_gate(pairs, TAU, closed), tib.text_gate(every, TAU, closed)
    for one, whole in (
        (tib.weighted_sum(gate, pairs), tib.weighted_sum(gates, every)),
        (tib.gated_cosine(gate, pairs, gram), tib.gated_cosine(gates, every, gram)),
        (tib.gated_cosine_of_sum(gate, pairs, tokens), tib.gated_cosine(gates, every, gram)),
    ):
        assert one.shape == (M,)
        assert torch.allclose(one, whole.diagonal(), atol=1e-12)
    mixed = tib.gated_tokens(gate, tokens)
    assert torch.allclose((text * mixed).sum(1), tib.gated_cosine(gate, pairs, gram), atol=1e-12)


def test_a_high_temperature_averages_and_a_low_one_chooses() -> None:
    text, tokens = _text(), _tokens()
    products = tib.pair_products(text, tokens)
    assert torch.allclose(tib.text_gate(products, 1e6), torch.full_like(products, 1 / T), atol=1e-5)
    chosen = tib.weighted_sum(tib.text_gate(products, 1e-4), products)
    assert torch.allclose(chosen, products.amax(-1), atol=1e-4)


@pytest.mark.parametrize("tau", [0.01, 1.0, 100.0])
def test_closed_tokens_get_exactly_no_weight_and_no_gradient(tau: float) -> None:
    text, closed = _text().float(), _closed()
    tokens = _tokens().float().masked_fill(closed[..., None], 0).requires_grad_()
    products = tib.pair_products(text, tokens)
    gate = tib.text_gate(products, tau, closed)
    assert (gate[:, closed] == 0).all()
    tib.weighted_sum(gate, products).sum().backward()
    assert tokens.grad is not None and tokens.grad.isfinite().all()
    assert (tokens.grad[closed] == 0).all() and (tokens.grad[~closed] != 0).any()


def test_a_video_of_zeros_scores_zero() -> None:
    text, tokens = _text(), torch.zeros(M, T, D, dtype=torch.float64, requires_grad=True)
    products = tib.pair_products(text, tokens)
    gate = tib.text_gate(products, TAU)
    for score in (
        tib.gated_cosine(gate, products, tokens @ tokens.mT),
        tib.gated_cosine_of_sum(gate, products, tokens),
    ):
        assert (score == 0).all()
        (grad,) = torch.autograd.grad(score.sum(), tokens, retain_graph=True)
        assert grad.isfinite().all()


def test_the_quadratic_form_has_the_gradient_of_the_sum() -> None:
    text, tokens = _text(), _tokens().requires_grad_()

    def gradient(quadratic: bool) -> Tensor:
        products = tib.pair_products(text, tokens)
        gate = tib.text_gate(products, TAU)
        if quadratic:
            score = tib.gated_cosine(gate, products, tokens @ tokens.mT)
        else:
            score = tib.gated_cosine_of_sum(gate, products, tokens)
        (grad,) = torch.autograd.grad(score.square().sum(), tokens)
        return grad

    assert torch.allclose(gradient(True), gradient(False), atol=1e-12)
