"""Small finished runs to export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny import TINY_MODEL, TINY_RUN, TINY_SIGNVID
from tvr_bench import config
from tvr_bench.bench import bench

SETTINGS = [*TINY_MODEL, *TINY_RUN, *TINY_SIGNVID]


def bench_run(root: Path, cache: Path, name: str, *settings: str) -> Path:
    """Train and test a small model, and return the folder of the run."""
    own = [f"run.root={root / 'runs'}", f"run.leaderboard={root}", f"paths.cache={cache}"]
    bench(config.load([*SETTINGS, *own, f"run.name={name}", *settings]), command="secret /home")
    return root / "runs" / name


def places(cache: Path) -> dict[str, Any]:
    """Return the settings that a loaded model takes from the machine it is on."""
    here = {"trainer.accelerator": "cpu", "trainer.prepare_workers": 0, "trainer.threads": 1}
    return {"paths.cache": cache, **here}
