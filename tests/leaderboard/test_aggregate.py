"""Systems, their ranks, and what their leads are worth."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from leaderboard.fake_runs import make_split, write_run
from tvr_bench.evaluation.significance import holm
from tvr_bench.leaderboard.aggregate import Run, rank_groups, systems_of
from tvr_bench.leaderboard.board import stage_curves
from tvr_bench.leaderboard.per_query import compare, estimate
from tvr_bench.leaderboard.record import Record, load_ranks, load_record, save_record
from tvr_bench.leaderboard.run_settings import RunSettings
from tvr_bench.leaderboard.standing import (
    NOT_SIGNIFICANT,
    NOT_TESTED,
    ONE_SEED,
    SIGNIFICANT,
    WITHIN_SEEDS,
)
from tvr_bench.leaderboard.table import read_runs

RecordFactory = Callable[..., Record]


def _runs(records: list[Record], settings: str = "") -> list[Run]:
    return [Run(Path("none"), r.run.id, r, RunSettings({"x": settings})) for r in records]


def _quality(r1: float, mnr: float = 7.0) -> dict[str, float]:
    return {"R@1": r1, "R@5": 60.0, "R@10": 70.0, "R@50": 90.0, "MdR": 2.0, "MnR": mnr}


def _ranked(records: list[Record]) -> list[tuple[str, int]]:
    groups, _ = rank_groups(systems_of(_runs(records)))
    return [(row["run_ids"], row["rank"]) for group in groups for row in group.rows]


def test_ranks_by_r1_then_the_rest_and_ties_share(make_record: RecordFactory) -> None:
    quality = {
        "c": _quality(40.0),
        "b": _quality(40.0),
        "slow": _quality(40.0, mnr=9.0),
        "best": _quality(50.0),
        "last": _quality(9.0),
    }
    records = [
        make_record(run__id=name, model__name=name, metrics__t2v=q) for name, q in quality.items()
    ]
    expected = [("best", 1), ("b", 2), ("c", 2), ("slow", 4), ("last", 5)]
    assert _ranked(records) == expected
    assert _ranked(records[::-1]) == expected


def test_nothing_is_ranked_across_groups(make_record: RecordFactory) -> None:
    records = [
        make_record(run__id=f"r{k}", protocol__two_stage=k, metrics__t2v=_quality(50.0 - (k or 0)))
        for k in (None, 5, 10)
    ]
    assert sorted(_ranked(records)) == [("r10", 1), ("r5", 1), ("rNone", 1)]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model__name", "meanpool"),
        ("model__backbone", "clip_vit_b32"),
        ("model__params", 7),
        ("protocol__ocr", {"enabled": False}),
        ("protocol__ocr", {"enabled": True, "engine": "rapidocr", "windows": 4}),
        ("protocol__frames", 8),
    ],
)
def test_another_model_or_input_is_another_system(
    make_record: RecordFactory, place: str, value: object
) -> None:
    records = [make_record(), make_record(run__id="b", run__seed=1, **{place: value})]
    assert len(systems_of(_runs(records))) == 2


def test_other_settings_are_another_system(make_record: RecordFactory) -> None:
    first, second = make_record(), make_record(run__id="b", run__seed=1)
    same = [*_runs([first], "lr: 1\n"), *_runs([second], "lr: 1\n")]
    other = [*_runs([first], "lr: 1\n"), *_runs([second], "lr: 2\n")]
    assert [len(system.runs) for system in systems_of(same)] == [2]
    assert [len(system.runs) for system in systems_of(other)] == [1, 1]


def test_the_latest_run_of_a_seed_counts_once(make_record: RecordFactory) -> None:
    records = [
        make_record(
            run__id=f"r{i}",
            run__seed=i % 2,
            run__date=datetime(2030, 1, 9 - i, tzinfo=UTC),
            metrics__t2v=_quality(40.0 + i),
        )
        for i in range(5)
    ]
    (system,) = systems_of(_runs(records))
    assert [run.record.run.id for run in system.runs] == ["r0", "r1"]
    assert system.repeats == 3
    ((row,),) = (group.rows for group in rank_groups([system])[0])
    assert (row["seeds"], row["repeats"], row["t2v_R@1"]) == (2, 3, 40.5)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return runs of three clear steps, two of them equal in strength, one with a single seed."""
    root, split = tmp_path_factory.mktemp("board"), make_split(128)
    for model, strength, seeds in (
        *(("strong", 3.0, 3), ("solo", 1.8, 1)),
        *(("twin_a", 0.6, 3), ("twin_b", 0.6, 3)),
    ):
        for seed in range(seeds):
            name = f"{model}-{seed}"
            write_run(root, name, model=model, seed=seed, strength=strength, split=split)
    return root


