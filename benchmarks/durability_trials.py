"""Small trainings that are killed, stopped and starved, for `durability.py` and for the tests.

Not a table itself. A trial forks this process, which has imported everything and computed nothing,
so that a run costs no start. Every function returns counts: what was tried and what came of it.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import tvr_bench.bench  # noqa: F401  # once here, and not in each child
from tvr_bench import durable
from tvr_bench.cli import main as command
from tvr_bench.datamodules.base import VideoTextDataModule
from tvr_bench.errors import UserError
from tvr_bench.leaderboard.record import load_record, metrics_json
from tvr_bench.models.base import RetrievalModule
from tvr_bench.resume import Checkpoints

# dropout, mirrors, shifts and shuffling on; eight steps, four validations
RUN = (
    *("model=meanpool", "data=signvid", "data.preset=tiny", "data.train=16", "data.val=8"),
    *("data.test=8", "video.frames=2", "video.size=[32,48]", "text.words=32", "text.vocab=400"),
    "backbone.weights=none",
    *("backbone.width=16", "backbone.heads=2", "backbone.layers=1", "backbone.text_layers=1"),
    *("backbone.dropout=0.2", "trainer.mirror=true", "trainer.shift=2", "ocr.enabled=false"),
    *("trainer.accelerator=cpu", "trainer.precision=32", "trainer.threads=1"),
    *("trainer.prepare_workers=0", "trainer.batch_size=4", "eval.batch_size=8", "eval.every=0.5"),
    *("trainer.epochs=2", "trainer.log_every=1", "trainer.checkpoint_every=0"),
    *("log.tensorboard=false", "run.picture=false", "trainer.keep_checkpoints=true"),
)
PLACES = ("step", "save", "validation", "edge", "epoch", "rename", "test", "anywhere")
_TRAIN, _TEST = (RetrievalModule, "training_step"), (RetrievalModule, "test_step")
_PREPARE = (VideoTextDataModule, "prepare")


def child(work: Callable[[], object], log: Path, kill_after: float | None = None) -> int:
    """Run `work` in a process of its own; return its exit code, or minus the signal it died of."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs of a shell ignore it
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        os._exit(_code(work))
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _code(work: Callable[[], object]) -> int:
    torch.set_num_threads(1)
    try:
        found = work()
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    except BaseException as error:  # a child must never return into its parent's code
        print(repr(error), file=sys.stderr, flush=True)
        return 1
    return found if isinstance(found, int) else 0


