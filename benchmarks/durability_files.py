"""Checkpoint files under kills, a full disk and flipped bits, ours and Lightning's.

Not a table itself: `durability.py` prints it, and the tests take its functions, which count.
"""

from __future__ import annotations

import os
import random
import resource
import tempfile
from pathlib import Path
from typing import Any

import torch
from durability_trials import child
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from tvr_bench import durable


def _lightning_write(checkpoint: dict[str, Any], path: Path) -> None:
    TorchCheckpointIO().save_checkpoint(checkpoint, path)


def _lightning_newest(folder: Path) -> Path | None:
    path = folder / durable.LAST
    torch.load(path, map_location="cpu", weights_only=True)
    return path


SIDES = {
    "ours": (durable.write, durable.newest),
    "Lightning": (_lightning_write, _lightning_newest),
}


def other_disk() -> Path | None:
    """Return a folder for temporary files that is on another file system than the usual one."""
    shm = Path("/dev/shm")
    here = os.stat(tempfile.gettempdir()).st_dev
    return shm if os.access(shm, os.W_OK) and os.stat(shm).st_dev != here else None


def kills_while_writing(folder: Path, side: str, trials: int, mb: int) -> dict[str, int]:
    """Kill a process that writes one checkpoint after the other, with TMPDIR elsewhere: R1.

    "missing" counts the times when none is as new as the last that a writer had finished, or, of
    ours, as the one before.
    """
    write, newest = SIDES[side]
    folder.mkdir(parents=True)
    rng, told, path = random.Random(1), folder / "told", folder / durable.LAST
    weights = torch.zeros(mb * 250_000)
    found = {"trials": trials, "unreadable": 0, "missing": 0, "leftovers": 0}
    with tempfile.TemporaryDirectory(dir=other_disk()) as elsewhere:

        def work() -> None:
            tempfile.tempdir = elsewhere
            step = int(told.read_text())
            handle = os.open(told, os.O_WRONLY)
            while True:
                step += 1
                write({"global_step": step, "weights": weights}, path)
                os.pwrite(handle, str(step).encode(), 0)

        write({"global_step": 0, "weights": weights}, path)
        told.write_text("0")
        for _ in range(trials):
            child(work, folder / "log", 0.02 + mb / 40 * rng.random())
            found["leftovers"] = max(found["leftovers"], len(list(folder.glob(".*"))))
            durable.clean(folder)
            try:
                kept = newest(folder)
                assert kept is not None
                found["missing"] += durable.peek(kept)["global_step"] < int(told.read_text())
            except Exception:
                found["unreadable"] += 1
                write({"global_step": int(told.read_text()), "weights": weights}, path)
    return found


def full_disk(folder: Path, side: str, trials: int) -> dict[str, int]:
    """Write a checkpoint where a file may only grow to some size: R14."""
    write, newest = SIDES[side]
    folder.mkdir(parents=True)
    log, path = folder / "log", folder / durable.LAST
    write({"global_step": 1, "weights": torch.ones(250_000)}, path)
    found = {"trials": trials, "lost": 0, "leftovers": 0, "unclear": 0}
    for trial in range(trials):
        log.unlink(missing_ok=True)

        def work(limit: int = 5_000 + trial * 990_000 // trials) -> None:
            tempfile.tempdir = str(folder)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            write({"global_step": 2, "weights": torch.ones(250_000)}, path)

        code = child(work, log)
        found["unclear"] += code != 2 or "free some space" not in log.read_text()
        found["leftovers"] += len({*folder.iterdir()} - {log, path})
        durable.clean(folder)
        try:
            kept = newest(folder)
            found["lost"] += kept is None or durable.peek(kept)["global_step"] != 1
        except Exception:
            found["lost"] += 1
    return found


def flipped(folder: Path, side: str, trials: int) -> dict[str, int]:
    """Flip one bit of the newest of two checkpoints: R4."""
    write, newest = SIDES[side]
    folder.mkdir(parents=True)
    rng, path = random.Random(2), folder / durable.LAST
    weights = torch.arange(100_000.0)
    for step in (1, 2):
        write({"global_step": step, "weights": weights}, path)
    good = path.read_bytes()
    found = {"trials": trials, "read though damaged": 0, "nothing to read": 0}
    for _ in range(trials):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        try:
            found["read though damaged"] += newest(folder) == path
        except Exception:
            found["nothing to read"] += 1
    return found
