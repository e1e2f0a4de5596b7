"""Values per query, and what a claim about two systems rests on."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from leaderboard.fake_runs import SKILLS, make_split, write_run
from tvr_bench.errors import UserError
from tvr_bench.leaderboard.per_query import compare, estimate, load_values
from tvr_bench.leaderboard.record import load_ranks, load_record, save_record


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Return two systems of three seeds, of which one reads, on clips with two captions."""
    root, split = tmp_path_factory.mktemp("runs"), make_split(64, captions=2)
    reads = {**dict.fromkeys(SKILLS, 1.0), "scene_text": 4.0}
    strengths = {"reader": reads, "plain": dict.fromkeys(SKILLS, 1.0)}
    return {
        name: [
            write_run(root, f"{name}-{seed}", model=name, seed=seed, strength=strength, split=split)
            for seed in range(3)
        ]
        for name, strength in strengths.items()
    }


@pytest.mark.parametrize("metric", ["R@1", "R@5", "R@10", "R@50", "MnR", "RSum"])
@pytest.mark.parametrize("direction", ["t2v", "v2t", "in_group"])
def test_values_average_to_the_records_own_metric(
    runs: dict[str, list[Path]], direction: str, metric: str
) -> None:
    for run in runs["reader"]:
        metrics = load_record(run).metrics
        (part,) = load_values([run], f"{direction}_{metric}")
        expected = getattr(metrics, direction)[metric]
        assert part.values.mean() == pytest.approx(expected, abs=1e-9)
        for skill in SKILLS:
            (part,) = load_values([run], f"{direction}_{metric}", skill)
            expected = getattr(metrics.by_skill[skill], direction)[metric]
            assert part.values.mean() == pytest.approx(expected, abs=1e-9)


def test_a_comparison_by_hand(runs: dict[str, list[Path]]) -> None:
    """The videos of one skill, two queries each: every pattern of signs, written out."""
    found = compare(runs["reader"], runs["plain"], "t2v_R@1", "scene_text")
    hits = {}
    for name, folders in runs.items():
        rows = []
        for folder in folders:
            arrays = load_ranks(load_record(folder), folder)
            mine = arrays["query_skills"] == "scene_text"
            rows.append(100.0 * (arrays["t2v_ahead"][mine] == 0))
            videos = arrays["query_clip_ids"][mine]
        hits[name] = np.mean(rows, axis=0)
    difference = hits["reader"] - hits["plain"]
    assert found.difference == pytest.approx(difference.mean())
    assert found.difference == pytest.approx(found.first - found.second)
    sums = [difference[videos == video].sum() for video in sorted(set(videos))]
    few = [s for s in sums if s]
    assert len(few) <= 13
    far = [
        abs(sum(a * b for a, b in zip(signs, few, strict=True))) >= abs(sum(few)) - 1e-9
        for signs in itertools.product((1, -1), repeat=len(few))
    ]
    assert found.p == pytest.approx(np.mean(far))
    assert (found.queries, found.videos) == (32, 16)
    assert 0 < found.low < found.difference < found.high


def test_what_differs_and_what_does_not(runs: dict[str, list[Path]]) -> None:
    assert compare(runs["reader"], runs["plain"], skill="scene_text").p < 0.01
    assert compare(runs["reader"], runs["plain"], skill="temporal").p > 0.05
    same = compare(runs["reader"], runs["reader"])
    assert (same.difference, same.p, same.low) == (0, 1, -same.high)
    assert 4 < same.high < 8, "64 queries without a difference do not bound it to nothing"
    flipped = compare(runs["plain"], runs["reader"], "v2t_R@5")
    assert flipped.difference == -compare(runs["reader"], runs["plain"], "v2t_R@5").difference


def test_an_estimate_covers_its_mean(runs: dict[str, list[Path]]) -> None:
    found = estimate(runs["plain"], "t2v_R@1")
    values = [load_record(run).metrics.t2v["R@1"] for run in runs["plain"]]
    assert found.mean == pytest.approx(np.mean(values))
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    assert found.low < found.mean < found.high
    assert (found.seeds, found.queries, found.videos) == (3, 128, 64)
    assert estimate(runs["plain"][:1]).sd is None


def test_runs_in_another_order_are_aligned(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", seed=1)
    record = load_record(run)
    arrays = load_ranks(record, run)
    turned = dict(arrays)
    for name in arrays:
        if name.startswith("t2v_") or name.startswith("query_"):
            turned[name] = arrays[name][::-1]
    save_record(record, tmp_path / "b", turned)
    found = compare([run], [tmp_path / "b"])
    assert (found.difference, found.p, found.low) == (0, 1, -found.high)
    inside = compare([run], [tmp_path / "b"], "in_group_R@1")
    assert (inside.difference, inside.p) == (0, 1)


def test_medians_have_intervals_and_units_are_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", seed=1)
    record = load_record(run)
    found = estimate([run], "t2v_MdR")
    assert found.mean == pytest.approx(record.metrics.t2v["MdR"])
    assert found.low <= found.mean <= found.high
    assert (found.queries, found.videos) == (64, 64)
    arrays = load_ranks(record, run)
    groups = np.array([f"g{i // 4}" for i in range(64)])
    save_record(record, tmp_path / "b", {**arrays, "query_units": groups, "clip_units": groups})
    for metric in ("t2v_R@1", "v2t_R@1", "in_group_R@1", "t2v_MnR"):
        grouped = estimate([tmp_path / "b"], metric)
        assert (grouped.queries, grouped.videos) == (64, 16)
        assert grouped.mean == estimate([run], metric).mean
        assert (grouped.low, grouped.high) != (estimate([run], metric).low, found.high)


def test_what_cannot_be_compared_is_one_line(runs: dict[str, list[Path]], tmp_path: Path) -> None:
    a, b = runs["reader"], runs["plain"]
    other = write_run(tmp_path, "other", split=make_split(32))
    renamed = write_run(tmp_path, "renamed", data__annotations_sha256="c" * 64)
    plain = write_run(tmp_path, "plain")
    for call, words in (
        (lambda: compare(a, b, "t2v_MdR"), "no value per query"),
        (lambda: compare(a, b, "R@1"), "no value per query"),
        (lambda: compare(a, b, skill="smell"), "no query of skill 'smell'"),
        (lambda: compare(a, []), "two systems"),
        (lambda: estimate([]), "no run"),
        (lambda: compare(a, [other]), "not tested on the same queries"),
        (lambda: compare([renamed], [plain]), "not tested on the same queries"),
        (lambda: compare(a, [tmp_path]), "no record"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_early_ranks_without_clips_do_for_one_caption_per_video(tmp_path: Path) -> None:
    run = write_run(tmp_path, "new")
    record = load_record(run)
    arrays = load_ranks(record, run)
    early = {k: v for k, v in arrays.items() if k not in ("query_clip_ids", "query_skills")}
    save_record(record, tmp_path / "early", early)
    assert compare([run], [tmp_path / "early"]).p == 1
    with pytest.raises(UserError, match="lack query_skills; repeat the run"):
        estimate([tmp_path / "early"], skill="temporal")
    several = write_run(tmp_path, "several", split=make_split(16, captions=2))
    record = load_record(several)
    arrays = load_ranks(record, several)
    early = {k: v for k, v in arrays.items() if k != "query_clip_ids"}
    save_record(record, tmp_path / "unknown", early)
    with pytest.raises(UserError, match="lack query_clip_ids"):
        estimate([tmp_path / "unknown"])
