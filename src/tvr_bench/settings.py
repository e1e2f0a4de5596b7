"""The media layer's own settings from a configuration; nothing here imports torch."""

from __future__ import annotations

from tvr_bench.config import Config
from tvr_bench.media.cache import FrameSpec
from tvr_bench.media.captioner import WindowSpec


def frame_spec(cfg: Config) -> FrameSpec:
    """Return which frames of a clip the configuration asks for."""
    video = cfg.video
    return FrameSpec(video.frames, (video.size[0], video.size[1]), video.resize, video.codec)


def window_spec(cfg: Config) -> WindowSpec:
    """Return how the configuration asks scene text to be read."""
    ocr = cfg.ocr
    return WindowSpec(
        windows=ocr.windows,
        xi=ocr.xi,
        reads=ocr.reads,
        stride=ocr.stride,
        votes=ocr.votes,
        min_score=ocr.min_score,
        min_chars=ocr.min_chars,
        max_words=ocr.max_words,
        engine=ocr.engine,
        side=ocr.side,
        weights=ocr.weights,
    )
