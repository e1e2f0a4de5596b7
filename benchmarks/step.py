"""A whole training step: forward, loss, backward, clipping, update.

Run: `.venv/bin/python benchmarks/step.py [--small]`. The towers are ViT-tiny's (192 wide, 12
blocks) with mean pooling, on 8 clips of 4 frames of 224 x 224 pixels (small: 4 blocks, pixels of
64 x 64, and memory is not looked at). The peer is the body of a usual loop in single precision:
loss, `loss.item()`, clipping, BertAdam tensor by tensor; ours is bf16 with `optim.name=bert_adam`.
Both begin with the same weights, and the losses of the first steps are compared before anything is
timed. Two more rows show what `backbone.checkpointing` and `trainer.micro_batch` cost and save.
With a GPU the same is done there with ViT-B/32 of CLIP's shape (random weights) on 128 clips, under
the device's name.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import Row, arguments, duel, peak_mb, save
from loss import BETAS, DECAY, RATE
from torch import Tensor

from tvr_bench import config
from tvr_bench.models.base import RetrievalModule
from tvr_bench.models.layers import towers
from tvr_bench.models.optim import build_optimizer
from tvr_bench.registry import build_model

STEPS, CLOSE = 5, 1e-2
SIZES = {"small": (8, 4, 64, 4), "full": (8, 4, 224, 12), "gpu": (128, 12, 224, 12)}
CLIP: dict[str, Any] = {"num_hidden_layers": 12, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"}
CLIP_B32: dict[str, Any] = {
    "projection_dim": 512,
    "text_config": CLIP
    | {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
    | {"vocab_size": 49408, "max_position_embeddings": 77},
    "vision_config": CLIP
    | {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    | {"image_size": 224, "patch_size": 32, "num_channels": 3},
}


def main() -> int:
    options = arguments(__doc__)
    size = "small" if options.small else "full"
    rows = [main_row(size, options.repeats), *saving_rows(size, options.repeats)]
    if torch.cuda.is_available():
        rows += [main_row("gpu", options.repeats), *saving_rows("gpu", options.repeats)]
    save("step", rows, options)
    return 0


def main_row(size: str, repeats: int) -> Row:
    """Return the row of ours against a usual loop; stops where the losses part."""
    peer, ours = Usual(size), Ours(size)
    losses = [(peer.step(), float(ours.step())) for _ in range(STEPS)]
    apart = max(abs(a - b) for a, b in losses) / losses[0][0]
    agreement = f"the first {STEPS} losses equal to {apart:.0e} of the first"
    print(f"{size}: {agreement}", flush=True)
    if apart > CLOSE:
        raise SystemExit(f"{size}: {agreement}")
    memory = None if size == "small" else (peak(size, "usual"), peak(size, "ours"))
    return Row(
        id=f"S {size}",
        what=what(size),
        peer="usual loop, fp32",
        agreement=agreement,
        duel=duel(synchronised(peer.step), synchronised(ours.step), repeats),
        goal=1.8 if size == "gpu" else 1.5,
        memory_mb=memory,
        device=device_name(size),
    )


def saving_rows(size: str, repeats: int) -> list[Row]:
    """Return the rows of what takes less memory, against ours without it."""
    clips = SIZES[size][0]
    found = []
    for kind, key, most in (
        ("checkpointing", "backbone.checkpointing=true", 0.5),
        ("micro-batch", f"trainer.micro_batch={clips // 4}", None),
    ):
        plain, saving = Ours(size), Ours(size, key)
        gradients = [one.gradients() for one in (plain, saving)]
        apart = max(
            ((a - b).norm() / (a.norm() + 1e-6)).item() for a, b in zip(*gradients, strict=True)
        )
        memory = None if size == "small" else (peak(size, "ours"), peak(size, "ours", key))
        print(f"{size} {kind}: gradients equal to {apart:.0e}", flush=True)
        if apart > 1e-4:
            raise SystemExit(f"{size} {kind}: the gradients differ")
        found.append(
            Row(
                id=f"S {size} {kind}",
                what=f"{what(size)}, {key}",
                peer="ours without it",
                agreement=f"gradients equal to {apart:.0e} of their norm",
                duel=duel(synchronised(plain.step), synchronised(saving.step), repeats),
                memory_mb=memory,
                at_most={"of the memory": (memory[1] / memory[0], most)} if most and memory else {},
                device=device_name(size),
            )
        )
    return found


class Ours:
    """Our training step in bf16, outside of a Trainer."""

    def __init__(self, size: str, *settings: str) -> None:
        self.device = "cuda" if size == "gpu" else "cpu"
        self.model, self.batch = model(size, *settings), batch(size)
        self.optimizer = build_optimizer(self.model.cfg, self.model.parameter_groups())

    def step(self) -> Tensor:
        """Return the loss, which nothing has waited for."""
        with torch.autocast(self.device, torch.bfloat16):
            loss = self.model.training_step(self.batch, 0)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.detach()

    def gradients(self) -> list[Tensor]:
        """Return the gradients of one step that is not made, in single precision."""
        self.optimizer.zero_grad()
        self.model.training_step(self.batch, 0).backward()
        return [p.grad.clone() for p in self.model.parameters() if p.grad is not None]


class Usual:
    """A usual loop: single precision, a look at every loss, an update tensor by tensor."""

    def __init__(self, size: str) -> None:
        self.model, self.batch = model(size), batch(size)
        self.groups = self.model.parameter_groups()
        self.states: dict[Tensor, tuple[Tensor, Tensor]] = {}

    def step(self) -> float:
        """Return the loss."""
        loss = self.model.training_step(self.batch, 0)
        self.model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        with torch.no_grad():
            for group in self.groups:
                for p in group["params"]:
                    self.update(p, group["lr"], group["weight_decay"])
        return loss.item()

    def update(self, p: Tensor, rate: float, decay: float) -> None:
        assert p.grad is not None
        torch.nn.utils.clip_grad_norm_(p, 1.0)
        if p not in self.states:
            self.states[p] = torch.zeros_like(p), torch.zeros_like(p)
        first, second = self.states[p]
        first.mul_(BETAS[0]).add_(p.grad, alpha=1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(p.grad, p.grad, value=1 - BETAS[1])
        update = first / (second.sqrt() + 1e-6)
        p.sub_(rate * (update + decay * p if decay else update))


def model(size: str, *settings: str) -> RetrievalModule:
    """Return a model with the same random weights each time."""
    clips, frames, side, layers = SIZES[size]
    own = [
        *("model=meanpool", "text.words=32", f"video.frames={frames}"),
        *(f"video.size=[{side},{side}]", f"trainer.batch_size={clips}"),
        *("optim.name=bert_adam", f"optim.lr={RATE}", f"optim.weight_decay={DECAY}"),
        *("backbone.width=192", f"backbone.layers={layers}", "backbone.heads=3"),
        *("backbone.mlp=4", "backbone.text_layers=4", "optim.backbone_lr=1"),
    ]
    torch.manual_seed(0)
    if size != "gpu":
        made = build_model(config.load([*own, "backbone.weights=none", *settings]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            towers.save({"clip": CLIP_B32}, Path(folder))
            with towers.without_weights(Path(folder), needed=True):
                made = build_model(config.load([*own, "backbone=clip_vit_b32", *settings]))
    made.log = lambda *_, **__: None  # type: ignore[method-assign]
    return made.to("cuda" if size == "gpu" else "cpu").train()


def batch(size: str) -> dict[str, Tensor]:
    """Return clips as bytes and captions as tokens."""
    clips, frames, side, _ = SIZES[size]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (clips, frames, 3, side, side), generator=generator)
    made = {
        "text_ids": torch.randint(3, 2000, (clips, 32), generator=generator),
        "text_mask": torch.arange(32).expand(clips, 32) < 14,
        "frames": pixels.byte(),
        "frame_mask": torch.ones(clips, frames).bool(),
    }
    return {key: value.to("cuda" if size == "gpu" else "cpu") for key, value in made.items()}


def peak(size: str, kind: str, *settings: str) -> float:
    """Return MB above the imports of two steps; on a GPU those of its own memory."""
    if size != "gpu":
        return peak_mb("step:two_steps", size, kind, *settings)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    two_steps(size, kind, *settings)()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def two_steps(size: str, kind: str, *settings: str) -> Callable[[], None]:
    """Return a call that makes two steps of a model that is there already."""
    one = Usual(size) if kind == "usual" else Ours(size, *settings)

    def call() -> None:
        one.step()
        one.step()

    return call


def synchronised(step: Callable[[], object]) -> Callable[[], object]:
    """Return a call that waits for the GPU, where there is one."""
    if not torch.cuda.is_available():
        return step

    def call() -> None:
        step()
        torch.cuda.synchronize()

    return call


def what(size: str) -> str:
    clips, frames, side, _ = SIZES[size]
    towers_of = "ViT-B/32" if size == "gpu" else "ViT-tiny"
    return f"{towers_of}, {clips} clips of {frames} frames, {side} x {side}"


def device_name(size: str) -> str | None:
    return torch.cuda.get_device_name() if size == "gpu" else None


if __name__ == "__main__":
    sys.exit(main())
