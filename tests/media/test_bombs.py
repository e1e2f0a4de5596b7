"""Hostile files: each is refused in one line, in little memory, and nothing else is opened.

All are read by one process of its own. Python's audit hook sees what Python opens there; what
FFmpeg opens below it is seen by the kernel (inotify on the folder of the canary) and by a listening
socket.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from bombs import BOMBS, NAMES, Place, flat
from make_clips import make_clip

from tvr_bench.media.video import VideoError, read_frames

IN_OPEN, IN_NONBLOCK = 0x20, os.O_NONBLOCK
OWN_DATA = ("a reference movie", "a movie elsewhere")  # the reference is ignored, which is as good
READ = """
import json, resource, sys, time
from pathlib import Path
from tvr_bench.media.video import VideoError, open_video, segment_centres

def read(path):
    with open_video(path) as video:
        return video.read(segment_centres(video.duration, 12), (224, 224)).shape

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

good, *paths = map(Path, json.loads(sys.argv[1]))
read(good)
opened, said = [], []
sys.addaudithook(lambda event, args: opened.append([event, str(args[0])])
                 if event in ("open", "socket.connect", "subprocess.Popen", "os.system") else None)
for path in paths:
    start, before = time.perf_counter(), peak()
    try:
        message = f"read: {read(path)}"
    except VideoError as error:
        message = str(error)
    said.append([message, time.perf_counter() - start, peak() - before])
print(json.dumps({"said": said, "opened": opened}))
"""


class Watch:
    """What is opened in a folder, by whatever process and library, as the kernel tells it."""

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(IN_NONBLOCK)
        if self._fd < 0 or self._libc.inotify_add_watch(self._fd, bytes(folder), IN_OPEN) < 0:
            pytest.skip("this kernel does not tell what is opened")

    def was_opened(self) -> bool:
        try:
            return bool(os.read(self._fd, 65536))
        except BlockingIOError:
            return False


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        yield server


@pytest.fixture(scope="module")
def place(tmp_path_factory, listener) -> Place:
    root = tmp_path_factory.mktemp("bombs")
    for name in ("inside", "outside"):
        (root / name).mkdir()
    canary = make_clip(root / "outside" / "canary.mp4", count=40)
    return Place(root / "inside", canary, listener.getsockname()[1])


@pytest.fixture(scope="module")
def paths(place) -> dict[str, Path]:
    made = {name: lay(place) for name, lay in BOMBS.items()}
    return made | {name: Path(name.format(**vars(place))) for name in NAMES}


def command(place: Place, paths: dict[str, Path]) -> list[str]:
    good = make_clip(place.folder / "good.mp4", count=5)
    return [sys.executable, "-c", READ, json.dumps([str(p) for p in (good, *paths.values())])]


@pytest.fixture(scope="module")
def outcome(place, paths) -> dict[str, Any]:
    watch = Watch(place.canary.parent)
    done = subprocess.run(
        command(place, paths), capture_output=True, text=True, timeout=300, cwd=place.folder
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    opened = watch.was_opened()
    place.canary.read_bytes()
    assert watch.was_opened()  # it would have been seen
    return {
        "said": dict(zip(paths, found["said"], strict=True)),
        "opened": found["opened"],
        "canary": opened,
    }


@pytest.mark.parametrize("name", [*BOMBS, *NAMES])
def test_a_hostile_file_is_refused_in_one_line_and_little_memory(outcome, paths, name):
    message, seconds, megabytes = outcome["said"][name]
    assert seconds < 10 and megabytes < 500
    if name not in OWN_DATA:
        assert str(paths[name]) in message and "\n" not in message


def test_nothing_else_is_opened(outcome, place, paths, listener):
    allowed = {str(path) for path in paths.values()}
    opened = [(event, path) for event, path in outcome["opened"] if path not in allowed]
    assert opened == []
    assert not outcome["canary"]
    with pytest.raises(TimeoutError):
        listener.accept()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_the_kernel_sees_no_other_file_and_no_network(place, paths, tmp_path):
    log = tmp_path / "calls"
    calls = "trace=open,openat,openat2,connect,execve"
    words = ["strace", "-f", "-o", str(log), "-e", calls, *command(place, paths)]
    if subprocess.run(["strace", "-e", calls, "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here")
    subprocess.run(words, check=True, capture_output=True, timeout=300, cwd=place.folder)
    lines = log.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if "good.mp4" in line)
    after = [line for line in lines[first:] if "openat" in line or "connect(" in line]
    known = (str(place.folder), str(Path(av.__file__).parent))  # PyAV loads parts of itself late
    foreign = [line for line in after if not any(f'"{folder}/' in line for folder in known)]
    assert foreign == []


@pytest.mark.slow
def test_a_real_video_of_8192_x_8192_is_refused(tmp_path):
    path = flat(tmp_path / "big.mp4", "libx264", (8192, 8192), "yuv420p")
    with pytest.raises(VideoError, match=r"video\.max_pixels"):
        read_frames(path, [0.0])


def test_what_is_large_but_sane_is_read(tmp_path):
    path = flat(tmp_path / "4k.mkv", "ffv1", (4096, 2160))
    assert read_frames(path, [0.0], (224, 224)).shape == (1, 224, 224, 3)
