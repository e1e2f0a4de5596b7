"""Sweep files: an ablation table as a grid of settings, with the paper's own numbers beside it.

`configs/sweep/PAPER/NAME.yaml` is the sweep `PAPER/NAME`. Nothing here imports torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tvr_bench import text_yaml
from tvr_bench.config import CONFIG_ROOT
from tvr_bench.errors import UserError, nearest
from tvr_bench.text_yaml import Plain
from tvr_bench.values import typed, written

_LARGEST_GRID = 1_000  # cells; more are a slip of the pen
_LINE_POINTS = 3  # values of an axis below which two bars say more than a line

Value = None | bool | int | float | str | list[int] | list[float] | list[str]
Overrides = dict[str, Value]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class PaperTable(_Part):
    """What a paper reports for a sweep's cells, on a data set and with towers of its own.

    `rows` maps the label of a cell to one number per column (None: not reported); `other_rows`
    are the paper's rows that no cell repeats; `flags` say why a number is not to be trusted.
    """

    source: str
    data: str
    columns: list[str] = Field(min_length=1)
    rows: dict[str, list[int | float | None]] = {}
    other_rows: dict[str, list[int | float | None]] = {}
    flags: list[str] = []

    @model_validator(mode="after")
    def _rectangular(self) -> PaperTable:
        for label, values in (self.rows | self.other_rows).items():
            if len(values) != len(self.columns):
                raise ValueError(f"row '{label}' has {len(values)} of {len(self.columns)} numbers")
        return self


class SweepFile(_Part):
    """The content of a sweep file; its keys are explained in CONTRIBUTING.md."""

    title: str
    base: Overrides = {}
    grid: dict[str, list[Value]] = {}
    cells: dict[str, Overrides] = {}
    metrics: list[str] = Field(min_length=1)
    plot: list[str] = []
    x: str | None = None
    test_only: list[str] = []
    labels: dict[str, str] = {}
    paper: list[PaperTable] = []
    notes: list[str] = []


@dataclass(frozen=True)
class Cell:
    """One line of the table: its label, its place on every axis, and its settings."""

    label: str
    place: Mapping[str, Value]
    settings: Mapping[str, Value]

    @property
    def overrides(self) -> list[str]:
        """Return the settings as `key=value`."""
        return [setting(key, value) for key, value in self.settings.items()]


@dataclass(frozen=True)
class Sweep:
    """An ablation table: what varies, what is shown, and what the paper reports."""

    name: str
    file: SweepFile
    cells: tuple[Cell, ...]
    place: str = ""  # the path of one's own sweep file, by which it is started

    @property
    def x(self) -> str | None:
        """Return the axis that a line is drawn over: `x`, or the only one of numbers, or None."""
        if self.file.x:
            return self.file.x
        numeric = [key for key, values in self.file.grid.items() if _is_numeric(values)]
        return numeric[0] if len(numeric) == 1 else None

    @property
    def plot(self) -> list[str]:
        """Return the metrics that the figure shows."""
        return list(self.file.plot or self.file.metrics[:1])

    def axis_label(self, key: str) -> str:
        """Return what an axis is called in labels and figures."""
        return _axis_label(self.file, key)

    def value_label(self, key: str, value: Value) -> str:
        """Return what a value of an axis is called in labels and figures."""
        return _value_label(self.file, key, value)


def sweep_names() -> list[str]:
    """Return the sorted names of all sweeps of the package."""
    root = CONFIG_ROOT / "sweep"
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in _files(root))


def load_sweep(name: str) -> Sweep:
    """Return a sweep by its name, or by the path of a YAML file of one's own.

    Raises UserError for an unknown name and for a file that is no sweep.
    """
    if name.endswith((".yaml", ".yml")):
        sweep = parse_sweep(Path(name).stem, _read(Path(name)), Path(name))
        return replace(sweep, place=name)
    known = sweep_names()
    if name not in known:
        inside = [one for one in known if one.startswith(f"{name}/")]
        hint = f" Choose one of: {', '.join(inside)}" if inside else nearest(name, known)
        raise UserError(f"there is no sweep '{name}'.{hint} All: `tvr-bench sweep --list`")
    path = CONFIG_ROOT / "sweep" / f"{name}.yaml"
    return parse_sweep(name, _read(path), path)


def parse_sweep(name: str, content: Mapping[str, Any], path: Path) -> Sweep:
    """Return the sweep that `content` describes; UserError, naming `path`, where it is none."""
    for key in content:
        if key not in SweepFile.model_fields:
            hint = nearest(str(key), SweepFile.model_fields)
            raise UserError(f"sweep file {path}: unknown key '{key}'.{hint}")
    try:
        file = SweepFile.model_validate(content)
    except ValidationError as error:
        raise UserError(f"sweep file {path}: {_first_fault(error)}") from error
    try:
        cells = tuple(_expand(file))
        _check(file, cells)
    except UserError as error:
        raise UserError(f"sweep file {path}: {error}") from error
    return Sweep(name, file, cells)


def setting(key: str, value: Value) -> str:
    """Return `key=value` as the command line takes it, read back to the very same value."""
    return f"{key}={written(value)}"


def show(value: Value) -> str:
    """Return a value as labels show it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "x".join(show(one) for one in value) if isinstance(value, list) else str(value)


