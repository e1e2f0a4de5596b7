"""The leaderboard: made anew from all records, never edited.

`leaderboard.csv`, `.md` and `.html` have a row per system, which is a model with its settings over
all its seeds, and the papers' own numbers in rows apart; `runs.csv` has a row per run.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tvr_bench.errors import UserError
from tvr_bench.files import atomic_path, remove_stale
from tvr_bench.leaderboard.aggregate import (
    DIRECTIONS,
    Row,
    Run,
    identity,
    rank_groups,
    rsum,
    systems_of,
)
from tvr_bench.leaderboard.board import Board, stage_curves
from tvr_bench.leaderboard.html import render_html
from tvr_bench.leaderboard.markdown import render_markdown
from tvr_bench.leaderboard.record import RECORD_FILE, STANDARD_METRICS, Efficiency, load_record
from tvr_bench.leaderboard.reported import read_reported, reported_row
from tvr_bench.leaderboard.run_settings import settings_in

PICTURE_FILE = "retrieval.png"
_PLACE = ("group", "data", "variant", "title", "annotations", "split", "protocol")
_NAME = ("model", "backbone", "ocr", "settings", "system")
_METRICS = tuple(f"{d}_{name}" for d in DIRECTIONS for name in STANDARD_METRICS)
_COST = ("params", "trainable_params", *Efficiency.model_fields)
_COUNTS = ("clips", "queries", "missing", "failed", "tied_t2v", "tied_v2t", "wall_s")
RUN_COLUMNS = (
    *_PLACE,
    *_NAME,
    *("seed", *_METRICS, "RSum"),
    *_COST,
    *_COUNTS,
    *("git", "dirty", "run_id", "date", "folder"),
)
COLUMNS = (
    *("kind", *_PLACE, "rank", *_NAME, "two_stage", "seeds", "seed_list", "repeats"),
    *(column for name in (*_METRICS, "RSum") for column in (name, f"{name}_sd")),
    *(f"{d}_R@1_{side}" for d in DIRECTIONS for side in ("low", "high")),
    *("lead", "lead_low", "lead_high", "lead_p", "lead_p_holm", "lead_verdict"),
    *(*_COST, "gflops_query"),
    *_COUNTS,
    *("git", "dirty", "run_ids", "date"),
    *("source", "confidence", "red_flags"),
)


@dataclass(frozen=True)
class LeaderboardPaths:
    """Where the leaderboard lies, how many runs and systems it lists, and what it left out, why."""

    csv: Path
    markdown: Path
    html: Path
    runs_csv: Path
    runs: int
    systems: int
    warnings: tuple[str, ...]


def build_leaderboard(runs_root: Path, out_dir: Path) -> LeaderboardPaths:
    """Write `leaderboard.csv`, `.md` and `.html` and `runs.csv` from every record below a folder.

    A record that cannot be read is left out and named, on stderr and in the result. Any number of
    processes may call this at once: when a call returns, the files list at least every record
    that was whole when it began. Raises UserError where a folder is missing or not writable.
    """
    if not runs_root.is_dir():
        raise UserError(f"there is no folder of runs {runs_root}; make a run or give its path")
    with _turn(runs_root):
        remove_stale(out_dir)
        runs, warnings = read_runs(runs_root)
        systems = systems_of(runs)
        groups, faults = rank_groups(systems)
        for row in (row for group in groups for row in group.rows):
            row["links"] = _links(row.pop("folders"), out_dir)
        warnings += faults
        board = Board(groups, len(runs), stage_curves(groups, systems), read_reported(), warnings)
        pages = {
            "leaderboard.csv": rows_to_csv(board_rows(board), COLUMNS),
            "leaderboard.md": render_markdown(board),
            "leaderboard.html": render_html(board),
            "runs.csv": rows_to_csv([run_row(run) for run in runs], RUN_COLUMNS),
        }
        try:
            with ExitStack() as together:  # none is put in place before all are written
                for name, text in pages.items():
                    page = together.enter_context(atomic_path(out_dir / name))
                    page.write_bytes(
                        text.encode("utf-8", "replace")
                    )  # a file's name may be no text
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UserError(
                f"cannot write the leaderboard to {out_dir}: {reason}; give another folder"
            ) from error
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    csv, markdown, html, runs_csv = (out_dir / name for name in pages)
    return LeaderboardPaths(csv, markdown, html, runs_csv, len(runs), len(systems), tuple(warnings))


def read_runs(runs_root: Path) -> tuple[list[Run], list[str]]:
    """Return the runs below `runs_root` sorted by folder, and a line per record left out.

    The second record of a run id is left out: a copied run folder must not count twice.
    """
    runs: list[Run] = []
    warnings: list[str] = []
    seen: dict[str, str] = {}
    for path in sorted(_record_files(runs_root)):
        folder = path.parent.relative_to(runs_root).as_posix()
        try:
            record = load_record(path)
        except UserError as error:
            warnings.append(f"left out of the leaderboard: {error}")
            continue
        first = seen.setdefault(record.run.id, folder)
        if first != folder:
            warnings.append(
                f"left out of the leaderboard: {path} repeats run {record.run.id} of {first}"
            )
            continue
        runs.append(Run(path.parent, folder, record, settings_in(record, path.parent)))
    return runs, warnings


def board_rows(board: Board) -> list[Row]:
    """Return the systems group by group, best first, then what the papers report."""
    rows = [row for group in board.groups for row in group.rows]
    measured = [{key: value for key, value in row.items() if key != "links"} for row in rows]
    return [*measured, *(reported_row(result) for result in board.reported)]


def run_row(run: Run) -> Row:
    """Return one run's metrics and costs, every digit."""
    record = run.record
    data, metrics = record.data, record.metrics
    row: Row = {
        **identity(run),
        "seed": record.run.seed,
        "params": record.model.params,
        "trainable_params": record.model.trainable_params,
        **record.efficiency.model_dump(),
        "clips": data.clips,
        "queries": data.queries,
        "missing": len(data.missing_ids),
        "failed": len(data.failed),
        "wall_s": record.run.wall_s,
        "git": record.run.git,
        "dirty": record.run.dirty,
        "run_id": record.run.id,
        "date": record.run.date.isoformat(timespec="seconds"),
        "folder": run.name,
        "RSum": rsum(record),
    }
    for direction, values in zip(DIRECTIONS, (metrics.t2v, metrics.v2t), strict=True):
        row |= {f"{direction}_{name}": values[name] for name in STANDARD_METRICS}
        row[f"tied_{direction}"] = metrics.tied_queries.get(direction)
    for skill, found in metrics.by_skill.items():
        row[f"in_group:{skill}"] = found.in_group.get("R@1")
        row[f"chance:{skill}"] = found.in_group.get("chance_R@1")
    return row


