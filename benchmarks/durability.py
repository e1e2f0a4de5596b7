"""Interrupted trainings and damaged checkpoints: what is lost, and what Lightning alone loses.

Run: `.venv/bin/python benchmarks/durability.py [--small]`.

R1  kill -9 while checkpoints are written, with TMPDIR on another file system
R2  kill -9 anywhere in a training, then going on: equal to the uninterrupted one, bit by bit?
R3  SIGTERM and SIGINT: a checkpoint, exit codes 143 and 130, and equal after going on
R4  a flipped bit in the newest checkpoint
R14 a disk that is full at some byte of a checkpoint

Kills test that a process may end at any instant. Whether data outlives a power cut is up to fsync
and the disk, and is not tested. R1's peer stages in TMPDIR: with that on the same file system its
move is a rename, which a kill cannot tear.
"""

from __future__ import annotations

import random
import signal
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from durability_files import SIDES, flipped, full_disk, kills_while_writing, other_disk
from durability_trials import Runs, at, child, kills, signals, unequal
from harness import Row, arguments, save
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

PEER = f"Lightning {pl.__version__}"


class _Plain(pl.LightningModule):
    """A model with dropout, as its user would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(8, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1)
        )

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def _plain_run(folder: Path) -> None:
    """Train for twelve steps in three epochs, from the last checkpoint if there is one."""
    pl.seed_everything(0, verbose=False)
    items = TensorDataset(torch.randn(16, 8))
    kept = ModelCheckpoint(
        folder, filename="last", every_n_train_steps=1, save_top_k=1, enable_version_counter=False
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        callbacks=[kept],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    last = folder / "last.ckpt"
    trainer.fit(
        _Plain(),
        DataLoader(items, batch_size=4, shuffle=True),
        ckpt_path=str(last) if last.exists() else None,
    )


def _plain_kills(folder: Path, trials: int) -> dict[str, int]:
    """Kill a plain Lightning training in a step, go on, and compare the weights."""
    rng = random.Random(0)
    folder.mkdir(parents=True)
    whole, log = folder / "whole", folder / "log"
    assert child(partial(_plain_run, whole), log) == 0, log.read_text()
    found = {"trials": trials, "killed": 0, "unequal": 0}
    for trial in range(trials):
        place, step = folder / f"kill{trial}", rng.randrange(2, 13)

        def work(place: Path = place, step: int = step) -> None:
            at(_Plain, "training_step", step, partial(signal.raise_signal, signal.SIGKILL))
            _plain_run(place)

        found["killed"] += child(work, log) == -signal.SIGKILL
        code = child(partial(_plain_run, place), log)
        states = [torch.load(f / "last.ckpt", weights_only=True) for f in (whole, place)]
        weights = [state["state_dict"] for state in states]
        found["unequal"] += code != 0 or bool(unequal(*weights))
    return found


def _row(id: str, what: str, ours: Mapping[str, Any], peer: Mapping[str, Any] | None) -> Row:
    lost = {k: v for k, v in ours.items() if k not in ("trials", "killed", "leftovers")}
    bad = {k: len(v) if isinstance(v, list) else v for k, v in lost.items()}
    if any(bad.values()):
        raise SystemExit(f"{id}: {dict(ours)}")
    figures: dict[str, Any] = {k: v for k, v in ours.items() if not isinstance(v, list)} | bad
    figures |= {f"{k} ({PEER})": v for k, v in (peer or {}).items()}
    return Row(
        id=id,
        what=what,
        peer=PEER if peer else None,
        agreement="nothing lost, nothing unequal, nothing damaged read",
        figures=figures,
    )


def main() -> None:
    options = arguments(__doc__)
    small = options.small
    many = (
        {"R1": 4, "R2": 2, "R4": 10, "R14": 5}
        if small
        else {"R1": 100, "R2": 24, "R4": 200, "R14": 60}
    )
    mb = 4 if small else 20
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for id, what, trial, words in (
            ("R1", f"kill -9 while {mb} MB are written", kills_while_writing, (mb,)),
            ("R4", "one bit flipped in the newest checkpoint", flipped, ()),
            ("R14", "disk full at some byte of 1 MB", full_disk, ()),
        ):
            found = {s: trial(folder / f"{id}-{s}", s, many[id], *words) for s in SIDES}
            rows.append(_row(id, what, found["ours"], found["Lightning"]))
        runs = Runs(folder / "runs", folder / "cache")
        plain = _plain_kills(folder / "plain", many["R2"])
        rows.append(_row("R2", "kill -9 anywhere, go on", kills(runs, many["R2"]), plain))
        rows.append(_row("R3", "SIGTERM, SIGINT, go on", signals(runs, small), None))
    if other_disk() is None:
        print("R1: no second file system here, so the peer's move is a rename")
    save("durability", sorted(rows, key=lambda row: int(row.id[1:])), options)


if __name__ == "__main__":
    main()
