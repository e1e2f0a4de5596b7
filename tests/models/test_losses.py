"""Contrastive losses against a slow loop, and two processes against one."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_worker import ITEMS, Pairwise, batch
from tiled_case import found_by
from torch import Tensor
from torch.nn import functional as F

from tvr_bench.models.base import RetrievalModule
from tvr_bench.models.bicnet import hinge
from tvr_bench.models.layers.gees import FrameScores, gees
from tvr_bench.models.losses import (
    duplicates,
    gather,
    paired_losses,
    symmetric_info_nce,
    world_size,
)


def _slow(rows: list[list[float]], columns: list[list[float]], start: int) -> float:
    """Return the symmetric InfoNCE by its definition, pair by pair."""
    total = 0.0
    for matrix in (rows, columns):
        for i, row in enumerate(matrix):
            peak = max(row)
            partition = sum(math.exp(score - peak) for score in row)
            total -= (row[start + i] - peak - math.log(partition)) / len(matrix)
    return total / 2


def _info_nce(name: str, rows: Tensor, columns: Tensor, start: int) -> Tensor:
    return symmetric_info_nce(rows, columns, start)


@given(
    own=st.integers(1, 5), world=st.integers(1, 3), rank=st.integers(0, 2), spread=st.floats(0, 60)
)
def test_it_equals_the_definition(own: int, world: int, rank: int, spread: float) -> None:
    start = min(rank, world - 1) * own
    generator = torch.Generator().manual_seed(own + 10 * world)
    rows, columns = spread * torch.randn(2, own, own * world, generator=generator).double()
    expected = _slow(rows.tolist(), columns.tolist(), start)
    assert symmetric_info_nce(rows, columns, start).item() == pytest.approx(expected, rel=1e-9)


def test_guessing_costs_the_logarithm_of_the_batch_and_certainty_nothing() -> None:
    flat = torch.zeros(8, 8)
    assert symmetric_info_nce(flat, flat).item() == pytest.approx(math.log(8))
    sure = 100 * torch.eye(8)
    assert symmetric_info_nce(sure, sure).item() == pytest.approx(0, abs=1e-6)
    wrong = 100 * torch.eye(8).roll(1, 0)
    assert symmetric_info_nce(wrong, wrong).item() == pytest.approx(100, rel=1e-4)


def test_both_directions_count() -> None:
    """One text that fits every video: the other direction alone can tell."""
    scores = torch.zeros(3, 3)
    scores[0] = 50.0
    one_way = _slow(scores.tolist(), scores.tolist(), 0)
    both = _slow(scores.tolist(), scores.T.tolist(), 0)
    text, video = {"row": torch.arange(3)}, {"column": torch.arange(3)}

    def score(text: dict[str, Tensor], video: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"score": scores[text["row"]][:, video["column"]]}

    pairs = (text, video)
    loss = paired_losses(score, _info_nce, pairs, pairs)["score"].item()
    assert loss == pytest.approx(both) != pytest.approx(one_way)


def test_every_named_score_has_a_loss_and_the_scale_multiplies() -> None:
    model, whole = Pairwise(), batch()
    losses = model.losses(whole)
    assert sorted(losses) == ["best", "score", "spread"]
    scale = model.log_scale.exp().item()
    for name, scores in model.scores(*model.encode(whole)).items():
        scaled = (scale * scores).tolist()
        columns = (scale * scores.T).tolist()
        assert losses[name].item() == pytest.approx(_slow(scaled, columns, 0), rel=1e-5)


def test_scores_in_half_precision_lose_nothing_in_the_softmax() -> None:
    class Model:
        logit_scale = torch.tensor(30.3)

    half = torch.eye(4).bfloat16() * 0.25
    found = RetrievalModule.contrast(Model(), "score", half, half, 0)  # type: ignore[arg-type]
    assert found.dtype == torch.float32
    exact = (7.575 * torch.eye(4)).tolist()
    assert found.item() == pytest.approx(_slow(exact, exact, 0), rel=1e-3)


def test_the_same_caption_on_two_videos_is_found() -> None:
    ids = torch.tensor([[1, 5, 2], [1, 6, 2], [1, 5, 2], [1, 5, 3]])
    expected = torch.zeros(4, 4).bool()
    expected[0, 2] = expected[2, 0] = True
    assert torch.equal(duplicates(ids), expected)


def _gees(rows: Tensor, columns: Tensor) -> Tensor:
    found = gees(FrameScores(rows, rows), FrameScores(columns, columns), form="min", scale=9.0)
    return torch.stack(found).sum(0)


def _nce(rows: Tensor, columns: Tensor) -> Tensor:
    here = torch.arange(len(rows))
    return sum(
        (F.cross_entropy(s, here, reduction="none") for s in (rows, columns)), rows.new_zeros(())
    )


@pytest.mark.parametrize("kind", ["nce", "gees", "hinge"])
def test_a_duplicate_is_as_if_it_were_not_there(kind: str) -> None:
    """Every loss of a batch in which texts 0 and 3 are equal, item by item without the other."""
    generator = torch.Generator().manual_seed(3)
    shape = (6, 6, 4) if kind == "gees" else (6, 6)
    scores = torch.rand(shape, generator=generator).double()
    ids = torch.tensor([[7], [1], [2], [7], [4], [5]])
    seen: list[Tensor] = []

    def contrast(name: str, rows: Tensor, columns: Tensor, start: int) -> Tensor:
        seen.extend((rows, columns))
        if kind == "hinge":
            return hinge(rows, columns, start, 0.3)
        return (_gees if kind == "gees" else _nce)(rows, columns).sum()

    features = {"x": torch.zeros(6, 1)}
    pair = (features, features)
    args = (lambda text, video: {"s": scores}, contrast, pair, pair)
    found = paired_losses(*args, duplicates(ids))["s"]
    assert found.isfinite()

    expected = torch.zeros(()).double()
    for item in range(6):
        kept = [i for i in range(6) if not (item in (0, 3) and i in (0, 3) and i != item)]
        part = scores[kept][:, kept]
        own = kept.index(item)
        if kind == "hinge":
            for line in (part[own], part[:, own]):
                costs = (0.3 + line - part[own, own]).clamp_min(0)
                expected = expected + costs.sum() - costs[own]
        else:
            expected = (
                expected + (_gees if kind == "gees" else _nce)(part, part.transpose(0, 1))[own]
            )
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    assert paired_losses(*args)["s"].item() != pytest.approx(expected.item(), rel=1e-3)


def test_one_process_gathers_nothing() -> None:
    features = {"a": torch.randn(3, 2), "mask": torch.ones(3).bool()}
    assert gather(features) is features
    assert world_size() == 1


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_have_the_loss_and_gradients_of_one(world: int, tmp_path: Path) -> None:
    worker = Path(__file__).with_name("loss_worker.py")
    ranks = [
        subprocess.Popen([sys.executable, str(worker), str(tmp_path), str(rank), str(world)])
        for rank in range(world)
    ]
    assert [process.wait() for process in ranks] == [0] * world
    model, whole = Pairwise(), batch()
    losses = model.losses(whole)
    torch.stack(list(losses.values())).sum().backward()
    for rank in range(world):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, loss in losses.items():
            assert found[f"loss {name}"].item() == pytest.approx(loss.item(), abs=1e-6)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            assert torch.allclose(found[f"grad {name}"], parameter.grad, atol=1e-6), name
            assert parameter.grad.abs().max() > 1e-4, name
        for key, value in whole.items():
            assert found[key].dtype == value.dtype and torch.equal(found[key], value)
        assert found["index"].tolist() == list(range(ITEMS))
        tiled = torch.load(tmp_path / f"{rank}-tiled.pt", weights_only=True)
        for name, expected in found_by(0, 1).items():
            for one, other in zip(tiled[name], expected, strict=True):
                assert torch.allclose(one, other, rtol=0, atol=1e-12), name
