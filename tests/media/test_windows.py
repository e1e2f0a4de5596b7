"""The windows of a clip: geometry for any length, count, factor and span."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvr_bench.errors import UserError
from tvr_bench.media.video import segment_centres
from tvr_bench.media.windows import WindowSpec, read_times, window_spans

durations = st.floats(0.1, 500.0)
counts = st.integers(1, 40)
factors = st.floats(0.05, 3.0)


@settings(deadline=None)
@given(durations, counts, factors)
def test_windows_are_centred_on_segments_and_inside_the_clip(
    duration: float, count: int, xi: float
) -> None:
    spans = window_spans(duration, WindowSpec(windows=count, xi=xi))
    assert len(spans) == count
    for (low, high), centre in zip(spans, segment_centres(duration, count), strict=True):
        assert 0 <= low < high <= duration
        assert low <= centre <= high
        assert high - low <= xi * duration / count * (1 + 1e-9)


@settings(deadline=None)
@given(durations, counts)
def test_at_xi_one_the_windows_tile_the_clip(duration: float, count: int) -> None:
    spans = window_spans(duration, WindowSpec(windows=count, xi=1.0))
    assert spans[0][0] == pytest.approx(0, abs=1e-9)
    assert spans[-1][1] == pytest.approx(duration)
    for before, after in pairwise(spans):
        assert before[1] == pytest.approx(after[0], abs=1e-6)


@settings(deadline=None)
@given(durations, counts, st.floats(0.05, 0.95), st.integers(1, 4))
def test_below_xi_one_each_window_is_read_where_it_is(
    duration: float, count: int, xi: float, reads: int
) -> None:
    spans = window_spans(duration, WindowSpec(windows=count, xi=xi))
    assert all(before[1] < after[0] for before, after in pairwise(spans))
    times = read_times(spans, reads)
    assert len(times) == count * reads and times == sorted(times)
    for low, high in spans:
        assert sum(low < time < high for time in times) == reads


def test_windows_of_a_span_lie_in_it() -> None:
    spans = window_spans(100.0, WindowSpec(windows=4), start=40.0, end=48.0)
    assert spans == [(40.0, 42.0), (42.0, 44.0), (44.0, 46.0), (46.0, 48.0)]
    assert window_spans(10.0, WindowSpec(windows=1, xi=0.5), end=99.0) == [(2.5, 7.5)]


def test_one_read_is_the_frame_at_the_centre() -> None:
    assert read_times([(0.0, 2.0), (2.0, 4.0)], 1) == [1.0, 3.0]


@pytest.mark.parametrize("wrong", [{"windows": 0}, {"xi": 0.0}, {"reads": 0}, {"stride": -1}])
def test_impossible_values_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"ocr.{next(iter(wrong))}"):
        WindowSpec(**wrong)


def test_a_span_outside_the_video_is_refused() -> None:
    with pytest.raises(UserError):
        window_spans(5.0, WindowSpec(), start=6.0, end=8.0)
