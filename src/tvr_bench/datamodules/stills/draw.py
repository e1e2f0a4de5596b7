"""Stills as shards of the frame store: drawn straight into it, no video in between."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame

from tvr_bench.datamodules.signvid.draw import Painter
from tvr_bench.datamodules.signvid.spec import spec_hash
from tvr_bench.datamodules.stills.scenes import Still
from tvr_bench.files import settings_hash
from tvr_bench.media.cache import FrameSpec, FrameStore
from tvr_bench.media.frameshard import is_whole, open_shard, write_shard
from tvr_bench.media.resize import Scaler
from tvr_bench.parts import WHOLE, Part
from tvr_bench.shards import Shard, Tick, run_shards

_STILLS = 640  # of a shard
_log = logging.getLogger(__name__)


def draw_stills(
    stills: Sequence[Still], spec: FrameSpec, root: Path, *, workers: int = 0, part: Part = WHOLE
) -> FrameStore:
    """Draw what is not under `root` yet and return the store of all stills, by id.

    A shard that is not what was written is drawn again. With a `part` the store holds that part
    alone.
    """
    blocks = (stills[low : low + _STILLS] for low in range(0, len(stills), _STILLS))
    shards = part.of([_shard(block, spec, root) for block in blocks])
    for path in (shard.output for shard in shards):
        if path.exists() and not is_whole(path):
            _log.warning("drawn stills are damaged, drawing them again: %s", path)
            path.unlink(missing_ok=True)
    run_shards("draw stills", shards, partial(_draw, spec=spec), workers=workers, unit="still")
    return FrameStore([open_shard(shard.output) for shard in shards])


def shown_hash(stills: Sequence[Still]) -> str:
    """Return 16 hex digits that depend on all that the pictures show, and on the renderer."""
    scenes = {still.scene.id: still.scene for still in stills}
    return settings_hash(
        [spec_hash(scenes.values()), [(still.id, still.index) for still in stills]]
    )


def _shard(stills: Sequence[Still], spec: FrameSpec, root: Path) -> Shard:
    name = settings_hash([spec.settings, shown_hash(stills)])
    return Shard(root / f"stills-{name}.safetensors", tuple(stills))


def _draw(shard: Shard, tick: Tick, *, spec: FrameSpec) -> None:
    """Draw the stills of one shard, in the way in which the frames of a video are resized."""
    rows: dict[str, np.ndarray] = {}
    scaler = Scaler(spec.size, spec.resize, spec.crop)
    painter: Painter | None = None
    for still in shard.items:
        if painter is None or painter.scene is not still.scene:
            painter = Painter(still.scene)
        picture = VideoFrame.from_ndarray(painter.frame(still.index), "rgb24")
        rows[still.id] = scaler(picture)[None]
        tick()
    write_shard(shard.output, spec.settings, rows, [])
