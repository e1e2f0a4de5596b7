"""The Pearson constraint, held to numpy's correlation matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tvr_bench.models.layers.pearson import pearson_constraint

B, D = 6, 4


@pytest.mark.parametrize(("diagonal", "off"), [(0.14, 0.0), (0.5, 0.2), (0.0, 1.0)])
def test_it_equals_the_full_matrix_of_correlations(diagonal: float, off: float) -> None:
    torch.manual_seed(0)
    text, video = torch.randn(2, B, D, dtype=torch.float64)
    # corrcoef divides by the same number twice; the constraint by B - 1 and then by B
    matrix = np.corrcoef(text.numpy().T, video.numpy().T)[:D, D:] * (B - 1) / B
    expected = 0.0
    for d in range(D):
        for e in range(D):
            expected += diagonal * (matrix[d, e] - 1) ** 2 if d == e else off * matrix[d, e] ** 2
    found = pearson_constraint(text, video, diagonal, off)
    assert found.item() == pytest.approx(expected, abs=1e-9)


def test_equal_views_leave_only_what_the_batch_size_leaves() -> None:
    text = torch.randn(B, D)
    found = pearson_constraint(text, 3 * text + 1, 1.0).item()
    assert found == pytest.approx(D / B**2, rel=1e-3)
    assert pearson_constraint(text, -text, 1.0).item() == pytest.approx(
        D * (1 + (B - 1) / B) ** 2, rel=1e-3
    )


@pytest.mark.parametrize("items", [1, B])
def test_a_constant_dimension_is_finite_with_a_finite_gradient(items: int) -> None:
    text, video = torch.randn(items, D), torch.randn(items, D)
    video[:, 0] = 0.5
    video.requires_grad_()
    loss = pearson_constraint(text, video, 1.0)
    loss.backward()
    assert loss.isfinite() and video.grad is not None and video.grad.isfinite().all()
    assert loss >= 1  # correlation 0 with a constant
