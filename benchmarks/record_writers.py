"""Many processes write rows of results while some of them are killed: what `records.py` compares.

    python benchmarks/record_writers.py KIND FOLDER [WRITERS ROWS KILLS EVERY]

KIND is `ours`, `rewrite` (pandas: read the table, add a row, write it) or `append` (pandas, mode
"a"). A writer acknowledges a row once the call that stores it has returned; one that is killed is
replaced, and its successor goes on at the first row that is not acknowledged. With `ours` the
leaderboard is made again after every EVERY rows of a writer, and must list them. A reader looks at
the tables all the while. Prints what was left, as JSON; exits 1 if a listed row was missing.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from tvr_bench.datamodules.types import Clip, Query, Split
from tvr_bench.evaluation.evaluate import evaluate_features
from tvr_bench.leaderboard.aggregate import Run
from tvr_bench.leaderboard.record import RECORD_FILE, Record, save_record
from tvr_bench.leaderboard.result import metrics_of, ranks_of
from tvr_bench.leaderboard.run_settings import read_settings
from tvr_bench.leaderboard.table import build_leaderboard, run_row

TABLE, BOARD = "runs.csv", "leaderboard.csv"
_LINE = 12  # bytes of a line of a writer's log: + or -, the row's name, a newline


def name_of(writer: int, row: int) -> str:
    """Return the run id of a writer's row, always of ten letters."""
    return f"w{writer:03d}-r{row:04d}"


def ours(folder: Path, name: str) -> None:
    """Store one record in a folder of its own."""
    template, ranks = _template()
    run = template.run.model_copy(update={"id": name, "seed": int(name[1:4] + name[6:])})
    save_record(template.model_copy(update={"run": run}), folder / "runs" / name, ranks)


def rewrite(folder: Path, name: str) -> None:
    """Read the whole table, add a row and write it again, as scripts with pandas do."""
    path = folder / TABLE
    frame = _frame(name)
    if path.exists():
        frame = pd.concat([pd.read_csv(path), frame])
    frame.to_csv(path, index=False)


def append(folder: Path, name: str) -> None:
    """Add a row at the table's end, with a header where there is no table yet."""
    path = folder / TABLE
    _frame(name).to_csv(path, mode="a", header=not path.exists(), index=False)


KINDS: dict[str, Callable[[Path, str], None]] = {
    "ours": ours,
    "rewrite": rewrite,
    "append": append,
}