def test_intervals_and_tests_are_those_of_the_public_comparison(board: Path) -> None:
    runs, _ = read_runs(board)
    ((group,), warnings) = rank_groups(systems_of(runs))
    assert warnings == []
    folders = [[board / name for name in row["run_ids"].split()] for row in group.rows]
    p_values = [compare(folders[i], folders[i + 1]).p for i in range(3)]
    for i, (row, adjusted) in enumerate(zip(group.rows, holm(p_values), strict=False)):
        found = compare(folders[i], folders[i + 1])
        assert row["lead"] == pytest.approx(found.difference)
        assert (row["lead_low"], row["lead_high"]) == pytest.approx((found.low, found.high))
        assert (row["lead_p"], row["lead_p_holm"]) == pytest.approx((found.p, adjusted))
    for row, mine in zip(group.rows, folders, strict=True):
        for direction in ("t2v", "v2t"):
            known = estimate(mine, f"{direction}_R@1")
            assert row[f"{direction}_R@1_low"] == pytest.approx(known.low)
            assert row[f"{direction}_R@1_high"] == pytest.approx(known.high)
            assert row[f"{direction}_R@1_sd"] == pytest.approx(known.sd)
    assert "lead" not in group.rows[-1]


def test_a_row_says_what_its_lead_is_worth(board: Path) -> None:
    ((group,), _) = rank_groups(systems_of(read_runs(board)[0]))
    assert [row["model"] for row in group.rows][:2] == ["strong", "solo"]
    verdicts = [row.get("lead_verdict") for row in group.rows]
    assert verdicts == [ONE_SEED, ONE_SEED, NOT_SIGNIFICANT, None]


def test_a_lead_inside_the_spread_of_seeds_is_not_called_significant(tmp_path: Path) -> None:
    split = make_split(128)
    for model, strengths in (("wild", (0.2, 4.0, 4.0)), ("tame", (0.9, 0.9, 0.9))):
        for seed, strength in enumerate(strengths):
            name = f"{model}-{seed}"
            write_run(tmp_path, name, model=model, seed=seed, strength=strength, split=split)
    ((group,), _) = rank_groups(systems_of(read_runs(tmp_path)[0]))
    first = group.rows[0]
    assert first["model"] == "wild"
    assert first["lead_p_holm"] < 0.05
    assert first["lead_verdict"] == WITHIN_SEEDS
    steady = tmp_path / "steady"
    for model, strength in (("high", 3.0), ("low", 0.9)):
        for seed in range(3):
            write_run(steady, f"{model}-{seed}", model=model, seed=seed, strength=strength)
    ((group,), _) = rank_groups(systems_of(read_runs(steady)[0]))
    assert group.rows[0]["lead_verdict"] == SIGNIFICANT


