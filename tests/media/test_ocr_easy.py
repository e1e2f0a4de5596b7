"""EasyOCR's own networks on made-up weights: batches read as the library reads box by box."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ocr_clips import clip, draw

from tvr_bench.datamodules.types import Clip
from tvr_bench.errors import UserError
from tvr_bench.files import Ledger
from tvr_bench.media import ocr_easy
from tvr_bench.media.captioner import WindowSpec, build_windows
from tvr_bench.media.ocr import Polygon, create_engine, crop_polygon, engine_version

SIDE = 192

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory")  # of the library's own loop


@dataclass(frozen=True)
class Opened:
    """An engine on made-up weights, frames, and what it found in all of them at once."""

    engine: Any
    folder: Path
    frames: list[np.ndarray]
    found: list[list[Polygon]]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Yield the engine on weights that were saved for it, known by their sums while it lives."""
    from easy_weights import PAGES, SIZE, grey, save_weights

    folder = tmp_path_factory.mktemp("weights")
    save_weights(folder)
    with pytest.MonkeyPatch.context() as patch:
        accept(folder, patch)
        frames = [grey(draw(page, SIZE)) for page in (*PAGES[:2], [("station", 30, 20)])]
        engine = create_engine("easyocr", side=SIDE, weights=str(folder))
        yield Opened(engine, folder, frames, engine.detect(frames))


