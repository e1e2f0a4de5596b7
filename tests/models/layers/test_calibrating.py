"""Cycle consistency: its limits, its masks, and a slow loop that follows the definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tvr_bench.models.layers.calibrating import cycle_consistency


def _full(x: Tensor) -> Tensor:
    return torch.ones(x.shape[:2], dtype=torch.bool)


def _random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def _soft(scores: list[float], temperature: float) -> list[float]:
    weights = [math.exp(s / temperature) for s in scores]
    return [w / sum(weights) for w in weights]


def _loop(start: Tensor, other: Tensor, temperature: float, norm: bool) -> float:
    """The definition for one pair without masks."""
    total, length = 0.0, len(start)
    unit = max(length - 1, 1) if norm else 1
    for i in range(length):
        alpha = _soft([_cosine(start[i], o) for o in other], temperature)
        nearest = sum(a * o for a, o in zip(alpha, other, strict=True))
        beta = _soft([_cosine(nearest, v) for v in start], temperature)
        end = sum(b * k / unit for k, b in enumerate(beta))
        total += (i / unit - end) ** 2
    return total / length


def test_aligned_orthogonal_sequences_cost_nothing() -> None:
    video = torch.eye(6, dtype=torch.float64)[None]
    assert cycle_consistency(video, 3 * video, _full(video), _full(video)).item() < 1e-6


def test_random_sequences_cost_something() -> None:
    video, ocr = _random(4, 6, 8), _random(4, 6, 8, seed=1)
    assert cycle_consistency(video, ocr, _full(video), _full(ocr)).item() > 1e-3


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("directions", ["both", "video", "ocr"])
def test_equals_the_loop(norm: bool, directions: str) -> None:
    video, ocr = _random(3, 5, 8), _random(3, 4, 8, seed=1)
    forth = sum(_loop(v, o, 0.1, norm) for v, o in zip(video, ocr, strict=True)) / 3
    back = sum(_loop(o, v, 0.1, norm) for v, o in zip(video, ocr, strict=True)) / 3
    expected = {"both": (forth + back) / 2, "video": forth, "ocr": back}[directions]
    loss = cycle_consistency(video, ocr, _full(video), _full(ocr), 0.1, norm, directions)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_padding_and_pairs_without_ocr_do_not_count() -> None:
    video, ocr = _random(2, 5, 8), _random(2, 4, 8, seed=1)
    expected = (
        _loop(video[0, :3], ocr[0, :2], 0.1, False) + _loop(ocr[0, :2], video[0, :3], 0.1, False)
    ) / 2
    frames, windows = _full(video), _full(ocr)
    frames[0, 3:] = False
    windows[0, 2:] = False
    windows[1] = False
    loss = cycle_consistency(video, ocr, frames, windows, normalise_index=False)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_without_any_ocr_it_is_a_zero_with_a_finite_gradient() -> None:
    video = _random(2, 5, 8).requires_grad_()
    ocr = torch.zeros(2, 4, 8, dtype=torch.float64, requires_grad=True)
    loss = cycle_consistency(video, ocr, _full(video), ~_full(ocr))
    loss.backward()
    assert loss.item() == 0
    assert video.grad is not None and ocr.grad is not None
    assert not video.grad.any() and not ocr.grad.any()


def test_the_gradient_is_right_beside_a_pair_without_ocr() -> None:
    windows = torch.tensor([[True, True, False], [False, False, False]])
    frames = torch.ones(2, 4, dtype=torch.bool)

    def loss(video: Tensor, ocr: Tensor) -> Tensor:
        return cycle_consistency(video, ocr * windows[..., None], frames, windows)

    video, ocr = _random(2, 4, 5).requires_grad_(), _random(2, 3, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(loss, (video, ocr))
    loss(video, ocr).backward()
    assert video.grad is not None and video.grad[0].abs().sum() > 0
