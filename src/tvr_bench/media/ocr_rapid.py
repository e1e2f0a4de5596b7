"""RapidOCR's PP-OCR models, which come inside its wheel, behind the OcrEngine protocol.

The library resolves, checks and opens its models. Resizing, box finding and decoding are done
here, because its own always pad a word to 320 px, read frames one by one, and choose among 18,000
characters where we keep the Latin ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tvr_bench.errors import UserError
from tvr_bench.files import file_sha256
from tvr_bench.media.ocr import LineReader, Polygon, join_spelled

_GRID = 32  # the detector halves its input five times
_HEIGHT = 48  # of a recogniser's input, fixed in the model
_STEP = 16  # widths are padded to a multiple, so that crops share a batch
_MAX_WIDTH = 1600
_BATCH = 8  # lines
_BATCH_PIXELS = 150_000  # of frames detected at once; more gains nothing on a CPU
_SQUEEZE = 0.75  # of a long line's width on the first reading
_SHORT = 144  # pixels: lines up to here are not squeezed
_SURE = 0.9  # least character probability of a line that needs no second reading
_JUNK = 0.5  # scores up to here deserve none
_WIDE = 320  # pixels: the model was trained on lines padded to this, and reads short ones best so
_SPACE = 0.1
_THRESHOLD = 0.3  # of the text probability map
_BOX_SCORE = 0.4  # mean probability inside a box
_UNCLIP = 1.6
_MIN_SIDE = 3.0  # of a box on the probability map, pixels

Session = Callable[[np.ndarray], np.ndarray]


class Engine(LineReader):
    """The default engine: offline, about 10 ms for a small frame and 10 ms for a word on one core.

    Raises UserError where the package or its models are missing, or for `half`, which these models
    do not have; nothing is ever downloaded.
    """

    name = "rapidocr"

    def __init__(
        self, *, side: int = 960, weights: str | None = None, threads: int = 1, half: bool = False
    ) -> None:
        if half:
            raise UserError("half precision is for easyocr; leave it out with ocr.engine=rapidocr")
        self.side = side
        self.version = version(weights)
        library = _open_library(_find_models(weights), threads)
        self._detector: Session = library.detector
        self._recogniser: Session = library.recogniser
        self._characters = library.characters
        self._space = self._characters.index(" ")
        self._keep = np.array(
            [i for i, c in enumerate(self._characters) if i == 0 or ord(c[0]) < 0x250]
        )

    def detect(self, frames: Sequence[np.ndarray]) -> list[list[Polygon]]:
        """Return the text lines of each frame; all frames have one size."""
        if not len(frames):
            return []
        height, width = frames[0].shape[:2]
        seen = self._seen_size(height, width)
        scale = np.array([width / seen[1], height / seen[0]])
        step = max(1, _BATCH_PIXELS // (seen[0] * seen[1]))
        found = []
        for low in range(0, len(frames), step):
            batch = [_normalise(cv2.resize(f, seen[::-1])) for f in frames[low : low + step]]
            maps = self._detector(np.stack(batch))
            found += [_boxes(probability, scale) for probability in maps[:, 0]]
        return found

    def _seen_size(self, height: int, width: int) -> tuple[int, int]:
        ratio = min(1.0, self.side / max(height, width))
        return (_to_grid(height * ratio), _to_grid(width * ratio))

    def recognise(self, crops: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """Return the text and the mean character probability of each crop.

        Time goes with width: lines are read squeezed and with little padding, and where a
        character is unsure again, as the model was trained.
        """
        read = self._recognise(crops, _SQUEEZE, _STEP)
        unsure = [
            i for i, first in enumerate(read) if first.weakest < _SURE and first.score > _JUNK
        ]
        second = self._recognise([crops[i] for i in unsure], 1.0, _WIDE)
        for i, again in zip(unsure, second, strict=True):
            read[i] = max(read[i], again, key=lambda reading: reading.weakest)
        return [(reading.text, reading.score) for reading in read]

    def _recognise(self, crops: Sequence[np.ndarray], squeeze: float, least: int) -> list[_Reading]:
        lines = [_line(crop, squeeze, least) for crop in crops]
        order = sorted(range(len(lines)), key=lambda i: lines[i].shape[2])
        read: dict[int, _Reading] = {}
        for batch in _equal_widths(order, lines):
            probabilities = self._recogniser(np.stack([lines[i] for i in batch]))
            read.update(zip(batch, map(self._decode, probabilities), strict=True))
        return [read[i] for i in range(len(lines))]

    def _decode(self, probabilities: np.ndarray) -> _Reading:
        """Greedy CTC over the Latin classes of [T, C]; another script shows as a low score.

        The model is trained on Chinese and leaves out spaces that it half saw: one is put back
        where its probability between two letters is not negligible.
        """
        latin = probabilities[:, self._keep]
        best = latin.argmax(axis=1)
        steps = np.flatnonzero(np.append(True, best[1:] != best[:-1]) & (best != 0))
        if not len(steps):
            return _Reading("", 0.0, 0.0)
        text, before = "", 0
        for step in steps.tolist():
            if probabilities[before:step, self._space].max(initial=0.0) > _SPACE:
                text += " "
            text += self._characters[self._keep[best[step]]]
            before = step + 1
        scores = latin[steps, best[steps]]
        return _Reading(join_spelled(text), float(scores.mean()), float(scores.min()))


@dataclass(frozen=True)
class _Reading:
    text: str
    score: float
    weakest: float  # probability of the least sure character


def version(weights: str | None) -> str:
    """Return the library's version and the content of its models, without opening them."""
    models = _find_models(weights)
    return "-".join((metadata.version("rapidocr"), *map(file_sha256, models)))


