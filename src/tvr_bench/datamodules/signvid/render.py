"""Scenes as H.264 files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import av

from tvr_bench.datamodules.signvid.draw import Painter
from tvr_bench.datamodules.signvid.spec import Scene
from tvr_bench.files import atomic_path
from tvr_bench.shards import Shard, run_shards

# The same scene must give the same bytes every time: one thread, and none of x264's AVX-512 code,
# with which one scene in twenty came out differently from call to call.
_X264 = {
    "preset": "veryfast",
    "crf": "24",
    "threads": "1",
    "tune": "fastdecode",
    "x264-params": "asm=sse2",
}
_KEY_EVERY_S = 2.0


def render_scene(scene: Scene, path: Path) -> None:
    """Write the scene to `path` (.mp4, yuv420p, no sound); the file is whole or absent."""
    painter = Painter(scene)
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=scene.fps, options=_X264)
        stream.width, stream.height = scene.size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = round(_KEY_EVERY_S * scene.fps)
        stream.codec_context.thread_count = 1
        for index in range(scene.frames):
            frame = av.VideoFrame.from_ndarray(painter.frame(index), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def clip_path(root: Path, scene_id: str) -> Path:
    """Where the file of a scene lies under `root`."""
    return root / f"{scene_id}.mp4"


def render_all(scenes: Sequence[Scene], root: Path, workers: int = 0) -> None:
    """Render the scenes whose file is missing. `root` must belong to one `spec_hash`."""
    shards = [Shard(clip_path(root, scene.id), (scene,)) for scene in scenes]
    run_shards("render", shards, partial(_render_shard), workers=workers)


def _render_shard(shard: Shard, tick: Callable[[], None]) -> None:
    for scene in shard.items:
        render_scene(scene, shard.output)
        tick()
