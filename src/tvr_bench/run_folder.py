"""A run's folder: one process at a time has it, and it is there while it has something to keep."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from tokenizers import Tokenizer

from tvr_bench import devices, durable, identity
from tvr_bench.config import to_yaml
from tvr_bench.datamodules.tokens import save_tokenizer
from tvr_bench.early import check_name, no_folder
from tvr_bench.errors import UserError
from tvr_bench.files import atomic_write
from tvr_bench.leaderboard.record import RECORD_FILE
from tvr_bench.lock import Lock, holder, lock_of, lock_run, locked
from tvr_bench.models.layers import towers
from tvr_bench.runs import CONFIG_FILE, LEDGER_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from tvr_bench.schema import Config
from tvr_bench.signals import Stop
from tvr_bench.training import checkpoints

_MADE = (  # by a run that has not come to its end
    *(CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, towers.FOLDER),
    *("checkpoints", "csv", "tensorboard"),
)


@contextmanager
def open_run(cfg: Config, team: devices.Team, stop: Stop) -> Iterator[Path]:
    """Yield the run's folder, new or to be continued; the first process holds its lock meanwhile.

    It is not made before `keep_settings`. A run that ends before it has a checkpoint, a record or
    a ledger leaves nothing. Raises UserError where another process has the run, it is finished, or
    it was begun with other settings.
    """
    if not team.first:
        yield Path(cfg.run.root) / team.agree("name", str)
        return
    root = Path(cfg.run.root)
    with _folder(root, "run.root"), _folder(Path(cfg.paths.cache), "paths.cache"):
        lock, name = _own(cfg, root)
        with locked(lock):
            run_dir = root / team.agree("name", lambda: name)
            _check(cfg, run_dir)
            durable.clean(run_dir)
            (run_dir / LEDGER_FILE).unlink(missing_ok=True)
            before = {path.name for path in run_dir.glob("*")}
            try:
                yield run_dir
            finally:
                if not _is_kept(run_dir):
                    _remove(run_dir, before)
                    stop.how = ""  # the same command begins anew


@contextmanager
def _folder(path: Path, key: str) -> Iterator[None]:
    """Make a folder, if it can be made, and remove it if it is empty in the end."""
    new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise no_folder(path, error.errno, key) from error
    try:
        yield
    finally:
        if new:
            with suppress(OSError):  # something is in it, mostly
                path.rmdir()


def keep_settings(cfg: Config, run_dir: Path, tokenizer: Tokenizer) -> None:
    """Make the run's folder, with its configuration and its tokenizer in it.

    The configuration is kept without the run's name, so that repeating it makes a new run.
    """
    atomic_write(run_dir / CONFIG_FILE, to_yaml(cfg, without=("run.name", "run.force")))
    save_tokenizer(tokenizer, run_dir / TOKENIZER_FILE)


def how_to_go_on(run_dir: Path) -> str:
    """Return what to tell the user whose run has stopped before its end."""
    words = ["bench", "--config", str(run_dir / CONFIG_FILE), f"run.name={run_dir.name}"]
    return f"go on with `{shlex.join(['tvr-bench', *words])}`"


def remove_checkpoints(run_dir: Path) -> None:
    """Remove the checkpoints of a run whose record and weights are on the disk."""
    # a file that another machine still reads leaves its folder behind on NFS
    shutil.rmtree(checkpoints(run_dir), ignore_errors=True)


def _own(cfg: Config, root: Path) -> tuple[Lock, str]:
    """Return the lock and the name of the run; without `run.name` a new one."""
    name = cfg.run.name
    if name is None:
        return _new(cfg, root)
    check_name(name)
    if (lock := lock_run(root, name)) is None:
        raise UserError(
            f"run {root / name} is being made by {holder(lock_of(root, name))}; wait for its end, "
            "or choose another run.name"
        )
    return lock, name


def _new(cfg: Config, root: Path) -> tuple[Lock, str]:
    """Return the lock and the name of a new run; several may begin in the same second."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    name = first = f"{cfg.model.name}-{cfg.data.name}-s{cfg.seed}-{stamp}"
    for number in count(2):
        if (lock := lock_run(root, name)) is not None:
            if not (root / name).exists():
                return lock, name
            lock.release()
        name = f"{first}-{number}"
    raise AssertionError("numbers end")


def _check(cfg: Config, run_dir: Path) -> None:
    """Raise UserError where the run is finished, or its checkpoints are of other settings."""
    path = run_dir / CONFIG_FILE
    if (run_dir / RECORD_FILE).exists():
        changed = ""
        if path.exists() and (found := identity.changed_settings(path, cfg)):
            changed = f" with other settings ({found}), and a finished run is not trained further"
        raise UserError(
            f"run {run_dir} is finished{changed}; choose another run.name or remove its folder"
        )
    if path.exists() and _has_checkpoint(run_dir) and not cfg.run.force:
        identity.check_settings(path, cfg)


def _has_checkpoint(run_dir: Path) -> bool:
    return any(checkpoints(run_dir).glob("*.ckpt"))


def _is_kept(run_dir: Path) -> bool:
    there = any((run_dir / name).exists() for name in (RECORD_FILE, LEDGER_FILE))
    return there or _has_checkpoint(run_dir)


def _remove(run_dir: Path, before: set[str]) -> None:
    """Remove what this run has made, and the folder if nothing is left in it."""
    for name in {*_MADE} - before:
        path = run_dir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    with suppress(OSError):  # it was never made, or it is not empty
        run_dir.rmdir()
