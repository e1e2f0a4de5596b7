"""Scenes as H.264 files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from io import BytesIO
from pathlib import Path

import av
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from tvr_bench.datamodules.signvid.draw import Look, Painter
from tvr_bench.datamodules.signvid.spec import Scene
from tvr_bench.files import atomic_write
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
_BATCH = 16  # scenes that a process takes at a time
_WRITERS = 4  # an fsync takes about as long as rendering a scene


def render_scene(scene: Scene, path: Path) -> None:
    """Write the scene to `path` (.mp4, yuv420p, no sound); the file is whole or absent."""
    atomic_write(path, _encoded(scene))


def _encoded(scene: Scene) -> bytes:
    """Return the file of a scene; a picture that is shown again is drawn and converted once."""
    painter, converter = Painter(scene), VideoReformatter()
    pictures: dict[Look, VideoFrame] = {}
    file = BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=scene.fps, options=_X264)
        stream.width, stream.height = scene.size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = round(_KEY_EVERY_S * scene.fps)
        stream.codec_context.thread_count = 1
        for index in range(scene.frames):
            look = painter.look(index)
            if look not in pictures:
                drawn = VideoFrame.from_ndarray(painter.frame(index), format="rgb24")
                pictures[look] = converter.reformat(drawn, format="yuv420p", threads=1)
            frame = pictures[look]
            frame.pts, frame.time_base = index, Fraction(1, scene.fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def clip_path(root: Path, scene_id: str) -> Path:
    """Where the file of a scene lies under `root`."""
    return root / f"{scene_id}.mp4"


def render_all(scenes: Sequence[Scene], root: Path, workers: int = 0) -> None:
    """Render the scenes whose file is missing. `root` must belong to one `spec_hash`."""
    work = partial(_render_shard, root=root)
    # again for the rest of a shard that is passed over, as another process just wrote its output
    while missing := [scene for scene in scenes if not clip_path(root, scene.id).exists()]:
        batches = [missing[low : low + _BATCH] for low in range(0, len(missing), _BATCH)]
        shards = [Shard(clip_path(root, batch[-1].id), tuple(batch)) for batch in batches]
        run_shards("render", shards, work, workers=workers)


def _render_shard(shard: Shard, tick: Callable[[], None], *, root: Path) -> None:
    """Write the file of each scene; while the disk confirms one, the next is rendered."""
    with ThreadPoolExecutor(_WRITERS) as pool:
        written = []
        for scene in shard.items:
            data = _encoded(scene)
            written.append(pool.submit(atomic_write, clip_path(root, scene.id), data))
        for file in written:
            file.result()
            tick()
