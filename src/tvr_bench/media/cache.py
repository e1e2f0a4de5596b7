"""The frames of many clips, decoded once and kept: memory-mapped shards named by their content.

A shard's name is a hash of the settings and of every clip's id, span and file content, so a
changed clip or setting makes a new shard, and a copied or freshly cloned tree keeps its own. A clip
that cannot be read is remembered in its shard with the reason and put on the ledger by every build,
the ones that find the shard ready too. Nothing takes its place. A clip that took too long or ended
its process is tried again once `timeout` is another one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tvr_bench.contents import Contents
from tvr_bench.errors import UserError
from tvr_bench.files import Ledger, settings_hash
from tvr_bench.media.demux import MAX_PIXELS, TooLarge, lost
from tvr_bench.media.frameshard import (
    ShardFile,
    decode_jpegs,
    is_whole,
    open_shard,
    write_shard,
)
from tvr_bench.media.resize import CROPS, METHODS
from tvr_bench.media.video import VideoError, open_video, segment_centres
from tvr_bench.parts import WHOLE, Part
from tvr_bench.shards import Shard, run_shards

if TYPE_CHECKING:
    from tvr_bench.datamodules.types import Clip

CODECS = ("raw", "jpeg")
READER = 2  # version of what reading a file gives: a change makes every cache anew
_SHARD_BYTES = 128 << 20  # of frames that a worker holds at most
_STAGE = "frames"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrameSpec:
    """Which frames to keep: `frames` per clip, `size` (height, width), how resized and stored.

    Frames are taken at the centres of equal segments of the clip. `codec` is `raw` (exact, mapped
    straight from disk) or `jpeg` (quality 90, about a twentieth of the bytes). A worker process may
    take `timeout` seconds for a clip, None: any time; frames of more than `max_pixels` are not
    read. Raises `UserError` for values that mean
    nothing.
    """

    frames: int
    size: tuple[int, int]
    resize: str = "fast"
    codec: str = "raw"
    crop: str = "none"
    timeout: float | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.frames < 1 or min(self.size) < 1:
            raise UserError(f"frames and size must be positive, got {self.frames}, {self.size}")
        for value, known in (self.resize, METHODS), (self.codec, CODECS), (self.crop, CROPS):
            if value not in known:
                raise UserError(f"'{value}' is not one of {', '.join(known)}")

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides what is kept; a crop is named where there is one."""
        values = asdict(self)
        del values["timeout"], values["max_pixels"]
        return values if self.crop != "none" else {k: v for k, v in values.items() if k != "crop"}

    @property
    def clip_bytes(self) -> int:
        """Bytes of one clip's frames in memory."""
        return self.frames * self.size[0] * self.size[1] * 3