class Runs:
    """Small trainings in one folder, and the one that was never interrupted."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        folder.mkdir(parents=True)
        self.settings = [*RUN, f"paths.cache={cache}", f"run.root={folder}"]
        self.settings += [f"run.leaderboard={folder}"]
        assert self.go("whole") == 0, self.log.read_text()

    def go(self, name: str, *words: str, before: Callable[[], object] | None = None) -> int:
        """Begin a run or go on with it; return its exit code. `before` is called in its process."""

        def work() -> int:
            if before is not None:
                before()
            return command(["bench", *self.settings, f"run.name={name}", *words])

        return child(work, self.log)

    def record(self, name: str) -> Path:
        """Return where the record of a run is, once it is finished."""
        return self.folder / name / "record.json"

    def said(self) -> str:
        """Return the last line that a run has written."""
        return self.log.read_text().splitlines()[-1]

    def differences(self, name: str) -> list[str]:
        """Return in what a run differs from the one that was never interrupted."""
        one, other = self.folder / "whole", self.folder / name
        if not self.record(name).exists():
            return [f"{name}: no record"]
        found = unequal(_state(one), _state(other))
        for file in ("csv/metrics.csv", "model.safetensors"):
            if (one / file).read_bytes() != (other / file).read_bytes():
                found.append(file)
        if metrics_json(load_record(one)) != metrics_json(load_record(other)):
            found.append("metrics")
        found += [path.name for path in other.rglob(".*")]
        return [f"{name}: {what}" for what in found]


def _state(run: Path) -> dict[str, Any]:
    state = durable.read(run / "checkpoints" / durable.LAST)
    del state["callbacks"]["TrainClock"]
    return state


def unequal(one: Any, other: Any, at: str = "") -> list[str]:
    """Return where two checkpoints differ, to the last bit."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [at]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{at}: keys"]
        return [w for key in one for w in unequal(one[key], other[key], f"{at}.{key}")]
    if isinstance(one, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [w for i, (a, b) in pairs for w in unequal(a, b, f"{at}[{i}]")]
    return [] if one == other else [at]


def kills(runs: Runs, trials: int, seed: int = 0) -> dict[str, Any]:
    """Kill a run at `trials` places, one after the other, go on, and compare: R2."""
    rng = random.Random(seed)
    wrong: list[str] = []
    died = 0
    for trial in range(trials):
        name = f"kill{seed}-{trial}-{PLACES[trial % len(PLACES)]}"
        words = [f"trainer.workers={rng.choice((0, 2))}"]
        words += [f"trainer.checkpoint_every={rng.choice((0, 0.001))}"]
        code = 0
        for _ in range(rng.choice((1, 1, 2))):  # some are killed twice
            where = PLACES[trial % len(PLACES)], rng.randrange(1, 8), rng.random()
            code = runs.go(name, *words, before=partial(arm, *where))
            died += code == -signal.SIGKILL
        # one that was killed after its record was written is finished, and says so
        if code and not runs.record(name).exists() and (code := runs.go(name, *words)):
            wrong.append(f"{name}: code {code}, {runs.said()}")
        wrong += runs.differences(name)
    return {"trials": trials, "killed": died, "wrong": wrong}


def arm(place: str, number: int, chance: float) -> None:
    """Make this process die when it comes to `place` for the `number`-th time."""
    if place == "anywhere":
        signal.signal(signal.SIGALRM, _die)
        signal.setitimer(signal.ITIMER_REAL, 0.2 + chance)
        return
    where: tuple[Any, str] = {
        "step": _TRAIN,
        "save": (durable._Digested, "write"),
        "validation": (RetrievalModule, "validation_step"),
        "edge": (Checkpoints, "on_train_batch_start"),
        "epoch": (Checkpoints, "on_train_epoch_end"),
        "rename": (durable, "_keep"),
        "test": _TEST,
    }[place]
    number = min(number, 2) if place in ("epoch", "test") else number
    number *= 20 if place == "save" else 1
    at(*where, number, _die, after=chance < 0.5)


def at(
    owner: Any, name: str, number: int, act: Callable[[], object], *, after: bool = False
) -> None:
    """Let `act` be done in this process when a function is called for the `number`-th time."""
    real, calls = getattr(owner, name), [0]

    def acting(*arguments: Any, **keywords: Any) -> Any:
        calls[0] += 1
        if calls[0] == number and not after:
            act()
        found = real(*arguments, **keywords)
        if calls[0] == number and after:
            act()
        return found

    setattr(owner, name, acting)


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def signals(runs: Runs, few: bool = False) -> dict[str, Any]:
    """Send SIGTERM and SIGINT to a run, go on, and compare: R3."""
    places = [(_TRAIN, 6), (_TEST, 1), (_PREPARE, 1), (_TRAIN, 1), (_TRAIN, 8)]
    wrong = []
    for i, number in enumerate((signal.SIGTERM, signal.SIGINT)):
        for where, times in places[i : i + 1] if few else places:
            name = f"{number.name}-{where[1]}-{times}"
            send = partial(os.kill, 0, number)  # to the whole group, loaders included
            armed = partial(at, *where, times, send)
            code = runs.go(name, "trainer.workers=2", "trainer.checkpoint_every=99", before=armed)
            told, kept = runs.said(), runs.folder / name / "checkpoints" / durable.LAST
            how = "go on with `tvr-bench bench --config"
            if where == _PREPARE:
                how = "the same command goes on from here"
            if code != 128 + number or how not in told:
                wrong.append(f"{name}: code {code}, {told}")
            if where == _TRAIN and durable.read(kept)["global_step"] != times:
                wrong.append(f"{name}: not stopped after its step")
            runs.go(name)
            wrong += runs.differences(name)
    twice = partial(at, *_TRAIN, 3, lambda: [os.kill(os.getpid(), signal.SIGTERM) for _ in "ab"])
    if (code := runs.go("twice", before=twice)) != 128 + signal.SIGTERM:
        wrong.append(f"twice: code {code}")
    return {"trials": 3 if few else 1 + 2 * len(places), "wrong": wrong}


def accidents(runs: Runs) -> dict[str, Any]:
    """Fill the disk, and kill a loader's process, in the midst of a run: R14, R17."""
    wrong = []
    for name, act, words in (
        ("full", _fill, "free some space"),
        ("loader", _kill_loader, "lower trainer.workers"),
    ):
        armed = partial(at, *_TRAIN, 6, act)
        start = time.monotonic()
        code = runs.go(name, "trainer.workers=2", before=armed)
        if code != 2 or words not in runs.said() or time.monotonic() - start > 60:
            wrong.append(f"{name}: code {code}, {runs.said()}")
        wrong += [f"{name}: left {p.name}" for p in (runs.folder / name).rglob(".*.tmp*")]
        runs.go(name)
        wrong += runs.differences(name)
    return {"trials": 2, "wrong": wrong}


def _fill() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))


def _kill_loader() -> None:
    me = os.getpid()
    children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)


def few(runs: Runs) -> dict[str, Any]:
    """Do a few of all of these."""
    return {"kills": kills(runs, 3), "signals": signals(runs, True), "accidents": accidents(runs)}


def main() -> None:
    """Print the counts of one function as JSON; arguments: FUNCTION FOLDER CACHE JSON-ARGUMENTS."""
    name, folder, cache, rest = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(globals()[name](Runs(folder, cache), *json.loads(rest))))


if __name__ == "__main__":
    main()
