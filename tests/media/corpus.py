"""Hold every video of a folder to a plain decode in order: `python tests/media/corpus.py FOLDER`.

A file passes where the reader gives the same frames at the same times, or refuses it in words. It
fails where the frames, their number or their times differ without a word. The plain decode knows
nothing of the reader: PyAV opens the file and decodes it from the first packet to the last.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

import av
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation

from tvr_bench.media.demux import naming
from tvr_bench.media.video import Video, VideoError, open_video

_FLAGS = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_SEED = 20
_JUMP_S = 10.0  # a longer step from one frame to the next may be another recording
_FRAMES = 40  # read one by one, in random order


@dataclass
class Plain:
    """What a decode in order gives: a hash, a stamp in seconds and "is a key frame" per frame."""

    hashes: list[str] = field(default_factory=list)
    stamps: list[float | None] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    shown: list[float] = field(default_factory=list)  # the stamps of the packets
    broken: bool = False  # a packet or a frame is flagged as broken, or does not decode

    def steps(self) -> list[float | None] | None:
        """Return the seconds from each frame to the next; None where the stamps are in disorder.

        A step is None where another recording starts: back, or far ahead, to a key frame.
        """
        steps: list[float | None] = []
        for (a, b), key in zip(pairwise(self.stamps), self.keys[1:], strict=True):
            if a is None or b is None:
                return None
            elif b > a and b - a <= _JUMP_S:
                steps.append(b - a)
            elif key or b - a > _JUMP_S:
                steps.append(None)
            else:
                return None
        return steps


@dataclass(frozen=True)
class Outcome:
    """`kind` is equal, cut, refused or differs; `words` say how."""

    kind: str
    words: str


def hash_of(frame: VideoFrame) -> str:
    """Return a hash of the pixels in rgb, of the size stored, and of that size."""
    rgb = frame.reformat(format="rgb24", interpolation=_FLAGS, threads=1).to_ndarray()
    return hashlib.blake2b(rgb.tobytes(), digest_size=12).hexdigest() + f" {rgb.shape}"


def decode_in_order(path: Path) -> Plain:
    """Decode the main video of `path` from its first packet to its last, in one thread."""
    plain = Plain()
    try:
        with av.open(str(path)) as file:
            stream = file.streams.best("video")
            stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
            for packet in file.demux(stream):
                plain.broken |= packet.is_corrupt
                if packet.pts is not None:
                    plain.shown.append(float(packet.pts * packet.time_base))
                for frame in _decoded(packet, plain):
                    plain.broken |= frame.is_corrupt
                    plain.hashes.append(hash_of(frame))
                    stamp = None if frame.pts is None else float(frame.pts * frame.time_base)
                    plain.stamps.append(stamp)
                    plain.keys.append(frame.key_frame)
    except Exception:  # whatever a damaged file does to a decoder is its end
        plain.broken = True
    return plain


def _decoded(packet: av.Packet, plain: Plain) -> list[VideoFrame]:
    try:
        return packet.decode()
    except av.error.InvalidDataError:  # a player goes on as well
        plain.broken = True
        return []


def frames_of(video: Video, numbers: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Yield (number, hash) of the frames that the reader decodes for `numbers`."""
    with naming(video.path):
        for number, frame in video._decoder.frames(numbers):
            yield number, hash_of(frame)


def compare(path: Path, frames: int = _FRAMES, read: Callable = frames_of) -> Outcome:
    """Return how the reader's frames of `path` compare to those of a decode in order."""
    plain = decode_in_order(path)
    try:
        with open_video(path) as video:
            times = video.times
            got = dict(read(video, range(len(times))))
            rng = random.Random(_SEED)
            alone = rng.sample(range(len(times)), min(frames, len(times)))
            for number in alone:
                at = times[number]
                if video._number(at) != number:
                    words = f"at {at:.3f} s is frame {video._number(at)}, not {number}"
                    return Outcome("differs", words)
                if dict(read(video, [number])) != {number: got[number]}:
                    return Outcome("differs", f"frame {number} read alone is another one")
            video.read([times[number] for number in alone], (48, 64))
    except VideoError as error:
        return Outcome("refused", str(error))
    return _judged(plain, [got[n] for n in range(len(times))], times)


def _judged(plain: Plain, got: list[str], times: list[float]) -> Outcome:
    """Return what `got`, at `times`, is beside the plain decode."""
    expected = plain.hashes
    if plain.steps() is None and got != expected and None not in plain.stamps:
        pairs = sorted(zip(plain.stamps, expected, strict=True), key=lambda pair: pair[0])
        expected = [shown for _, shown in pairs]  # a spoilt stamp: the order of time will do
    wrong = [n for n, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b]
    if wrong:
        return Outcome("differs", f"frame {wrong[0]} and {len(wrong) - 1} more are others")
    if not all(a < b for a, b in pairwise(times)):
        return Outcome("differs", "its times do not ascend")
    steps = plain.steps()
    for n, (step, (a, b)) in enumerate(zip(steps or [], pairwise(times), strict=False)):
        if step is not None and abs(step - (b - a)) > 1e-4:
            words = f"frame {n + 1} comes {b - a:.4f} s after the one before, not {step:.4f} s"
            return Outcome("differs", words)
    words = f"{len(got)} frames" + " (the stamps are in disorder)" * (steps is None)
    if len(got) == len(plain.hashes):
        joins = (steps or []).count(None)
        return Outcome("equal", words + f", {joins + 1} recordings" * (joins > 0))
    words = f"{len(got)} of {len(plain.hashes)} frames"
    if len(got) < len(plain.hashes) and (plain.broken or _skips(sorted(plain.shown), len(got))):
        return Outcome("cut", f"{words}; the end of the file is broken")
    return Outcome("differs", words)


def _skips(stamps: list[float], first: int) -> bool:
    """Say whether the packets themselves skip a picture after frame `first` - 1."""
    steps = [b - a for a, b in pairwise(stamps)]
    return any(s > 1.5 * median(steps) for s in steps[first - 1 :])


def main(arguments: Sequence[str] | None = None, read: Callable = frames_of) -> int:
    """Print a line per file and a summary; return 1 where anything differs, 0 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=_FRAMES, help="read one by one, per file")
    options = parser.parse_args(arguments)
    kinds: Counter[str] = Counter()
    for path in sorted(p for p in options.folder.rglob("*") if p.is_file()):
        outcome = compare(path, options.frames, read)
        kinds[outcome.kind] += 1
        print(f"{outcome.kind:8} {path.relative_to(options.folder)}: {outcome.words}", flush=True)
    print(f"{sum(kinds.values())} files: " + ", ".join(f"{n} {k}" for k, n in kinds.items()))
    return 1 if kinds["differs"] else 0


if __name__ == "__main__":
    sys.exit(main())
