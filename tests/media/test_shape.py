"""Pictures in their true shape: pixels that are not square, edges that the container hides."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from make_clips import make_clip
from matroska_crop import make_cropped

from tvr_bench.media.matroska import shown_part
from tvr_bench.media.video import VideoError, probe, read_frames

TALL = Fraction(16, 9)  # how wide the pixels of the film are


def _film(path: Path, pixel: Fraction | None, codec: str = "libx264", turn: int = 0) -> Path:
    """Write 6 frames of 180 x 160 with a disc that is round where pixels are `pixel` wide."""
    yy, xx = np.mgrid[:160, :180]
    wide = float(pixel or 1)
    inside = ((xx - 89.5) * wide) ** 2 + (yy - 79.5) ** 2 < 40**2
    picture = np.where(inside[..., None], 235, 20).astype(np.uint8).repeat(3, -1)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=10, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 180, 160, "yuv420p"
        if pixel is not None:
            stream.codec_context.sample_aspect_ratio = pixel
        if turn:
            stream.set_display_rotation(turn)
        for i in range(6):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = i
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def _say_pixels(path: Path, changed: Path, wide: int) -> Path:
    """Write an MP4 again; it says that its pixels are so many times as wide as high."""
    data = path.read_bytes()
    at = data.index(b"pasp") + 4
    changed.write_bytes(data[:at] + struct.pack(">II", wide, 1) + data[at + 8 :])
    return changed


def _sides(image: np.ndarray) -> tuple[int, int]:
    """Return the height and the width of the disc."""
    _, _, width, height = cv2.boundingRect((image[..., 1] > 128).astype(np.uint8))
    return height, width


@pytest.mark.parametrize("pixel", [Fraction(16, 9), Fraction(8, 9), Fraction(1, 2)])
@pytest.mark.parametrize("resize", ["fast", "exact"])
def test_a_circle_stays_a_circle(tmp_path: Path, pixel: Fraction, resize: str) -> None:
    path = _film(tmp_path / "a.mp4", pixel)
    for size, crop in ((None, "none"), ((72, 64), "centre")):
        height, width = _sides(read_frames(path, [0.2], size, resize, crop)[0])
        assert abs(height - width) <= 2 and height > 30
    info = probe(path)
    assert (info.width, info.height) == (round(180 * pixel), 160)
    assert read_frames(path, [0.2]).shape == (1, 160, round(180 * pixel), 3)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.mov", "mpeg4")]
)
def test_whatever_the_container(tmp_path: Path, name: str, codec: str) -> None:
    path = _film(tmp_path / name, TALL, codec)
    assert (probe(path).width, probe(path).height) == (320, 160)
    height, width = _sides(read_frames(path, [0.2], (96, 96), crop="centre")[0])
    assert abs(height - width) <= 2


def test_a_turned_film_has_its_pixels_turned(tmp_path: Path) -> None:
    path = _film(tmp_path / "a.mp4", TALL, turn=90)
    info = probe(path)
    assert (info.width, info.height, info.rotation) in {(160, 320, 90), (160, 320, 270)}
    height, width = _sides(read_frames(path, [0.2])[0])
    assert abs(height - width) <= 2


def test_a_picture_that_is_squeezed_whole_is_that_of_square_pixels(tmp_path: Path) -> None:
    tall, square = _film(tmp_path / "a.mp4", TALL), tmp_path / "b.mp4"
    _say_pixels(tall, square, 1)
    assert probe(tall).width == 320 and probe(square).width == 180
    for resize in ("fast", "exact"):
        one, other = (read_frames(path, [0.1], (50, 60), resize) for path in (square, tall))
        assert np.array_equal(one, other)


@pytest.mark.parametrize("resize", ["fast", "exact"])
def test_edges_that_matroska_hides_are_not_shown(tmp_path: Path, resize: str) -> None:
    whole = make_clip(tmp_path / "whole.mkv", count=5)
    edges = {"top": 4, "bottom": 2, "left": 8, "right": 16}
    path = make_cropped(tmp_path / "cropped.mkv", edges=edges, count=5)
    assert shown_part(path, 0).items() >= edges.items() and shown_part(path, 1) == {}
    assert (probe(path).width, probe(path).height) == (40, 42)
    shown = read_frames(whole, [0.1, 0.3])[:, 4:46, 8:48]
    assert np.array_equal(read_frames(path, [0.1, 0.3], None, resize), shown)
    centre = read_frames(path, [0.1], (20, 20), resize, "centre")
    assert centre.shape == (1, 20, 20, 3)


def test_pixels_that_no_camera_has_are_said(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="pixels are said to be 1000 as wide as high"):
        probe(_say_pixels(_film(tmp_path / "a.mp4", TALL), tmp_path / "b.mp4", 1000))


@pytest.mark.parametrize("cut", [0, 3, 40, 200, 400])
def test_a_file_that_is_cut_or_of_another_kind_says_nothing(tmp_path: Path, cut: int) -> None:
    path = make_cropped(tmp_path / "a.mkv", edges={"left": 8}, count=2)
    path.write_bytes(path.read_bytes()[:cut])
    assert shown_part(path, 0).get("left", 8) == 8
    path.write_bytes(b"\x1a\x45\xdf\xa3" + b"\xff" * 500)
    assert shown_part(path, 0) == {}
    assert shown_part(make_clip(tmp_path / "a.mp4", count=2), 0) == {}
