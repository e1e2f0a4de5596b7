"""Tiled InfoNCE against the full matrix, and where the training step takes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from step_case import assert_same, batch, build, gradients
from tiled_case import ITEMS, found_by, inputs
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tvr_bench.models import base
from tvr_bench.models.losses import duplicates, symmetric_info_nce, tiled_loss
from tvr_bench.models.tiled import Vectors, equal_rows, tiled_info_nce


def _slow(text: Tensor, video: Tensor, scale: Tensor, same: Tensor | None) -> Tensor:
    """Return the symmetric InfoNCE of the whole matrix."""
    scores = scale * text @ video.mT
    if same is not None:
        scores = scores.masked_fill(same, -torch.inf)
    return symmetric_info_nce(scores, scores.mT)


def _derivatives(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


@given(
    items=st.integers(1, 17),
    tile=st.integers(1, 20),
    scale=st.floats(0.1, 100),
    repeats=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_equals_the_full_matrix(
    items: int, tile: int, scale: float, repeats: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    text, video = F.normalize(torch.randn(2, items, 4, generator=generator).double(), dim=-1)
    factor = torch.tensor(scale).double()
    leaves = [x.requires_grad_() for x in (text, video, factor)]
    ids = torch.randint(0, 3, (items, 2), generator=generator) if repeats else None
    same = None if ids is None else duplicates(ids)
    expected = _derivatives(_slow(text, video, factor, same), leaves)
    pairs = Vectors(text, video)
    found = _derivatives(tiled_loss(pairs, pairs, factor, tile, ids), leaves)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_scores_far_apart_neither_overflow_nor_vanish() -> None:
    """One row about 100 and one about -100: no common offset serves both in single precision."""
    text = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]).requires_grad_()
    video = torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, -0.01]]).requires_grad_()
    scale = torch.tensor(100.0).requires_grad_()
    leaves = [text, video, scale]
    expected = _derivatives(_slow(text, video, scale, None), leaves)
    for tile in (1, 2, 3):
        found = _derivatives(tiled_info_nce(*[Vectors(text, video)] * 2, scale, 0, tile), leaves)
        for one, other in zip(found, expected, strict=True):
            assert one.isfinite().all() and torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_loss_with_a_weight_has_the_gradient_of_the_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    text, video = (torch.randn(5, 3, generator=generator).double() for _ in range(2))
    leaves = [x.requires_grad_() for x in (text, video, torch.tensor(3.0).double())]
    pairs = Vectors(text, video)
    once = _derivatives(tiled_info_nce(pairs, pairs, leaves[2], 0, 2), leaves)
    thrice = _derivatives(3 * tiled_info_nce(pairs, pairs, leaves[2], 0, 2), leaves)
    for one, other in zip(once, thrice, strict=True):
        assert torch.allclose(3 * one, other)


def test_rows_are_equal_where_every_word_is() -> None:
    ids = torch.tensor([[1, 2], [1, 3], [1, 2]])
    assert equal_rows(ids[:2], ids).tolist() == [[True, False, True], [False, True, False]]


class _Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that anything makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, Tensor):
                self.numel = max(self.numel, x.numel())
        return out


@pytest.mark.parametrize("repeats", [False, True])
def test_no_more_than_a_tile_of_scores_is_ever_made(repeats: bool) -> None:
    items, tile = 96, 8
    generator = torch.Generator().manual_seed(0)
    text, video = (torch.randn(items, 4, generator=generator).requires_grad_() for _ in range(2))
    ids = torch.randint(0, 9, (items, 6), generator=generator) if repeats else None
    pairs = Vectors(text, video)
    with _Largest() as largest:
        tiled_loss(pairs, pairs, torch.tensor(5.0), tile, ids).backward()
    assert largest.numel == tile * items


def test_the_case_of_several_processes_is_the_full_matrix_in_one() -> None:
    """The other half, that several processes find the same, is held by `test_losses`."""
    leaves, ids = inputs()
    for name, same in (("plain", None), ("masked", duplicates(ids))):
        expected = _derivatives(_slow(*leaves, same), list(leaves))
        for one, other in zip(found_by(0, 1)[name], expected, strict=True):
            assert torch.allclose(one, other, rtol=0, atol=1e-12)
    assert duplicates(ids).any() and len(ids) == ITEMS


@pytest.mark.parametrize("masked", [False, True])
def test_the_training_step_takes_it_above_the_size_alone(
    masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def note(own: Vectors, *args: Any) -> Tensor:
        calls.append(len(own.text))
        return tiled_loss(own, *args)

    monkeypatch.setattr(base, "tiled_loss", note)
    options = {"loss.mask_duplicates": masked}
    items = len(batch()["text_ids"])
    whole = gradients(build("meanpool", **options, **{"loss.tile": items}))
    assert not calls
    assert_same(gradients(build("meanpool", **options, **{"loss.tile": 3})), whole)
    assert calls == [items]


@pytest.mark.parametrize("name", ["tcard", "cret", "bicnet", "eercf"])
def test_scores_that_are_no_dot_product_are_left_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gradients(build(name))
    monkeypatch.setattr(base, "tiled_loss", None)
    assert_same(gradients(build(name, **{"loss.tile": 1})), whole)


def test_window_captions_beside_a_dot_product_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"ocr.add": 0.5}
    whole = gradients(build("meanpool", **options))
    monkeypatch.setattr(base, "tiled_loss", None)
    assert_same(gradients(build("meanpool", **options, **{"loss.tile": 1})), whole)
