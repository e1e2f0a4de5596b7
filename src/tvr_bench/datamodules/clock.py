"""Seconds as people write them: `12.5`, `0:12`, `1:02:03.5`, and what pandas makes of them."""

from __future__ import annotations

import math
import re

from tvr_bench.errors import UserError

_SECONDS = re.compile(r"-?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_CLOCK = re.compile(
    r"(?:0 days )?(?:(?P<h>\d{1,3}):(?=\d\d:))?(?P<m>\d{1,3}):(?P<s>[0-5]\d(?:[.,]\d+)?)", re.ASCII
)
_COMMA = re.compile(r"-?\d*,\d+", re.ASCII)
_THOUSANDS = re.compile(r"-?[1-9]\d{0,2}(,\d{3})+", re.ASCII)


def seconds_of(where: str, name: str, text: str, commas: bool) -> float | None:
    """Return the seconds that the text of the cell `name` says, None where it is empty.

    A number of seconds, h:mm:ss or mm:ss; with `commas` a number may have a decimal comma, as where
    semicolons part the columns. Raises UserError, beginning with `where`, for other texts.
    """
    if not text:
        return None
    value = _value(text, commas)
    if not math.isfinite(value):
        raise UserError(
            f"{where} has {name} {text[:40]!r}; write seconds, such as 12.5, or h:mm:ss"
        )
    if value < 0:
        raise UserError(f"{where} has {name} {text[:40]}; seconds count from 0")
    return value + 0.0  # -0 is 0


def _value(text: str, commas: bool) -> float:
    """Return the seconds, NaN for a text that is no time or that could be two."""
    if _SECONDS.fullmatch(text):
        return float(text)
    if commas and _COMMA.fullmatch(text) and not _THOUSANDS.fullmatch(text):
        return float(text.replace(",", "."))
    if (clock := _CLOCK.fullmatch(text)) and (not clock["h"] or int(clock["m"]) < 60):
        hours = int(clock["h"] or 0)
        return hours * 3600 + int(clock["m"]) * 60 + float(clock["s"].replace(",", "."))
    return math.nan
