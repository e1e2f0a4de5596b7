"""All models with the same settings, one process each; one that fails does not hide the others."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tvr_bench import config
from tvr_bench.errors import UserError
from tvr_bench.launch.grid import setting
from tvr_bench.launch.local import Command, Outcome, Task, make_folder, run_tasks
from tvr_bench.launch.progress import duration
from tvr_bench.launch.sweep import print_failures
from tvr_bench.leaderboard.record import RECORD_FILE, load_record
from tvr_bench.leaderboard.sweep_report import wide_console
from tvr_bench.lock import lock_of

_SHOWN = ("R@1", "R@5", "R@10")


def bench_all(
    settings: Sequence[str], file: Path | None = None, *, command: Command | None = None
) -> int:
    """Train and test every model, the plainest first; return 1 where one failed, else 0.

    `run.name=NAME` makes runs `MODEL-NAME`, of which finished ones are skipped and killed ones go
    on. Raises UserError where the settings do not suit every model, and KeyboardInterrupt, saying
    how to go on.
    """
    rest = [s for s in settings if not s.startswith(("model=", "model.name=", "run.name="))]
    models = sorted(config.names("model"), key=lambda name: (_keys(name), name))
    for model in models:
        try:
            cfg = config.load([f"model={model}", *rest], file)
        except UserError as error:
            raise UserError(f"model={model}: {error}") from error
    root = Path(cfg.run.root)
    make_folder(root)
    given = [s.split("=", 1)[1] for s in settings if s.startswith("run.name=")]
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    name = given[-1] if given else f"{cfg.data.name}-s{cfg.seed}-{stamp}"
    tasks = [_task(model, name, root, rest, file) for model in models]
    try:
        outcomes = run_tasks("all models", tasks, command or _command)
    except KeyboardInterrupt as stop:
        options = ["--config", str(file)] if file else []
        words = ["bench", *options, "model=all", *rest, setting("run.name", name)]
        raise KeyboardInterrupt(f"go on with `{shlex.join(['tvr-bench', *words])}`") from stop
    print_summary(dict(zip(models, outcomes, strict=True)))
    print(Path(cfg.run.leaderboard) / "leaderboard.html")
    return print_failures(outcomes)


def print_summary(outcomes: dict[str, Outcome], console: Console | None = None) -> None:
    """Print both directions' metrics of every model that has a record, and how the others ended."""
    console = console or wide_console()
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    for direction in ("T2V", "V2T"):
        for metric in _SHOWN:
            table.add_column(f"{direction}\n{metric}", justify="right")
    table.add_column("time", justify="right", no_wrap=True)
    for model, outcome in outcomes.items():
        if not (outcome.folder / RECORD_FILE).exists():
            state = "failed" if outcome.state == "failed" else "no record"
            table.add_row(model, Text(state, "red"))
            continue
        record = load_record(outcome.folder)
        both = (record.metrics.t2v, record.metrics.v2t)
        values = [f"{values[metric]:.1f}" for values in both for metric in _SHOWN]
        table.add_row(model, *values, duration(record.run.wall_s))
    console.print(table)


def _keys(model: str) -> int:
    """Return the size of a model's own settings: the floor under all models has next to none."""
    return len((config.CONFIG_ROOT / "model" / f"{model}.yaml").read_text().splitlines())


def _task(model: str, name: str, root: Path, settings: Sequence[str], file: Path | None) -> Task:
    run = f"{model}-{name}"
    return Task(
        name=run,
        lock=lock_of(root, run),
        find=partial(Path, root / run),
        settings=(*(["--config", str(file)] if file else []), f"model={model}", *settings),
    )


def _command(task: Task, folder: Path) -> list[str]:
    name = setting("run.name", folder.name)
    return [sys.executable, "-m", "tvr_bench", "bench", *task.settings, name]
