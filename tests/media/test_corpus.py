"""The check that holds a folder of videos to a plain decode: it passes, and it can fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import corpus
import pytest
from corpus import frames_of, main
from make_clips import make_clip, make_sound, x264

from tvr_bench.media.video import Video


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    (root / "below").mkdir()
    make_clip(root / "a.mp4", options=x264(12, 3))
    make_clip(root / "below" / "b.avi", "mpeg4", bframes=2)
    first = make_clip(root / "c.ts", count=20, options=x264(12, 2))
    first.write_bytes(first.read_bytes() * 2)
    make_sound(root / "sound.mp4")
    (root / "text.mp4").write_text("no video")
    cut = make_clip(root / "cut.mkv", options=x264(12, 3, **{"b-pyramid": "normal"}))
    cut.write_bytes(cut.read_bytes()[:-1000])
    return root


def test_a_folder_that_is_read_right(folder, capsys):
    assert main([str(folder), "--frames", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "equal    a.mp4: 40 frames" in lines
    assert any(line.startswith("equal    below/b.avi: 40 frames") for line in lines)
    assert "equal    c.ts: 40 frames, 2 recordings" in lines
    assert any(line.startswith("refused  sound.mp4: ") for line in lines)
    assert any(line.startswith("refused  text.mp4: ") for line in lines)
    assert any(line.startswith(("cut      cut.mkv: ", "equal    cut.mkv")) for line in lines)
    assert lines[-1].startswith("6 files: ")


def one_late(video: Video, numbers: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Show each frame one too late, as a reader does that counts a frame twice."""
    hashes = dict(frames_of(video, range(len(video.times))))
    yield from ((n, hashes[max(0, n - 1)]) for n in numbers)


def by_company(video: Video, numbers: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Show another frame where one is asked for alone, as a reader does that jumps wrongly."""
    right = dict(frames_of(video, numbers))
    yield from ((n, h if len(right) > 1 else "another") for n, h in right.items())


@pytest.mark.parametrize("broken", [one_late, by_company])
def test_a_reader_that_errs_is_found(folder, capsys, broken: Callable):
    assert main([str(folder), "--frames", "5"], broken) == 1
    said = capsys.readouterr().out
    assert "differs  a.mp4: " in said and "differs" in said.splitlines()[-1]


class _Short(Video):
    @property
    def times(self) -> list[float]:
        return super().times[:-2]


class _Slow(Video):
    @property
    def times(self) -> list[float]:
        return [1.01 * t for t in super().times]


@pytest.mark.parametrize(
    ("kind", "words"), [(_Short, "38 of 40 frames"), (_Slow, "0.1010 s after")]
)
def test_lost_frames_and_wrong_times_are_found(folder, capsys, monkeypatch, kind, words):
    plain = corpus.open_video

    @contextmanager
    def other(path: Path) -> Iterator[Video]:
        with plain(path) as video:
            video.__class__ = kind
            yield video

    monkeypatch.setattr(corpus, "open_video", other)
    assert main([str(folder), "--frames", "0"]) == 1
    assert words in capsys.readouterr().out


def test_it_runs_as_a_script(tmp_path):
    make_clip(tmp_path / "a.mkv", count=3)
    command = [sys.executable, corpus.__file__, str(tmp_path), "--frames", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 files: 1 equal")
