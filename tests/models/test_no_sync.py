"""No step waits for the device: nothing that lies there is looked at from Python."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from step_case import batch, build
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tvr_bench.models.base import RetrievalModule
from tvr_bench.models.layers import tiny
from tvr_bench.registry import list_models

# a value as a number, a shape that depends on values
WAITS = ("_local_scalar_dense", "equal", "nonzero", "masked_select", "unique", "repeat_interleave")
MIXED = ("_to_copy", "copy_")  # from the host to the device


class HostSync(AssertionError):
    """Python asked for something that a device would have to finish first."""


class Device(TorchDispatchMode):
    """A CPU that plays a device: what is made of a tensor that lies there lies there too."""

    def __init__(self, there: Iterable[Tensor]) -> None:
        super().__init__()
        self.kept = list(there)  # alive, so that no address is used twice
        self.places = {_place(x) for x in self.kept}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = list(_tensors((args, kwargs or {})))
        name = func.name().removeprefix("aten::").split(".")[0]
        there = any(_place(x) in self.places for x in inputs)
        if there and name.startswith(WAITS):
            raise HostSync(name)
        if there and name == "index" and any(x.dtype == torch.bool for x in inputs[1:]):
            raise HostSync("a mask as an index")
        out = func(*args, **(kwargs or {}))
        if there:
            for x in _tensors(out):
                self.kept.append(x)
                self.places.add(_place(x))
        return out


def _place(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)


def _on_device(model: RetrievalModule, given: dict[str, Tensor]) -> Device:
    """Return a device that holds the weights, and what Lightning would bring there of a batch."""
    moved = model.transfer_batch_to_device(given, torch.device("meta"), 0)
    there = [given[key] for key, value in moved.items() if value.is_meta]
    return Device([*model.parameters(), *model.buffers(), *there])


@pytest.fixture(autouse=True)
def _texts_lie_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "on_host", lambda _: False)


STEPS: dict[str, dict[str, Any]] = {
    **{name: {"name": name} for name in list_models()},
    "micro-batches": {"name": "tcard", "trainer.micro_batch": 3},
    "tiles": {"name": "meanpool", "loss.tile": 2},
    "duplicates": {"name": "meanpool", "loss.mask_duplicates": True},
    "tiled duplicates": {"name": "meanpool", "loss.mask_duplicates": True, "loss.tile": 2},
    "window captions": {"name": "cret", "ocr.add": 0.5},
    "checkpointing": {"name": "bicnet", "backbone.checkpointing": True},
    "words": {"name": "tcard", "model.match": "wti"},
}


@pytest.mark.parametrize("kind", STEPS)
def test_a_step_asks_the_device_for_nothing(kind: str) -> None:
    model, given = build(**STEPS[kind], dropout=True), batch()
    with _on_device(model, given):
        model.training_step(given, 0).backward()
    assert all(p.grad is not None for p in model.network.parameters())


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: float(2 * x[0, 0]),
        lambda x: x[x > 0],
        lambda x: x.relu().unique(dim=0),
    ],
)
def test_looking_is_found(look: Any) -> None:
    x = torch.randn(3, 2)
    with pytest.raises(HostSync), Device([x]):
        look(x)
    with Device([torch.randn(3, 2)]):
        look(x)


def test_window_captions_stay_where_python_is() -> None:
    moved = build("tcard").transfer_batch_to_device(batch(), torch.device("meta"), 0)
    assert {key for key, value in moved.items() if not value.is_meta} == {"ocr_ids", "ocr_mask"}
