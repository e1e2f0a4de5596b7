"""A sweep's table: mean and standard deviation over seeds, with the paper's numbers apart.

What a paper reports was measured on other data and with other towers, so it never shares a table
or an axis with what was measured here.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tvr_bench.errors import UserError, nearest
from tvr_bench.evaluation.significance import mean_sd
from tvr_bench.files import atomic_write
from tvr_bench.launch.grid import Cell, PaperTable, Sweep, show
from tvr_bench.leaderboard.grouping import data_name
from tvr_bench.leaderboard.markdown import plain
from tvr_bench.leaderboard.record import STANDARD_METRICS, Efficiency, Record

_COSTS = tuple(name for name in Efficiency.model_fields if name not in ("device", "dtype"))
_KNOWN = (
    *(f"{direction}_{name}" for direction in ("t2v", "v2t") for name in STANDARD_METRICS),
    *("RSum", "params", *_COSTS),
)
_LOG_WIDTH, _LABEL, _GAP = 120, 28, 3  # letters: of a log's line, of a label, between columns
_DIGITS = {"params": 0, "pairs_scored": 0, "train_s": 0, "threads": 0}
_PER_SKILL = ("in_group:", "t2v:")  # R@1 of a skill: among its hard negatives, in the full gallery


@dataclass(frozen=True)
class Measured:
    """A cell and its records, by seed."""

    cell: Cell
    records: dict[int, Record]


@dataclass(frozen=True)
class Summary:
    """A metric over seeds: its mean, its sample standard deviation (None for one) and values.

    `chance` is what guessing reaches, where that is known.
    """

    mean: float
    deviation: float | None
    values: tuple[float, ...] = ()
    chance: float | None = None


def write_report(
    sweep: Sweep,
    measured: Sequence[Measured],
    folder: Path,
    *,
    settings: Sequence[str] = (),
    failed: Sequence[str] = (),
    console: Console | None = None,
) -> list[Path]:
    """Print the table of a sweep; write it as Markdown and CSV, and the figure; return the paths.

    Without a single record there is nothing to write, and that is said.
    """
    console = console or wide_console()
    if not any(one.records for one in measured):
        console.print("no run has left a record, so there is no table", markup=False)
        return []
    from tvr_bench.leaderboard.sweep_figure import draw_sweep

    _print_tables(console, sweep, measured)
    markdown, csv, figure = (folder / name for name in ("table.md", "table.csv", "figure.png"))
    draw_sweep(figure, sweep, measured)
    atomic_write(csv, csv_table(sweep, measured))
    atomic_write(markdown, markdown_page(sweep, measured, settings, failed, figure.name))
    return [markdown, csv, figure]


def check_metrics(sweep: Sweep) -> None:
    """Raise UserError for a metric, of the sweep or of its paper's tables, that no record has."""
    columns = [column for table in sweep.file.paper for column in table.columns]
    for metric in (*sweep.file.metrics, *columns):
        if metric not in _KNOWN and not metric.startswith(_PER_SKILL):
            hint = nearest(metric, _KNOWN)
            raise UserError(f"sweep {sweep.name}: no record has the metric '{metric}'.{hint}")


def metric_value(record: Record, metric: str) -> float | None:
    """Return a metric of a record: `t2v_R@1`, `in_group:SKILL`, `t2v:SKILL`, `RSum`, a cost."""
    metrics = record.metrics
    kind, colon, skill = metric.partition(":")
    if colon:
        found = metrics.by_skill.get(skill)
        values = {} if found is None else found.in_group if kind == "in_group" else found.t2v
        return values.get("R@1")
    if metric == "RSum":
        return sum(d[f"R@{k}"] for d in (metrics.t2v, metrics.v2t) for k in (1, 5, 10))
    if metric == "params":
        return record.model.params
    if metric in _COSTS:
        return getattr(record.efficiency, metric)  # type: ignore[no-any-return]
    direction, _, name = metric.partition("_")
    return (metrics.t2v if direction == "t2v" else metrics.v2t).get(name)


def summarise(records: Mapping[int, Record], metric: str) -> Summary | None:
    """Return a metric over the seeds of a cell; None where no record has it."""
    found = [metric_value(records[seed], metric) for seed in sorted(records)]
    values = tuple(float(value) for value in found if value is not None)
    if not values:
        return None
    return Summary(*mean_sd(values), values, _chance(records, metric))


def _chance(records: Mapping[int, Record], metric: str) -> float | None:
    kind, _, skill = metric.partition(":")
    if kind != "in_group":
        return None
    found = (record.metrics.by_skill.get(skill) for record in records.values())
    levels = {skill.in_group.get("chance_R@1") for skill in found if skill is not None}
    return levels.pop() if len(levels) == 1 else None


def metric_label(metric: str) -> str:
    """Return what a metric is called in tables and figures."""
    kind, colon, skill = metric.partition(":")
    if colon:
        return f"{skill} in group" if kind == "in_group" else f"{skill} R@1"
    direction, underscore, name = metric.partition("_")
    if underscore and direction in ("t2v", "v2t"):
        return f"{direction.upper()} {name}"
    return metric.replace("_", " ")


def number(metric: str, value: float | None) -> str:
    """Return a value of a metric with its usual digits; a dash for none."""
    if value is None:
        return "-"
    digits = _DIGITS.get(metric, 3 if metric.startswith("gflops") else 1)
    if metric.startswith("ms_"):
        digits = 2
    return f"{value:.{digits}f}"


