"""The leaderboard: a CSV and a Markdown table, made anew from all records, never edited.

Rows are ranked only among runs of the same data, split and protocol: the `group` of a row is a
hash of all three, and `protocol` says the same for people.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from tvr_bench.errors import UserError
from tvr_bench.files import atomic_write, settings_hash
from tvr_bench.leaderboard.markdown import render_markdown
from tvr_bench.leaderboard.record import RECORD_FILE, STANDARD_METRICS, Record, load_record

_DIRECTIONS = ("t2v", "v2t")
_IDENTITY = ("group", "data", "variant", "split", "protocol", "rank", "model", "backbone", "ocr")
_COST = (
    *("params", "trainable_params", "device", "dtype", "threads", "gflops_text", "gflops_video"),
    *("gflops_pair", "pairs_scored", "ms_per_query_p50", "ms_per_query_p95"),
    *("gallery_bytes_per_video", "peak_mem_mb", "peak_mem_child_mb", "train_s", "videos_per_s"),
)
_ORIGIN = (
    *("clips", "queries", "missing", "failed", "tied_t2v", "tied_v2t", "wall_s"),
    *("git", "dirty", "run_id", "date", "folder"),
)
COLUMNS = (
    *_IDENTITY,
    "seed",
    *(f"{direction}_{name}" for direction in _DIRECTIONS for name in STANDARD_METRICS),
    "RSum",
    *_COST,
    *_ORIGIN,
)

Row = dict[str, Any]


@dataclass(frozen=True)
class LeaderboardPaths:
    """Where the leaderboard lies, how many runs it lists, and which records it left out, why."""

    csv: Path
    markdown: Path
    rows: int
    warnings: tuple[str, ...]


def build_leaderboard(runs_root: Path, out_dir: Path) -> LeaderboardPaths:
    """Write `leaderboard.csv` and `leaderboard.md` from every record under `runs_root`.

    A record that cannot be read is left out and named, on stderr and in the result. Any number of
    processes may call this at once: when a call returns, both files list at least every record
    that was whole when it began. Raises UserError where a folder is missing or not writable.
    """
    if not runs_root.is_dir():
        raise UserError(f"there is no folder of runs {runs_root}; make a run or give its path")
    csv, markdown = out_dir / "leaderboard.csv", out_dir / "leaderboard.md"
    with _turn(runs_root):
        entries, warnings = read_records(runs_root)
        rows = leaderboard_rows(entries)
        try:
            atomic_write(csv, rows_to_csv(rows))
            atomic_write(markdown, render_markdown(rows))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UserError(
                f"cannot write the leaderboard to {out_dir}: {reason}; give another folder"
            ) from error
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return LeaderboardPaths(csv, markdown, len(rows), tuple(warnings))


def read_records(runs_root: Path) -> tuple[list[tuple[str, Record]], list[str]]:
    """Return (run folder below `runs_root`, record) sorted by folder, and a line per left-out one.

    The second record of a run id is left out: a copied run folder must not count twice.
    """
    entries: list[tuple[str, Record]] = []
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
        entries.append((folder, record))
    return entries, warnings


def protocol_key(record: Record) -> str:
    """Return the protocol in words that fit a column, e.g. `single|12f|224x224|32w|best_val`.

    Frames, height x width in pixels, words and the choice of weights are always there; a score
    post-processing, a second stage and missing files only where there are any.
    """
    p = record.protocol
    height, width = p.resolution
    track = ["paper track"] if p.track == "paper" else []
    parts = [*track, p.captions, f"{p.frames}f", f"{height}x{width}", f"{p.words}w", p.selection]
    if p.postprocess != "none":
        parts.append(p.postprocess)
    if p.two_stage is not None:
        parts.append(f"top{p.two_stage}")
    if record.data.missing_ids:
        parts.append(f"{len(record.data.missing_ids)}missing")
    return "|".join(parts)


def group_hash(record: Record) -> str:
    """Return 16 hex digits that two records share only where their numbers may be compared."""
    data = record.data
    return settings_hash(
        {
            "data": [data.name, data.variant, data.annotations_sha256, data.clips, data.queries],
            "missing": sorted(data.missing_ids),
            "protocol": record.protocol.model_dump(mode="json", exclude={"ocr"}),
        }
    )


def leaderboard_rows(entries: Sequence[tuple[str, Record]]) -> list[Row]:
    """Return one row per record, group by group, best first, each with its rank in its group.

    The order is R@1 text to video, then RSum, then the mean rank; runs equal in all three share
    a rank. Names and ids only make the order of such runs the same every time.
    """
    rows = [_row(folder, record) for folder, record in entries]
    rows.sort(
        key=lambda row: (*_group(row), *_merit(row), row["model"], row["seed"], row["run_id"])
    )
    for _, members in groupby(rows, key=_group):
        rank, before = 0, None
        for position, row in enumerate(members, start=1):
            if _merit(row) != before:
                rank, before = position, _merit(row)
            row["rank"] = rank
    return rows


def rows_to_csv(rows: Sequence[Row]) -> str:
    """Return the rows as CSV text with every digit; columns only some runs have come last."""
    extra = sorted({name for row in rows for name in row} - set(COLUMNS))
    frame = pd.DataFrame(list(rows), columns=[*COLUMNS, *extra], dtype=object)
    return frame.to_csv(index=False, lineterminator="\n")


def _row(folder: str, record: Record) -> Row:
    run, data, metrics = record.run, record.data, record.metrics
    ocr = record.protocol.ocr
    row: Row = {
        "group": group_hash(record),
        "data": data.name,
        "variant": data.variant,
        "split": record.protocol.split,
        "protocol": protocol_key(record),
        "model": record.model.name,
        "backbone": record.model.backbone,
        "ocr": ocr.engine if ocr.enabled else "none",
        "seed": run.seed,
        "params": record.model.params,
        "trainable_params": record.model.trainable_params,
        **record.efficiency.model_dump(),
        "clips": data.clips,
        "queries": data.queries,
        "missing": len(data.missing_ids),
        "failed": len(data.failed),
        "wall_s": run.wall_s,
        "git": run.git,
        "dirty": run.dirty,
        "run_id": run.id,
        "date": run.date.isoformat(timespec="seconds"),
        "folder": folder,
    }
    for direction, values in zip(_DIRECTIONS, (metrics.t2v, metrics.v2t), strict=True):
        row |= {f"{direction}_{name}": value for name, value in values.items()}
        row[f"tied_{direction}"] = metrics.tied_queries.get(direction)
    row["RSum"] = sum(d[f"R@{k}"] for d in (metrics.t2v, metrics.v2t) for k in (1, 5, 10))
    for skill, found in metrics.by_skill.items():
        row[f"in_group:{skill}"] = found.in_group.get("R@1")
        row[f"chance:{skill}"] = found.in_group.get("chance_R@1")
    return row


def _group(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in ("data", "variant", "split", "protocol", "group"))


def _merit(row: Row) -> tuple[float, float, float]:
    return -row["t2v_R@1"], -row["RSum"], row["t2v_MnR"]


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
