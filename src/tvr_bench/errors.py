"""The one kind of error that a person can cause."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Something a user can put right; the message is one line: what is wrong and what to do."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Return " Did you mean 'x'?" for the known name most like `name`, or an empty string."""
    found = get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" Did you mean '{found[0]}'?" if found else ""
