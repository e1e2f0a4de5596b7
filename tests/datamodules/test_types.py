"""One caption per clip, drawn by the seed."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tvr_bench.datamodules.types import Clip, Query, Split


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_every_clip_with_captions_keeps_one_in_the_order_of_the_split(
    owners: list[int], seed: int
) -> None:
    clips = tuple(Clip(f"v{i}", Path(f"{i}.mp4")) for i in range(7))
    split = Split(clips, tuple(Query(f"q{k}", "a", f"v{i}") for k, i in enumerate(owners)))
    found = split.one_caption(seed)
    assert found.clips == clips
    assert [q for q in split.queries if q in found.queries] == list(found.queries)
    assert sorted(q.clip_id for q in found.queries) == sorted({f"v{i}" for i in owners})
    assert found == split.one_caption(seed)


def test_every_caption_of_a_clip_is_drawn_now_and_then() -> None:
    split = Split((Clip("v", Path("v")),), tuple(Query(f"q{k}", "a", "v") for k in range(20)))
    drawn = {split.one_caption(seed).queries[0].id for seed in range(400)}
    assert drawn == {f"q{k}" for k in range(20)}
