"""What the papers report: copied with its source and its faults, never ranked, never a target."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from tvr_bench import config
from tvr_bench.errors import UserError

DIRECTIONS = ("t2v", "v2t")
Metric = Literal["R@1", "R@5", "R@10", "R@50", "MdR", "MnR"]
METRICS: tuple[Metric, ...] = ("R@1", "R@5", "R@10", "MdR", "MnR")
CONFIDENCE = {
    "paper": "the paper's own table or figure",
    "other paper": "another paper's table",
    "web": "a results page",
    "none": "not retrieved",
}
Values = dict[Metric, float]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Result(_Part):
    """One row of a paper: a system on a data set, as printed; a direction may be missing.

    `role` is own (the paper's system), variant (of it) or baseline (others', as the paper has
    them). `cost` is what it says of operations, hardware and time.
    """

    system: str
    data: str
    split: str
    backbone: str = ""
    role: Literal["own", "variant", "baseline"] = "own"
    t2v: Values = {}
    v2t: Values = {}
    cost: str = ""
    source: str
    confidence: Literal["paper", "other paper", "web", "none"] = "paper"
    flags: list[str] = []


class BaselineTable(_Part):
    """A paper's table of others: under each name a value, or null, for each of `columns`."""

    data: str
    split: str
    source: str
    columns: list[str]
    rows: dict[str, list[float | None]]
    flags: dict[str, str] = {}

    @model_validator(mode="after")
    def _complete(self) -> BaselineTable:
        for name, values in self.rows.items():
            if len(values) != len(self.columns):
                raise ValueError(f"{name} has {len(values)} values for {len(self.columns)} columns")
        for column in self.columns:
            if column.partition("_")[0] not in DIRECTIONS:
                raise ValueError(f"column {column} has no direction")
        return self

    def results(self) -> list[Result]:
        """Return the rows as results."""
        found = []
        for name, values in self.rows.items():
            parts: dict[str, Any] = {direction: {} for direction in DIRECTIONS}
            for column, value in zip(self.columns, values, strict=True):
                direction, _, metric = column.partition("_")
                if value is not None:
                    parts[direction][metric] = value
            flags = [self.flags[name]] if name in self.flags else []
            found.append(
                Result(
                    system=name,
                    data=self.data,
                    split=self.split,
                    role="baseline",
                    source=self.source,
                    flags=flags,
                    **parts,
                )
            )
        return found


class Paper(_Part):
    """A paper with its results; `model` is the name of its model here."""

    model: str
    title: str
    venue: str
    doi: str = ""
    notes: list[str] = []
    results: list[Result]
    tables: list[BaselineTable] = []


class Reported(_Part):
    """One result with the paper that it is from."""

    paper: Paper
    result: Result


def read_reported(folder: Path | None = None) -> list[Reported]:
    """Return every result of every file `reported/*.yaml`, by file, in the order written.

    Raises UserError for a file that is not as `Paper` says.
    """
    found: list[Reported] = []
    for path in sorted((folder or config.CONFIG_ROOT / "reported").glob("*.yaml")):
        try:
            paper = Paper.model_validate(_parse(path))
            results = [*paper.results, *(r for table in paper.tables for r in table.results())]
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"cannot read the reported results {path}: {reason}") from error
        found += [Reported(paper=paper, result=result) for result in results]
    return found


def reported_row(reported: Reported) -> dict[str, Any]:
    """Return a result as a row of `leaderboard.csv`, of the kind "reported", without a rank."""
    paper, result = reported.paper, reported.result
    row: dict[str, Any] = {
        "kind": "reported",
        "data": result.data,
        "split": result.split,
        "model": result.system,
        "backbone": result.backbone,
        "source": f"{paper.title}, {paper.venue}; {result.source}",
        "confidence": CONFIDENCE[result.confidence],
        "red_flags": " | ".join(result.flags),
    }
    for direction in DIRECTIONS:
        values = result.t2v if direction == "t2v" else result.v2t
        row |= {f"{direction}_{name}": value for name, value in values.items()}
    return row


def _parse(path: Path) -> Any:
    # the C parser is ten times faster, where PyYAML was built with it
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


def as_printed(metric: str, value: float | None) -> str:
    """Return a value with the digits that papers print; a dash for none."""
    if value is None:
        return "-"
    return f"{value:g}" if metric == "MdR" else f"{value:.1f}"
