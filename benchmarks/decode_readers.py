"""What `decode.py` compares: the clips it renders, and the readers of frames."""

from __future__ import annotations

import importlib
import os
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation

from tvr_bench.media.video import open_video, segment_centres

COUNT, SIDE = 12, 224
FLAGS = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
AGAIN = "decord again"  # the peer against itself: what a ratio of this machine is worth
LINKED = "TVR_BENCH_PYAV_LIBRARIES"


@dataclass(frozen=True)
class Row:
    """A clip: size in pixels, length in seconds at 30 frames per second, frames from key to key."""

    width: int
    height: int
    seconds: int
    gop: int

    @property
    def frames(self) -> int:
        return 30 * self.seconds

    @property
    def numbers(self) -> list[int]:
        """The frames at the centres of equal segments."""
        return [int((i + 0.5) * self.frames / COUNT) for i in range(COUNT)]

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {self.seconds} s, GOP {self.gop}"


ROWS = {
    "a": Row(320, 240, 15, 250),
    "b": Row(320, 240, 15, 12),
    "c": Row(854, 480, 30, 60),
    "d": Row(1280, 720, 60, 250),
}
Reader = Callable[[Path, Row, int], np.ndarray]  # -> uint8 [F, H, W, 3]


def ours(path: Path, row: Row, threads: int) -> np.ndarray:
    with open_video(path, threads) as video:
        return video.read(segment_centres(video.duration, COUNT), (SIDE, SIDE))


def sequential(path: Path, row: Row, threads: int, to_the_end: bool = False) -> np.ndarray:
    """Decode in order up to the last frame that is wanted, convert the wanted ones."""
    wanted, images = set(row.numbers), []
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.thread_type = "SLICE" if threads > 1 else "NONE"
        stream.codec_context.thread_count = threads
        for number, frame in enumerate(file.decode(stream)):
            if number in wanted:
                images.append(small(frame))
            if number == row.numbers[-1] and not to_the_end:
                break
    return np.stack(images)


def whole(path: Path, row: Row, threads: int) -> np.ndarray:
    return sequential(path, row, threads, to_the_end=True)


def small(frame: av.VideoFrame) -> np.ndarray:
    return frame.reformat(SIDE, SIDE, "rgb24", interpolation=FLAGS, threads=1).to_ndarray()


def decord(path: Path, row: Row, threads: int) -> np.ndarray:
    library = importlib.import_module("decord")
    reader = library.VideoReader(str(path), width=SIDE, height=SIDE, num_threads=threads)
    return reader.get_batch(row.numbers).asnumpy()


def torchcodec(path: Path, row: Row, threads: int) -> np.ndarray:
    decoders = importlib.import_module("torchcodec.decoders")
    resize = importlib.import_module("torchcodec.transforms").Resize((SIDE, SIDE))
    how = {"num_ffmpeg_threads": threads, "dimension_order": "NHWC", "transforms": [resize]}
    return decoders.VideoDecoder(str(path), **how).get_frames_at(row.numbers).data.numpy()


def opencv(path: Path, row: Row, threads: int) -> np.ndarray:
    options = [cv2.CAP_PROP_N_THREADS, threads]
    capture, images = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, options), []
    for number in row.numbers:
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        good, image = capture.read()
        assert good
        small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        images.append(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))
    capture.release()
    return np.stack(images)


READERS: dict[str, Reader] = {
    "ours": ours,
    "decord": decord,
    AGAIN: decord,
    "torchcodec": torchcodec,
    "OpenCV seek": opencv,
    "PyAV sequential": sequential,
    "PyAV decode-all": whole,
}
SLOW = ("OpenCV seek", "PyAV sequential", "PyAV decode-all")  # these take every third turn


def start_with_pyavs_libraries() -> None:
    """Start anew with the FFmpeg that PyAV brings where torchcodec looks for one."""
    folder = Path(av.__file__).parent.parent / "av.libs"
    links = Path(tempfile.mkdtemp())
    for file in folder.glob("lib*.so.*"):
        if match := re.match(r"(lib(?:av|sw)[a-z]+)-[0-9a-f]+\.so\.(\d+)", file.name):
            (links / f"{match[1]}.so.{match[2]}").symlink_to(file)
    before = os.environ.get("LD_LIBRARY_PATH")
    paths = ":".join([str(links), str(folder), *([before] if before else [])])
    env = {**os.environ, "LD_LIBRARY_PATH": paths, LINKED: str(links)}
    os.execve(sys.executable, [sys.executable, *sys.argv], env)


def clip(folder: Path, name: str) -> Path:
    """Return the clip of a row, rendered unless it is there."""
    path = folder / f"{name}.mp4"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"rendering {ROWS[name]} ...", file=sys.stderr)
        render(path.with_suffix(".part.mp4"), ROWS[name])
        path.with_suffix(".part.mp4").rename(path)
    return path


def render(path: Path, row: Row) -> None:
    """Write a wall that slides by, a disc that circles before it, and the number of the frame."""
    wide, high = row.width, row.height
    noise = np.random.default_rng(0).integers(0, 255, (high // 4, wide // 2, 3), dtype=np.uint8)
    wall = cv2.resize(noise, (2 * wide, high), interpolation=cv2.INTER_CUBIC)
    exact = f"keyint={row.gop}:min-keyint={row.gop}:scenecut=0"
    with av.open(str(path), "w") as file:
        options = {"preset": "veryfast", "x264-params": exact}
        stream = file.add_stream("libx264", rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = wide, high, "yuv420p"
        stream.codec_context.thread_count = 1
        for i in range(row.frames):
            image = wall[:, (x := 3 * i % wide) : x + wide].copy()
            spot = (int(wide / 2 + wide / 3 * np.sin(i / 20)), int(high * (3 + np.cos(i / 13)) / 6))
            cv2.circle(image, spot, high // 8, (5 * i % 255, 40, 200), -1)
            cv2.putText(image, str(i), (20, high // 2), 0, 2, (255, 255, 255), 3)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 30)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
