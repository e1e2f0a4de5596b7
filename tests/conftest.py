"""Fixtures of the whole suite: tiny videos, and settings of runs that take seconds."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings

from media.make_clips import make_clip
from tiny import TINY_MODEL, TINY_RUN, TINY_SIGNVID

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell lets its background jobs ignore Ctrl-C, and the processes of tests would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# a busy machine is no defect of what is tested
hypothesis_settings.register_profile("tvr", deadline=None)
hypothesis_settings.load_profile("tvr")


@pytest.fixture
def tiny_video(tmp_path: Path) -> Callable[..., Path]:
    """Make a small real video file under `tmp_path` and return its path."""

    def make(
        name: str,
        seconds: float = 2,
        fps: int = 10,
        size: tuple[int, int] = (96, 64),
        codec: str = "libx264",
        **keywords: Any,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return make_clip(path, codec, round(seconds * fps), fps, size, **keywords)

    return make


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one cache for all tests, so that the same videos are rendered once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tiny_settings(shared_cache: Path, tmp_path: Path) -> list[str]:
    """Return settings of a run on a few SignVid videos that leaves its files in `tmp_path`."""
    places = (
        f"paths.cache={shared_cache}",
        f"run.root={tmp_path / 'runs'}",
        f"run.leaderboard={tmp_path}",
    )
    return [*TINY_MODEL, *TINY_RUN, *TINY_SIGNVID, *places]


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    """Undo what a run does to the number of threads, so that no test depends on another."""
    import torch

    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
