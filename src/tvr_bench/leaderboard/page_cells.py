"""Cells of the HTML page's tables: what they show, and by what they sort.

Nothing is escaped here: the template escapes every text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
NONE = "\N{EN DASH}"
_LONGEST = 160  # letters of a name or a note that are shown


@dataclass(frozen=True)
class Cell:
    """A text with what sorts it (empty: last), a smaller text beside it and a line beneath it.

    `style` is a model's colour, `kind` one of the page's classes, `links` texts with addresses.
    """

    text: str
    sort: str = ""
    beside: str = ""
    beneath: str = ""
    kind: str = "number"
    style: int | None = None
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Column:
    """A column's head, what it means, the group above it and its cells.

    A first click sorts `falling` columns from the largest down.
    """

    head: str
    cell: Callable[[Row], Cell]
    group: str = ""
    help: str = ""
    falling: bool = False
    kind: str = "number"


@dataclass(frozen=True)
class Table:
    """A table with a caption, and a last line that is not sorted with the others."""

    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    last: list[Cell] | None = None

    @property
    def sticky(self) -> int:
        """The column that stays in sight: the first that names something."""
        return next((i for i, one in enumerate(self.columns) if "text" in one.kind), 0)

    @property
    def spread(self) -> list[bool]:
        """Whether any cell of a column has a text beside it, which all then leave room for."""
        return [any(row[i].beside for row in self.rows) for i in range(len(self.columns))]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The heads above the heads, with the number of columns that each spans."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans if any(text for text, _ in spans) else []


def hardware(row: Row) -> str:
    """Return where a row's time and memory were measured, in words."""
    parts = [row["device"], row["dtype"], f"{row['threads']} threads" if row["threads"] else ""]
    return ", ".join(str(part) for part in parts if part)


def shorten(text: object, longest: int = _LONGEST) -> str:
    """Return a text on one line, without control characters, cut to what a page has room for."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def number(name: str, digits: int, unit: float = 1.0) -> Callable[[Row], Cell]:
    """Return the cell of a number in `unit`s, with so many digits."""

    def cell(row: Row) -> Cell:
        value = row.get(name)
        if value is None:
            return Cell(NONE)
        return Cell(f"{value / unit:,.{digits}f}".replace(",", "\u202f"), repr(float(value)))

    return cell


def signed(name: str) -> Callable[[Row], Cell]:
    """Return the cell of a difference, with its sign."""

    def cell(row: Row) -> Cell:
        value = row[name]
        return Cell(NONE) if value is None else Cell(f"{value:+.1f}", repr(float(value)))

    return cell


def with_sd(name: str, of: str = "") -> Callable[[Row], Cell]:
    """Return the cell of a mean, its standard deviation over seeds beside it."""

    def cell(row: Row) -> Cell:
        value, sd = row.get(f"{name}{of}"), row.get(f"{name}_sd{of}")
        if value is None:
            return Cell(NONE)
        return Cell(f"{value:.1f}", repr(float(value)), "" if sd is None else f"±{sd:.1f}")

    return cell


def estimate(name: str) -> Callable[[Row], Cell]:
    """Return the cell of a mean as `with_sd` does, its interval beneath."""
    plain = with_sd(name)

    def cell(row: Row) -> Cell:
        found, low, high = plain(row), row.get(f"{name}_low"), row.get(f"{name}_high")
        interval = "" if low is None else f"{low:.1f} {NONE} {high:.1f}"
        return Cell(found.text, found.sort, found.beside, interval, "number main")

    return cell


def text_cell(value: object, kind: str = "text") -> Cell:
    """Return the cell of a text, a dash for none."""
    text = shorten("" if value is None else value)
    return Cell(text or NONE, text, kind=kind)


def hardware_cell(row: Row) -> Cell:
    """Return the cell of `hardware`."""
    return text_cell(hardware(row), "text small")