def _expand(file: SweepFile) -> Iterator[Cell]:
    """Yield the cells: every named one with every combination of the grid."""
    if not file.grid and not file.cells:
        raise UserError("it has no cells; give it `grid:` or `cells:`")
    size = math.prod(len(values) for values in file.grid.values()) * max(1, len(file.cells))
    if not size:
        empty = next(key for key, values in file.grid.items() if not values)
        raise UserError(f"the grid of {empty} is empty; give it values")
    if size > _LARGEST_GRID:
        raise UserError(f"it has {size} cells; more than {_LARGEST_GRID} are not run")
    for name, own in (file.cells or {"": {}}).items():
        for key in own:
            if key in file.grid:
                raise UserError(f"cell '{name}' sets {key}, which the grid varies; keep one")
        for values in itertools.product(*file.grid.values()):
            place = dict(zip(file.grid, values, strict=True))
            parts = [
                f"{_axis_label(file, key)}={_value_label(file, key, value)}"
                for key, value in place.items()
            ]
            label = ", ".join([name, *parts] if name else parts)
            yield Cell(label, place, file.base | own | place)


def _axis_label(file: SweepFile, key: str) -> str:
    if key in file.labels:
        return file.labels[key]
    last = key.rpartition(".")[2]
    same = [other for other in file.grid if other.rpartition(".")[2] == last]
    return last if len(same) < 2 else key


def _value_label(file: SweepFile, key: str, value: Value) -> str:
    shown = show(value)
    return file.labels.get(f"{key}={shown}", shown)


def _check(file: SweepFile, cells: tuple[Cell, ...]) -> None:
    labels = [cell.label for cell in cells]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise UserError(f"two cells are called '{twice}'; name or value them apart")
    for key in ("seed", "run.root", "run.name", "run.weights"):
        if any(key in cell.settings for cell in cells):
            raise UserError(f"it sets {key}, which the sweep gives to every run; remove it")
    if file.x is not None and file.x not in file.grid:
        raise UserError(f"x: {file.x} is no axis of the grid")
    for key in file.test_only:
        if not any(key in cell.settings for cell in cells):
            raise UserError(f"test_only: no cell sets {key}; remove it")
    for metric in file.plot:
        if metric not in file.metrics:
            raise UserError(f"plot: {metric} is not among the metrics")
    for key in file.labels:
        if key.partition("=")[0] not in file.grid:
            raise UserError(f"labels: {key} is no axis of the grid")
    for table in file.paper:
        for label in table.rows:
            if label not in labels:
                hint = nearest(label, labels, cutoff=0.0)
                raise UserError(f"'{label}' of {table.source} is the label of no cell.{hint}")


def _is_numeric(values: list[Value]) -> bool:
    # such as 1.0e-4, which stays as it is written
    found = [typed(Plain(value)) if isinstance(value, str) else value for value in values]
    numbers = [v for v in found if isinstance(v, (int, float)) and not isinstance(v, bool)]
    return len(numbers) == len(values) >= _LINE_POINTS


def _files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*.yaml") if path.is_file()]


def _read(path: Path) -> dict[str, Any]:
    content = text_yaml.read(path, "sweep file", "title: ...")
    # what a cell sets goes on to the command line as it stands, and its key says what it means
    return {
        key: _as_written(value) if key in ("base", "grid", "cells") else _shown(typed(value))
        for key, value in content.items()
    }


def _as_written(raw: Any) -> Any:
    """Return a cell's content with numbers where they are written back in the very same way."""
    if isinstance(raw, dict):
        return {key: _as_written(value) for key, value in raw.items()}
    if isinstance(raw, list):
        return [_as_written(value) for value in raw]
    value = typed(raw)
    return _shown(value if isinstance(raw, Plain) and written(value) == raw else raw)


def _shown(raw: Any) -> Any:
    """Return content with every text as a plain `str`."""
    if isinstance(raw, dict):
        return {key: _shown(value) for key, value in raw.items()}
    if isinstance(raw, list):
        return [_shown(value) for value in raw]
    return str(raw) if isinstance(raw, str) else raw


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in fault["loc"] if not str(part).startswith("list["))
    return " ".join(f"{place}: {fault['msg']}".split())[:200]
