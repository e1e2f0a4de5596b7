"""The rows of anybody's CSV: columns by their usual names, seconds or clock times, known splits.

What is unmistakable is read, and said where it had to be understood; whatever could mean two things
is refused with its line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from tvr_bench.datamodules.clock import seconds_of
from tvr_bench.datamodules.tables import SIGNS, Line, Table, parse_table
from tvr_bench.datamodules.text_files import SAVE, decoded, invisible, named
from tvr_bench.errors import UserError, nearest

# a column's own name, then others that are taken for it where it is not there and one of them is
COLUMNS: dict[str, tuple[str, ...]] = {
    "video": ("path", "file", "filename", "file name", "filepath", "file path", "video path",
              "video file", "video filename", "videopath", "videofile"),
    "caption": ("captions", "text", "sentence", "description"),
    "split": ("subset", "set", "partition"),
    "start": ("start s", "start sec", "start seconds", "start time"),
    "end": ("end s", "end sec", "end seconds", "end time"),
}  # fmt: skip
_NEEDED = ("video", "caption")
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SUFFIXES = (".csv", ".tsv", ".txt")
_ALIKE = 0.75  # of two column names: `splt` and `split` are, `duration` and `caption` are not
_JOINERS = "\u200c\u200d"  # parts of words in some scripts, and of emoji
Places = dict[str, int]


@dataclass(frozen=True)
class Row:
    """One line of the file: a video (its path, normalised), one caption of it, and its split.

    Of the whole video, or of the part from `start` to `end` (seconds from its first picture).
    `file` is the path where the video was found, if that is spelt in another way.
    """

    line: int
    video: str
    caption: str
    split: str
    start: float | None = None
    end: float | None = None
    file: str = ""


def read_rows(path: Path) -> tuple[list[Row], list[str]]:
    """Return the rows of a CSV file, and lines that say how it was understood.

    Raises UserError, naming the line, for whatever has no meaning or two.
    """
    check_place(path)
    text, encoding = decoded(path, SAVE)
    table = parse_table(path, text, _fit, "check its quotes", strict=True)
    places, notes = _columns(path, table)
    if encoding != "utf-8":
        notes.insert(0, f"read as {encoding.upper()}")
    commas = table.sign != ","
    rows = [_row(path, line, places, commas) for line in table.lines]
    if not rows:
        raise UserError(f"{path} has no rows below its header; write one per caption")
    notes += [*_on_times(table, places, commas), *_on_rows(table, rows)]
    return rows, [f"{path.name}: {note}" for note in notes]


def check_place(path: Path) -> None:
    """Raise UserError where there is no file; of a folder it names a table in it."""
    if path.is_dir():
        here = sorted(one.name for one in path.iterdir() if one.suffix.lower() in _SUFFIXES)
        hint = f", such as {path / here[0]}" if here else ""
        raise UserError(f"data.file={path} is a folder; give a CSV with video,caption rows{hint}")
    if not path.is_file():
        raise UserError(f"data.file={path} does not exist; give a CSV with video,caption rows")


def plain(name: str) -> str:
    """Return a column's name in lower case, its words parted by single spaces."""
    seen = "".join(sign for sign in name if sign not in invisible(name))
    return " ".join(re.sub(r"[\W_]+", " ", seen).split()).casefold()


def _fit(header: Sequence[str]) -> int:
    found = _by_name(map(plain, header))
    return len(found) + sum(name in found for name in _NEEDED) * len(COLUMNS)


def _by_name(names: Iterable[str]) -> dict[str, list[str]]:
    """Return what each column of ours may be called here: its own name alone, if that is there."""
    there = set(names)
    found = {}
    for column, others in COLUMNS.items():
        if some := [column] if column in there else [name for name in others if name in there]:
            found[column] = some
    return found


def _columns(path: Path, table: Table) -> tuple[Places, list[str]]:
    """Return where our columns stand, and what to say of the header."""
    names = [plain(name) for name in table.header]
    found = _by_name(names)
    shown = ", ".join(repr(name.strip()[:40]) for name in table.header[:12] if name.strip())
    for column, some in found.items():
        if len(some) > 1:
            raise UserError(
                f"{path} has no column '{column}' but {' and '.join(map(repr, some))}; call one of "
                f"them '{column}'"
            )
        if names.count(some[0]) > 1:
            raise UserError(f"{path} has two columns '{some[0]}'; keep one of them")
    for column in _NEEDED:
        if column not in found:
            raise UserError(
                f"{path} has no column '{column}'; its first line must be video,caption and has "
                f"{shown or 'nothing'}"
            )
    used = {some[0]: column for column, some in found.items()}
    _check_others(path, table, names, used)
    return {column: names.index(name) for name, column in used.items()}, _on_header(
        table, names, used
    )


