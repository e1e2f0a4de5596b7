"""How often a 95 % interval holds the truth: ours, and the percentile bootstrap of before.

Run: `.venv/bin/python benchmarks/intervals.py` (a minute on one core); it writes
`benchmarks/intervals.md`. Tests are made up: of a unit's queries each is answered with the unit's
own chance, drawn from a beta distribution whose mean is the recall and whose width is the
correlation of two queries of one unit.

T tests, V units, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tvr_bench.evaluation.intervals import median_interval, rank_interval, share_intervals

Floats = NDArray[np.float64]
RECALLS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98)
QUERIES = (50, 250, 1_000)
TESTS, BOOTSTRAPPED, DRAWS = 2_000, 500, 1_000


@dataclass(frozen=True)
class Kind:
    """How queries share their luck: how many of them, from the fewest to the most, how much."""

    name: str
    sizes: tuple[int, int]
    alike: float

    def units(self, queries: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the unit of each query [Q]."""
        sizes = rng.integers(self.sizes[0], self.sizes[1] + 1, queries)
        return np.repeat(np.arange(queries), sizes)[:queries]


KINDS = (
    Kind("independent queries", (1, 1), 0.0),
    Kind("groups of four", (4, 4), 0.2),
    Kind("videos with 2 to 8 captions", (2, 8), 0.3),
)


def hits(p: float, kind: Kind, units: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Return hits in percent [Q, T]."""
    chance = np.full((units[-1] + 1, TESTS), p)
    if kind.alike:
        width = 1 / kind.alike - 1
        chance = rng.beta(p * width, (1 - p) * width, chance.shape)
    return 100.0 * (rng.random((len(units), TESTS)) < chance[units])


def bootstrap(values: Floats, units: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Return the percentile interval [T, 2] over draws of whole units."""
    count = units[-1] + 1
    sizes = np.bincount(units)
    sums = np.add.reduceat(values, np.cumsum(sizes) - sizes, axis=0)
    times = rng.multinomial(count, np.full(count, 1 / count), DRAWS).astype(float)
    means = (times @ sums) / (times @ sizes)[:, None]
    return np.quantile(means, [0.025, 0.975], axis=0).T


def held(bounds: Floats, truth: float) -> float:
    """Return the share of intervals [T, 2] that hold the truth."""
    return float(np.mean((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])))


def recall_rows(rng: np.random.Generator) -> list[str]:
    """Return a line of the table per kind, number of queries and interval."""
    rows = []
    for kind in KINDS:
        for queries in QUERIES:
            ours, before = [], []
            for p in RECALLS:
                units = kind.units(queries, rng)
                values = hits(p, kind, units, rng)
                ours.append(held(share_intervals(values, units), 100 * p))
                before.append(held(bootstrap(values[:, :BOOTSTRAPPED], units, rng), 100 * p))
            for name, found in (("ours", ours), ("bootstrap", before)):
                cells = [f"{share:.3f}" for share in (float(np.mean(found)), *found)]
                rows.append(f"| {kind.name} | {queries:,} | {name} | {' | '.join(cells)} |")
    return rows


def rank_rows(rng: np.random.Generator) -> list[str]:
    """Return a line per kind and number of queries: mean and median of log-normal ranks."""
    rows = []
    for kind in KINDS:
        for queries in QUERIES:
            units = kind.units(queries, rng)
            luck = rng.normal(size=(TESTS, units[-1] + 1))[:, units] * np.sqrt(kind.alike)
            own = rng.normal(size=luck.shape) * np.sqrt(1 - kind.alike)
            ranks = 1 + np.floor(np.exp(1.5 + 1.2 * (luck + own)))
            many = 1 + np.floor(np.exp(1.5 + 1.2 * rng.normal(size=4_000_000)))
            cells = []
            for interval, truth in (
                (rank_interval, many.mean()),
                (median_interval, np.median(many)),
            ):
                bounds = np.array([interval(test, units) for test in ranks])
                cells.append(f"{held(bounds, float(truth)):.3f}")
            rows.append(f"| {kind.name} | {queries:,} | {' | '.join(cells)} |")
    return rows


def main() -> None:
    rng = np.random.default_rng(0)
    head = ["queries", "number", "interval", "mean", *(f"{100 * p:g} %" for p in RECALLS)]
    lines = [
        "# How often a 95 % interval holds the truth",
        "",
        f"{TESTS:,} made-up tests per cell ({BOOTSTRAPPED} of them for the bootstrap, {DRAWS:,} "
        "draws each), by the true recall; made by `benchmarks/intervals.py`. Of few queries a "
        "recall near 0 or 100 % can only be a handful of values, so that single cells lie off .95 "
        "whatever the interval.",
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *recall_rows(rng),
        "",
        "Ranks, log-normal with a mean of about 10 and a median of 5, whose long tail a small test "
        "does not show. A median takes few values, so its interval holds it more often than it "
        "must.",
        "",
        "| queries | number | MnR | MdR |",
        "|---|---|---|---|",
        *rank_rows(rng),
        "",
    ]
    (Path(__file__).parent / "intervals.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
