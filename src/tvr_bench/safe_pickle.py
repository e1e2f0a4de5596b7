"""Plain values out of pickle files from strangers; nothing that such a file says is ever done.

A pickle is a program for a small machine, and most of its steps build or call things. Here the
steps are listed first, without taking any: one that does more than make a plain value ends it, and
so does one that would cost much memory. The machine that then runs knows no name of anything. What
it made is looked through before it is handed out.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn

from tvr_bench.errors import UserError

_LARGEST = 64 * 2**20  # bytes of a file
_LONGEST = 1_000_000  # bytes of one text or frame
_MEMORY = 100_000_000  # bytes that loading may take beside the file; MSVD's captions take 80 MB
_CONTENT = 8_000_000  # values and characters, shared ones counted each time; MSVD has 4 million
_DEPTH = 8  # lists and dicts in one another
_INTEGER = 2**63  # larger ones could all be made to fall into one slot of a dict

# no tuples: as the keys of a dict, nested ones overflow the stack of the process
_STEPS: dict[type, tuple[str, ...]] = {
    dict: ("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
    list: ("EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
    str: (
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("STRING", "SHORT_BINSTRING", "BINSTRING"),
    ),
    int: ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    NoneType: ("NONE",),
}
_MEMOS = ("PUT", "BINPUT", "LONG_BINPUT")
_FRAME = ("PROTO", "FRAME", "MARK", "STOP", "MEMOIZE", *_MEMOS, "GET", "BINGET", "LONG_BINGET")

# bytes that a step takes at most, beside its text: a place on the stack and in a list or dict
_COST = dict.fromkeys(("APPEND", "APPENDS", "SETITEM", "SETITEMS"), 10)
_COST |= dict.fromkeys(("EMPTY_LIST", "LIST"), 130) | dict.fromkeys(("EMPTY_DICT", "DICT"), 330)
_COST_OF_OTHERS = 32


class _RefusedError(Exception):
    """A file that is no broken pickle, but does what it may not."""


def load_plain(path: Path, kinds: Iterable[type]) -> Any:
    """Return the value in a pickle file that holds nothing but `kinds`.

    `kinds` are some of dict, list, str, int and NoneType, as exact types (bool is no int here).
    Files of up to 64 MB are read, in less than 200 MB of memory. Raises UserError for every other
    file, and for one that is broken; nothing in a file is ever imported, called or built.
    """
    allowed = frozenset(kinds)
    assert allowed <= _STEPS.keys(), f"no plain types: {allowed - _STEPS.keys()}"
    data = _read(path)
    try:
        _scan(data, {step for kind in allowed for step in _STEPS[kind]}.union(_FRAME))
        value = _Unpickler(io.BufferedReader(io.BytesIO(data)), encoding="utf-8").load()
        _weigh(value, allowed, 0)
    except _RefusedError as refused:
        names = ", ".join(sorted(kind.__name__ for kind in allowed))
        raise UserError(
            f"{path} is refused: {refused}; a file of plain values ({names}) is wanted, so fetch "
            "it again from its official place"
        ) from refused
    except Exception as error:  # a broken pickle raises nearly every kind that there is
        reason = ascii(" ".join(str(error).split())[:80])[1:-1] or type(error).__name__
        raise UserError(f"{path} is no readable pickle ({reason}); fetch it again") from error
    return value


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path} is no file; give a pickle file")
    with open(path, "rb") as file:
        data = file.read(min(path.stat().st_size, _LARGEST) + 1)
    if len(data) > _LARGEST:
        raise UserError(f"{path} is larger than 64 MB; is it the right file?")
    return data


class _Pieces(io.BytesIO):
    """Bytes that are read in short pieces, so that no length that a file claims costs memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size > _LONGEST:
            raise _RefusedError(f"a text of {size:,} bytes at byte {self.tell():,}")
        return super().read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(_LONGEST + 1)
        if len(line) > _LONGEST:
            raise _RefusedError(f"a line of more than {_LONGEST:,} bytes")
        return line


def _scan(data: bytes, allowed: set[str]) -> None:
    """Raise for a step that is not allowed and for a file that would take too much memory."""
    memory = 0
    for step, (code, argument, place) in enumerate(pickletools.genops(_Pieces(data)), 1):
        name = code.name
        if name not in allowed:
            raise _RefusedError(f"{name} at byte {place:,} is no plain value")
        memory += _COST.get(name, _COST_OF_OTHERS)
        if isinstance(argument, str):
            memory += sys.getsizeof(argument)
        elif isinstance(argument, int):
            _check_number(name, argument, step, len(data) - (place or 0))
        if memory > _MEMORY:
            raise _RefusedError(f"it would take more than {_MEMORY // 10**6} MB of memory")


def _check_number(name: str, number: int, step: int, left: int) -> None:
    """Raise for the number of a step that lies or that costs; `left` bytes follow in the file."""
    if name == "FRAME" and number > left:
        raise _RefusedError("it ends before its last frame does")
    if name == "FRAME" and number > _LONGEST:
        raise _RefusedError(f"a frame of {number:,} bytes")
    # each thing that is kept took a step to make; the machine makes room up to the number
    if name in _MEMOS and number > step:
        raise _RefusedError(f"{name} {number:,} at step {step:,} skips numbers")
    if abs(number) >= _INTEGER:
        raise _RefusedError("a number of more than 64 bits")


class _Unpickler(pickle.Unpickler):
    """An unpickler that finds no class, no function and nothing that lies outside of the file."""

    def find_class(self, module: str, name: str, /) -> NoReturn:
        raise _RefusedError("it names something to import")

    def persistent_load(self, pid: Any, /) -> NoReturn:
        raise _RefusedError("it names something outside")


def _weigh(value: Any, allowed: frozenset[type], depth: int) -> int:
    """Return how many values and characters there are, shared ones counted each time.

    Raises for other types than `allowed`, for too much of them, and for deep or endless nesting.
    """
    if type(value) not in allowed:
        raise _RefusedError(f"it holds a {type(value).__name__}")
    if isinstance(value, str):
        value.encode()  # fails for halves of characters, which no file could be written with
        return 1 + len(value)
    if not isinstance(value, (list, dict)):
        return 1
    if depth == _DEPTH:
        raise _RefusedError(f"lists or dicts lie more than {_DEPTH} deep in one another")
    total = 1
    for one in chain(value, value.values()) if isinstance(value, dict) else value:
        total += _weigh(one, allowed, depth + 1)
        if total > _CONTENT:
            raise _RefusedError(f"it holds more than {_CONTENT:,} values and characters")
    return total
