"""Places for runs that go on at the same time: each with its share of the cores and GPUs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Slot:
    """The cores of one place (none: all of them) and its environment variables."""

    cores: frozenset[int] = frozenset()
    environment: Mapping[str, str] = field(default_factory=dict)


def slots(jobs: int, settings: Sequence[str] = ()) -> list[Slot]:
    """Return `jobs` places that share out the cores, and the GPUs where a run wants one.

    A run takes as many threads as it has cores, so without this every one would take all.
    """
    if jobs <= 1:
        return [Slot()]
    cores = sorted(os.sched_getaffinity(0))
    several = any(s.startswith("trainer.devices=") and s != "trainer.devices=1" for s in settings)
    names = [] if several or "trainer.accelerator=cpu" in settings else gpus()
    return [
        Slot(
            frozenset(cores[i::jobs] or [cores[i % len(cores)]]),
            {"CUDA_VISIBLE_DEVICES": names[i % len(names)]} if names else {},
        )
        for i in range(jobs)
    ]


def gpus() -> list[str]:
    """Return the names of the GPUs that a run may use."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
