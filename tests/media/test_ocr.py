"""RapidOCR reads real pixels; crops, words and the names of the engines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ocr_clips import draw, font
from PIL import Image, ImageDraw

from tvr_bench.errors import UserError
from tvr_bench.media.ocr import (
    OcrEngine,
    create_engine,
    crop_polygon,
    engine_version,
    join_spelled,
    latin_words,
)


@pytest.fixture(scope="module")
def rapid() -> OcrEngine:
    return create_engine("rapidocr", side=224)


def words(engine: OcrEngine, frame: np.ndarray) -> list[str]:
    return [w for box in engine.read(frame) if box.score > 0.5 for w in latin_words(box.text)]


def test_rapidocr_reads_a_rendered_sign(rapid: OcrEngine) -> None:
    boxes = rapid.read(draw([("green bakery", 20, 30), ("hotel", 90, 110)]))
    assert [box.text for box in boxes] == ["GREEN BAKERY", "HOTEL"]
    assert all(0.9 < box.score <= 1 for box in boxes)
    (left, top), _, (right, bottom), _ = boxes[1].polygon
    assert left < 90 < right and top < 115 < bottom


@pytest.mark.parametrize("side", [96, 128, 736])
def test_the_side_changes_the_cost_and_not_the_coordinates(rapid: OcrEngine, side: int) -> None:
    frame = draw([("museum", 60, 60)])
    box = create_engine("rapidocr", side=side).read(frame)[0]
    assert box.text == "MUSEUM"
    assert np.allclose(np.mean(box.polygon, axis=0), (105, 69), atol=8)


def test_rapidocr_reads_a_tilted_sign(rapid: OcrEngine) -> None:
    board = Image.new("RGB", (150, 34), (240, 240, 230))
    ImageDraw.Draw(board).text((14, 4), "STATION", font=font(22), fill=(20, 20, 20))
    frame = Image.new("RGB", (224, 160), (70, 80, 75))
    frame.paste(board.rotate(14, Image.Resampling.BICUBIC, True, fillcolor=(70, 80, 75)), (30, 40))
    assert words(rapid, np.asarray(frame)) == ["station"]


def test_rapidocr_finds_nothing_where_nothing_is(rapid: OcrEngine) -> None:
    assert rapid.read(draw([])) == []
    assert rapid.detect([]) == [] and rapid.recognise([]) == []


def test_batches_of_frames_and_crops_read_as_single_ones(rapid: OcrEngine) -> None:
    frames = [draw([(w, 20, 30)]) for w in ("bakery", "hotel", "museum")]
    together = rapid.detect(frames)
    assert together == [rapid.detect([frame])[0] for frame in frames]
    crops = [crop_polygon(f, p[0]) for f, p in zip(frames, together, strict=True)]
    assert [t for t, _ in rapid.recognise(crops)] == ["BAKERY", "HOTEL", "MUSEUM"]
    assert rapid.recognise(crops)[2] == pytest.approx(rapid.recognise(crops[2:])[0], abs=1e-3)


@pytest.mark.parametrize(("certainty", "widths"), [(1.0, [80]), (0.58, [80, 320]), (0.4, [80])])
def test_a_doubtful_line_is_read_again_as_the_model_was_trained(
    rapid: Any, monkeypatch: pytest.MonkeyPatch, certainty: float, widths: list[int]
) -> None:
    asked: list[int] = []
    recognise = rapid._recogniser

    def blurred(lines: np.ndarray) -> np.ndarray:
        asked.append(lines.shape[3])
        return recognise(lines) * (certainty if len(asked) == 1 else 1.0)

    monkeypatch.setattr(rapid, "_recogniser", blurred)
    crop = draw([("hotel", 70, 70)])[65:95, 64:110]
    text, score = rapid.recognise([crop])[0]
    assert asked == widths and text == "HOT"
    assert (score > 0.9) == (certainty != 0.4)


def test_rapidocr_says_its_version_without_being_opened(rapid: OcrEngine) -> None:
    assert engine_version("rapidocr") == rapid.version
    assert rapid.version.count("-") == 2


def test_rapidocr_without_models_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ocr\.weights") as error:
        create_engine("rapidocr", weights=str(tmp_path))
    assert "\n" not in str(error.value)


def test_opening_rapidocr_prints_nothing_and_needs_no_torch() -> None:
    code = (
        "import sys; from tvr_bench.media.captioner import read_windows;"
        "from tvr_bench.media.ocr import create_engine; import numpy as np;"
        "create_engine('rapidocr', side=96).read(np.zeros((96, 96, 3), np.uint8));"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_unknown_engine_names_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'rapidocr'"):
        create_engine("rapidorc")


def test_a_crop_is_turned_upright() -> None:
    level = draw([("hotel", 70, 70)])
    expected = crop_polygon(level, ((64, 66), (146, 66), (146, 94), (64, 94)))
    assert expected.shape == (28, 82, 3)
    turn = cv2.getRotationMatrix2D((112, 80), 20, 1)
    corners = np.array([[64, 66, 1], [146, 66, 1], [146, 94, 1], [64, 94, 1]]) @ turn.T
    turned = cv2.warpAffine(level, turn, (224, 160), flags=cv2.INTER_CUBIC)
    crop = crop_polygon(turned, tuple((float(x), float(y)) for x, y in corners))
    assert crop.shape == expected.shape
    assert np.abs(crop.astype(int) - expected).mean() < 12


def test_a_line_that_runs_down_is_laid_flat() -> None:
    crop = crop_polygon(np.zeros((100, 100, 3), np.uint8), ((10, 10), (20, 10), (20, 60), (10, 60)))
    assert crop.shape == (10, 50, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Open  DAILY", ["open", "daily"]),
        ("£1.30 or $3", ["1.30", "or", "$3"]),
        ("Café, (Zürich)!", ["cafe", "zurich"]),
        ("北京 hotel 北road", ["hotel"]),
        ("--- * KX08ABC", ["kx08abc"]),
        ("", []),
    ],
)
def test_words_are_folded_and_other_scripts_dropped(text: str, expected: list[str]) -> None:
    assert latin_words(text) == expected


def test_spaced_letters_are_joined_and_initials_left_alone() -> None:
    assert join_spelled("S A L E  now") == "SALE now"
    assert join_spelled("plan B  or a 1 2 3") == "plan B or a 1 2 3"
