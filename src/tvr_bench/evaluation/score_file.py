"""Score anybody's similarity matrix: a file in, the metrics of both directions out.

N queries (rows), M items (columns).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from tvr_bench.errors import UserError
from tvr_bench.evaluation.array_file import read_array
from tvr_bench.evaluation.counting import count_nan
from tvr_bench.evaluation.ranks import Ranks, as_scores, gold_pairs, rank_pairs

_COLUMNS = ("R@1", "R@5", "R@10", "R@50", "MdR", "MnR")


def score_file(sims: Path, gold: Path | None = None) -> dict[str, Any]:
    """Return the metrics of the matrix [N, M] in `sims`, ready for JSON.

    `gold` is a file of int [N] (the right column of each row) or bool [N, M]; without it row i
    belongs to column i. Keys: `file`, `shape`, `dtype`, `gold`, `t2v` (rows search columns), `v2t`
    (columns search rows), `RSum`, `nan_scores`, `notes`. Raises UserError for files that cannot be
    read and shapes that do not fit.
    """
    found = read_array(sims)
    scores = found.values
    if scores.ndim != 2 or not scores.size:
        raise UserError(
            f"{sims} has the shape {scores.shape}; it must be a matrix [queries, items] "
            "that is not empty"
        )
    queries, items = scores.shape
    if gold is None and queries != items:
        raise UserError(
            f"{sims} is {queries} x {items}: without gold it must be square, row i for column i; "
            "add --gold GOLD.npy with one column index per row"
        )
    right = np.arange(queries) if gold is None else read_array(gold).values
    matrix = as_scores(scores)
    t2v, v2t = _both(matrix, right)
    nan_scores = count_nan(matrix)
    return {
        "file": str(sims),
        "shape": [queries, items],
        "dtype": found.dtype,
        "gold": "diagonal" if gold is None else str(gold),
        "t2v": t2v.metrics(),
        "v2t": v2t.metrics(),
        "RSum": t2v.metrics()["RSum"] + v2t.metrics()["RSum"],
        "nan_scores": nan_scores,
        "notes": _notes(t2v, v2t, items - len(v2t), nan_scores, gold is None),
    }


def render_score(report: dict[str, Any]) -> Group:
    """Return the report of `score_file` as a rich table with its notes."""
    rows, columns = report["shape"]
    name = Path(report["file"]).name
    table = Table(title=Text(f"{name}: {rows} x {columns}, {report['dtype']}"), box=box.SIMPLE)
    table.add_column("search", no_wrap=True)
    for heading in (*_COLUMNS, "tied", "queries"):
        table.add_column(heading, justify="right", no_wrap=True)
    for title, key in (("row > column", "t2v"), ("column > row", "v2t")):
        metrics = report[key]
        counts = (str(metrics["tied_queries"]), str(metrics["queries"]))
        table.add_row(title, *(f"{metrics[name]:.1f}" for name in _COLUMNS), *counts)
    notes = [Text(f"- {note}") for note in report["notes"]]
    return Group(table, Text(f"RSum {report['RSum']:.1f}"), *notes)


def print_score(report: dict[str, Any], console: Console | None = None) -> None:
    """Print the report of `score_file` to `console` (default: standard output)."""
    (console or Console()).print(render_score(report))


def _both(matrix: torch.Tensor, right: NDArray[Any]) -> tuple[Ranks, Ranks]:
    """Return the ranks of the rows, and of the columns that some row wants."""
    rows, columns = gold_pairs(right, *matrix.shape)
    searching = rank_pairs(matrix.T, columns, rows).take(np.unique(columns.numpy()))
    return rank_pairs(matrix, rows, columns), searching


def _notes(t2v: Ranks, v2t: Ranks, distractors: int, nan_scores: int, diagonal: bool) -> list[str]:
    notes = []
    if diagonal:
        notes.append("no gold was given: row i belongs to column i")
    if distractors:
        notes.append(f"{distractors} columns are no row's gold: they compete, but do not search")
    if len(v2t) < len(t2v):
        notes.append("several rows share a column: its best row counts in the second direction")
    for side, ranks in (("rows", t2v), ("columns", v2t)):
        metrics = ranks.metrics()
        if metrics["tied_queries"]:
            notes.append(
                f"{metrics['tied_queries']} {side} have ties and expected hits; R@1 of all {side} "
                f"is {metrics['R@1_pessimistic']:.1f} to {metrics['R@1_optimistic']:.1f}"
            )
    if nan_scores:
        lost = int(np.count_nonzero(t2v.nan)) + int(np.count_nonzero(v2t.nan))
        notes.append(
            f"warning: {nan_scores} scores are NaN and count as the worst; queries that miss "
            f"because their right item has no score: {lost}"
        )
    return notes