def spread(metric: str, summary: Summary | None, sign: str = " +- ") -> str:
    """Return `mean +- standard deviation`, the mean alone for one seed, a dash for none."""
    if summary is None:
        return "-"
    mean = number(metric, summary.mean)
    if summary.deviation is None:
        return mean
    return f"{mean}{sign}{number(metric, summary.deviation)}"


def wide_console() -> Console:
    """Return standard output as wide as the terminal, or wide enough for a table in a log."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=_LOG_WIDTH, highlight=False)


def _print_tables(console: Console, sweep: Sweep, measured: Sequence[Measured]) -> None:
    rows = [_row(sweep, one, "\u00b1") for one in measured]
    titles = ["n", *(metric_label(m) for m in sweep.file.metrics)]
    console.print(Text(f"\n{sweep.file.title}: mean and standard deviation over n seeds", "bold"))
    console.print(_console_table(titles, rows, console.width))
    for table in sweep.file.paper:
        console.print(Text(f"\nreported: {table.source}, {table.data}"), soft_wrap=True)
        titles = [metric_label(column) for column in table.columns]
        rows = [[label, *_reported(values)] for label, values in _paper_rows(table)]
        console.print(_console_table(titles, rows, console.width), style="dim")
        for flag in table.flags:
            console.print(Text(f"! {flag}", "yellow"), soft_wrap=True)
    console.print()


def _console_table(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    """Return a table of as many columns as fit; the file has them all."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    label = min(max(len(row[0]) for row in rows), max(_LABEL, width // 3))
    table.add_column("", width=label)
    room, shown = width - label, 0
    for i, title in enumerate(titles, start=1):
        words = title.split(" ", 1)
        column = max(len(text) for text in (*words, *(row[i] for row in rows))) + _GAP
        if column > room:
            break
        room, shown = room - column, i
        table.add_column(Text("\n".join(words)), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(text) for text in row[: shown + 1]))
    if shown < len(titles):
        table.caption = Text(f"columns that only the file shows: {len(titles) - shown}")
    return table


def markdown_page(
    sweep: Sweep,
    measured: Sequence[Measured],
    settings: Sequence[str],
    failed: Sequence[str],
    figure: str,
) -> str:
    """Return the page of a sweep: what was measured, what the paper reports, what failed."""
    file = sweep.file
    command = shlex.join(["tvr-bench", "sweep", sweep.place or sweep.name, *settings])
    head = ["cell", "n", *(metric_label(m) for m in file.metrics)]
    lines = [f"# {plain(file.title)}", "", f"Made by `{command.replace('`', '')}`."]
    lines += [_conditions(measured), "", *_table(head, [_row(sweep, one) for one in measured])]
    lines += ["", f"![{plain(file.title)}]({figure})", ""]
    if failed:
        lines += ["Failed, and so not in the table:", "", *(f"- {plain(f)}" for f in failed), ""]
    lines += [line for note in file.notes for line in (plain(note), "")]
    if file.paper:
        lines += ["## As reported", "", "On other data and with other towers: to be compared", ""]
        lines[-2] += " in direction, not in size."
    for table in file.paper:
        lines += [*_paper_section(table), ""]
    return "\n".join(lines).rstrip() + "\n"


def csv_table(sweep: Sweep, measured: Sequence[Measured]) -> str:
    """Return one line per cell with every digit: place, seeds, and mean and deviation."""
    import pandas as pd

    rows = []
    for one in measured:
        row: dict[str, object] = {"cell": one.cell.label}
        row |= {key: show(value) for key, value in one.cell.place.items()}
        row |= {"n": len(one.records), "seeds": " ".join(str(s) for s in sorted(one.records))}
        for metric in sweep.file.metrics:
            found = summarise(one.records, metric)
            row[metric] = None if found is None else found.mean
            row[f"{metric}_sd"] = None if found is None else found.deviation
        rows.append(row)
    return pd.DataFrame(rows, dtype=object).to_csv(index=False, lineterminator="\n")


def _row(sweep: Sweep, one: Measured, sign: str = " +- ") -> list[str]:
    values = [spread(m, summarise(one.records, m), sign) for m in sweep.file.metrics]
    return [one.cell.label, str(len(one.records)), *values]


def _conditions(measured: Sequence[Measured]) -> str:
    records = [record for one in measured for record in one.records.values()]
    data = {
        f"{plain(data_name(r))}, {r.protocol.split}: "
        f"{r.data.queries} queries, {r.data.clips} videos"
        for r in records
    }
    machines = {plain(r.env.get("gpu", "none")) for r in records} - {"none"}
    machines = machines or {plain(r.env.get("cpu", "CPU")) for r in records}
    return (
        f"{'; '.join(sorted(data))}. Mean +- standard deviation over n seeds; recalls in percent. "
        f"{', '.join(sorted(machines))}."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = [":--", *("--:" for _ in head[1:])]
    cells = [rule, *([plain(cell) for cell in row] for row in rows)]
    return ["| " + " | ".join(row) + " |" for row in ([plain(h) for h in head], *cells)]


def _paper_section(table: PaperTable) -> list[str]:
    head = ["", *(metric_label(column) for column in table.columns)]
    body = [[label, *_reported(values)] for label, values in _paper_rows(table)]
    flags = [f"- {plain(flag)}" for flag in table.flags]
    return [f"### {plain(table.source)}, {plain(table.data)}", "", *_table(head, body), "", *flags]


def _paper_rows(table: PaperTable) -> list[tuple[str, list[int | float | None]]]:
    return [*table.rows.items(), *table.other_rows.items()]


def _reported(values: Sequence[int | float | None]) -> list[str]:
    # as printed: a digit more or less would be ours
    return ["-" if value is None else str(value) for value in values]
