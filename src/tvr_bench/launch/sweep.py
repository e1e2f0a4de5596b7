"""An ablation sweep: every cell with every seed as a process of its own, then a table and a figure.

A run is known by a hash of its resolved settings. So a cell whose settings changed is a new cell,
and one that another sweep has run already, such as a model's defaults, is not run again. Cells that
differ only in how they are tested share the weights of the first.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from rich.console import Console

from tvr_bench import config
from tvr_bench.errors import UserError
from tvr_bench.files import settings_hash
from tvr_bench.launch.grid import Cell, Sweep, load_sweep, setting, sweep_names
from tvr_bench.launch.local import (
    LOG_FILE,
    Command,
    Outcome,
    Task,
    make_folder,
    run_tasks,
)
from tvr_bench.leaderboard.record import RECORD_FILE, load_record
from tvr_bench.leaderboard.sweep_report import Measured, check_metrics, write_report
from tvr_bench.lock import lock_of
from tvr_bench.schema import numbers

ROOT = "sweeps"  # beside the runs: hundreds of ablated models would fill the leaderboard
_HASH = 10  # hex digits
_TEST_ONLY = ("two_stage", "parity", "frames", "batch_size", "block", "max_matrix_gb")  # of `eval`
_RESERVED = ("seed", "run.name", "run.weights")


@dataclass(frozen=True)
class Plan:
    """All runs of a sweep: a task per cell and seed, and the folder of table and figure."""

    sweep: Sweep
    settings: tuple[str, ...]
    folder: Path
    tasks: tuple[tuple[Cell, int, Task], ...]


def run_sweep(
    name: str,
    settings: Sequence[str] = (),
    *,
    seeds: Sequence[int] = (0, 1, 2),
    jobs: int = 1,
    command: Command | None = None,
) -> int:
    """Run what is left of a sweep and write its table and figure; return the exit code.

    It is 1 where a run failed. Raises UserError for a sweep or a setting that is none, and
    KeyboardInterrupt, saying how to go on, after Ctrl-C or SIGTERM.
    """
    planned = plan(name, settings, seeds)
    check_metrics(planned.sweep)
    make_folder(planned.folder)
    tasks = [task for _, _, task in planned.tasks]
    try:
        outcomes = run_tasks(name, tasks, command or bench_command, jobs=jobs)
    except KeyboardInterrupt as stop:
        again = shlex.join(["tvr-bench", "sweep", name, *_repeat(seeds, jobs), *settings])
        raise KeyboardInterrupt(f"go on with `{again}`") from stop
    report(planned, outcomes)
    return print_failures(outcomes)


def report(planned: Plan, outcomes: Sequence[Outcome] = ()) -> None:
    """Write and print the table and the figure of the runs that have a record."""
    failed = [f"{o.task.name}: {o.reason}" for o in outcomes if o.state == "failed"]
    seeds = list(dict.fromkeys(seed for _, seed, _ in planned.tasks))
    settings = [*_repeat(seeds, jobs=1), *planned.settings]
    paths = write_report(
        planned.sweep, measured(planned), planned.folder, settings=settings, failed=failed
    )
    for path in paths:
        print(path)


def measured(planned: Plan) -> list[Measured]:
    """Return, cell by cell, the records there are, by seed; one that is broken is named on stderr.

    A cell's n then says that it is missing.
    """
    found: dict[str, Measured] = {}
    for cell, seed, task in planned.tasks:
        entry = found.setdefault(cell.label, Measured(cell, {}))
        folder = task.find()
        if (folder / RECORD_FILE).exists():
            try:
                entry.records[seed] = load_record(folder)
            except UserError as error:
                print(f"warning: left out of the table: {error}", file=sys.stderr)
    return list(found.values())


def plan(name: str, settings: Sequence[str] = (), seeds: Sequence[int] = (0, 1, 2)) -> Plan:
    """Return the runs of a sweep; raises UserError where one of them could not begin."""
    loaded = load_sweep(name)
    _check_settings(loaded, settings)
    if not seeds:
        raise UserError("a sweep needs at least one seed, such as seeds=3")
    given = [s for s in settings if s.startswith("run.root=")]
    root = Path(config.load(given).run.root if given else ROOT)
    folder = root / loaded.name
    tasks = []
    trainers: dict[str, Callable[[], Path]] = {}
    for cell in loaded.cells:
        words = [*cell.overrides, *(s for s in settings if not s.startswith("run.root="))]
        try:
            resolved = _resolved(words)
        except UserError as error:
            raise UserError(f"{loaded.name}, {cell.label}: {error}") from error
        for seed in seeds:
            trained = settings_hash({**_learned(loaded, resolved), "seed": seed})
            digest = settings_hash({**resolved, "seed": seed}, _HASH)
            run = f"{_slug(loaded.name)}-{_slug(cell.label)}-s{seed}-{digest}"
            task = Task(
                name=run,
                lock=lock_of(root, digest),
                find=partial(_find, root, digest, folder / run),
                settings=(*words, f"seed={seed}"),
                weights=trainers.get(trained),
            )
            trainers.setdefault(trained, task.find)
            tasks.append((cell, seed, task))
    return Plan(loaded, tuple(settings), folder, tuple(tasks))


def bench_command(task: Task, folder: Path) -> list[str]:
    """Return the command that runs a task in its folder."""
    places = {"run.root": str(folder.parent), "run.leaderboard": str(folder.parent)}
    given = [s.split("=", 1)[0] for s in task.settings]
    picture = [] if "run.picture" in given else ["run.picture=false"]
    if task.weights is not None:
        places["run.weights"] = str(task.weights())
    words = [setting(key, value) for key, value in places.items() if key not in given]
    name = setting("run.name", folder.name)
    return [sys.executable, "-m", "tvr_bench", "bench", *task.settings, *words, *picture, name]


def seeds_of(text: str) -> list[int]:
    """Return the seeds that `3` (0, 1, 2) or a list such as `0,4,7` stands for."""
    if not re.fullmatch(r"\[?\s*{0}(\s*,\s*{0})*,?\s*\]?".format("(0|[1-9][0-9]*)"), text):
        raise UserError(
            f"seeds={text} is impossible; write a number of seeds, or seeds=0,4,7, in plain digits"
        )
    numbers = [int(digits) for digits in re.findall("[0-9]+", text)]
    if "," in text or text.startswith("["):
        return list(dict.fromkeys(numbers))
    if not 1 <= numbers[0] <= 1000:
        raise UserError(f"seeds={text} is impossible; it is the number of seeds, 1 to 1000")
    return list(range(numbers[0]))


def print_plan(planned: Plan) -> None:
    """Print every run of a sweep with its state and its command."""
    states: dict[str, int] = {}
    for cell, seed, task in planned.tasks:
        folder = task.find()
        state = "done" if task.done else "begun" if folder.exists() else "to do"
        states[state] = states.get(state, 0) + 1
        words = shlex.join(["tvr-bench", *bench_command(task, folder)[3:]])
        print(f"{state:<6} {cell.label}, seed {seed}\n       {words}")
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    print(f"{planned.sweep.name}: {len(planned.sweep.cells)} cells, {counts}")


def print_sweeps() -> None:
    """Print the name, the number of cells and the title of every sweep."""
    for name in sweep_names():
        one = load_sweep(name)
        print(f"{name:<24} {len(one.cells):>3} cells  {one.file.title}")


def print_failures(outcomes: Iterable[Outcome]) -> int:
    """Print the last line and the log of every failed run; return 1 where there is one, else 0."""
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    failed = [one for one in outcomes if one.state == "failed"]
    for one in failed:
        console.print(f"FAILED {one.task.name}: {one.reason}")
        console.print(f"       {one.folder / LOG_FILE}")
    return 1 if failed else 0


def _resolved(words: Sequence[str]) -> dict[str, Any]:
    """Return the settings that can change a number."""
    loaded: Any = OmegaConf.to_container(cast(Any, config.load(words)), resolve=True)
    return numbers(loaded)


def _learned(sweep: Sweep, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the weights depend on: cells that share them are trained once."""
    kept = dict(resolved)
    kept["eval"] = {k: v for k, v in kept["eval"].items() if k not in _TEST_ONLY}
    for key in sweep.file.test_only:
        section, _, name = key.partition(".")
        kept[section] = {k: v for k, v in kept[section].items() if k != name}
    return kept


