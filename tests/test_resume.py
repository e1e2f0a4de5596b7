"""A run that was killed or stopped goes on to the very result of one that was not."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tvr_bench import config, durable, identity
from tvr_bench.cli import main
from tvr_bench.models.base import RetrievalModule
from tvr_bench.resume import random_state, set_random_state

TRIALS = Path(__file__).parents[1] / "benchmarks" / "durability_trials.py"


def _trials(name: str, folder: Path, cache: Path, *values: Any) -> dict[str, Any]:
    """Return the counts of a function of `durability_trials`, in a process that can fork."""
    command = [sys.executable, "-W", "ignore", TRIALS, name, folder, cache, json.dumps(values)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_killed_stopped_or_starved_goes_on_to_the_same_bits(
    tmp_path: Path, shared_cache: Path
) -> None:
    """Weights, optimiser, random numbers, metric rows, records; 0 and 2 workers, dropout."""
    found = _trials("few", tmp_path / "runs", shared_cache)
    assert [wrong for counts in found.values() for wrong in counts["wrong"]] == []
    assert found["kills"]["killed"] >= 2


@pytest.mark.soak
def test_a_run_killed_at_many_places_goes_on_to_the_same_bits(
    tmp_path: Path, shared_cache: Path
) -> None:
    found = _trials("kills", tmp_path / "runs", shared_cache, 64)
    assert found["wrong"] == [] and found["killed"] >= 48


@pytest.mark.soak
def test_a_signal_anywhere_stops_a_run_after_its_step(tmp_path: Path, shared_cache: Path) -> None:
    assert _trials("signals", tmp_path / "runs", shared_cache)["wrong"] == []


class Killed(Exception):
    """What stops a run in the tests."""


@pytest.fixture
def stopped(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], Path]:
    """The words that go on with a run that was killed after two of three steps, and its folder."""

    def stop(self: RetrievalModule, *_: Any) -> None:
        if self.trainer.global_step == 2:
            raise Killed

    words = [*tiny_settings, "model=meanpool", "run.name=cut", "trainer.checkpoint_every=0"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RetrievalModule, "on_train_batch_start", stop)
        main(["bench", *words])
    return ["bench", *words], tmp_path / "runs" / "cut"


def test_other_settings_data_or_code_are_refused_by_name(
    stopped: tuple[list[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words, folder = stopped

    def refused(*more: str) -> str:
        capsys.readouterr()
        assert main([*words, *more]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert "run.force=true" in lines[-1]
        return lines[-1]

    assert "optim.lr 0.0001, not 0.5" in re.sub(r"0\.00\d+", "0.0001", refused("optim.lr=0.5"))
    with monkeypatch.context() as patch:
        patch.setattr(identity, "SOURCE", "another")
        assert re.search(r"code\.source [0-9a-f]{16}, not another", refused())
    with monkeypatch.context() as patch:
        kind = "tvr_bench.datamodules.base.VideoTextDataModule.annotations_hash"
        patch.setattr(kind, lambda *_: "0" * 64)
        assert re.search(r"annotations\.train [0-9a-f]{64}, not 0{64}", refused())
        assert main([*words, "run.force=true", "trainer.log_every=3"]) == 0
    assert (folder / "record.json").exists()
    assert config.load(file=folder / "config.yaml").run.force is None


def test_what_changes_no_number_may_change(
    stopped: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words, folder = stopped
    capsys.readouterr()
    assert main([*words, "trainer.log_every=1", "trainer.checkpoint_every=9"]) == 0
    assert "goes on from step 2, in epoch 2\n" in capsys.readouterr().err
    assert (folder / "record.json").exists()


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_it_is_said(
    stopped: tuple[list[str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words, folder = stopped
    last = folder / "checkpoints" / durable.LAST
    last.write_bytes(last.read_bytes()[:-9] + b"123456789")
    steps: list[int] = []
    real = RetrievalModule.training_step

    def note(self: RetrievalModule, batch: Any, index: int) -> Any:
        steps.append(self.trainer.global_step)
        return real(self, batch, index)

    monkeypatch.setattr(RetrievalModule, "training_step", note)
    assert main(words) == 0
    assert "last.ckpt is damaged; the run goes on from the checkpoint before" in (
        " ".join(capsys.readouterr().err.split())
    )
    assert steps == [1, 2]


def test_differences_are_named() -> None:
    was = {"settings": {"optim": {"lr": 1.0, "betas": [0.9, 0.98]}}, "code": {"torch": "2"}}
    now = {"settings": {"optim": {"lr": 2.0, "betas": (0.9, 0.98)}}, "code": {"torch": "2"}}
    assert identity.differences(was, now) == ["settings.optim.lr 1.0, not 2.0"]
    assert identity.differences(was, was) == []
    assert identity.differences({}, {"code": {"a": 1}}) == ["code.a None, not 1"]


def test_random_numbers_go_on() -> None:
    def draw() -> tuple[Any, ...]:
        return random.random(), float(np.random.rand()), torch.rand(3).tolist(), torch.randn(1)

    draw()
    state = random_state(torch.device("cpu"))
    first = draw()
    assert draw() != first
    set_random_state(state)
    assert draw() == first


def test_batches_are_the_same_with_and_without_workers(
    tiny_settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what is drawn of torch's random numbers meanwhile: a loader must draw none."""
    seen: dict[int, list[Any]] = {0: [], 2: []}
    real = RetrievalModule.training_step

    def run(workers: int, note: Callable[..., Any]) -> None:
        monkeypatch.setattr(RetrievalModule, "training_step", note)
        words = [f"trainer.workers={workers}", "trainer.mirror=true", "trainer.shift=3"]
        words += ["trainer.batch_size=4", "trainer.steps=6", "backbone.dropout=0.5"]
        assert main(["bench", *tiny_settings, "model=meanpool", *words]) == 0

    for workers in seen:

        def note(self: RetrievalModule, batch: Any, i: int, w: int = workers) -> Any:
            seen[w] += [*(batch[key] for key in sorted(batch)), torch.get_rng_state()]
            return real(self, batch, i)

        run(workers, note)
    assert len(seen[0]) == len(seen[2]) > 0
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[2], strict=True))
