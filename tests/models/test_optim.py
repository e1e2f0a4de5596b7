"""Optimisers against slow loops over tensors, written from their descriptions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from tvr_bench import config
from tvr_bench.errors import UserError
from tvr_bench.models.optim import build_optimizer
from tvr_bench.schema import Config

LR, BETAS, STEPS = 0.05, (0.9, 0.98), 7
DECAYS = (0.2, 0.0)
SHAPES = (((4, 3), (50,)), ((6,), (), (2, 2)))  # by group: some clipped, some not
Update = Callable[[Tensor, Tensor, dict[str, Tensor], int, float], Tensor]


def _config(name: str, *settings: str) -> Config:
    betas = f"optim.betas=[{BETAS[0]},{BETAS[1]}]"
    return config.load([f"optim.name={name}", f"optim.lr={LR}", betas, *settings])


def _groups() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "params": [torch.randn(s, generator=generator).requires_grad_() for s in shapes],
            "weight_decay": decay,
        }
        for shapes, decay in zip(SHAPES, DECAYS, strict=True)
    ]


def _gradients(groups: list[dict[str, Any]], step: int) -> None:
    """Set gradients whose norms lie on both sides of 1; one tensor now and then has none."""
    generator = torch.Generator().manual_seed(step)
    for group in groups:
        for p in group["params"]:
            p.grad = 0.4 * torch.randn(p.shape, generator=generator)
    if step % 3 == 2:
        groups[1]["params"][0].grad = None


def _bert_adam(p: Tensor, g: Tensor, state: dict[str, Tensor], step: int, decay: float) -> Tensor:
    g = g * min(1.0, 1.0 / (g.norm().item() + 1e-6))
    m = state["m"] = BETAS[0] * state.get("m", torch.zeros_like(p)) + (1 - BETAS[0]) * g
    v = state["v"] = BETAS[1] * state.get("v", torch.zeros_like(p)) + (1 - BETAS[1]) * g * g
    return p - LR * (m / (v.sqrt() + 1e-6) + decay * p)


def _adam(
    p: Tensor, g: Tensor, state: dict[str, Tensor], step: int, decay: float, decoupled: bool
) -> Tensor:
    g = g if decoupled else g + decay * p
    m = state["m"] = BETAS[0] * state.get("m", torch.zeros_like(p)) + (1 - BETAS[0]) * g
    v = state["v"] = BETAS[1] * state.get("v", torch.zeros_like(p)) + (1 - BETAS[1]) * g * g
    update = m / (1 - BETAS[0] ** step) / ((v / (1 - BETAS[1] ** step)).sqrt() + 1e-8)
    return p - LR * (update + (decay * p if decoupled else 0))


UPDATES: dict[str, Update] = {
    "bert_adam": _bert_adam,
    "adamw": lambda *args: _adam(*args, decoupled=True),
    "adam": lambda *args: _adam(*args, decoupled=False),
}


def _slowly(name: str) -> list[Tensor]:
    """Return the weights after all steps, tensor by tensor in double precision."""
    groups = _groups()
    values = {p: p.detach().double() for group in groups for p in group["params"]}
    states: dict[Tensor, dict[str, Tensor]] = {p: {} for p in values}
    counts = dict.fromkeys(values, 0)
    for step in range(STEPS):
        _gradients(groups, step)
        for group in groups:
            for p in group["params"]:
                if p.grad is not None:
                    counts[p] += 1
                    args = (p.grad.double(), states[p], counts[p], group["weight_decay"])
                    values[p] = UPDATES[name](values[p], *args)
    return list(values.values())


def _train(optimizer: Optimizer, steps: range) -> list[Tensor]:
    for step in steps:
        _gradients(optimizer.param_groups, step)
        optimizer.step()
    return [p.detach() for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize("name", UPDATES)
def test_it_equals_its_description_tensor_by_tensor(name: str) -> None:
    found = _train(build_optimizer(_config(name), _groups()), range(STEPS))
    start = [p for group in _groups() for p in group["params"]]
    for one, other, first in zip(found, _slowly(name), start, strict=True):
        assert torch.allclose(one.double(), other, rtol=1e-5, atol=2e-6)
        assert (one - first).abs().max() > LR / 2


@pytest.mark.parametrize("name", UPDATES)
def test_it_goes_on_from_its_state_as_if_never_stopped(name: str) -> None:
    """Also from a state that was on a disk, where infinity has to survive."""
    whole = _train(build_optimizer(_config(name), _groups()), range(STEPS))
    first = build_optimizer(_config(name), _groups())
    _train(first, range(4))
    second = build_optimizer(_config(name), copy.deepcopy(first.param_groups))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for one, other in zip(_train(second, range(4, STEPS)), whole, strict=True):
        assert torch.equal(one, other)


def test_adams_update_is_one_pass_over_memory() -> None:
    for name in UPDATES:
        optimizer = build_optimizer(_config(name), _groups())
        assert all(group["fused"] for group in optimizer.param_groups)


def test_gradients_are_clipped_before_a_scale_of_fp16_could_come_out() -> None:
    """Lightning clips what it has unscaled, and refuses optimisers that would do it themselves."""
    for name in UPDATES:
        optimizer: Any = build_optimizer(_config(name), _groups())
        assert optimizer._step_supports_amp_scaling is False


def test_the_closure_makes_the_gradients() -> None:
    (group,) = _groups()[:1]
    optimizer = build_optimizer(_config("bert_adam"), [group])

    def closure() -> Tensor:
        loss = sum((p.square().sum() for p in group["params"]), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        return loss.detach()

    losses = [float(optimizer.step(closure)) for _ in range(20)]  # type: ignore[arg-type]
    assert losses == sorted(losses, reverse=True)


def test_without_any_gradient_nothing_moves() -> None:
    groups = _groups()
    before = [p.detach().clone() for group in groups for p in group["params"]]
    optimizer = build_optimizer(_config("bert_adam"), groups)
    optimizer.step()
    after = [p for group in groups for p in group["params"]]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_no_parameter_is_one_line() -> None:
    with pytest.raises(UserError, match=r"nothing .*train.*backbone\.frozen"):
        build_optimizer(_config("adamw"), [])
