"""The end of a bench of all models: who finds what, who can tell what apart, and what it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tvr_bench.errors import UserError
from tvr_bench.launch.local import Outcome
from tvr_bench.launch.progress import duration
from tvr_bench.leaderboard.console import in_group
from tvr_bench.leaderboard.grouping import data_name
from tvr_bench.leaderboard.per_query import estimate
from tvr_bench.leaderboard.record import RECORD_FILE, Record, load_record
from tvr_bench.leaderboard.sweep_report import wide_console

_PLAIN = ("R@5", "R@10")  # of data without skills
_WIDE = 100  # columns of a terminal


def print_summary(outcomes: Mapping[str, Outcome], console: Console | None = None) -> None:
    """Print a row per model, the best first, then chance; one without a record says how it ended.

    R@1 comes with its interval over other videos, then R@1 inside the groups of hard negatives of
    each skill, or R@5 and R@10 where the data has no skills.
    """
    console = console or wide_console()
    records = {m: load_record(o.folder) for m, o in outcomes.items() if _has_record(o)}
    ranked = sorted(records, key=lambda model: -records[model].metrics.t2v["R@1"])
    skills = list(dict.fromkeys(s for r in records.values() for s in _grouped(r)))
    table = _table(skills or _PLAIN, console.width)
    for model in ranked:
        reads = " + OCR" if records[model].protocol.ocr.enabled else ""
        table.add_row(model + reads, *_cells(records[model], outcomes[model], skills))
    if ranked:
        table.add_row("chance", *_chance(records[ranked[0]], skills), style="dim")
    for model, outcome in outcomes.items():
        if model not in records:
            state = "failed" if outcome.state == "failed" else "no record"
            table.add_row(model, Text(state, "red"))
    console.print()
    if ranked:
        first = records[ranked[0]]
        console.print(Text(_title(first), "bold"))
    console.print(table)
    if ranked:
        console.print(Text(_note(bool(skills)), "dim"), soft_wrap=True)


def _has_record(outcome: Outcome) -> bool:
    return (outcome.folder / RECORD_FILE).exists()


def _grouped(record: Record) -> list[str]:
    return [skill for skill, found in record.metrics.by_skill.items() if found.in_group]


def _title(record: Record) -> str:
    data = record.data
    where = f"{data_name(record)} {record.protocol.split}"
    return f"{where}: {data.queries} queries, {data.clips} videos, seed {record.run.seed}"


def _note(skills: bool) -> str:
    lines = ["R@1 with its 95 % interval over other videos, of one training each."]
    if skills:
        lines += [
            "Skills: right among the hard negatives of the text's group, in percent;",
            "in brackets: no better than guessing.",
        ]
    return "\n".join(lines)


def _table(middle: Sequence[str], width: int) -> Table:
    gap = 1 if width >= _WIDE else 0  # four skills fit a terminal of 80 columns all the same
    table = Table(
        box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", padding=(0, gap)
    )
    table.add_column("model", no_wrap=True)
    for title in ("T2V\nR@1", "V2T\nR@1", *middle, "training"):
        table.add_column(title, justify="right", no_wrap=True, vertical="bottom")
    return table


def _cells(record: Record, outcome: Outcome, skills: Sequence[str]) -> list[str | Text]:
    trained = record.phases.get("train", record.efficiency.train_s)
    middle: list[str | Text] = [_skill(record, skill) for skill in skills]
    return [
        _recall(record, outcome),
        f"{record.metrics.v2t['R@1']:.1f}",
        *(middle or [f"{record.metrics.t2v[metric]:.1f}" for metric in _PLAIN]),
        "-" if trained is None else duration(trained),
    ]


def _recall(record: Record, outcome: Outcome) -> str:
    shown = f"{record.metrics.t2v['R@1']:.1f}"
    try:
        found = estimate([outcome.folder])
    except UserError:  # the ranks are gone; the record is not
        return shown
    return f"{shown} ({found.low:.0f}..{found.high:.0f})"


def _skill(record: Record, skill: str) -> Text:
    if skill not in record.metrics.by_skill:
        return Text("-")
    value, style, _ = in_group(record.metrics.by_skill[skill])
    return Text(value, style)


def _chance(record: Record, skills: Sequence[str]) -> list[str]:
    data = record.data
    guess = [100 * k / max(1, data.clips) for k in (1, 5, 10)]
    inside = (record.metrics.by_skill[skill].in_group.get("chance_R@1") for skill in skills)
    middle = ["-" if level is None else f"{level:.1f}" for level in inside]
    back = f"{guess[0]:.1f}" if data.queries == data.clips else "-"
    return [f"{guess[0]:.1f}", back, *(middle or [f"{min(100.0, g):.1f}" for g in guess[1:]])]
