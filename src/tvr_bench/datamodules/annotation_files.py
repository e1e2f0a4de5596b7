"""Read the files that annotations come in, and say in one line what is wrong with a broken one."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tvr_bench.errors import UserError

_LARGEST = 512_000_000  # bytes of an annotation file; the largest official one has 160 MB


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text, a byte-order mark left out; UserError where it is something else.

    Files above 512 MB are refused.
    """
    if path.stat().st_size > _LARGEST:
        raise UserError(f"{path} is larger than 512 MB; is it an annotation file?")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); fetch it again") from error


def read_json(path: Path, kind: type) -> Any:
    """Return a JSON file's value, a `kind` (dict or list); UserError where it is not."""
    text = read_text(path)
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():  # half of a pair of escapes is no character
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not readable JSON ({reason}); fetch it again") from error
    if not isinstance(value, kind):
        what = "an object" if kind is dict else "a list"
        raise UserError(f"{path} must hold {what}; is it the right file?")
    return value


def read_list(path: Path) -> list[str]:
    """Return the lines of a file that are not blank, without the space around them."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_table(path: Path, columns: Sequence[str], delimiter: str = ",") -> list[dict[str, str]]:
    """Return the rows of a CSV with a header that has `columns`; UserError where it has not."""
    # as a file: a cell in quotes keeps its line ends
    lines = csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter=delimiter)
    try:
        rows = list(lines)
    except csv.Error as error:
        raise UserError(f"{path} is not a readable CSV ({error}); fetch it again") from error
    missing = [column for column in columns if column not in (lines.fieldnames or [])]
    if missing:
        raise UserError(f"{path} has no column '{missing[0]}'; is it the right file?")
    for number, row in enumerate(rows, 2):
        if any(row[column] is None for column in columns):
            raise UserError(f"{path} line {number} has too few cells; fetch it again")
        if None in row:
            raise UserError(
                f"{path} line {number} has too many cells; is a text with a '{delimiter}' without "
                "quotes?"
            )
    return rows


def texts_of(value: Any, where: str) -> tuple[str, ...]:
    """Return a non-empty list of strings as a tuple; UserError, naming `where`, for others."""
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise UserError(f"{where} has captions that are no list of texts; fetch the file again")
    return tuple(value)


def in_order(ids: Iterable[str], known: dict[str, Any], where: str) -> list[str]:
    """Return `ids`, each in `known` and none twice; UserError, naming `where`, for others."""
    found: dict[str, None] = {}
    for one in ids:
        if one in found:
            raise UserError(f"{where} names {one[:60]!r} twice; fetch it again")
        if one not in known:
            raise UserError(
                f"{where} names {one[:60]!r}, of which there are no captions; fetch both"
            )
        found[one] = None
    return list(found)
