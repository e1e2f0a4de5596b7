"""The metrics of a run as rows of a CSV file, which a resumed run continues and never repeats."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from tvr_bench.files import atomic_write

FILE = "metrics.csv"


class RowLogger(Logger):
    """Writes every row as it comes. `rows` counts them; `keep` says how many a run goes on from.

    What else is in the file when the first row is written is removed.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / FILE
        self.rows = 0
        self._keys: list[str] | None = None  # None: the file has not been looked at

    @property
    def name(self) -> str:
        """The name, which Lightning asks for."""
        return ""

    @property
    def version(self) -> str:
        """The version, which Lightning asks for."""
        return self.path.parent.name

    @property
    def save_dir(self) -> str:
        """The folder of the run."""
        return str(self.path.parent.parent)

    def keep(self, rows: int) -> None:
        """Go on after the first `rows` rows of the file."""
        self.rows, self._keys = rows, None

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Write nothing: a run's configuration is in a file of its own."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row."""
        row: dict[str, Any] = {key: float(value) for key, value in metrics.items()}
        row["step"] = step
        if "epoch" in row:
            row["epoch"] = int(row["epoch"])
        if self._keys is None:
            self._begin()
        assert self._keys is not None
        if new := set(row) - set(self._keys):
            self._rewrite(sorted({*self._keys, *new}), [*_read(self.path), row])
        else:
            with open(self.path, "a", newline="") as file:
                file.write(_text(self._keys, [row]))
        self.rows += 1

    def sync(self) -> None:
        """Put the rows on the disk, as a checkpoint that counts them is."""
        if self.rows and self.path.exists():
            with open(self.path, "rb+") as file:
                os.fsync(file.fileno())

    def _begin(self) -> None:
        kept = _read(self.path)[: self.rows]
        self.rows = len(kept)
        self._rewrite(sorted({key for row in kept for key, value in row.items() if value}), kept)

    def _rewrite(self, keys: list[str], rows: list[dict[str, Any]]) -> None:
        self._keys = keys
        atomic_write(self.path, _text(keys, rows, header=True) if rows else "")


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the whole rows; the last one may have been torn by a kill."""
    if not path.exists():
        return []
    text = path.read_text()
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))


def _text(keys: list[str], rows: list[dict[str, Any]], header: bool = False) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, keys, lineterminator="\n", extrasaction="ignore")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
