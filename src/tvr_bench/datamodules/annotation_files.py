"""Read the files that annotations come in, and say in one line what is wrong with a broken one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tvr_bench.datamodules.tables import parse_table
from tvr_bench.datamodules.text_files import FETCH, invisible, line_at, lines_of, named, read_text
from tvr_bench.errors import UserError

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # as JSON escapes it, and no escaped backslash before


def read_json(path: Path, kind: type) -> Any:
    """Return a JSON file's value, a `kind` (dict or list); UserError where it is not.

    An object that has a key twice is refused: which of the two is meant, nobody knows.
    """
    text = read_text(path)
    if escaped := _NUL.search(text):
        raise UserError(
            f"{path} has a NUL character in line {line_at(text, escaped.end())}; {FETCH}"
        )
    try:
        value = json.loads(text, object_pairs_hook=_once)
        if "\\ud" in text.lower():  # half of a pair of escapes is no character
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not readable JSON ({reason}); {FETCH}") from error
    if not isinstance(value, kind):
        what = "an object" if kind is dict else "a list"
        raise UserError(f"{path} must hold {what}; is it the right file?")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:60]!r} is there twice in one object")
    return found


def read_list(path: Path) -> list[str]:
    """Return the lines of a file that are not blank, without the space around them."""
    return [line.strip() for line in lines_of(read_text(path)) if line.strip()]


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a table with a header that has `columns`, which alone are kept.

    Commas, semicolons, tabs and bars part cells. Raises UserError for a table without `columns`.
    """
    wanted = set(columns)
    table = parse_table(
        path, read_text(path), lambda cells: len(wanted & set(cells)), FETCH, strict=False
    )
    places = {column: table.header.index(column) for column in columns if column in table.header}
    for column in columns:
        if column not in places:
            shown = ", ".join(table.header)[:80]
            raise UserError(
                f"{path} has no column '{column}' (it has: {shown}); is it the right file?"
            )
        if table.header.count(column) > 1:
            raise UserError(f"{path} has two columns '{column}'; {FETCH}")
    for line in table.lines:
        if line.short:
            raise UserError(f"{path} line {line.number} has too few cells; {FETCH}")
    return [{name: line.cells[i] for name, i in places.items()} for line in table.lines]


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
            hidden = "".join(f" (with {named(sign)})" for sign in invisible(one)[:1])
            raise UserError(
                f"{where} names {one[:60]!r}{hidden}, of which there are no captions; fetch both"
            )
        found[one] = None
    return list(found)