def rows_to_csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Return the rows as CSV with every digit; columns that only some rows have come last."""
    import pandas as pd  # half a second, which a run need not take before its first step

    more = sorted({name for row in rows for name in row} - set(columns))
    frame = pd.DataFrame(list(rows), columns=[*columns, *more], dtype=object)
    return frame.to_csv(index=False, lineterminator="\n")


def _links(folders: Sequence[Path], out_dir: Path) -> tuple[tuple[str, str], ...]:
    """Return (text, address) of each run's folder, record and picture, as seen from the page."""
    found = []
    for folder in folders:
        place = quote(os.fsencode(os.path.relpath(folder, out_dir)))
        found += [(folder.name, f"{place}/"), ("record", f"{place}/{RECORD_FILE}")]
        if (folder / PICTURE_FILE).is_file():
            found.append(("picture", f"{place}/{PICTURE_FILE}"))
    return tuple(found)


def _record_files(root: Path) -> Iterator[Path]:
    for folder, _, files in os.walk(root):
        if RECORD_FILE in files:
            yield Path(folder, RECORD_FILE)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Let one process at a time read the records and write the tables.

    Without it a slow process could put back a table from before another one's record.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            # some network file systems lock nothing; the tables are still whole, and the next
            # call makes them anew
            print(f"warning: {folder} cannot be locked", file=sys.stderr)
        yield
    finally:
        os.close(handle)