def _check_others(path: Path, table: Table, names: Sequence[str], used: Mapping[str, str]) -> None:
    """Raise UserError for a column that may be one of ours, misspelt or in other units.

    And for text in a column without a name, which may be the rest of a caption.
    """
    absent = [column for column in COLUMNS if column not in used.values()]
    for place, name in enumerate(names):
        if name in used or not name:
            continue
        alike = get_close_matches(name, absent, n=1, cutoff=_ALIKE)
        if hint := [word for word in name.split() if word in absent] or alike:
            shown, known = table.header[place].strip()[:40], ", ".join(COLUMNS)
            raise UserError(
                f"{path} has a column {shown!r}.{nearest(hint[0], absent)} Known: {known} (start "
                "and end in seconds); rename it, or take it out"
            )
    for line in table.lines:
        for place, name in enumerate(names):
            if place and not name and line.cells[place].strip():
                raise UserError(
                    f"{path} line {line.number} has {line.cells[place].strip()[:40]!r} in a column "
                    f"without a name; put quotes around a text with {SIGNS[table.sign]}, or name "
                    "the column"
                )


def _on_header(table: Table, names: Sequence[str], used: Mapping[str, str]) -> list[str]:
    notes = []
    if table.sign != ",":
        notes.append(f"its columns are parted by {SIGNS[table.sign]}")
    notes += [
        f"the column '{name}' is read as '{own}'" for name, own in used.items() if name != own
    ]
    others = [
        repr(table.header[place].strip()[:40])
        for place, name in enumerate(names)
        if name and name not in used
    ]
    if not names[0] and any(line.cells[0].strip() for line in table.lines):
        notes.append("left out: the first column, which has no name")
    if others:
        notes.append(f"left out: the column{'s' * (len(others) > 1)} {', '.join(others)}")
    if table.repeated:
        numbers = ", ".join(map(str, table.repeated[:5]))
        notes.append(f"left out: the header again, in line {numbers}")
    return notes


def _row(path: Path, line: Line, places: Places, commas: bool) -> Row:
    where = f"{path} line {line.number}"
    cell = {name: line.cells[place].strip() for name, place in places.items()}
    video, caption, split = cell["video"], cell["caption"], cell.get("split", "")
    if not video:
        raise UserError(f"{where} names no video; write its file name")
    if not caption:
        why = ", nor a cell for it: a line end in a text needs quotes" if line.short else ""
        raise UserError(f"{where} has an empty caption for {video[:60]!r}{why}; write one")
    if split and split.casefold() not in _SPLITS:
        raise UserError(
            f"{where} has split '{split[:40]}'.{nearest(split.casefold(), _SPLITS)} Known: train, "
            "val, test"
        )
    start, end = (seconds_of(where, name, cell.get(name, ""), commas) for name in ("start", "end"))
    if end is not None and end <= (start or 0):
        raise UserError(
            f"{where} ends at {end:g} s and starts at {start or 0:g} s; the end must be the later "
            "one"
        )
    # ./a.mp4 and a.mp4 are one video
    video = os.path.normpath(video)
    return Row(line.number, video, caption, _SPLITS.get(split.casefold(), ""), start, end)


def _on_times(table: Table, places: Places, commas: bool) -> list[str]:
    """Return how times are understood that are not plain numbers of seconds."""
    columns = [places[name] for name in ("start", "end") if name in places]
    cells = [line.cells[place] for line in table.lines for place in columns]
    notes = []
    if any(":" in cell for cell in cells):
        notes.append("start and end are read as h:mm:ss, or mm:ss where there is one colon")
    if commas and any("," in cell for cell in cells):
        notes.append("a comma in start and end is read as the point of a decimal number")
    return notes


def _on_rows(table: Table, rows: Sequence[Row]) -> list[str]:
    notes = []
    seen: dict[tuple[object, ...], int] = {}
    twice = []
    for row in rows:
        first = seen.setdefault((row.video, row.caption, row.split, row.start, row.end), row.line)
        if first != row.line:
            twice.append((row.line, first))
    if twice:
        line, first = twice[0]
        notes.append(
            f"{len(twice):,} rows repeat another one, such as line {line}, which is line {first} "
            "again; each counts as a query"
        )
    hidden = [
        (row, sign)
        for row in rows
        for sign in invisible(row.caption)
        if sign not in "\t\r\n" and sign not in _JOINERS
    ]
    if hidden:
        lines = {row.line for row, _ in hidden}
        notes.append(
            f"{len(lines):,} captions have invisible characters, which are kept, such as "
            f"{named(hidden[0][1])} in line {hidden[0][0].line}"
        )
    return notes
