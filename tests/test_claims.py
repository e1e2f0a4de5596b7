"""What a comparison shows of a claim: judged over all seeds, and beyond their spread."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from leaderboard.fake_runs import make_split, write_run
from tvr_bench.leaderboard.per_query import compare

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SPLIT = make_split(128)


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("claims")


def _verdict(
    claims: Any, root: Path, first: list[float], second: list[float], margin: float | None = None
) -> str:
    """Return the verdict on two systems whose seeds have these strengths."""
    runs = [
        [
            write_run(root, f"{side}{seed}", model=side, seed=seed, strength=s, split=SPLIT)
            for seed, s in enumerate(strengths)
        ]
        for side, strengths in (("tcard", first), ("bicnet", second))
    ]
    found = compare(*runs)
    claim = claims.Claim("a claim", "first", "second", margin=margin)
    said: str = claims.verdict(claim, found, found.p if margin is None else None)
    return said


def test_what_one_seed_of_three_lost_is_not_shown(claims: Any, tmp_path: Path) -> None:
    assert _verdict(claims, tmp_path, [3.0, 3.0, -2.0], [3.0, 3.0, 3.0]) == "not shown"


@pytest.mark.parametrize(("ahead", "said"), [(3.0, "holds"), (-1.0, "fails")])
def test_what_every_seed_shows_is_shown(
    claims: Any, tmp_path: Path, ahead: float, said: str
) -> None:
    assert _verdict(claims, tmp_path, [ahead] * 3, [1.0] * 3) == said


def test_one_training_of_each_shows_nothing(claims: Any, tmp_path: Path) -> None:
    assert _verdict(claims, tmp_path, [4.0], [0.0]) == "not shown"
    assert _verdict(claims, tmp_path / "margin", [4.0], [4.0], margin=90.0) == "not shown"


def test_a_margin_holds_over_videos_and_over_seeds(claims: Any, tmp_path: Path) -> None:
    assert _verdict(claims, tmp_path / "a", [2.0] * 3, [2.0] * 3, margin=20.0) == "holds"
    scattered = _verdict(claims, tmp_path / "b", [4.0, 4.0, -1.0], [2.0] * 3, margin=20.0)
    assert scattered == "not shown"
    assert _verdict(claims, tmp_path / "c", [-2.0] * 3, [4.0] * 3, margin=20.0) == "fails"
