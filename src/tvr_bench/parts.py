"""A part of a piece of work, for job arrays: part i of n takes every n-th shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Part:
    """Part `index` of `count`, counted from 0; the only one of 1 is the whole."""

    index: int = 0
    count: int = 1

    @property
    def whole(self) -> bool:
        """Whether nothing is left to other parts."""
        return self.count == 1

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Return this part of a list that is the same for all parts."""
        return list(items[self.index :: self.count])

    def holds(self, key: str) -> bool:
        """Return whether a hexadecimal key belongs to this part, whatever other keys there are."""
        return int(key, 16) % self.count == self.index


WHOLE = Part()
