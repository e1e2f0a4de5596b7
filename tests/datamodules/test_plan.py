"""The order of training: pure in (seed, epoch), shared by the ranks, no clip twice in a batch."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvr_bench.datamodules.plan import AllCaptionsPlan, EpochPlan, rank_batches
from tvr_bench.errors import UserError


def _groups(sizes: list[int]) -> list[list[int]]:
    ends = np.cumsum([0, *sizes]).tolist()
    return [list(range(a, b)) for a, b in pairwise(ends)]


def _batches(plan: EpochPlan, epoch: int) -> list[list[int]]:
    plan.set_epoch(epoch)
    batches = list(plan)
    assert {e for batch in batches for e, _ in batch} == {epoch}
    return [[item for _, item in batch] for batch in batches]


SIZES = st.lists(st.integers(1, 5), min_size=2, max_size=30)


@given(
    sizes=SIZES, size=st.integers(2, 40), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 99)
)
def test_an_epoch_is_a_function_of_seed_and_epoch_and_repeats_no_clip(
    sizes: list[int], size: int, seed: int, epoch: int
) -> None:
    plan = EpochPlan(_groups(sizes), size, seed)
    batches = _batches(plan, epoch)
    _batches(plan, epoch + 1)
    assert _batches(plan, epoch) == batches
    assert _batches(EpochPlan(_groups(sizes), size, seed), epoch) == batches
    assert len(batches) == len(plan) >= 1
    assert {len(batch) for batch in batches} == {min(size, sum(sizes))}
    seen = Counter(item for batch in batches for item in batch)
    assert set(seen.values()) == {1}
    assert sum(sizes) - len(seen) < size


@given(sizes=SIZES, size=st.integers(8, 40), world=st.integers(2, 4), epoch=st.integers(0, 9))
def test_ranks_share_the_batches_of_one_process(
    sizes: list[int], size: int, world: int, epoch: int
) -> None:
    groups = _groups([4, 4, *sizes])
    total = sum(map(len, groups))
    whole = _batches(EpochPlan(groups, min(size, total) // world * world, 7), epoch)
    shares = [_batches(EpochPlan(groups, size, 7, rank, world), epoch) for rank in range(world)]
    assert [
        [item for part in parts for item in part] for parts in zip(*shares, strict=True)
    ] == whole
    assert len({len(part) for share in shares for part in share}) == 1


@pytest.mark.parametrize("epoch", range(5))
def test_groups_of_one_size_stay_whole(epoch: int) -> None:
    groups = _groups([4] * 26)
    for batch in _batches(EpochPlan(groups, 16, 0), epoch):
        assert set(Counter(item // 4 for item in batch).values()) == {4}


def test_a_group_that_lost_a_clip_tears_at_most_one_group_at_each_edge_of_a_batch() -> None:
    groups = _groups([4] * 10 + [3] + [4] * 10)
    for epoch in range(5):
        whole = [set(group) for group in groups]
        batches = _batches(EpochPlan(groups, 16, 0), epoch)
        for batch in batches:
            torn = [group for group in whole if 0 < len(group & set(batch)) < len(group)]
            assert len(torn) <= 2


def test_epochs_and_seeds_differ_and_use_every_clip_in_the_long_run() -> None:
    groups = _groups([1] * 50)
    orders = [_batches(EpochPlan(groups, 16, seed), epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({str(order) for order in orders}) == 4
    plan = EpochPlan(groups, 16, 0)
    seen = Counter(i for epoch in range(40) for batch in _batches(plan, epoch) for i in batch)
    assert set(seen) == set(range(50)) and min(seen.values()) > 30


def test_lightning_can_announce_the_epoch() -> None:
    plan = EpochPlan(_groups([1] * 8), 4, 0)
    plan.sampler.set_epoch(3)
    assert [pick[0] for batch in plan for pick in batch] == [3] * 8


def test_too_few_videos_or_too_many_devices_are_said() -> None:
    for groups in ([], [[0]]):
        with pytest.raises(UserError, match="at least two readable videos"):
            EpochPlan(groups, 8, 0)
    with pytest.raises(UserError, match=r"trainer\.batch_size"):
        EpochPlan(_groups([1] * 8), 2, 0, 0, 4)


@given(count=st.integers(0, 40), size=st.integers(1, 9), world=st.integers(1, 5))
def test_ranks_have_the_batches_of_one_process_and_as_many_each(
    count: int, size: int, world: int
) -> None:
    alone = rank_batches(range(count), size, 0, 1)
    assert [item for batch in alone for item in batch] == list(range(count))
    shares = [rank_batches(range(count), size, rank, world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    assert len(shares[0]) == math.ceil(len(alone) / world)
    for k, batch in enumerate(alone):
        assert shares[k % world][k // world] == batch
    assert all(batch in alone for share in shares for batch in share)


@given(
    captions=st.lists(st.integers(1, 7), min_size=4, max_size=40),
    size=st.integers(2, 20),
    epoch=st.integers(0, 9),
    world=st.integers(1, 2),
)
def test_every_caption_is_a_sample_of_an_epoch(
    captions: list[int], size: int, epoch: int, world: int
) -> None:
    groups = [[i] for i in range(len(captions))]
    plans = [AllCaptionsPlan(groups, captions, size, 3, rank, world) for rank in range(world)]
    for plan in plans:
        plan.set_epoch(epoch)
    shares = [list(plan) for plan in plans]
    assert [len(plan) for plan in plans] == [len(share) for share in shares]
    batches = [[pick for part in parts for pick in part] for parts in zip(*shares, strict=True)]
    seen = [pick for batch in batches for pick in batch]
    assert len(seen) == len(set(seen)) and {e for e, _, _ in seen} <= {epoch}
    assert {(item, turn) for _, item, turn in seen} <= {
        (i, turn) for i, count in enumerate(captions) for turn in range(count)
    }
    assert sum(captions) - len(seen) < plans[0].size
    for batch in batches:
        turns = [turn for _, _, turn in batch]
        items = [item for _, item, _ in batch]
        assert len(set(items)) == len(items) or len(set(turns)) > 1


@pytest.mark.parametrize("captions", [None, [1, 3, 2] * 7])
def test_an_epoch_goes_on_from_any_of_its_batches(captions: list[int] | None) -> None:
    """Also for a second iterator of that epoch, but not for the epochs after it."""

    def plan() -> EpochPlan:
        if captions is None:
            return EpochPlan(_groups([1] * 21), 4, 5)
        return AllCaptionsPlan(_groups([1] * 21), captions, 4, 5)

    whole = plan()
    for epoch in (0, 3):
        whole.set_epoch(epoch)
        batches = list(whole)
        assert batches == [whole.batch(epoch, k) for k in range(len(whole))]
        for first in range(len(whole) + 1):
            again = plan()
            again.go_on(epoch, first)
            assert list(again) == batches[first:] == list(again)
            assert len(again) == len(whole)
            again.set_epoch(epoch + 1)
            assert list(again) == [whole.batch(epoch + 1, k) for k in range(len(whole))]
