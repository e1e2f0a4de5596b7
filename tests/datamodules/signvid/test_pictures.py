"""Frames and files: what a model may and may not see in them."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageFilter

from tvr_bench.datamodules.signvid import render
from tvr_bench.datamodules.signvid.build import build
from tvr_bench.datamodules.signvid.draw import Painter, _eroded
from tvr_bench.datamodules.signvid.pixels import Stamp
from tvr_bench.datamodules.signvid.render import clip_path, render_all, render_scene
from tvr_bench.datamodules.signvid.script import poses
from tvr_bench.datamodules.signvid.spec import PRESETS, Scene, Sizes
from tvr_bench.shards import Shard


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return build(Sizes(160, 16, 16), 0)["train"]


@pytest.fixture(scope="module")
def tiny() -> list[Scene]:
    return build(PRESETS["tiny"], 0)["test"]


def frames_of(scene: Scene) -> np.ndarray:
    painter = Painter(scene)
    return np.stack([painter.frame(i)[::2, ::2] for i in range(scene.frames)]).astype(np.float32)


def group(scenes: list[Scene], factor: str) -> list[Scene]:
    groups = defaultdict(list)
    for scene in scenes:
        if scene.factor == factor:
            groups[scene.group].append(scene)
    return next(iter(groups.values()))


def spread(pictures: list[np.ndarray]) -> float:
    """Root mean square difference of the two most different pictures, in levels of 255."""
    return max(float(np.sqrt(np.mean((a - b) ** 2))) for a, b in combinations(pictures, 2))


def test_the_mean_over_frames_does_not_tell_the_order_of_events(scenes: list[Scene]) -> None:
    order = [frames_of(scene) for scene in group(scenes, "order")]
    event = [frames_of(scene) for scene in group(scenes, "event")]
    assert spread([frames.mean(0) for frames in order]) < 0.2
    assert spread([frames.mean(0) for frames in event]) > 5
    steps = [np.abs(np.diff(frames, axis=0)).mean(0) for frames in order]
    assert spread(steps) < 0.5
    six = [frames[4::8].mean(0) for frames in order]
    assert spread(six) < 0.25 * spread([frames[4::8].mean(0) for frames in event])
    assert spread([frames.reshape(-1) for frames in order]) > 5


@pytest.mark.parametrize("factor", ["chase", "push", "pass", "circle"])
def test_a_relation_and_its_converse_are_each_others_time_reversal(
    scenes: list[Scene], factor: str
) -> None:
    clips = [frames_of(replace(scene, signs=())) for scene in group(scenes, factor)]
    pairs = list(combinations(clips, 2))
    assert sum(spread([a, b[::-1]]) < 0.5 for a, b in pairs) == 2
    assert min(spread([a, b]) for a, b in pairs) > 3


def test_objects_end_where_they_began_and_move_far(scenes: list[Scene]) -> None:
    for scene in scenes:
        if scene.skill != "temporal":
            continue
        start, end = poses(scene, 0.0)[0], poses(scene, scene.seconds)[0]
        assert (start.x, start.y, start.scale, start.alpha) == (end.x, end.y, 1.0, 1.0)
        for event in scene.script:
            held = poses(scene, event.start + 0.3 * (event.end - event.start))[0]
            change = abs(held.x - start.x) + abs(held.y - start.y)
            change += 50 * abs(held.scale - 1) + 50 * abs(held.alpha - 1)
            assert change > 25, event.kind


def test_each_event_is_seen_twice_in_six_to_eight_frames(scenes: list[Scene]) -> None:
    for scene in scenes:
        if scene.factor != "order":
            continue
        for count in (6, 8):
            times = [(i + 0.5) * scene.seconds / count for i in range(count)]
            for event in scene.script:
                assert sum(event.start <= time < event.end for time in times) >= 2


def test_sign_boards_cover_the_same_pixels_whatever_the_words(scenes: list[Scene]) -> None:
    members = group(scenes, "words")
    pictures = [frames_of(scene)[10] for scene in members]
    bare = frames_of(replace(members[0], signs=()))[10]
    sign = next(sign for sign in members[0].signs if sign.relevant)
    outside = np.ones(bare.shape[:2], bool)
    top, left = (sign.y - sign.height) // 2, (sign.x - sign.width) // 2
    outside[max(top, 0) : top + sign.height, max(left, 0) : left + sign.width] = False
    assert spread([picture[outside] for picture in pictures]) == 0
    assert spread(pictures) > 5 and spread([bare, pictures[0]]) > 5


def test_no_object_hides_a_plain_sign(scenes: list[Scene]) -> None:
    for scene in scenes:
        for sign in scene.signs:
            if sign.kind != "plain":
                continue
            for step in range(scene.frames):
                for thing, pose in zip(scene.objects, poses(scene, step / scene.fps), strict=True):
                    half = {"small": 13, "": 20, "big": 30}[thing.size] * pose.scale
                    gap = abs(pose.y - sign.y) - half - sign.height / 2
                    assert gap >= -1, (scene.id, step)


def test_frames_of_equal_looks_are_the_same_picture(scenes: list[Scene]) -> None:
    """Of every kind of scene, and of one whose camera swings."""
    some = [*{(s.factor, *(sign.kind for sign in s.signs)): s for s in scenes}.values()]
    again = 0
    for scene in (*some, replace(some[0], pan=9)):
        seen: dict[object, np.ndarray] = {}
        for index in range(scene.frames):
            look, drawn = Painter(scene).look(index), Painter(scene).frame(index)
            again += look in seen
            assert np.array_equal(seen.setdefault(look, drawn), drawn), (scene.id, index)
    assert again > 100


@pytest.mark.parametrize(("left", "top"), [(3, 2), (-4, -3), (15, 8), (40, 0), (-9, 4)])
def test_a_stamp_mixes_as_arithmetic_says(left: int, top: int) -> None:
    rng = np.random.default_rng(0)
    canvas = rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)
    picture = rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)
    alpha = rng.choice([0, 1, 127, 254, 255], (8, 9, 1)).astype(np.uint8)
    expected = canvas.astype(int)
    for y in range(8):
        for x in range(9):
            if 0 <= y + top < 12 and 0 <= x + left < 20:
                under = expected[y + top, x + left]
                under += (picture[y, x].astype(int) - under) * int(alpha[y, x, 0]) // 255
    Stamp.of(picture, alpha).paste(canvas, left, top)
    assert np.array_equal(canvas, expected)


def test_eroding_is_pillows_filter() -> None:
    pixels = np.random.default_rng(0).choice([0, 200, 255, 255, 255], (40, 31)).astype(np.uint8)
    for reach in (1, 2, 4):
        filtered = Image.fromarray(pixels).filter(ImageFilter.MinFilter(2 * reach + 1))
        assert np.array_equal(_eroded(pixels, reach), np.asarray(filtered))


def test_files_are_h264_of_the_stated_length(tiny: list[Scene], tmp_path: Path) -> None:
    for scene in tiny[::5]:
        path = clip_path(tmp_path, scene.id)
        render_scene(scene, path)
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            assert not file.streams.audio
            assert stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
            assert float(stream.duration * stream.time_base) == pytest.approx(scene.seconds)
            frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
        assert len(frames) == scene.frames and 4 <= scene.seconds <= 8
        drawn = Painter(scene).frame(scene.frames // 2).astype(int)
        assert np.abs(drawn - frames[scene.frames // 2]).mean() < 8
        assert 4_000 < path.stat().st_size < 120_000


def test_the_same_scene_gives_the_same_bytes(tiny: list[Scene], tmp_path: Path) -> None:
    """Many scenes and times: an encoder that varies does so with one scene in twenty."""
    path = tmp_path / "again.mp4"
    for scene in tiny[:20]:
        made = set()
        for _ in range(4):
            render_scene(scene, path)
            made.add(path.read_bytes())
        assert len(made) == 1, scene.id


def test_a_killed_rendering_leaves_no_file_and_goes_on(
    tiny: list[Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Painter.frame

    def dies(self: Painter, index: int) -> np.ndarray:
        if self.scene.id == tiny[1].id and index > 0:
            raise KeyboardInterrupt
        return real(self, index)

    monkeypatch.setattr(Painter, "frame", dies)
    with pytest.raises(KeyboardInterrupt):
        render_all(tiny[:3], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{tiny[0].id}.mp4"]
    done = clip_path(tmp_path, tiny[0].id).stat().st_mtime_ns
    monkeypatch.undo()
    render_all(tiny[:3], tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{s.id}.mp4" for s in tiny[:3])
    assert clip_path(tmp_path, tiny[0].id).stat().st_mtime_ns == done
    with av.open(str(clip_path(tmp_path, tiny[1].id))) as file:
        assert sum(1 for _ in file.decode(video=0)) == tiny[1].frames


def test_a_shard_passed_over_is_rendered_all_the_same(
    tiny: list[Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process writes the output of a shard between two looks at what is missing."""
    real, calls = render.run_shards, []

    def late(title: str, shards: list[Shard], *rest: object, **more: object) -> None:
        calls.append(len(shards[0].items))
        if len(calls) == 1:
            render_scene(shards[0].items[-1], shards[0].output)
        real(title, shards, *rest, **more)

    monkeypatch.setattr(render, "run_shards", late)
    render_all(tiny[:3], tmp_path)
    assert calls == [3, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{s.id}.mp4" for s in tiny[:3])


def test_rendering_needs_no_torch() -> None:
    code = (
        "import sys, tvr_bench.datamodules.signvid.render, tvr_bench.datamodules.signvid.build;"
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
