"""What is left of result rows when many processes write them and some are killed.

Run: `.venv/bin/python benchmarks/records.py [--small]`. Eight processes write 100 rows each and 20
of them are killed on the way (small: 4, 15, 3): one JSON per run and tables made from all of them,
against what scripts do with pandas. A row counts as acknowledged when the call that stores it has
returned; a reader looks at the table meanwhile. The script stops where ours loses a row. A kill
tests that files are whole, not that they survive a power cut. The times are of one row stored by
one process beside 100 others; ours alone waits for the disk (fsync).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path

import record_writers
from harness import Row, Times, alone, arguments, save

PEERS = {"rewrite": "pandas, table read and rewritten", "append": 'pandas, mode="a"'}


def main() -> int:
    options = arguments(__doc__)
    writers, rows, kills, every = (4, 15, 3, 5) if options.small else (8, 100, 20, 25)
    what = f"{writers} writers x {rows} rows, {kills} kills"
    found = {}
    for kind in ("ours", *PEERS):
        found[kind] = left(kind, writers, rows, kills, every)
        print(f"{kind}: {found[kind]}", flush=True)
    agreement = f"ours: {found['ours']['once']} of {writers * rows} acknowledged rows exactly once"
    kept = found["ours"]
    lines = [
        Row(
            id="R18 ours",
            what=what,
            agreement=agreement,
            duel=one_row("ours", options.repeats),
            at_least={"rows": (kept["once"], writers * rows)},
            at_most={"torn lines or views": (kept["torn"] + kept["torn_looks"], 0)}
            | {"headers": (kept["headers"], 1)},
            figures={name: kept[name] for name in ("kills", "looks")},
        )
    ]
    for kind, peer in PEERS.items():
        rest = f"peer: {found[kind]['once']} of {writers * rows} rows exactly once"
        figures = {
            "peer ms": one_row(kind, options.repeats).median_ms,
            **{name: n for name, n in found[kind].items() if name != "kills"},
        }
        lines.append(Row(f"R18 {kind}", what, rest, peer, figures=figures))
    save("records", lines, options)
    return 0


def left(kind: str, writers: int, rows: int, kills: int, every: int) -> dict[str, int]:
    """Return what `record_writers.py` counts; stops where ours lost, doubled or tore a row."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = [str(n) for n in (writers, rows, kills, every)]
        command = [sys.executable, record_writers.__file__, kind, f"{folder}/work", *numbers]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if not done.stdout:
        raise SystemExit(f"the writers of {kind} failed")
    found: dict[str, int] = json.loads(done.stdout)
    whole = found["once"] == writers * rows and not found["torn"] + found["torn_looks"]
    if kind == "ours" and (done.returncode or not whole or found["headers"] != 1):
        raise SystemExit(f"ours lost or tore a row: {found}")
    return found


def one_row(kind: str, repeats: int) -> Times:
    """Return the times of storing a row by one process, where 100 of them are stored already."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = count()

        def store() -> None:
            name = record_writers.name_of(0, next(numbers))
            record_writers.KINDS[kind](Path(folder), name)

        for _ in range(100):
            store()
        return alone(store, repeats)


if __name__ == "__main__":
    sys.exit(main())
