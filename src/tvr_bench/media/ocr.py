"""Scene-text engines behind one protocol: find text lines in a frame, read their crops."""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import cv2
import numpy as np

from tvr_bench.errors import UserError, nearest

Polygon: TypeAlias = tuple[tuple[float, float], ...]

_SPELLED = re.compile(r"(?<!\S)[^\W\d_](?: [^\W\d_]){2,}(?!\S)")  # S A L E
_ENGINES = {  # modules with a class Engine and functions version(weights) and cards()
    "rapidocr": "tvr_bench.media.ocr_rapid",
    "easyocr": "tvr_bench.media.ocr_easy",
}
_VERTICAL = 1.5  # a crop this many times as high as wide is a line that runs downwards


@dataclass(frozen=True)
class TextBox:
    """One line of text: what it says, how sure the engine is, its four corners in pixels."""

    text: str
    score: float
    polygon: Polygon


class OcrEngine(Protocol):
    """What the captioner needs of an OCR library; frames and crops are uint8 [H, W, 3] RGB."""

    name: str
    version: str

    def detect(self, frames: Sequence[np.ndarray]) -> list[list[Polygon]]:
        """Return the text lines of each frame (equal sizes), corners clockwise from top left."""
        ...

    def recognise(self, crops: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """Return the text and the score (0 to 1) of each upright crop."""
        ...

    def read(self, frame: np.ndarray) -> list[TextBox]:
        """Return every line of one frame, detected and recognised."""
        ...


class LineReader:
    """Base of the engines: `read` is detection, then recognition of every crop."""

    name: str
    version: str

    def detect(self, frames: Sequence[np.ndarray]) -> list[list[Polygon]]:
        """Return the text lines of each frame."""
        raise NotImplementedError

    def recognise(self, crops: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """Return the text and the score of each crop."""
        raise NotImplementedError

    def read(self, frame: np.ndarray) -> list[TextBox]:
        """Return every line of one frame, detected and recognised."""
        polygons = self.detect([frame])[0]
        read = self.recognise([crop_polygon(frame, polygon) for polygon in polygons])
        return [TextBox(*reading, polygon) for reading, polygon in zip(read, polygons, strict=True)]


def create_engine(
    name: str,
    *,
    side: int = 960,
    weights: str | None = None,
    threads: int = 1,
    half: bool = False,
) -> OcrEngine:
    """Return the engine called `name`: rapidocr or easyocr.

    `side` is the longest side in pixels that the detector sees, `weights` a folder that holds the
    engine's models (None: its own place), `threads` the CPU threads of one call, `half` runs
    easyocr's detector in bfloat16, which takes under half the time where the CPU computes in it.
    Raises UserError where the name is unknown, the library or its models are missing, or the
    engine has no such detector.
    """
    return _module(name).Engine(side=side, weights=weights, threads=threads, half=half)


def engine_version(name: str, weights: str | None = None) -> str:
    """Return what `create_engine(...).version` would say, without opening a model."""
    return _module(name).version(weights)


def engine_cards(name: str) -> int:
    """Return on how many cards an engine can compute here, 0 for one that computes on the CPU."""
    cards: int = _module(name).cards()
    return cards


def _module(name: str) -> Any:
    if name not in _ENGINES:
        raise UserError(
            f"ocr.engine={name} does not exist; use {' or '.join(_ENGINES)}."
            + nearest(name, _ENGINES)
        )
    return importlib.import_module(_ENGINES[name])


def crop_polygon(frame: np.ndarray, polygon: Polygon) -> np.ndarray:
    """Return the upright crop [h, w, 3] of a four-cornered line; a line running down is turned."""
    corners = np.asarray(polygon, dtype=np.float32)
    width = _length(corners[0], corners[1], corners[3], corners[2])
    height = _length(corners[0], corners[3], corners[1], corners[2])
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
    crop = cv2.warpPerspective(
        frame,
        cv2.getPerspectiveTransform(corners, target),
        (width, height),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.rot90(crop).copy() if height >= _VERTICAL * width else crop


def _length(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> int:
    return max(1, round(max(float(np.linalg.norm(a - b)), float(np.linalg.norm(c - d)))))


def join_spelled(text: str) -> str:
    """Return `text` with single spaces, and words that were set in spaced letters joined."""
    return _SPELLED.sub(lambda run: run.group().replace(" ", ""), " ".join(text.split()))


def latin_words(text: str) -> list[str]:
    """Return the lower-case words of a reading that are written in Latin letters or digits.

    Accents are folded and symbols outside ASCII fall away, so "£1.30" keeps its digits; a word
    with a letter of another script is dropped (tcard.md 2.1), as is bare punctuation.
    """
    return [w for word in text.split() if (w := _fold(word)) and any(c.isalnum() for c in w)]


def _fold(word: str) -> str:
    letters = []
    for char in unicodedata.normalize("NFKD", word.lower()):
        if ord(char) < 123:
            letters.append(char)
        elif unicodedata.category(char)[0] == "L":
            return ""
    return "".join(letters).strip("!\"#'()*,-./:;<=>?@[\\]^_`")