class FrameStore:
    """Reads cached frames by clip id; memory-mapped, and cheap to send to a worker process."""

    def __init__(self, shards: Sequence[ShardFile]) -> None:
        self._shards = tuple(shards)
        self._rows = {id: (s, row) for s in self._shards for row, id in enumerate(s.ids)}
        self._maps: dict[Path, dict[str, np.ndarray]] = {}

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # a worker maps the files itself

    def shards(self) -> list[tuple[str, list[str]]]:
        """Return the name of each file, which follows from what it holds, and its clips' ids."""
        return [(shard.path.stem, shard.ids) for shard in self._shards]

    @property
    def nbytes(self) -> int:
        """Bytes of the store on disk."""
        return sum(s.path.stat().st_size for s in self._shards)

    def get(self, clip_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the clip's frames, uint8 [F, H, W, 3], and which are real, bool [F].

        Every frame is real: a clip with fewer than F shows some of its frames more than once.
        Raises `KeyError` for a clip that is not in the store.
        """
        shard, row = self._rows[clip_id]
        tensors = self._maps.get(shard.path)
        if tensors is None:
            tensors = self._maps[shard.path] = {name: shard.tensor(name) for name in shard.tensors}
        if "frames" in tensors:
            frames = np.array(tensors["frames"][row])
        else:
            count = shard.manifest["settings"]["frames"]
            offsets = tensors["offsets"][row * count : (row + 1) * count + 1]
            frames = decode_jpegs(tensors["bytes"], offsets)
        return frames, np.ones(len(frames), bool)

    def verify(self) -> list[Path]:
        """Read every byte and return the shards that are not what was written."""
        return [s.path for s in self._shards if not is_whole(s.path)]


def build_frames(
    clips: Sequence[Clip],
    spec: FrameSpec,
    root: Path,
    *,
    workers: int = 0,
    ledger: Ledger,
    shard_size: int = 64,
    check: bool = True,
    part: Part = WHOLE,
    contents: Contents | None = None,
) -> FrameStore:
    """Decode what is not cached under `root` yet and return the store of all readable `clips`.

    Each clip that is not in the store is on `ledger`, stage "frames". A cached shard is read and
    checked against its checksum first, and built again where it is damaged; `check=False` leaves
    that out, for a rank that comes after the one that built. With a `part` the store holds that
    part's clips alone. What the files hold is asked of `contents`, None: of a memory in `root`.
    Raises `UserError` where two clips share an id.
    """
    shards = part.of(_plan(clips, spec, root, shard_size, contents or Contents(root)))
    for shard in shards:
        if check and shard.output.exists() and not _is_usable(shard.output, spec):
            shard.output.unlink(missing_ok=True)
    work = partial(_build, spec=spec)
    run_shards("decode frames", shards, work, workers=workers, timeout=spec.timeout)
    files = [open_shard(shard.output) for shard in shards]
    paths = {clip.id: str(clip.path) for clip in clips}
    for failure in (f for file in files for f in file.failures):
        error = VideoError(failure["message"])
        ledger.add(id=failure["id"], path=paths[failure["id"]], stage=_STAGE, error=error)
    return FrameStore(files)


def _plan(
    clips: Sequence[Clip], spec: FrameSpec, root: Path, shard_size: int, contents: Contents
) -> list[Shard]:
    """Return the shards that hold `clips`; the same ones whatever the order of `clips`."""
    ordered = sorted(set(clips), key=lambda c: c.id)
    for one, other in pairwise(ordered):
        if one.id == other.id:
            raise UserError(f"two clips have the id '{one.id}': give each clip an id of its own")
    found = contents.of(clip.path for clip in ordered)
    items = [(clip, _digest(found[clip.path])) for clip in ordered]
    size = max(1, min(shard_size, _SHARD_BYTES // spec.clip_bytes))
    return [_shard(items[i : i + size], spec, root) for i in range(0, len(items), size)]


def _digest(found: str | OSError) -> str:
    """Return the SHA-256 of a clip's file; "" where there is none, to be tried again later."""
    return "" if isinstance(found, OSError) else found


def _shard(items: Sequence[tuple[Clip, str]], spec: FrameSpec, root: Path) -> Shard:
    content = [[c.id, digest, c.start, c.end] for c, digest in items]
    name = settings_hash([READER, spec.settings, content])
    return Shard(root / f"frames-{name}.safetensors", tuple(clip for clip, _ in items))


def _build(shard: Shard, tick: Callable[[], None], *, spec: FrameSpec) -> None:
    """Decode the clips of one shard and write its file."""
    rows: dict[str, np.ndarray] = {}
    failures: list[dict[str, Any]] = []
    for position, clip in enumerate(shard.items):
        try:
            if reason := shard.lost.get(position):
                raise lost(clip.path, reason)
            rows[clip.id] = _read(clip, spec)
        except UserError as error:
            failures.append({"id": clip.id, "message": str(error)})
            if position in shard.lost:
                failures[-1]["limit"] = spec.timeout
            if isinstance(error, TooLarge):
                failures[-1]["max_pixels"] = spec.max_pixels
        tick()
    write_shard(shard.output, spec.settings, rows, failures)


def _read(clip: Clip, spec: FrameSpec) -> np.ndarray:
    """Return uint8 [F, H, W, 3], the frames of one clip; raises `UserError`."""
    with open_video(clip.path, max_pixels=spec.max_pixels) as video:
        times = segment_centres(video.duration, spec.frames, clip.start, clip.end)
        return video.read(times, spec.size, spec.resize, spec.crop)


def _is_usable(path: Path, spec: FrameSpec) -> bool:
    """Say whether a shard is what was written, and nothing in it is worth another try."""
    if not is_whole(path):
        _log.warning("cached frames are damaged, building them again: %s", path)
        return False
    return not any(limited_otherwise(f, spec) for f in open_shard(path).failures)


class _Limits(Protocol):
    """What of a spec can end the reading of a good file."""

    @property
    def timeout(self) -> float | None: ...

    @property
    def max_pixels(self) -> int: ...


def limited_otherwise(failure: Mapping[str, Any], spec: _Limits) -> bool:
    """Whether a kept failure comes of a limit that is another one now."""
    now = {"limit": spec.timeout, "max_pixels": spec.max_pixels}
    return any(failure.get(name, value) != value for name, value in now.items())