def write_rows(kind: str, folder: Path, writer: int, rows: int, every: int) -> None:
    """Store the rows of one writer that its log does not name yet, and log each one."""
    log = os.open(folder / f"log-{writer}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for row in range(os.fstat(log).st_size // _LINE, rows):
        name, mark = name_of(writer, row), "+"
        try:
            KINDS[kind](folder, name)
        except (OSError, ValueError):  # a table that another writer has just emptied or torn
            if kind == "ours":
                raise
            mark = "-"
        if kind == "ours" and row % every == every - 1:
            paths = build_leaderboard(folder / "runs", folder)
            listed = Counter(line["run_id"] for line in csv.DictReader(paths.runs_csv.open()))
            assert listed[name] == 1 and not paths.warnings, (name, listed[name], paths.warnings)
        os.write(log, f"{mark}{name}\n".encode())


def trial(kind: str, folder: Path, writers: int, rows: int, kills: int, every: int) -> bool:
    """Run the writers to their end, kill some; return whether every writer ended well."""
    chance = random.Random(0)
    moments = sorted(chance.sample(range(1, writers * rows), kills), reverse=True)
    alive = {_start(kind, folder, i, rows, every): i for i in range(writers)}
    well = True
    while alive:
        while moments and _logged(folder) >= moments[-1]:
            moments.pop()
            time.sleep(chance.uniform(0.0, 0.005))  # not always at the same place of a row
            os.kill(chance.choice(list(alive)), signal.SIGKILL)
        child, code = os.waitpid(-1, os.WNOHANG)
        if not child:
            time.sleep(0.001)
            continue
        writer = alive.pop(child)
        if os.WIFSIGNALED(code):
            alive[_start(kind, folder, writer, rows, every)] = writer
        else:
            well = well and os.waitstatus_to_exitcode(code) == 0
    return well


def left(folder: Path) -> dict[str, int]:
    """Return what is in the table: of the acknowledged rows, and of lines that are no rows."""
    logs = "".join(path.read_text() for path in folder.glob("log-*")).split()
    acknowledged = {line[1:] for line in logs if line[0] == "+"}
    lines = list(csv.reader((folder / TABLE).open(newline="", encoding="utf-8")))
    header = next((line for line in lines if "run_id" in line), ["run_id"])
    found = Counter(
        line[header.index("run_id")] for line in lines if len(line) == len(header) != line
    )
    return {
        "acknowledged": len(acknowledged),
        "refused": sum(line[0] == "-" for line in logs),
        "once": sum(found[name] == 1 for name in acknowledged),
        "lost": sum(found[name] == 0 for name in acknowledged),
        "twice": sum(found[name] > 1 for name in acknowledged),
        "torn": sum(len(line) != len(header) for line in lines),
        "headers": sum(line == header for line in lines),
    }


def _start(kind: str, folder: Path, writer: int, rows: int, every: int) -> int:
    child = os.fork()
    if child:
        return child
    try:
        write_rows(kind, folder, writer, rows, every)
        os._exit(0)
    except BaseException as error:
        print(f"{name_of(writer, 0)}: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)


def _look(folder: Path, end: int) -> None:
    """Read every new version of tables and records until the pipe `end` closes; keep the counts."""
    looks = torn = 0
    seen: dict[Path, tuple[int, int, int]] = {}
    os.set_blocking(end, False)
    while True:
        names = os.listdir(folder / "runs")
        records = [folder / "runs" / name / RECORD_FILE for name in names]
        # a whole record is not written again, so only those that are not known to be are looked at
        for path in (folder / TABLE, folder / BOARD, *(r for r in records if r not in seen)):
            if not path.exists():
                continue
            state = path.stat()
            version = (state.st_ino, state.st_size, state.st_mtime_ns)
            if seen.get(path) == version:
                continue
            looks += 1
            whole = _whole(path.read_text(encoding="utf-8", errors="replace"), path.suffix)
            torn += not whole
            if whole or path.suffix == ".csv":
                seen[path] = version
        time.sleep(0.001)
        try:
            os.read(end, 1)
            break
        except BlockingIOError:
            continue
    (folder / "looks").write_text(json.dumps({"looks": looks, "torn_looks": torn}))


def _whole(text: str, suffix: str) -> bool:
    if suffix == ".json":
        return text.endswith("}\n")
    widths = {len(line) for line in csv.reader(text.splitlines())}
    return len(widths) == 1 and text.endswith("\n")


def _logged(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("log-*")) // _LINE


def _frame(name: str) -> pd.DataFrame:
    template, _ = _template()
    record = template.model_copy(update={"run": template.run.model_copy(update={"id": name})})
    return pd.DataFrame([run_row(Run(Path(name), name, record, read_settings(Path(name))))])


@cache
def _template() -> tuple[Record, dict[str, Any]]:
    """Return a small record of real metrics, and its ranks."""
    split = Split(
        clips=tuple(Clip(f"v{i}", Path(f"v{i}.mp4")) for i in range(16)),
        queries=tuple(Query(f"q{i}", f"text {i}", f"v{i}", "any", f"g{i // 4}") for i in range(16)),
    )
    table = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    item = {"i": torch.arange(16)}
    result = evaluate_features(
        lambda text, video: table[text["i"]][:, video["i"]], item, item, split, name="test"
    )
    record = Record.model_validate(
        {
            "run": {"id": "x", "date": datetime(2030, 1, 1, tzinfo=UTC), "git": None, "seed": 0}
            | {"dirty": None, "command": "", "wall_s": 1.0},
            "model": {"name": "m", "backbone": "tiny", "checkpoint_sha256": None, "params": 1},
            "data": {"name": "d", "annotations_sha256": "b" * 64, "clips": 16, "queries": 16},
            "protocol": {"split": "test", "captions": "single", "frames": 6, "words": 32}
            | {"resolution": (80, 112)},
            "metrics": metrics_of(result).model_dump(),
            "efficiency": {"device": "cpu", "dtype": "float32"},
            "env": {},
        }
    )
    return record, ranks_of(result, split)


def main() -> int:
    """Run one trial and return the exit status."""
    kind, folder = sys.argv[1], Path(sys.argv[2])
    writers, rows, kills, every = (int(text) for text in sys.argv[3:7] or (4, 15, 3, 5))
    (folder / "runs").mkdir(parents=True)
    _frame(name_of(0, 0))  # what is loaded once is loaded here, before the forks
    if kind == "ours":
        build_leaderboard(folder / "runs", folder)
    end, keep = os.pipe()
    reader = os.fork()
    if reader == 0:
        os.close(keep)
        _look(folder, end)
        os._exit(0)
    well = trial(kind, folder, writers, rows, kills, every)
    os.close(keep)
    os.waitpid(reader, 0)
    if kind == "ours":
        build_leaderboard(folder / "runs", folder)
    looks = json.loads((folder / "looks").read_text())
    print(json.dumps({"kills": kills, **left(folder), **looks}))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
