"""Many processes write records and build the leaderboard while some of them are killed.

    python concurrent_writers.py WORK_DIR TEMPLATE_RUN [PROCESSES ROWS KILLS]

Each process saves `ROWS` records, builds the leaderboard after each, and acknowledges a row only
once it has seen it in `runs.csv`. A killed process is replaced by one that goes on at the first row
that was not acknowledged. Prints the number of kills; exits 1 if a row was not in its CSV.
"""

from __future__ import annotations

import csv
import os
import random
import signal
import sys
import time
from pathlib import Path

from tvr_bench.evaluation import ranks as _imported_once_for_all_workers  # noqa: F401
from tvr_bench.leaderboard.record import Record, load_ranks, load_record, save_record
from tvr_bench.leaderboard.table import build_leaderboard


def write_rows(work: Path, template: Path, worker: int, rows: int) -> None:
    """Save and acknowledge the rows of one worker that are not acknowledged yet."""
    pattern = load_record(template)
    ranks = load_ranks(pattern, template)
    acknowledged = work / f"acknowledged-{worker}"
    done = acknowledged.read_text().count("\n") if acknowledged.exists() else 0
    with open(acknowledged, "a", encoding="utf-8") as log:
        for row in range(done, rows):
            name = f"worker{worker}-row{row}"
            run = pattern.run.model_copy(update={"id": name, "seed": worker * rows + row})
            record: Record = pattern.model_copy(update={"run": run})
            save_record(record, work / "runs" / name, ranks)
            paths = build_leaderboard(work / "runs", work)
            with open(paths.runs_csv, encoding="utf-8", newline="") as table:
                listed = sum(line["run_id"] == name for line in csv.DictReader(table))
            if listed != 1 or paths.warnings:
                print(f"{name} is listed {listed} times; {paths.warnings}", file=sys.stderr)
                os._exit(1)
            log.write(f"{name}\n")
            log.flush()


def start(work: Path, template: Path, worker: int, rows: int) -> int:
    """Return the process id of a worker."""
    child = os.fork()
    if child == 0:
        write_rows(work, template, worker, rows)
        os._exit(0)
    return child


def main() -> int:
    """Run the workers to their end and return the exit status."""
    work, template = Path(sys.argv[1]), Path(sys.argv[2])
    processes, rows, kills = (int(text) for text in sys.argv[3:6])
    chance = random.Random(0)
    (work / "runs").mkdir()
    build_leaderboard(work / "runs", work)  # what it loads once is loaded here, before the forks
    workers = {start(work, template, i, rows): i for i in range(processes)}
    status = killed = 0
    while workers:
        if killed < kills and time.sleep(chance.uniform(0.002, 0.05)) is None:
            os.kill(chance.choice(list(workers)), signal.SIGKILL)
        child, code = os.waitpid(-1, 0 if killed >= kills else os.WNOHANG)
        if child == 0:
            continue
        worker = workers.pop(child)
        if os.WIFSIGNALED(code):
            killed += 1
            workers[start(work, template, worker, rows)] = worker
        else:
            status = max(status, os.waitstatus_to_exitcode(code))
    print(f"{killed} kills")
    return status


if __name__ == "__main__":
    sys.exit(main())
