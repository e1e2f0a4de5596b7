"""A check of a data set as a person reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tvr_bench.datamodules.check import Report, SplitReport, check
from tvr_bench.files import settings_hash
from tvr_bench.registry import dataset_class
from tvr_bench.schema import Config

_NAMED = 5  # ids of a list that are printed


def check_data(cfg: Config, out: Path | None, *, whole: bool = False) -> int:
    """Check a data set and print what was found; return 0 if its scores are comparable, or 1.

    Manifest and ledger go to `out`, None: to a folder of these data settings under the cache.
    """
    data = dataset_class(cfg.data.name)(cfg, scene_text=False)
    data.materialise()
    report = check(data, out or _folder(cfg), whole=whole)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table(report))
    for one in report.splits:
        for line in lines(one):
            console.print(f"  {escape(line)}")
    for note in report.notes:
        console.print(f"  note: {escape(note)}")
    good, why = report.verdict
    console.print(f"\n[bold]{report.data}: {escape(why)}[/bold]")
    console.print(f"manifest  {report.manifest}")
    if report.ledger.exists():
        console.print(f"failures  {report.ledger}")
    return 0 if good else 1


def _folder(cfg: Config) -> Path:
    """Return where the check of these data leaves its files; other data have another folder."""
    keys = OmegaConf.to_container(cast(Any, cfg).data, resolve=True)
    named = settings_hash([keys, str(Path.cwd())])  # a path may be relative
    return Path(cfg.paths.cache) / "reports" / f"{cfg.data.name}-{named}"


def table(report: Report) -> Table:
    """Return the counts of all splits, found of expected."""
    made = Table(box=None, pad_edge=False)
    columns = ("split", "videos", "captions", "missing", "unreadable", "hours", "durations off")
    for name in columns:
        made.add_column(name, justify="left" if name == "split" else "right", no_wrap=True)
    for one in report.splits:
        if one.error:
            made.add_row(one.name, *["-"] * (len(columns) - 1))
            continue
        official = one.official
        made.add_row(
            one.name,
            _of(one.clips, official.clips if official else None),
            _of(one.captions, official.captions if official else None),
            f"{len(one.missing):,}",
            f"{len(one.unreadable):,}",
            f"{one.seconds / 3600:.2f}",
            f"{len(one.far):,}",
        )
    return made


def lines(one: SplitReport) -> list[str]:
    """Return what a table has no room for: errors, and the first ids of each list."""
    if one.error:
        return [f"{one.name}: {one.error}"]
    kinds = {"missing": one.missing, "unreadable": one.unreadable, "duration off": one.far}
    return [
        f"{one.name}, {kind}: {', '.join(ids[:_NAMED])}"
        + (f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else "")
        for kind, ids in kinds.items()
        if ids
    ]


def _of(found: int, expected: int | None) -> str:
    return f"{found:,}" if expected is None else f"{found:,} of {expected:,}"
