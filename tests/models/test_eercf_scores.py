"""EERCF's similarities and losses, held to loops over pairs with lists and floats."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from models.eercf_case import EVERY, FRAMES, M, N, P, all_losses, encode, make_batch, make_model
from tvr_bench.models.eercf import Eercf
from tvr_bench.models.layers.levels import PARTS


def _unit(x: Tensor) -> Tensor:
    return x / math.sqrt(float(x @ x))


def _soft(values: list[float], tau: float) -> list[float]:
    powers = [math.exp((value - max(values)) / tau) for value in values]
    return [power / sum(powers) for power in powers]


def _mix(weights: list[float], tokens: list[Tensor]) -> Tensor:
    return torch.stack([w * token for w, token in zip(weights, tokens, strict=True)]).sum(0)


def _slow_parts(model: Eercf, text: Tensor, clip: Tensor, mixed: Tensor, valid: Tensor) -> Any:
    """Return the five similarities of one pair from raw features, with lists and floats."""
    o, t = model.options, _unit(text)
    frames, kept = range(FRAMES), [f for f in range(FRAMES) if valid[f]]
    late = [_unit(mixed[f]) for f in kept]
    whole = _unit(_mix([1 / len(kept)] * len(kept), late))
    seen = [float(t @ _unit(clip[f, 0])) for f in kept]
    soft = dict(zip(kept, _soft(seen, o.tau_frame), strict=True))
    turned = [sum(soft[f] * float(model.frame_map[f, e]) for f in kept) for e in frames]
    gate = _soft(seen, o.tib_tau_frame)
    patches = [_unit(clip[f, 1 + p]) for f in kept for p in range(P)]
    touched = [float(t @ patch) for patch in patches]
    weak = _soft(touched, o.tau_patch)
    return {
        "video": float((t @ model.recall_map) @ whole),
        "frame": sum(turned[f] * s for f, s in zip(kept, seen, strict=True)),
        "patch": sum(w * q for w, q in zip(weak, touched, strict=True)),
        "tib_frame": float(t @ _unit(_mix(gate, late))),
        "tib_patch": float(t @ _unit(_mix(_soft(touched, o.tib_tau_patch), patches))),
    }


def _slow(model: Eercf, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the five similarities, each [N, M], pair by pair."""
    raw, mask = batch["frames"], batch["frame_mask"]
    with torch.no_grad():
        mixed = raw[:, :, 0] + model.temporal(raw[:, :, 0], mask)
        rows = [
            [_slow_parts(model, t, raw[m], mixed[m], mask[m]) for m in range(len(raw))]
            for t in batch["text_ids"]
        ]
    return {
        part: torch.tensor([[pair[part] for pair in row] for row in rows], dtype=torch.float32)
        for part in PARTS
    }


TEMPERATURES = {"tau_frame": 0.2, "tau_patch": 0.3, "tib_tau_frame": 0.5, "tib_tau_patch": 0.1}


@pytest.mark.parametrize("options", [{}, TEMPERATURES], ids=["released", "softer"])
def test_every_similarity_equals_the_loop(options: dict[str, Any]) -> None:
    model, batch = make_model(**EVERY, **options), make_batch(N)
    with torch.no_grad():
        found = model.score_parts(*encode(model, batch))
    assert tuple(found) == PARTS
    for part, expected in _slow(model, batch).items():
        assert torch.allclose(found[part], expected, atol=2e-6), part


@pytest.mark.parametrize("pairwise", [True, False])
def test_both_losses_equal_the_loop(pairwise: bool) -> None:
    train = "pairwise" if pairwise else "own"
    model, batch = make_model(tib_train=train, strong_patch=0.5, weak_patch=0.3), make_batch()
    parts, scale = _slow(model, batch), model.logit_scale.item()
    if not pairwise:  # the adapted video b depends on text b alone
        for part, key, tau in (("tib_frame", 0, 0.1), ("tib_patch", 1, 0.01)):
            parts[part] = _own_scores(model, batch, key, tau)
    weak = 0.5 * parts["video"] + 0.5 * parts["frame"] + 0.3 * parts["patch"]
    strong = parts["tib_frame"] + 0.5 * parts["tib_patch"]
    losses = all_losses(model, *encode(model, batch))
    assert losses["weak"].item() == pytest.approx(0.8 * _slow_nce(scale * weak), rel=1e-5)
    assert losses["strong"].item() == pytest.approx(0.2 * _slow_nce(scale * strong), rel=1e-5)


def _own_scores(model: Eercf, batch: dict[str, Tensor], patches: int, tau: float) -> Tensor:
    scores = torch.zeros(M, M)
    raw, mask = batch["frames"], batch["frame_mask"]
    with torch.no_grad():
        mixed = raw[:, :, 0] + model.temporal(raw[:, :, 0], mask)
    for b in range(M):
        kept = [f for f in range(FRAMES) if mask[b, f]]
        own = _unit(batch["text_ids"][b])
        if patches:
            tokens = gates = [_unit(raw[b, f, 1 + p]) for f in kept for p in range(P)]
        else:
            tokens, gates = [_unit(mixed[b, f]) for f in kept], [_unit(raw[b, f, 0]) for f in kept]
        adapted = _unit(_mix(_soft([float(own @ g) for g in gates], tau), tokens))
        for c in range(M):
            scores[c, b] = _unit(batch["text_ids"][c]) @ adapted
    return scores


def _slow_nce(scores: Tensor) -> float:
    total = 0.0
    for i in range(M):
        for line in (scores[i], scores[:, i]):
            total += math.log(sum(math.exp(float(s - scores[i, i])) for s in line)) / (2 * M)
    return total
