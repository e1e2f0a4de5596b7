"""What the evaluation table is compared with: the metric code of open_clip and of CLIP4Clip.

`TVR_PEERS=DIR` names a folder of checkouts, `DIR/open_clip` and `DIR/CLIP4Clip`. Where it has no
open_clip, the installed package `open_clip_torch` is taken; its releases up to 3.3.0 do not have
`open_clip_train.metrics` yet, only an older function of the same name that sorts the whole matrix.

N texts, M videos, V clips, L captions of the clip that has most.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tvr_bench.evaluation.ranks import Ranks
from tvr_bench.leaderboard.provenance import git_state


@dataclass(frozen=True)
class Paired:
    """open_clip's metrics of N pairs; `sorts` says that it needs a matrix and sorts it."""

    name: str
    metrics: Callable[[Tensor, Tensor, float], Mapping[str, Any]]
    sorts: bool


def open_clip() -> Paired | None:
    """Return open_clip's `get_clip_metrics`, or None where there is none."""
    module = _checkout("open_clip", "src/open_clip_train/metrics.py")
    if module is not None:
        return Paired(f"open_clip {module.__doc__}", module.get_clip_metrics, False)
    if importlib.util.find_spec("open_clip_train") is None:
        return None
    if importlib.util.find_spec("open_clip_train.metrics") is not None:
        from open_clip_train import metrics

        return Paired(_release(), metrics.get_clip_metrics, False)
    from open_clip_train import train

    return Paired(f"{_release()}, sorting", train.get_clip_metrics, True)


def clip4clip() -> ModuleType | None:
    """Return CLIP4Clip's module of metrics from its checkout; its docstring says which."""
    return _checkout("CLIP4Clip", "metrics.py")


def as_open_clip(t2v: Ranks, v2t: Ranks) -> dict[str, float]:
    """Return ranks without ties as the metrics that `get_clip_metrics` returns."""
    found = {}
    for name, ranks in (("text_to_image", t2v.ahead), ("image_to_text", v2t.ahead)):
        found[f"{name}_mean_rank"] = ranks.mean() + 1
        found[f"{name}_median_rank"] = np.floor(np.median(ranks)) + 1
        for k in (1, 5, 10):
            found[f"{name}_R@{k}"] = np.mean(ranks < k)
    return found


def as_clip4clip(ranks: Ranks, lower_median: bool = False) -> dict[str, float]:
    """Return ranks without ties as CLIP4Clip's metrics, whose two medians have two rules."""
    median = torch.tensor(ranks.ahead).median() if lower_median else np.median(ranks.ahead)
    found = {f"R{k}": 100.0 * np.mean(ranks.ahead < k) for k in (1, 5, 10)}
    return {**found, "MedianR": float(median) + 1, "MeanR": ranks.ahead.mean() + 1}


def cube(scores: np.ndarray[Any, Any], gold: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return scores [N, V] padded as CLIP4Clip pads them, [V, L, V]; `gold` must not fall."""
    parts = np.split(scores, np.flatnonzero(np.diff(gold)) + 1)
    most = max(len(part) for part in parts)
    pads = [np.full((most - len(part), scores.shape[1]), -np.inf) for part in parts]
    return np.stack([np.concatenate(pair) for pair in zip(parts, pads, strict=True)])


def agree(theirs: Mapping[str, Any], ours: Mapping[str, float]) -> None:
    """Stop with an error where a metric of ours is not theirs."""
    wrong = [
        f"{name} {theirs[name]} against {value}"
        for name, value in ours.items()
        if not np.isclose(float(theirs[name]), value, rtol=1e-6, atol=0)
    ]
    if wrong:
        raise SystemExit(f"outputs differ: {', '.join(wrong)}")


def _release() -> str:
    return f"open_clip {metadata.version('open_clip_torch')}"


def _checkout(name: str, file: str) -> ModuleType | None:
    """Return a file of a checkout as a module whose docstring is the commit, else the digest."""
    folder = Path(os.environ.get("TVR_PEERS") or ".") / name
    spec = importlib.util.spec_from_file_location(f"peer_{name}", folder / file)
    if not os.environ.get("TVR_PEERS") or not (folder / file).is_file() or spec is None:
        return None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    commit = git_state(folder).commit
    digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    module.__doc__ = f"@ {commit[:7]}" if commit else f"({Path(file).name} sha256 {digest[:12]})"
    return module
