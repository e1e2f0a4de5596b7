"""All models with the same settings, one process each; one that fails does not hide the others.

The caches are filled first, once for all. Every run then has the same number of threads, however
many run at a time: threads order floating-point sums, and `--jobs` must not change a number.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tvr_bench import config
from tvr_bench.cores import cores, free_gb, told_threads
from tvr_bench.errors import UserError
from tvr_bench.launch.grid import setting
from tvr_bench.launch.local import Command, Task, make_folder, run_first, run_tasks
from tvr_bench.launch.slots import gpus
from tvr_bench.launch.summary import print_summary
from tvr_bench.launch.sweep import print_failures
from tvr_bench.lock import lock_of
from tvr_bench.schema import Config

_BESIDE = 2  # runs at a time on a CPU: small models leave a second thread half idle
_GB = 3.0  # of free memory for each of them


def bench_all(
    settings: Sequence[str],
    file: Path | None = None,
    *,
    jobs: int | None = None,
    command: Command | None = None,
) -> int:
    """Train and test every model, the plainest first; return 1 where one failed, else 0.

    `jobs` run at a time; None: two on a CPU with the memory for it, else one. Where the caches
    cannot be filled the exit code is that of the attempt. `run.name=NAME` makes runs `MODEL-NAME`,
    of which finished ones are skipped and killed ones go on. Raises UserError where the settings do
    not suit every model, and KeyboardInterrupt, saying how to go on.
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
    words = [*rest, *_threads(cfg)]
    tasks = [_task(model, name, root, words, file) for model in models]
    try:
        if command is None and not all(task.done for task in tasks) and (code := _fill(rest, file)):
            return code
        outcomes = run_tasks("all models", tasks, command or _command, jobs=jobs or _jobs(cfg))
    except KeyboardInterrupt as stop:
        options = [*_options(file), *(["--jobs", str(jobs)] if jobs else [])]
        again = ["tvr-bench", "bench", *options, "model=all", *rest, setting("run.name", name)]
        raise KeyboardInterrupt(f"go on with `{shlex.join(again)}`") from stop
    print_summary(dict(zip(models, outcomes, strict=True)))
    print(Path(cfg.run.leaderboard) / "leaderboard.html")
    return print_failures(outcomes)


def _keys(model: str) -> int:
    """Return the size of a model's own settings: the floor under all models has next to none."""
    return len((config.CONFIG_ROOT / "model" / f"{model}.yaml").read_text().splitlines())


def _threads(cfg: Config) -> list[str]:
    """Return the setting of the threads of each run, unless they are set or told."""
    if cfg.trainer.threads is not None or told_threads() is not None:
        return []
    return [setting("trainer.threads", max(1, cores() // _BESIDE))]


def _jobs(cfg: Config) -> int:
    """Return how many runs go on at a time: one where they would share a GPU or want memory."""
    several, device = cfg.trainer.devices > 1, cfg.trainer.accelerator
    if several or device == "gpu" or (device == "auto" and gpus()):
        return 1
    return max(1, min(_BESIDE, cores(), int(free_gb() // _GB)))


def _fill(settings: Sequence[str], file: Path | None) -> int:
    """Fill the caches that the models need; return the exit code."""
    words = ["data", "prepare", *_options(file), "model=all", *settings]
    return run_first([sys.executable, "-m", "tvr_bench", *words])


def _options(file: Path | None) -> list[str]:
    return ["--config", str(file)] if file else []


def _task(model: str, name: str, root: Path, settings: Sequence[str], file: Path | None) -> Task:
    run = f"{model}-{name}"
    return Task(
        name=run,
        lock=lock_of(root, run),
        find=partial(Path, root / run),
        settings=(*_options(file), f"model={model}", *settings),
    )


def _command(task: Task, folder: Path) -> list[str]:
    name = setting("run.name", folder.name)
    return [sys.executable, "-m", "tvr_bench", "bench", *task.settings, name]
