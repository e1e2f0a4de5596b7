"""`exact` with `centre` gives the pixels of the CLIP preprocessing of transformers."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import transformers
from make_clips import make_clip, x264
from test_real_files import FILES, UNREADABLE, name_of

from tvr_bench.media.resize import covering
from tvr_bench.media.video import open_video

SIZE = (224, 224)
PROCESSORS = [
    name for name in ("CLIPImageProcessor", "CLIPImageProcessorPil") if hasattr(transformers, name)
]


def largest_mean_error(path: Path, processor: str, times: list[float] | None = None) -> float:
    """Return the largest mean difference of a frame, in units of 1/255, to what CLIP is shown."""
    with open_video(path) as video:
        times = times or video.times[:2]
        frames = video.read(times)
        ours = video.read(times, SIZE, "exact", "centre")
    known = getattr(transformers, processor)()
    inputs = known(images=list(frames), return_tensors="pt")["pixel_values"]
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (known.image_mean, known.image_std))
    theirs = (inputs.numpy() * std + mean).transpose(0, 2, 3, 1) * 255
    assert theirs.shape == ours.shape
    return float(np.abs(theirs - ours).mean(axis=(1, 2, 3)).max())


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize(
    "size",
    [(320, 240), (240, 320), (854, 480), (226, 224), (224, 224), (98, 66), (640, 66), (1278, 718)],
    ids=str,
)
def test_rendered_frames(tmp_path, processor, size):
    path = make_clip(tmp_path / "a.mp4", count=2, size=size, options=x264(12, 0))
    assert largest_mean_error(path, processor) < 0.05


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, id=name_of(p), marks=[pytest.mark.slow] * (p.stat().st_size > 500_000))
        for p in FILES
        if name_of(p) not in UNREADABLE and "dash" not in p.name  # 1 x 1 pixel: 224 times larger
    ],
)
def test_real_frames(path, processor):
    with av.open(str(path)) as file:
        square = (file.streams.video[0].sample_aspect_ratio or 1) == 1
    # Where pixels are not square, CLIP is shown a picture that was resized to its shape before.
    assert largest_mean_error(path, processor) < (0.05 if square else 3.0)


def test_the_fast_way_shows_the_same_part_of_the_frame(tmp_path):
    path = make_clip(tmp_path / "a.mp4", count=2, size=(854, 480), options=x264(12, 0))
    with open_video(path) as video:
        how = ([0.0], SIZE)
        fast, exact = (video.read(*how, way, "centre")[0].astype(int) for way in ("fast", "exact"))
        squeezed = video.read(*how, "exact", "none")[0].astype(int)
    assert np.abs(fast - exact).mean() < 4 < np.abs(squeezed - exact).mean()


@pytest.mark.parametrize(
    ("frame", "size", "expected"),
    [
        ((240, 320), (224, 224), (224, 298)),
        ((320, 240), (224, 224), (298, 224)),
        ((480, 854), (224, 224), (224, 398)),
        ((100, 100), (50, 80), (80, 80)),
        ((100, 100), (80, 50), (80, 80)),
        ((1, 1), (224, 224), (224, 224)),
        ((30, 1000), (224, 224), (224, 7466)),
    ],
)
def test_a_frame_covers_the_size_asked_for_and_no_more(frame, size, expected):
    assert covering(frame, size) == expected
