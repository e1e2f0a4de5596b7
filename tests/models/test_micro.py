"""Encoding in micro-batches: the whole batch's gradient, and what happens when memory runs out."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from micro_worker import NAMES
from step_case import ITEMS, assert_same, batch, build, gradients, taken
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.data import DataLoader

from tvr_bench.errors import UserError
from tvr_bench.models import base, micro
from tvr_bench.models.base import RetrievalModule
from tvr_bench.models.cret import Cret
from tvr_bench.models.losses import Features
from tvr_bench.registry import list_models

Batch = dict[str, Tensor]
SIZES = (1, 3)


def _held(encode: micro.Encode, given: Batch, size: int | None) -> tuple[Features, Features]:
    """Encode in the same micro-batches, and keep the graph of all of them."""
    assert size is not None
    parts = [
        encode({key: value[first : first + size] for key, value in given.items()})
        for first in range(0, ITEMS, size)
    ]
    text, video = (
        {key: torch.cat([part[side][key] for part in parts]) for key in parts[0][side]}
        for side in (0, 1)
    )
    return text, video


@pytest.mark.parametrize("name", list_models())
def test_the_gradient_is_that_of_the_whole_batch(name: str) -> None:
    whole = gradients(build(name))
    for size in SIZES:
        assert_same(gradients(build(name, **{"trainer.micro_batch": size})), whole)


@pytest.mark.parametrize("name", list_models())
def test_dropout_is_drawn_again_as_it_was(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"dropout": True, "trainer.micro_batch": 3}
    found = gradients(build(name, **options))
    other = gradients(build(name, **options), seed=2)
    monkeypatch.setattr(base, "in_micro_batches", _held)
    assert_same(found, gradients(build(name, **options)))
    assert not torch.allclose(found["loss"], other["loss"], rtol=1e-4)


def test_window_captions_beside_a_model_come_in_micro_batches_too() -> None:
    whole = gradients(build("meanpool", **{"ocr.add": 0.5}))
    options = {"ocr.add": 0.5, "trainer.micro_batch": 2}
    assert_same(gradients(build("meanpool", **options)), whole)


def test_no_more_than_a_micro_batch_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = RetrievalModule._pair_features
    sizes: list[int] = []

    def note(self: RetrievalModule, given: Batch) -> tuple[Features, Features]:
        sizes.append(len(given["frames"]))
        return encode(self, given)

    monkeypatch.setattr(RetrievalModule, "_pair_features", note)
    kept = {}
    for size in (None, 2):
        model, counted = build("meanpool", **{"trainer.micro_batch": size}), [0]

        def count(x: Tensor, counted: list[int] = counted) -> Tensor:
            counted[0] += x.nbytes
            return x

        with saved_tensors_hooks(count, lambda x: x):
            loss = model.training_step(batch(), 0)
        kept[size] = counted[0]
        loss.backward()
    assert sizes == [ITEMS, 2, 2, 2, 1, 1, 2, 2, 2], "encoded twice, the last one first"
    assert kept[2] < kept[None] / 20


class _Limited:
    """A memory in which the towers encode at most `limit` clips with a graph."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: type, limit: int) -> None:
        self.limit, self.failed = limit, 0
        encode: Callable[..., Features] = kind.encode_video  # type: ignore[attr-defined]

        def encode_video(model: RetrievalModule, given: Batch) -> Features:
            features = encode(model, given)
            if torch.is_grad_enabled() and len(given["frames"]) > self.limit:
                self.failed += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return features

        monkeypatch.setattr(kind, "encode_video", encode_video)


def _step(model: RetrievalModule) -> Callable[[], Tensor]:
    def step() -> Tensor:
        model.zero_grad()
        loss = model.training_step(batch(), 0)
        loss.backward()
        return loss.detach()

    return step