def test_ranks_that_are_gone_or_not_the_records_own_leave_a_row_without_interval(
    board: Path, tmp_path: Path
) -> None:
    for i, model in enumerate(("a", "b", "c", "d")):
        write_run(tmp_path, model, model=model, strength=3.0 - i / 2)
    (tmp_path / "b" / "ranks.npz").write_bytes(b"PK\x03\x04")
    record = load_record(tmp_path / "c")
    arrays = load_ranks(record, tmp_path / "c")
    save_record(record, tmp_path / "c", {**arrays, "t2v_ahead": arrays["t2v_ahead"] * 0})
    ((group,), warnings) = rank_groups(systems_of(read_runs(tmp_path)[0]))
    assert len(group.rows) == 4
    assert [("t2v_R@1_low" in row) for row in group.rows] == [True, False, False, True]
    assert [row.get("lead_verdict") for row in group.rows] == [NOT_TESTED] * 3 + [None]
    assert len(warnings) == 2
    assert all(warning.startswith("no interval and no test: ") for warning in warnings)
    assert "its record says" in " ".join(warnings)


def test_systems_with_other_queries_are_not_tested_against_each_other(tmp_path: Path) -> None:
    write_run(tmp_path, "a", model="a", strength=3.0)
    write_run(tmp_path, "b", model="b", strength=0.0)
    record = load_record(tmp_path / "b")
    arrays = load_ranks(record, tmp_path / "b")
    names = np.char.add(arrays["query_ids"], "-other")
    save_record(record, tmp_path / "b", {**arrays, "query_ids": names, "in_group_ids": names})
    ((group,), warnings) = rank_groups(systems_of(read_runs(tmp_path)[0]))
    assert [("t2v_R@1_low" in row) for row in group.rows] == [True, False]
    assert group.rows[0]["lead_verdict"] == NOT_TESTED
    assert "other queries" in warnings[0]


def test_a_few_queries_with_their_ranks_in_every_system(board: Path) -> None:
    ((group,), _) = rank_groups(systems_of(read_runs(board)[0]))
    assert len(group.samples) == 24
    sample = group.samples[0]
    assert sample.text.startswith("a ") and sample.skill in sample.text
    for place, row in enumerate(group.rows):
        ranks = []
        for name in row["run_ids"].split():
            arrays = load_ranks(load_record(board / name), board / name)
            at = list(arrays["query_ids"]).index(sample.id)
            ranks.append(1 + arrays["t2v_ahead"][at] + arrays["t2v_tied"][at] / 2)
        assert sample.ranks[place] == np.median(ranks)


def test_costs_are_means_and_a_query_pays_for_what_it_scores(make_record: RecordFactory) -> None:
    records = [
        make_record(
            run__id=f"r{seed}",
            run__seed=seed,
            data__failed=["x"] * seed,
            efficiency__gflops_pair=0.002,
            efficiency__train_s=100.0 + seed,
            efficiency__device=f"gpu {seed}",
        )
        for seed in range(3)
    ]
    ((row,),) = (g.rows for g in rank_groups(systems_of(_runs(records)))[0])
    assert (row["train_s"], row["failed"], row["device"]) == (101.0, 2, "gpu 0 / gpu 1 / gpu 2")
    assert row["pairs_scored"] == 43_264
    assert row["gflops_query"] == pytest.approx(0.0123 + 208 * 0.002)
    staged = make_record(
        protocol__two_stage=10, efficiency__gflops_pair=0.002, efficiency__gflops_recall_pair=1e-6
    )
    ((row,),) = (g.rows for g in rank_groups(systems_of(_runs([staged])))[0])
    assert row["gflops_query"] == pytest.approx(0.0123 + 10 * 0.002 + 208e-6)
    ((row,),) = (g.rows for g in rank_groups(systems_of(_runs([make_record()])))[0])
    assert row["gflops_query"] is None


def test_curves_join_what_differs_in_k_alone(make_record: RecordFactory) -> None:
    def record(k: int | None, **changes: object) -> Record:
        name = f"r{k}-{len(changes)}"
        return make_record(run__id=name, protocol__two_stage=k, **changes)

    systems = systems_of(
        _runs(
            [
                *(record(k) for k in (20, 5, None)),
                record(5, model__name="alone"),
                record(5, protocol__frames=8, data__name="other"),
            ]
        )
    )
    (curve,) = stage_curves(rank_groups(systems)[0], systems)
    assert [row["two_stage"] for row in curve.rows] == [5, 20]
    assert curve.whole is not None and curve.whole["two_stage"] is None
