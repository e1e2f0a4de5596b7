"""What the runs show of a claim: its verdict, and what the figures themselves say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan, sqrt
from pathlib import Path
from typing import Literal

import numpy as np
from claims_held import Claim

from tvr_bench.evaluation.significance import ALPHA, Comparison, holm
from tvr_bench.leaderboard.per_query import Estimate, compare, estimate, load_values
from tvr_bench.leaderboard.record import load_record

Verdict = Literal["holds", "fails", "not shown"]
Runs = Mapping[str, Mapping[int, Path]]  # by label of the cell and by seed


@dataclass(frozen=True)
class Judged:
    """A claim with its figures; `p` is Holm's of a gain, None of every other kind.

    `by_seed` are the differences of runs of one seed, of a claim whose two sides share weights;
    `at_chance` is True where neither side can be told from guessing inside the groups.
    """

    claim: Claim
    found: Comparison
    p: float | None = None
    by_seed: tuple[float, ...] = ()
    at_chance: bool = False

    @property
    def verdict(self) -> Verdict:
        """What is shown; one training of each, or what lies within the seeds' spread, is not."""
        claim, found = self.claim, self.found
        if found.seed_error is None:
            return "not shown"
        if claim.kind == "same":
            apart = [abs(difference) > claim.margin for difference in self.by_seed]
            return "holds" if not any(apart) else "fails" if all(apart) else "not shown"
        if claim.kind == "chance":
            if found.low <= 0 <= found.high:
                return "holds"
            return "fails" if found.beyond_seeds else "not shown"
        if claim.kind == "cost":
            low = min(found.low, found.difference - 2 * found.seed_error)
            high = max(found.high, found.difference + 2 * found.seed_error)
            within, beyond = low > -claim.margin, high < -claim.margin
            return "holds" if within else "fails" if beyond else "not shown"
        if self.p is None or self.p >= ALPHA or not found.beyond_seeds:
            return "not shown"
        return "holds" if found.difference > 0 else "fails"

    @property
    def reason(self) -> str:
        """What the figures say of the verdict, so that it is true whatever they are."""
        kind, verdict, found = self.claim.kind, self.verdict, self.found
        if found.seed_error is None:
            return "One training of each shows nothing."
        if self.at_chance:
            return "Both are where guessing is."
        if kind == "gain" and verdict == "fails":
            return "The other one is better."
        if verdict != "not shown":
            return ""
        if kind == "gain":
            if self.p is not None and self.p < ALPHA:
                return "Within what seeds differ by."
            if found.p < ALPHA:
                return "Too many gains are tested for this one to stand out."
            return "Within what other videos differ by."
        return {
            "cost": "The interval reaches beyond the margin.",
            "same": "Some seeds stay within the margin, some do not.",
            "chance": "Apart from guessing by no more than seeds differ by.",
        }[kind]


def judge(claims: Sequence[Claim], runs: Runs) -> dict[Claim, Judged]:
    """Return every claim whose cells have runs, judged; p is corrected over all gains of these."""
    there = [c for c in claims if runs.get(c.first) and (not c.second or runs.get(c.second))]
    found = [_measured(claim, runs) for claim in there]
    gains = [i for i, one in enumerate(found) if one.claim.kind == "gain"]
    for i, p in zip(gains, holm([found[i].found.p for i in gains]), strict=True):
        found[i] = replace(found[i], p=p)
    return dict(zip(there, found, strict=True))


def chance(claim: Claim, runs: Runs) -> float:
    """Return what guessing reaches inside the groups of a claim's skill, in percent."""
    record = load_record(next(iter(runs[claim.first].values())))
    inside = record.metrics.by_skill[claim.skill].in_group if claim.skill else {}
    return float(inside["chance_R@1"])


def _measured(claim: Claim, runs: Runs) -> Judged:
    first, second = runs[claim.first], runs.get(claim.second, {})
    if claim.kind == "chance":
        guess = chance(claim, runs)
        return Judged(claim, _beside_chance(_estimate(claim, first), guess))
    if claim.kind == "same":
        first, second = _of_the_same_seeds(first, second)
    if not first:
        nothing = Comparison(nan, nan, nan, nan, nan, nan, 0, 0, None)
        return Judged(claim, nothing)
    found = compare(list(first.values()), list(second.values()), claim.metric, claim.skill)
    guessed = False
    if claim.metric.startswith("in_group"):
        guess = chance(claim, runs)
        sides = [_estimate(claim, side) for side in (first, second)]
        guessed = all(side.low <= guess <= side.high for side in sides)
    by_seed = _by_seed(claim, first, second) if claim.kind == "same" else ()
    return Judged(claim, found, None, by_seed, guessed)


def _estimate(claim: Claim, side: Mapping[int, Path]) -> Estimate:
    return estimate(list(side.values()), claim.metric, claim.skill)


def _beside_chance(found: Estimate, guess: float) -> Comparison:
    error = None if found.sd is None else found.sd / sqrt(found.seeds)
    return Comparison(
        first=found.mean,
        second=guess,
        difference=found.mean - guess,
        low=found.low - guess,
        high=found.high - guess,
        p=nan,
        queries=found.queries,
        videos=found.videos,
        seed_error=error,
    )


def _of_the_same_seeds(
    first: Mapping[int, Path], second: Mapping[int, Path]
) -> tuple[dict[int, Path], dict[int, Path]]:
    seeds = sorted(first.keys() & second.keys())
    return {s: first[s] for s in seeds}, {s: second[s] for s in seeds}


def _by_seed(
    claim: Claim, first: Mapping[int, Path], second: Mapping[int, Path]
) -> tuple[float, ...]:
    sides = [
        [float(np.mean(part.values)) for part in load_values(list(side.values()), claim.metric)]
        for side in (first, second)
    ]
    return tuple(a - b for a, b in zip(*sides, strict=True))