def _find(root: Path, digest: str, new: Path) -> Path:
    """Return the folder of the run with these settings, of whatever sweep, else `new`."""
    folders = [new, *_run_folders(root, digest)]
    ready = [f for f in folders if (f / RECORD_FILE).exists()]
    return next(iter([*ready, *(f for f in folders if f.is_dir())]), new)


def _run_folders(root: Path, digest: str) -> Iterator[Path]:
    for depth in ("*", "*/*"):  # of `claims` and `cret/gees`
        yield from sorted(root.glob(f"{depth}/*-{digest}"))


def _check_settings(loaded: Sweep, settings: Sequence[str]) -> None:
    varied = {*loaded.file.grid, *(key for own in loaded.file.cells.values() for key in own)}
    for text in settings:
        key, equals, _ = text.partition("=")
        if not equals:
            raise UserError(f"'{text}' is not a setting; write key=value, such as optim.lr=3e-4")
        if key in _RESERVED:
            raise UserError(f"{key} is given by the sweep; write seeds=N or seeds=0,4,7 for seeds")
        if key in varied:
            raise UserError(f"{key} is what {loaded.name} varies; leave it, or write a sweep file")


def _repeat(seeds: Sequence[int], jobs: int) -> list[str]:
    text = ",".join(str(seed) for seed in seeds) + ("," if len(seeds) == 1 else "")
    if list(seeds) == list(range(len(seeds))):
        text = str(len(seeds))
    return [f"seeds={text}", *(["--jobs", str(jobs)] if jobs != 1 else [])]


def _slug(text: str) -> str:
    """Return `text` as a part of a file's name."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:44].rstrip("-.") or "cell"
