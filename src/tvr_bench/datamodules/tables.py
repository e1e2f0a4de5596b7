"""Tables as people's programs write them: rows of cells, whichever sign parts the cells.

Commas, semicolons, tabs and bars are told apart by the header; Excel's line `sep=;` says it itself.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_bench.errors import UserError

LONGEST = 1_000_000  # characters of a cell; a quote that is never closed would take in the file
SIGNS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}

_SEP = re.compile(r'"?sep=([,;\t|])"?[,;\t|]*(?:\r\n|\n|\r)', re.IGNORECASE)


@dataclass(frozen=True)
class Line:
    """A row of a table; `number` is that of its last line in the file, counted from 1.

    `short` where it has fewer cells than the header, so that its last ones were made up, empty.
    """

    number: int
    cells: tuple[str, ...]
    short: bool = False


@dataclass(frozen=True)
class Table:
    """A header and the rows below it, blank ones left out; each row has a cell per column.

    `repeated` are the numbers of rows that say the header again, which are left out too.
    """

    header: tuple[str, ...]
    lines: list[Line]
    sign: str
    repeated: list[int]


def parse_table(
    path: Path, text: str, fits: Callable[[Sequence[str]], int], advice: str, *, strict: bool
) -> Table:
    """Return the table in the text of `path`.

    The sign between cells is the one whose header `fits` best: it returns how many of the wanted
    columns a header has. `strict` refuses quotes in odd places. Raises UserError, naming the line
    and ending with `advice`, for rows of more cells than the header and for cells above a million
    characters.
    """
    said = _SEP.match(text)
    skipped = 1 if said else 0
    text = text[said.end() :] if said else text
    sign = said[1] if said else _sign(text, fits)
    found = read_lines(path, text, advice, first=1 + skipped, delimiter=sign, strict=strict)
    header = next(found, Line(1, ())).cells
    lines, repeated = [], []
    for line in found:
        if tuple(map(_bare, line.cells)) == tuple(map(_bare, header)):
            repeated.append(line.number)
        else:
            lines.append(_as_wide(path, line, len(header), sign))
    return Table(header, lines, sign, repeated)


def read_lines(
    path: Path, text: str, advice: str, first: int = 1, **dialect: Any
) -> Iterator[Line]:
    """Yield the rows of a text that are not blank; the text begins at line `first` of `path`.

    Raises UserError, which names the line, for what `csv.reader` cannot read in this dialect.
    """
    reader = csv.reader(io.StringIO(text, newline=""), **dialect)
    before = 0
    while True:
        try:
            with _long_cells():
                cells = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{path} cannot be read: {_why(error)} in the row that begins at line "
                f"{before + first}; {advice}"
            ) from error
        if cells is None:
            return
        before = reader.line_num
        if any(map(str.strip, cells)):
            yield Line(reader.line_num + first - 1, tuple(cells))


def _why(error: csv.Error) -> str:
    if "field limit" in str(error):
        return f"a cell of more than {LONGEST:,} characters, or a quote that is not closed,"
    return str(error)


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let cells be longer than the csv module's 131,072 characters, for this thread's turn."""
    before = csv.field_size_limit(LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _sign(text: str, fits: Callable[[Sequence[str]], int]) -> str:
    """Return the sign between the cells of the header; a comma where none fits better."""
    return max(SIGNS, key=lambda sign: fits(_header(text, sign)))


def _header(text: str, sign: str) -> list[str]:
    head = text[:LONGEST]
    try:
        with _long_cells():
            return next(filter(None, csv.reader(io.StringIO(head, newline=""), delimiter=sign)), [])
    except csv.Error:
        return []


def _bare(cell: str) -> str:
    return cell.strip('\ufeff \t"').casefold()


def _as_wide(path: Path, line: Line, width: int, sign: str) -> Line:
    """Return a row with as many cells as the header; empty ones are put to it or taken off."""
    over = [cell for cell in line.cells[width:] if cell.strip()]
    if over:
        raise UserError(
            f"{path} line {line.number} has too many cells, such as {over[0].strip()[:40]!r}; put "
            f"quotes around a text with {SIGNS[sign]}"
        )
    cells = line.cells[:width]
    return Line(line.number, cells + ("",) * (width - len(cells)), len(cells) < width)
