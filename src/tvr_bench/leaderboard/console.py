"""What a person sees at the end of a bench: the result at a glance and where its files lie."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tvr_bench.leaderboard.grouping import data_name, trained_elsewhere
from tvr_bench.leaderboard.record import STANDARD_METRICS, Record, SkillMetrics

_DIRECTIONS = {"t2v": "text -> video", "v2t": "video -> text"}
Line = tuple[str, str, str]  # title, text, style


def print_report(record: Record, files: Mapping[str, Path], console: Console | None = None) -> None:
    """Print the tables of `record`, then one line per file of `files` (title -> path).

    Nothing is wider than 80 columns but a long path, which stays on one line to be copied. On a
    terminal there is colour; in a log there are the same words without it.
    """
    console = console or Console()
    console.print()
    console.print(_title(record))
    for table in (_directions(record), *_skills(record), _summary(record)):
        console.print()
        console.print(Padding(table, (0, 0, 0, 1)))
    console.print()
    width = max((len(title) for title in files), default=0)
    for title, path in files.items():
        line = Text.assemble((f" {title:<{width}}  ", "bold"), _clean(str(path)))
        console.print(line, soft_wrap=True)


def report_text(record: Record, files: Mapping[str, Path], width: int = 80) -> str:
    """Return what `print_report` prints to a log of `width` columns."""
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        print_report(record, files, console)
    return capture.get()


def _title(record: Record) -> Text:
    return Text.assemble(
        " ",
        (_clean(record.model.name), "bold"),
        _clean(f" on {data_name(record)} {record.protocol.split}: "),
        f"{record.data.queries} queries, {record.data.clips} videos, seed {record.run.seed}",
    )


def _directions(record: Record) -> Table:
    table = _table(("direction", *STANDARD_METRICS))
    for name, title in _DIRECTIONS.items():
        values = record.metrics.t2v if name == "t2v" else record.metrics.v2t
        table.add_row(title, *(f"{values[metric]:.1f}" for metric in STANDARD_METRICS))
    # one right video per text; the other way round only where every video has one text
    same = record.data.queries == record.data.clips
    table.add_row("chance" if same else "chance, t -> v", *_chance(record.data.clips), style="dim")
    return table


def _chance(videos: int) -> list[str]:
    recalls = [f"{min(100.0, 100.0 * k / max(videos, 1)):.1f}" for k in (1, 5, 10, 50)]
    middle = f"{(videos + 1) / 2:.1f}"
    return [*recalls, middle, middle]


def _skills(record: Record) -> list[Table | Text]:
    if not record.metrics.by_skill:
        return []
    table = _table(("skill, text -> video", "queries", "R@1", "R@5", "R@10", "in group", "chance"))
    guesses = 0
    for skill, found in record.metrics.by_skill.items():
        value, style, guess = in_group(found)
        guesses += guess
        table.add_row(
            Text(_clean(skill)),
            _number(found.t2v.get("queries"), 0),
            *(_number(found.t2v.get(metric)) for metric in ("R@1", "R@5", "R@10")),
            Text(value, style=style),
            _number(found.in_group.get("chance_R@1")),
        )
    note = Text("(in brackets: no better than guessing, by a 95 % interval)", style="dim")
    return [table, note] if guesses else [table]


def in_group(found: SkillMetrics) -> tuple[str, str, bool]:
    """Return R@1 in the group as text, its style, and whether guessing could have reached it."""
    value, chance, queries = (found.in_group.get(k) for k in ("R@1", "chance_R@1", "queries"))
    if value is None or chance is None or not queries:
        return _number(value), "", False
    spread = 1.96 * math.sqrt(chance * (100 - chance) / queries)
    if value <= chance + spread:
        return f"({value:.1f})", "yellow", True
    return f"{value:.1f}", "bold green", False


def _summary(record: Record) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for title, text, style in (*_counts(record), *_times(record)):
        grid.add_row(title, Text(text, style))
    return grid


def _counts(record: Record) -> list[Line]:
    data, metrics, ocr = record.data, record.metrics, record.protocol.ocr
    read = "off"
    if ocr.enabled:
        read = _clean(f"{ocr.engine}, {ocr.windows} windows per video")
        if data.clips_with_text is not None:
            read += f", text found in {data.clips_with_text} of {data.clips} videos"
    alarm = "yellow" if data.failed or data.missing_ids else ""
    lines = [("note", _clean(note), "yellow") for note in record.notes]
    if there := trained_elsewhere(record):
        lines.append(("weights", _clean(f"trained on {there}"), ""))
    lines += [("scene text", read, ""), ("failed", _failures(record), alarm)]
    for title, counts in (
        ("tied", metrics.tied_queries),
        ("no score", metrics.nan_queries),
    ):
        text = ", ".join(f"{n} queries {_DIRECTIONS.get(d, d)}" for d, n in counts.items() if n)
        if text:
            lines.append((title, text, "yellow"))
    return lines


def _failures(record: Record) -> str:
    data = record.data
    parts = []
    if data.missing_ids:
        parts.append(f"{len(data.missing_ids)} videos missing ({_some(data.missing_ids)})")
    if data.failed:
        parts.append(f"{len(data.failed)} videos unreadable ({_some(data.failed)})")
    if parts:
        parts.append("each counts as a miss")
    other = ", ".join(f"{_clean(stage)} {count}" for stage, count in data.failures.items() if count)
    if other:
        parts.append(f"failures.jsonl: {other}")
    return "; ".join(parts) or "none"


def _some(ids: Sequence[str], shown: int = 3) -> str:
    return ", ".join(_clean(i) for i in ids[:shown]) + (", ..." if len(ids) > shown else "")


def _times(record: Record) -> list[Line]:
    phases = [f"{_clean(name)} {_duration(s)}" for name, s in record.phases.items()]
    cost = record.efficiency
    figures = [f"{record.model.params / 1e6:.2f} M parameters"]
    if cost.ms_per_query_p50 is not None:
        figures.append(f"{cost.ms_per_query_p50:.2f} ms per query on {_clean(cost.device)}")
    if cost.gallery_bytes_per_video is not None:
        figures.append(f"{cost.gallery_bytes_per_video / 1e3:.1f} kB per video")
    if cost.peak_mem_mb is not None:
        figures.append(f"peak {cost.peak_mem_mb / 1e3:.2f} GB")
    time = ", ".join([*phases, f"all {_duration(record.run.wall_s)}"])
    return [("time", time, ""), ("cost", ", ".join(figures), "")]


def _table(titles: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for i, title in enumerate(titles):
        table.add_column(title, justify="left" if i == 0 else "right", overflow="fold")
    return table


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _clean(text: str) -> str:
    # an id or a name from a file must not move the cursor or colour the terminal
    return "".join(c if c.isprintable() else " " for c in text)