@pytest.mark.filterwarnings("ignore:out of memory")
@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("limit", [1, 2, 4])
def test_out_of_memory_halves_the_micro_batch_and_no_number_changes(
    name: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gradients(build(name))
    model = build(name)
    memory = _Limited(monkeypatch, type(model), limit)
    loss = model.memory.run(model, _step(model))
    assert_same({"loss": loss} | taken(model), whole)
    assert model.memory.size == limit and memory.failed == {4: 1, 2: 2, 1: 3}[limit]
    if isinstance(model, Cret):
        assert model.steps_done == 1


def test_it_may_run_out_in_the_backward_pass_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second encoding fails, after buffers and random numbers have moved on."""
    options: dict[str, Any] = {"dropout": True}
    whole = gradients(build("cret", **options, **{"trainer.micro_batch": 2}))
    model = build("cret", **options, **{"trainer.micro_batch": 4})
    encode, calls = Cret.encode_video, [0]

    def encode_video(self: Cret, given: Batch) -> Features:
        calls[0] += 1
        if calls[0] == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(self, given)

    monkeypatch.setattr(Cret, "encode_video", encode_video)
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match=r"2 clips .* at a time; .*trainer\.micro_batch=2"):
        loss = model.memory.run(model, _step(model))
    assert_same({"loss": loss} | taken(model), whole)
    assert model.steps_done == 1 and model.memory.size == 2


def test_a_checkpoint_keeps_the_micro_batch_that_fits() -> None:
    model, checkpoint = build("meanpool"), dict[str, Any]()
    model.memory.size = 2
    model.on_save_checkpoint(checkpoint)
    for options, expected in (({}, 2), ({"trainer.micro_batch": 3}, 3)):
        again = build("meanpool", **options)
        again.on_load_checkpoint(checkpoint)
        assert again.memory.size == expected


def test_nothing_left_to_halve_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("meanpool")
    _Limited(monkeypatch, type(model), 0)
    with pytest.raises(UserError, match=r"one clip .*backbone\.checkpointing=true"):
        model.memory.run(model, _step(model))


def test_on_several_devices_the_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("meanpool")
    _Limited(monkeypatch, type(model), 1)
    monkeypatch.setattr(micro, "world_size", lambda: 2)
    with pytest.raises(UserError, match=r"trainer\.micro_batch=4, which leaves"):
        model.memory.run(model, _step(model))


def _fit(model: RetrievalModule, precision: Any = "64-true") -> pl.Trainer:
    batches: Any = [batch(seed=seed) for seed in range(4)]
    trainer = pl.Trainer(
        accelerator="cpu",
        precision=precision,
        max_steps=len(batches),
        gradient_clip_val=0.5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(batches, batch_size=None))
    return trainer


@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize("name", NAMES)
def test_a_training_in_which_memory_runs_out_ends_with_the_same_weights(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clipping, rates, the count of steps and the optimiser see each step once."""
    plain = build(name, **{"optim.lr": 1e-2})
    expected = _fit(plain)
    model = build(name, **{"optim.lr": 1e-2})
    _Limited(monkeypatch, type(model), 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = _fit(model)
    assert len([w for w in caught if "out of memory" in str(w.message)]) == 1
    assert trainer.global_step == expected.global_step == 4
    assert trainer.lr_scheduler_configs[0].scheduler.state_dict()["_step_count"] == 5
    before = build(name).state_dict()
    moved = 0.0
    for key, value in plain.state_dict().items():
        assert torch.allclose(model.state_dict()[key], value, rtol=0, atol=1e-6), key
        moved = max(moved, (value - before[key]).abs().max().item())
    assert moved > 1e-2


def test_two_ranks_have_the_gradient_of_one_process(tmp_path: Path) -> None:
    """Under DDP, which reduces once, in micro-batches that do not divide a rank's share."""
    worker = Path(__file__).with_name("micro_worker.py")
    ranks = [
        subprocess.Popen([sys.executable, str(worker), str(tmp_path), str(rank), "2"])
        for rank in range(2)
    ]
    assert [process.wait() for process in ranks] == [0, 0]
    for name in NAMES:
        whole = gradients(build(name, **{"loss.mask_duplicates": True}), items=6)
        for rank in range(2):
            found = torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True)
            assert_same(found, {k: v for k, v in whole.items() if k != "loss"})