def accept(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Take the files in `folder` for the published ones."""
    from easyocr import config

    models = (config.detection_models["craft"], config.recognition_models["gen2"]["english_g2"])
    known = []
    for (name, url, _), model in zip(ocr_easy.WEIGHTS, models, strict=True):
        content = (folder / name).read_bytes()
        known.append((name, url, hashlib.sha256(content).hexdigest()))
        patch.setitem(model, "md5sum", hashlib.md5(content).hexdigest())
    patch.setattr(ocr_easy, "WEIGHTS", tuple(known))


def test_signs_are_found_where_they_stand(opened: Opened) -> None:
    from easy_weights import PAGES

    for found, page in zip(opened.found[:2], PAGES[:2], strict=True):
        for _, left, top in page:
            inside = [
                p for p in found if p[0][0] < left + 20 < p[2][0] and p[0][1] < top + 9 < p[2][1]
            ]
            assert len(inside) == 1


def encloses(polygon: Polygon, x: float, y: float) -> bool:
    (left, top), _, (right, bottom), _ = polygon
    return left < x < right and top < y < bottom


def test_a_batch_is_detected_as_its_frames_are(opened: Opened) -> None:
    for frame, polygons in zip(opened.frames, opened.found, strict=True):
        alone = opened.engine.detect([frame])[0]
        assert np.allclose(corners(polygons), corners(alone), atol=1)


def corners(polygons: list[Polygon]) -> np.ndarray:
    return np.array(sorted(polygons))


def overlap(a: list[Polygon], b: list[Polygon]) -> float:
    """Return the intersection over union of the area that two lists of boxes cover."""
    first, second = (np.zeros((128, 192), np.uint8) for _ in range(2))
    for mask, polygons in ((first, a), (second, b)):
        for polygon in polygons:
            cv2.fillPoly(mask, [np.array(polygon, np.int32)], 1)
    return float((first & second).sum() / (first | second).sum())


def test_lines_are_read_as_the_library_reads_them(opened: Opened) -> None:
    """`readtext` detects one frame and recognises one box after the other."""
    read = []
    for frame in opened.frames[:2]:
        theirs = opened.engine._reader.readtext(frame, canvas_size=SIDE, min_size=8)
        ours = opened.engine.read(frame)
        assert len(ours) == len(theirs) > 0
        for box in ours:
            same = [t for t in theirs if np.allclose(t[0], box.polygon, atol=1e-6)]
            _, text, score = same[0]
            if is_level(box.polygon):  # the crop of a tilted line is cut in another way
                assert box.text == " ".join(text.split())
                assert box.score == pytest.approx(float(score), rel=1e-3, abs=1e-6)
                read.append(box.text)
    assert len(read) >= 2 and len(set(read)) == len(read) and all(read)


def is_level(polygon: Polygon) -> bool:
    return polygon[0][1] == polygon[1][1] and polygon[1][0] == polygon[2][0]


def crops_of(frame: np.ndarray) -> list[np.ndarray]:
    """Return crops of several widths, two of them equal, one low, one narrow, one without ink."""
    places = [(16, 20, 130, 18), (16, 20, 60, 18), (76, 20, 60, 18), (16, 20, 9, 9)]
    places += [(60, 20, 14, 18), (0, 110, 90, 16), (16, 20, 60, 6)]
    return [frame[y : y + h, x : x + w] for x, y, w, h in places]


def test_crops_of_all_frames_are_recognised_as_single_boxes(opened: Opened) -> None:
    from easy_weights import PAGES, SIZE, grey

    frames = [draw(page, SIZE) for page in PAGES[:2]]
    crops = [*crops_of(frames[0]), frames[1][50:68, 30:90]]
    batched = opened.engine.recognise(crops)
    for crop, (text, score) in zip(crops, batched, strict=True):
        _, theirs, confidence = opened.engine._reader.recognize(grey(crop))[0]
        assert text == " ".join(theirs.split())
        assert score == pytest.approx(float(confidence), rel=1e-3, abs=1e-6)
    scores = [score for _, score in batched]
    assert min(scores) < 0.1 < max(scores)  # some were read again with more contrast, some not


def test_the_recogniser_is_asked_in_batches(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, ...]] = []
    forward = opened.engine._reader.recognizer.forward

    def counted(image: Any, text: Any) -> Any:
        sizes.append(tuple(image.shape))
        return forward(image, text)

    monkeypatch.setattr(opened.engine._reader.recognizer, "forward", counted)
    crops = [
        crop_polygon(frame, ((16, 20), (80, 20), (80, 38), (16, 38))) for frame in opened.frames
    ]
    opened.engine.recognise(crops)
    assert sizes[0] == (3, 1, 64, 256)


def test_a_line_that_runs_down_is_read_lying(opened: Opened) -> None:
    upright = np.rot90(opened.frames[0], -1).copy()
    height = opened.frames[0].shape[0]
    crop = crop_polygon(
        upright, ((height - 38, 16), (height - 20, 16), (height - 20, 146), (height - 38, 146))
    )
    assert crop.shape == (18, 130, 3)
    assert opened.engine.recognise([crop]) == opened.engine.recognise(
        [opened.frames[0][20:38, 16:146]]
    )


def test_nothing_is_found_where_nothing_is(opened: Opened) -> None:
    assert opened.engine.detect([]) == [] and opened.engine.recognise([]) == []
    assert opened.engine.read(np.full((64, 96, 3), 80, np.uint8)) == []


def test_coordinates_are_of_the_frame_and_inside_it(opened: Opened) -> None:
    large = opened.frames[2].repeat(2, axis=0).repeat(2, axis=1)
    halved = [tuple((x / 2, y / 2) for x, y in p) for p in opened.engine.detect([large])[0]]
    assert overlap(halved, opened.found[2]) > 0.95
    edge = np.roll(opened.frames[2], 90, axis=1)
    for polygon in opened.engine.detect([edge])[0]:
        assert (np.array(polygon) >= 0).all() and (np.array(polygon) <= (192, 128)).all()


@pytest.mark.slow
def test_half_precision_finds_the_same_places(opened: Opened) -> None:
    import torch

    half = create_engine("easyocr", side=SIDE, weights=str(opened.folder), half=True)
    kinds: set[torch.dtype] = set()
    forward = torch.nn.Conv2d.forward

    def noted(self: Any, images: Any) -> Any:
        kinds.add(images.dtype)
        return forward(self, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Conv2d, "forward", noted)
        found = half.detect(opened.frames)
    assert kinds == {torch.bfloat16}
    for polygons, full in zip(found, opened.found, strict=True):
        assert overlap(polygons, full) > 0.9


def test_rapidocr_has_no_half_precision() -> None:
    with pytest.raises(UserError, match="easyocr"):
        create_engine("rapidocr", half=True)


def test_the_version_is_known_without_opening_and_nothing_is_left_on_the_path(
    opened: Opened,
) -> None:
    assert opened.engine.version == engine_version("easyocr", str(opened.folder))
    assert str(opened.folder) not in sys.path


@pytest.mark.slow
def test_clips_are_captioned_and_cached(opened: Opened, tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", lambda _: [("green bakery", 20, 30)], count=10)
    place = {"engine": "easyocr", "side": 224, "weights": str(opened.folder), "half": True}
    spec = WindowSpec(windows=2, reads=1, min_score=0.0, **place)
    ledger = Ledger()
    captions = build_windows([Clip("a", path)], spec, tmp_path / "cache", ledger=ledger)
    assert not ledger.entries and len(captions["a"]) == 2
    assert all(captions["a"])
    assert build_windows([Clip("a", path)], spec, tmp_path / "cache", ledger=ledger) == captions
