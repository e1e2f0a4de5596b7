"""The media layer's own settings from a configuration; nothing here imports torch."""

from __future__ import annotations

from pathlib import Path

from tvr_bench.errors import UserError
from tvr_bench.media.cache import FrameSpec
from tvr_bench.media.captioner import WindowSpec
from tvr_bench.media.given_text import GivenSpec
from tvr_bench.schema import Config


def frame_spec(cfg: Config, split: str = "train") -> FrameSpec:
    """Return which frames of a clip of a split the configuration asks for."""
    video, frames = cfg.video, split_frames(cfg, split)
    return FrameSpec(
        frames=frames,
        size=(video.size[0], video.size[1]),
        resize=video.resize,
        codec=video.codec,
        crop=video.crop,
        timeout=video.timeout,
        max_pixels=video.max_pixels,
    )


def split_frames(cfg: Config, split: str) -> int:
    """Return the number of frames per clip of a split; training may see another than the test."""
    return cfg.video.frames if split == "train" else cfg.eval.frames or cfg.video.frames


def extracted(cfg: Config) -> bool:
    """Return whether features are read that others extracted, instead of frames."""
    return cfg.backbone.name == "features"


def given_spec(cfg: Config) -> GivenSpec | None:
    """Return where scene text is that others read, None where an engine is to read it.

    Raises UserError where the folder is not named.
    """
    ocr = cfg.ocr
    if ocr.source == "engine":
        return None
    if not ocr.given:
        raise UserError(
            f"ocr.source={ocr.source} needs ocr.given=FOLDER, the text that others read"
        )
    return GivenSpec(ocr.source, Path(ocr.given), ocr.given_fps)


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
        half=ocr.half,
        weights=ocr.weights,
        timeout=cfg.video.timeout,
        max_pixels=cfg.video.max_pixels,
    )
