"""From text to a value and back: the type that the schema gives a key decides what a text means.

A text key takes its text as it stands. Numbers are taken only in a form that everybody reads alike:
`010`, `1_000`, `0x10` and `12:30` are none.
"""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import yaml

from tvr_bench import synonyms, text_yaml
from tvr_bench.errors import UserError, nearest
from tvr_bench.files import check_utf8
from tvr_bench.text_yaml import Plain

_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.?(inf|nan)", re.IGNORECASE)
_TRUTH = dict.fromkeys(("true", "yes", "on", "y", "1"), True)
_TRUTH |= dict.fromkeys(("false", "no", "off", "n", "0"), False)
_SAID = {
    str: ("a text", "texts, such as [a,b]"),
    int: ("a whole number in plain digits, such as 10", "whole numbers, such as [10,20]"),
    float: ("a number, such as 0.5 or 1e-4", "numbers, such as [0.9,0.98]"),
    bool: ("true or false", "of true and false"),
}


@dataclass(frozen=True)
class Kind:
    """What a key takes: a scalar type, whether null is allowed, and how many of them.

    `length` is None for a single one, 0 for a list of any length.
    """

    type: type
    optional: bool = False
    length: int | None = None

    @property
    def said(self) -> str:
        """What it takes, in words."""
        one, many = _SAID[self.type]
        text = one if self.length is None else f"{self.length or 'a list of'} {many}"
        return f"{text}, or null" if self.optional else text


def kind_of_hint(hint: Any) -> Kind:
    """Return the kind of a field of the schema from its type."""
    if isinstance(hint, UnionType):
        (inner,) = (one for one in get_args(hint) if one is not NoneType)
        one = kind_of_hint(inner)
        return Kind(one.type, True, one.length)
    if get_origin(hint) is tuple:
        return Kind(get_args(hint)[0], False, len(get_args(hint)))
    assert hint in _SAID, hint
    return Kind(hint)


def kind_of_default(value: Any) -> Kind | None:
    """Return the kind of a key whose default stands in a YAML file; None where that tells none."""
    if isinstance(value, list):
        first = kind_of_default(value[0]) if value else None
        return Kind(first.type, False, 0) if first and first.length is None else None
    if isinstance(value, Plain):
        guess = typed(value)
        return Kind(str if isinstance(guess, Plain) else type(guess))
    return Kind(str) if isinstance(value, str) else None


def kind_of_name(name: Any) -> Kind | None:
    """Return the kind that `int`, `float`, `text` or `bool`, or a list of one of them, names."""
    if isinstance(name, list) and len(name) == 1:
        one = kind_of_name(name[0])
        return Kind(one.type, True, 0) if one else None
    types = {"int": int, "float": float, "text": str, "bool": bool}
    return Kind(types[name], True) if isinstance(name, str) and name in types else None


def convert(kind: Kind, raw: Any) -> Any:
    """Return the value of a key of a kind; raises ValueError, without words, where it has none.

    `raw` is a text, of which a `Plain` one may be `null`, or a value of Python's.
    """
    absent = raw is None or (isinstance(raw, Plain) and raw in ("null", ""))
    if absent and kind.optional:
        return None
    if kind.length is None:
        return _scalar(kind.type, raw)
    if isinstance(raw, str):
        raw = _listed(raw)
    if kind.length and kind.type is int and not isinstance(raw, list | tuple):
        raw = [raw] * kind.length  # 224 is 224 x 224
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise ValueError
    values = [_scalar(kind.type, one) for one in raw]
    if kind.length and len(values) != kind.length:
        raise ValueError
    return tuple(values) if kind.length else values


def allowed(key: str, kind: Kind, raw: Any, rule: Any) -> Any:
    """Return the value of a key; raises UserError where its type or its rule does not allow it."""
    for text in raw if isinstance(raw, list | tuple) else [raw]:
        if isinstance(text, str):
            check_utf8(f"{key}=", text)
        if isinstance(text, str) and ("${" in text or text == "???"):
            raise UserError(
                f"{key}={text!r} is impossible; write the value itself, nothing like ${{}}"
            )
    if isinstance(rule, list) and isinstance(raw, bool):
        raw = written(raw)  # a choice may have been a truth value
    try:
        value = convert(kind, raw)
    except (ValueError, OverflowError) as error:
        limit = f" ({rule})" if isinstance(rule, str) else ""
        shown = "null" if raw is None else repr(raw)
        raise UserError(f"{key}={shown} is impossible; it takes {kind.said}{limit}") from error
    if isinstance(rule, list):
        return _choice(key, kind, value, rule)
    if value is not None and not _holds(value, rule):
        raise UserError(f"{key}={value} is impossible; it must be {rule or 'finite'}")
    return value