def cards() -> int:
    """Return 0: these models run on the CPU."""
    return 0


class _Library:
    """The parts of an opened RapidOCR that the engine calls."""

    def __init__(self, reader: Any) -> None:
        blank = np.zeros((_HEIGHT, 2 * _HEIGHT, 3), np.uint8)
        # Newer versions open each model on its first use.
        reader(blank, use_det=True, use_cls=False, use_rec=False)
        reader(blank, use_det=False, use_cls=False, use_rec=True)
        self.detector: Session = reader.text_det.session
        self.recogniser: Session = reader.text_rec.session
        self.characters: list[str] = reader.text_rec.postprocess_op.character


def _find_models(weights: str | None) -> tuple[Path, Path]:
    """Return the detector's and the recogniser's file, in `weights` or in the wheel."""
    spec = find_spec("rapidocr")
    if spec is None or spec.origin is None or find_spec("onnxruntime") is None:
        raise UserError("ocr.engine=rapidocr needs two packages: pip install rapidocr onnxruntime")
    folder = Path(weights) if weights else Path(spec.origin).parent / "models"
    found = [sorted(folder.glob(f"*{kind}*.onnx")) for kind in ("det", "rec")]
    if not all(found):
        raise UserError(
            f"no '*det*.onnx' and '*rec*.onnx' in {folder}: reinstall rapidocr (its wheel holds "
            "both) or set ocr.weights to a folder that holds them"
        )
    return found[0][-1], found[1][-1]


def _open_library(models: tuple[Path, Path], threads: int) -> _Library:
    from rapidocr import RapidOCR

    reader = RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.use_cls": False,
            "Det.model_path": str(models[0]),  # a given path is opened, never fetched
            "Rec.model_path": str(models[1]),
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "EngineConfig.onnxruntime.enable_cpu_mem_arena": True,
        }
    )
    return _Library(reader)


def _to_grid(length: float) -> int:
    return max(_GRID, round(length / _GRID) * _GRID)


def _normalise(image: np.ndarray) -> np.ndarray:
    """Return an RGB image as the models take it: float32 [3, H, W], blue first, -1 to 1."""
    return image[:, :, ::-1].transpose(2, 0, 1).astype(np.float32) * (2 / 255) - 1


def _line(crop: np.ndarray, squeeze: float, least: int) -> np.ndarray:
    """Return a crop as a recogniser line, float32 [3, 48, W], W >= `least`, its right side grey."""
    full = _HEIGHT * crop.shape[1] / crop.shape[0]
    wanted = math.ceil(min(_MAX_WIDTH, max(full * squeeze, min(full, _SHORT), _STEP)))
    width = max(least, math.ceil(wanted / _STEP) * _STEP)
    line = np.zeros((3, _HEIGHT, width), np.float32)
    line[:, :, :wanted] = _normalise(cv2.resize(crop, (wanted, _HEIGHT)))
    return line


def _equal_widths(order: Sequence[int], lines: Sequence[np.ndarray]) -> list[list[int]]:
    batches: list[list[int]] = []
    for i in order:
        last = batches[-1] if batches else []
        if last and len(last) < _BATCH and lines[last[0]].shape == lines[i].shape:
            last.append(i)
        else:
            batches.append([i])
    return batches


def _boxes(probability: np.ndarray, scale: np.ndarray) -> list[Polygon]:
    """Return the boxes of a text probability map [h, w], scaled to the frame, in reading order."""
    mask = cv2.dilate((probability > _THRESHOLD).astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    found = []
    for contour in contours:
        centre, size, angle = cv2.minAreaRect(contour)
        if min(size) < _MIN_SIDE:
            continue
        if _mean_inside(probability, cv2.boxPoints((centre, size, angle))) < _BOX_SCORE:
            continue
        found.append(_corners(centre, _grown(size), angle) * scale)
    limit = np.array(probability.shape[::-1]) * scale
    found = [np.clip(corners, 0, limit) for corners in found]
    found.sort(key=lambda corners: (corners[:, 1].mean(), corners[:, 0].mean()))
    return [tuple((float(x), float(y)) for x, y in corners) for corners in found]


def _grown(size: Sequence[float]) -> tuple[float, float]:
    """Undo the shrinking that the detector was trained with: DBNet's area x ratio / perimeter."""
    width, height = size
    margin = width * height * _UNCLIP / (2 * (width + height))
    return width + 2 * margin, height + 2 * margin


def _corners(centre: Sequence[float], size: Sequence[float], angle: float) -> np.ndarray:
    """Return corners [4, 2] clockwise from top left; the text runs within 45 degrees of level."""
    width, height = size
    angle = (angle + 45) % 180 - 45
    if angle >= 45:
        angle, width, height = angle - 90, height, width
    along = np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
    down = np.array([-along[1], along[0]])
    right, below = along * width / 2, down * height / 2
    return np.asarray(centre) + np.stack(
        [-right - below, right - below, right + below, below - right]
    )


def _mean_inside(probability: np.ndarray, corners: np.ndarray) -> float:
    height, width = probability.shape
    low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, (width - 1, height - 1))
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int), 0, (width - 1, height - 1))
    patch = probability[low[1] : high[1] + 1, low[0] : high[0] + 1]
    mask = np.zeros(patch.shape, np.uint8)
    cv2.fillPoly(mask, [(corners - low).astype(np.int32)], 1)
    return float(cv2.mean(patch, mask)[0])
