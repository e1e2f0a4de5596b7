"""The optimiser and the schedule of the rate that a configuration asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from tvr_bench.errors import UserError
from tvr_bench.schema import Config

_FUSED = ("cpu", "cuda")  # devices whose update of all weights is one pass over memory


class BertAdam(AdamW):
    """Adam as CLIP4Clip and its successors train with it.

    The gradient of each tensor is clipped to norm 1 by itself, the moments have no bias correction,
    and the decay is added to the update: `w -= rate * (m / (sqrt(v) + 1e-6) + decay * w)`.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, betas: tuple[float, float], fused: bool
    ) -> None:
        """Take groups of parameters, each with a `weight_decay` of its own."""
        super().__init__(params, lr=lr, betas=betas, eps=1e-6, fused=fused)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the weights; return what `closure`, which makes the gradients, gives back."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        trained = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        for parameter in trained:
            if not self.state[parameter]:
                self.state[parameter] = _uncorrected(parameter)
        if trained:
            _clip_each([p.grad for p in trained])
        super().step()
        return loss


def _uncorrected(parameter: Tensor) -> dict[str, Tensor]:
    """Return AdamW's state after endlessly many steps, when the bias correction is exactly 1."""
    return {
        "step": torch.tensor(math.inf, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }


def _clip_each(grads: list[Tensor]) -> None:
    """Scale every gradient, in place, to a norm of at most 1."""
    norms = torch.stack(torch._foreach_norm(grads))
    factors = (1 / (norms + 1e-6)).clamp_max_(1)
    torch._foreach_mul_(grads, list(factors.unbind()))


def build_optimizer(cfg: Config, groups: list[dict[str, Any]]) -> Optimizer:
    """Return the optimiser that `cfg.optim` names over groups of parameters.

    Raises UserError where no parameter is left.
    """
    if not groups:
        raise UserError(
            "nothing is left to train; set backbone.frozen=none or loss.learn_scale=true"
        )
    kind = {"adamw": AdamW, "adam": Adam, "bert_adam": BertAdam}[cfg.optim.name]
    devices = {p.device.type for group in groups for p in group["params"]}
    betas = cfg.optim.betas[0], cfg.optim.betas[1]
    fused = devices.issubset(_FUSED)
    optimizer: Any = kind(groups, lr=cfg.optim.lr, betas=betas, fused=fused)
    # with fp16 a fused update would divide the scale out of the gradients, after they are clipped
    optimizer._step_supports_amp_scaling = False
    return cast(Optimizer, optimizer)


def build_schedule(cfg: Config, optimizer: Optimizer, steps: int) -> dict[str, Any]:
    """Return Lightning's description of the schedule of a training of `steps` steps."""
    optim = cfg.optim
    if optim.schedule == "plateau":
        plateau = ReduceLROnPlateau(
            optimizer, mode="max", factor=0.5, patience=optim.patience, cooldown=optim.patience
        )
        return {
            "scheduler": plateau,
            "monitor": "val/R@10_mean",
            "frequency": max(1, int(cfg.eval.every)),
            "strict": False,
        }
    schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, steps, optim.warmup))
    return {"scheduler": schedule, "interval": "step"}


def warmup_cosine(step: int, steps: int, warmup: float) -> float:
    """Return the factor of the peak rate at `step`: linear rise, then half a cosine to zero."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise))))
