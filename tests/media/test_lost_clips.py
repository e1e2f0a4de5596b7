"""A clip that hangs the decoder, crashes it or has it killed is on the ledger; all others are read.

The faults are in what Python loads at its start, so that worker processes have them too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_clips import make_clip

from tvr_bench.datamodules.types import Clip
from tvr_bench.files import Ledger
from tvr_bench.media.cache import FrameSpec, build_frames
from tvr_bench.media.captioner import WindowSpec, build_windows

FAULTS = """
import ctypes, os, signal, time
from ocr_clips import ColourEngine
from tvr_bench.media import captioner, video

FAULTS = {
    "hang": lambda: time.sleep(3600),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "crash": lambda: ctypes.string_at(0),
}

def broken(read):
    def reading(self, times, *how):
        with open(os.environ["TRIED"], "a") as log:
            log.write(self.path.stem + "\\n")
        FAULTS.get(self.path.stem, lambda: None)()
        return read(self, times, *how)
    return reading

video.Video.read = broken(video.Video.read)
captioner._engine = lambda *_: ColourEngine()
captioner.engine_version = lambda *_: "1"
"""
SCRIPT = """
import json, sys
from pathlib import Path
from tvr_bench.contents import Contents
from tvr_bench.datamodules.check_videos import Look, look_at
from tvr_bench.datamodules.types import Clip
from tvr_bench.files import Ledger
from tvr_bench.media import cache, captioner

_, folder, root, kind, timeout, *names = sys.argv
clips = [Clip(name, Path(folder) / f"{name}.mp4") for name in names]
ledger, how = Ledger(), {"workers": 2}
if kind == "frames":
    spec = cache.FrameSpec(3, (24, 32), timeout=float(timeout))
    found = sorted(cache.build_frames(clips, spec, Path(root), ledger=ledger, **how))
elif kind == "check":
    look, known = Look((3,), timeout=float(timeout)), Contents(Path(root))
    seen = look_at(clips, look, Path(root), known, workers=2)
    found = sorted(clip.id for clip in clips if "error" not in seen[clip])
    for clip in clips:
        if clip.id not in found:
            ledger.add(id=clip.id, path="", stage=kind, error=seen[clip]["error"])
else:
    spec = captioner.WindowSpec(windows=2, timeout=float(timeout))
    found = sorted(captioner.build_windows(clips, spec, Path(root), ledger=ledger, **how))
lost = {e.id: [e.stage, e.message] for e in ledger.entries}
print(json.dumps({"found": found, "lost": lost}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for i, name in enumerate(["a", "hang", "b", "kill", "crash", "c"]):
        make_clip(folder / f"{name}.mp4", count=8 + i)
    return folder


ALL = ("a", "hang", "b", "kill", "crash", "c")
CAUSES = {"hang": "took longer than 4 s", "kill": "SIGKILL", "crash": "SIGSEGV"}


def build(tmp_path: Path, folder: Path, kind: str, timeout: float, names: Sequence[str] = ALL):
    """Build in a process of its own; return what it says and the clips that it tried to read."""
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(SCRIPT)
    (tmp_path / "sitecustomize.py").write_text(FAULTS)
    log.write_text("")
    words = [str(word) for word in (script, folder, tmp_path / "cache", kind, timeout, *names)]
    places = (
        str(tmp_path),
        str(Path(__file__).parent),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "TRIED": str(log)}
    done = subprocess.run(
        [sys.executable, *words], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), log.read_text().split()


def check(said: Any, kind: str, folder: Path, names: Sequence[str]) -> None:
    assert said["found"] == sorted(set(names) - CAUSES.keys())
    assert set(said["lost"]) == set(names) & CAUSES.keys()
    for name, (stage, message) in said["lost"].items():
        assert stage == kind and CAUSES[name] in message
        assert str(folder / f"{name}.mp4") in message and "\n" not in message


@pytest.mark.parametrize("kind", ["frames", "check"])
def test_a_clip_that_hangs_is_named_and_the_others_are_read(tmp_path, folder, kind):
    said, _ = build(tmp_path, folder, kind, 4, ("a", "hang", "b"))
    check(said, kind, folder, ("a", "hang", "b"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["frames", "ocr", "check"])
def test_lost_clips_are_named_kept_in_mind_and_tried_again_with_another_limit(
    tmp_path, folder, kind
):
    said, _ = build(tmp_path, folder, kind, 4)
    check(said, kind, folder, ALL)
    again, tried = build(tmp_path, folder, kind, 4)
    assert again == said and tried == []
    more, tried = build(tmp_path, folder, kind, 5)
    assert set(CAUSES) <= set(tried)
    assert more["found"] == said["found"] and "longer than 5 s" in more["lost"]["hang"][1]


def test_the_frames_that_are_kept_do_not_depend_on_the_limit(tmp_path, folder):
    clips = [Clip(name, folder / f"{name}.mp4") for name in "abc"]
    free, limited = FrameSpec(3, (24, 32)), FrameSpec(3, (24, 32), timeout=30.0)
    one = build_frames(clips, free, tmp_path, ledger=Ledger())
    files = {f.name: f.read_bytes() for f in tmp_path.glob("frames-*")}
    other = build_frames(clips, limited, tmp_path, ledger=Ledger(), workers=1)
    assert {f.name: f.read_bytes() for f in tmp_path.glob("frames-*")} == files
    assert all(np.array_equal(one.get(name)[0], other.get(name)[0]) for name in "abc")


def test_a_pipe_among_the_videos_does_not_hold_up_the_reading_of_text(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    ledger = Ledger()
    clips = [Clip("pipe", tmp_path / "pipe.mp4"), Clip("folder", tmp_path)]
    assert build_windows(clips, WindowSpec(), tmp_path / "cache", ledger=ledger) == {}
    assert [e.message.endswith("is no regular file") for e in ledger.entries] == [True, True]
