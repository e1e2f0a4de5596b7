"""The error a person can cause, and the name they may have meant."""

from __future__ import annotations

import pytest

import tvr_bench
from tvr_bench.errors import UserError, nearest


def test_a_user_error_is_a_value_error_of_the_public_interface() -> None:
    assert issubclass(UserError, ValueError)
    assert tvr_bench.UserError is UserError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tcrd", " Did you mean 'tcard'?"),
        ("meanpol", " Did you mean 'meanpool'?"),
        ("tcard", " Did you mean 'tcard'?"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_nearest_names_the_most_alike_or_nothing(name: str, expected: str) -> None:
    assert nearest(name, ["meanpool", "tcard"]) == expected
    assert nearest(name, iter(["meanpool", "tcard"])) == expected
    assert nearest(name, []) == ""
