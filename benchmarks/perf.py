"""The small sizes of every table, held against the kept results of the same kind of machine.

Run: `make perf`, or `.venv/bin/python benchmarks/perf.py [--keep] [NAME ...]`. Every script that is
built on `harness.py` runs with `--small` (one thread). A row whose ratio of processor times falls
by more than a fifth is measured once more and then fails; so does a script that fails, and the
others go on. With `--keep` the new figures are kept in `benchmarks/results`.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import FOLDER, HERE, merge, read, results_folder, write_readme

DROP = 0.2  # the share of a ratio that may be lost to chance
_LIMIT_S = 300.0  # small sizes take seconds; a script that takes longer hangs and is stopped
_BUILT_ON_IT = re.compile(r"^(from harness import|import harness)\b", re.MULTILINE)
Tables = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Change:
    """A row's ratio of processor times, peer / ours, as kept (None: never on this machine) and now.

    `now` is None where the row has been measured before and is not there any more.
    """

    id: str
    kept: float | None
    now: float | None

    @property
    def dropped(self) -> bool:
        """Whether the row lost more than chance takes."""
        return None not in (self.kept, self.now) and self.now < (1 - DROP) * self.kept

    def __str__(self) -> str:
        kept, now = ("-" if x is None else f"{x:.2f}x" for x in (self.kept, self.now))
        words = " DROPPED" if self.dropped else "" if self.kept else " (never kept here)"
        return f"{self.id}: {kept} -> {now}{words}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", action="store_true", help="keep the new figures")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a script; default: all")
    options = parser.parse_args()
    failed = []
    start = time.perf_counter()
    for name in options.names or scripts():
        kept = read(results_folder() / f"{name}.json")
        with tempfile.TemporaryDirectory() as folder:
            if fault := measure(name, kept, Path(folder)):
                failed.append(f"{name}: {fault}")
            if options.keep:
                keep(name, Path(folder))
    if options.keep:
        write_readme(results_folder())
    print(f"\n{time.perf_counter() - start:.0f} s; " + ("; ".join(failed) or "nothing dropped"))
    return 1 if failed else 0


def scripts() -> list[str]:
    """Return the names of the scripts that are built on the harness."""
    paths = sorted(HERE.glob("*.py"))
    return [p.stem for p in paths if _BUILT_ON_IT.search(p.read_text(encoding="utf-8"))]


def measure(name: str, kept: Tables, folder: Path) -> str:
    """Run a script, twice where a row dropped; print its rows and return what is wrong with it."""
    start = time.perf_counter()
    best: dict[str, Change] = {}
    for _ in range(2):
        if fault := run(name, folder):
            print(f"{name}: FAILED: {fault}", flush=True)
            return fault
        for change in compare(kept, read(folder / f"{name}.json")):
            before = best.get(change.id, change)
            best[change.id] = max(before, change, key=lambda c: c.now or 0.0)
        if not any(change.dropped for change in best.values()):
            break
    print(f"{name}: {time.perf_counter() - start:.0f} s")
    for change in best.values():
        print(f"    {change}", flush=True)
    return "; ".join(str(change) for change in best.values() if change.dropped)


def keep(name: str, folder: Path) -> None:
    """Put what one script has measured in `folder` into the kept results."""
    for table in read(folder / f"{name}.json"):
        path = results_folder() / f"{name}.json"
        place = {key: table[key] for key in ("size", "machine", "roofs")}
        merge(path, table["rows"], **place)


def run(name: str, results: Path) -> str:
    """Run one script's small sizes into a folder of results; return its last words if it fails."""
    command = [sys.executable, str(HERE / f"{name}.py"), "--small"]
    env = {**os.environ, FOLDER: str(results)}
    script = subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = script.communicate(timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"takes more than {_LIMIT_S:.0f} s"
    finally:
        if script.poll() is None:  # with all that it has started
            os.killpg(script.pid, signal.SIGKILL)
            script.wait()
    words = errors.strip().splitlines() or [f"exit status {script.returncode}"]
    return words[-1] if script.returncode else ""


def compare(kept: Tables, now: Tables) -> list[Change]:
    """Return the change of every paired row of the small sizes, by size and machine."""
    before, after = _ratios(kept), _ratios(now)
    machines = {machine for machine, _ in after}
    known = [key for key in before if key[0] in machines and key not in after]
    return [
        Change(row, before.get((machine, row)), after[machine, row]) for machine, row in after
    ] + [Change(row, before[machine, row], None) for machine, row in known]


def _ratios(tables: Tables) -> dict[tuple[str, str], float]:
    return {
        (str(sorted(table["machine"].items())), _key(row)): row["duel"]["cpu_ratio"]
        for table in tables
        if table["size"] == "small"
        for row in table["rows"]
        if "cpu_ratio" in (row["duel"] or {})
    }


def _key(row: Mapping[str, Any]) -> str:
    return f"{row['id']} on {row['device']}" if row["device"] else str(row["id"])


if __name__ == "__main__":
    sys.exit(main())