def _choice(key: str, kind: Kind, value: Any, rule: Sequence[Any]) -> Any:
    choices = [convert(kind, one) for one in rule]
    if value is None or value in choices:
        return value
    words = [str(one) for one in choices]
    meant = synonyms.same(str(value), words) or synonyms.known_choice(key, str(value))
    if meant in words:
        return choices[words.index(meant)]
    hint = nearest(str(value), words)
    raise UserError(f"{key}={value} is impossible.{hint} Choose one of: {', '.join(words)}")


_COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


def _holds(value: Any, rule: str | None) -> bool:
    if isinstance(value, list | tuple):
        return all(_holds(one, rule) for one in value)
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if rule is None:
        return True
    if "," in rule:
        return all(_holds(value, part.strip()) for part in rule.split(","))
    if rule == "whole from 1":
        return bool(value < 1 or value == int(value))
    if ".." in rule:
        low, high = (float(part) for part in rule.split(".."))
        return bool(low <= value <= high)
    sign, bound = rule.split()
    return bool(_COMPARE[sign](value, float(bound)))


def _listed(text: str) -> Any:
    """Return the list that `[1,2]` is; another text as it is."""
    if not text.strip().startswith("["):
        return text
    try:
        return text_yaml.parse(text)
    except yaml.YAMLError as error:
        raise ValueError from error


def _scalar(wanted: type, raw: Any) -> Any:
    if wanted is str:
        return _text(raw)
    if isinstance(raw, str):
        return _number(wanted, raw.strip(" ")) if wanted is not bool else truth(raw)
    if wanted is bool:
        return truth(str(raw))
    if isinstance(raw, bool) or raw is None:
        raise ValueError
    try:
        return operator.index(raw) if wanted is int else float(raw)
    except TypeError as error:
        raise ValueError from error


def _text(raw: Any) -> str:
    if isinstance(raw, os.PathLike):
        raw = os.fspath(raw)
    if isinstance(raw, int) and not isinstance(raw, bool):
        return str(raw)
    if not isinstance(raw, str) or "\0" in raw:
        raise ValueError
    return str(raw)


def _number(wanted: type, text: str) -> Any:
    if wanted is int and not _WHOLE.fullmatch(text):
        raise ValueError
    if wanted is float and not (_NUMBER.fullmatch(text) or _NOT_FINITE.fullmatch(text)):
        raise ValueError
    return wanted(text.replace(".inf", "inf").replace(".nan", "nan"))


def truth(text: str) -> bool:
    """Return whether a text says yes or no; raises ValueError where it says neither."""
    if (found := _TRUTH.get(text.strip(" ").lower())) is None:
        raise ValueError
    return found


def whole(text: str) -> int:
    """Return the whole number that a text is to everybody; raises ValueError for any other."""
    return int(_number(int, text))


def typed(raw: Any) -> Any:
    """Return YAML's content with its plain numbers and truth values as such; else as it is."""
    if isinstance(raw, dict):
        return {key: typed(value) for key, value in raw.items()}
    if isinstance(raw, list):
        return [typed(value) for value in raw]
    if not isinstance(raw, Plain):
        return raw
    if raw in ("true", "false"):
        return raw == "true"
    if _WHOLE.fullmatch(raw):
        return int(raw)
    return float(raw) if _NUMBER.fullmatch(raw) else raw


def written(value: Any) -> str:
    """Return a value as a command line takes it, to be read back to the very same one.

    Raises UserError for the text `null`, which would be read as nothing.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        plain = not any(isinstance(one, str) for one in value)
        return f"[{','.join(map(written, value))}]" if plain else text_yaml.dump_line(list(value))
    if value == "null":
        raise UserError("the text 'null' means nothing on a command line; write it another way")
    return str(value)
