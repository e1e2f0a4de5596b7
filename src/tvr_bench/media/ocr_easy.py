"""EasyOCR behind the OcrEngine protocol; its two weight files are the user's to bring.

They are pickles, so each is opened only after its md5 has been found to be the one that the
library itself lists. Frames are detected in one batch, and crops recognised in batches of equal
width, also on a CPU, where the library's own `recognize` goes box by box.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import warnings
from collections import defaultdict
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tvr_bench.errors import UserError
from tvr_bench.media.ocr import LineReader, Polygon

_HEIGHT = 64  # of a recogniser's input, fixed in the library
_BATCH = 16  # lines
_FRAMES = 4  # detected at once; the detector is a VGG16, so its memory is the limit
_MIN_BOX = 8  # pixels
_SECOND_LOOK = 0.1  # score below which the library reads again with more contrast
_CONTRAST = 0.5


class Engine(LineReader):
    """CRAFT and the English recogniser; on a GPU where torch sees one.

    Raises UserError where the package or a weight file is missing or is not the known one.
    """

    name = "easyocr"

    def __init__(self, *, side: int = 960, weights: str | None = None, threads: int = 1) -> None:
        self.side = side
        self.version = version(weights)
        folder = _folder(weights)
        _check(folder)
        import easyocr
        import torch

        gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
        if not gpu:
            torch.set_num_threads(threads)
        self._reader: Any = easyocr.Reader(
            ["en"],
            gpu=gpu,
            model_storage_directory=str(folder),
            user_network_directory=str(folder),
            download_enabled=False,
            verbose=False,
            quantize=False,  # its int8 scales follow the batch, so a crop's text would too
        )

    def detect(self, frames: Sequence[np.ndarray]) -> list[list[Polygon]]:
        """Return the text lines of each frame; all frames have one size."""
        if not len(frames):
            return []
        found = []
        for low in range(0, len(frames), _FRAMES):
            batch = np.stack(frames[low : low + _FRAMES])
            level, free = self._reader.detect(
                batch, canvas_size=self.side, min_size=_MIN_BOX, reformat=False
            )
            for boxes, tilted in zip(level, free, strict=True):
                found.append([*map(_rectangle, boxes), *map(_corners, tilted)])
        return found

    def recognise(self, crops: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """Return the text and the confidence of each crop."""
        buckets: dict[int, list[int]] = defaultdict(list)
        for i, crop in enumerate(crops):
            buckets[math.ceil(max(1.0, crop.shape[1] / crop.shape[0])) * _HEIGHT].append(i)
        read: dict[int, tuple[str, float]] = {}
        for width, members in buckets.items():
            lines = [(i, _grey_line(crops[i], width)) for i in members]
            for i, text, score in self._recognise(lines, width):
                read[i] = (" ".join(text.split()), float(score))
        return [read[i] for i in range(len(crops))]

    def _recognise(self, lines: list[tuple[int, np.ndarray]], width: int) -> Any:
        from easyocr.recognition import get_text

        reader = self._reader
        ignored = "".join(sorted(set(reader.character) - set(reader.lang_char)))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*pin_memory.*")
            return get_text(
                reader.character,
                _HEIGHT,
                width,
                reader.recognizer,
                reader.converter,
                lines,
                ignored,
                batch_size=_BATCH,
                contrast_ths=_SECOND_LOOK,
                adjust_contrast=_CONTRAST,
                workers=0,
                device=reader.device,
            )


def version(weights: str | None) -> str:
    """Return the versions of the library and of its models, which are there but not opened."""
    _folder(weights)
    return "-".join((metadata.version("easyocr"), *(md5 for _, md5 in _wanted())))


def _folder(weights: str | None) -> Path:
    """Return the folder of the weight files, which exist."""
    home = os.environ.get("EASYOCR_MODULE_PATH") or os.environ.get("MODULE_PATH") or "~/.EasyOCR"
    folder = Path(weights).expanduser() if weights else Path(home).expanduser() / "model"
    if not all((folder / name).is_file() for name, _ in _wanted()):
        files = " and ".join(f"{name} (md5 {md5})" for name, md5 in _wanted())
        raise UserError(
            f"ocr.engine=easyocr needs {files} in {folder}: put them there, set ocr.weights to "
            "their folder, or use ocr.engine=rapidocr, which brings its own"
        )
    return folder


def _check(folder: Path) -> None:
    """Raise UserError for a weight file that is not the one that the library lists."""
    for name, md5 in _wanted():
        with open(folder / name, "rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != md5:
            raise UserError(
                f"{folder / name} is not easyocr's (md5 {found}, not {md5}) and is not opened; "
                "replace it"
            )


def _wanted() -> list[tuple[str, str]]:
    """Return (file name, md5) of the detector and the English recogniser."""
    config = _config()
    models = (config.detection_models["craft"], config.recognition_models["gen2"]["english_g2"])
    return [(model["filename"], model["md5sum"]) for model in models]


def _config() -> Any:
    """Return the library's `config` module alone; the package would import torch with it."""
    package = importlib.util.find_spec("easyocr")
    if package is None or package.origin is None:
        raise UserError("ocr.engine=easyocr needs its package: pip install easyocr")
    path = Path(package.origin).with_name("config.py")
    spec = importlib.util.spec_from_file_location("_easyocr_config", path)
    assert spec is not None and spec.loader is not None
    config = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(config)
    return config


def _rectangle(box: Sequence[float]) -> Polygon:
    left, right, top, bottom = (max(0.0, float(value)) for value in box)
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def _corners(box: Sequence[Sequence[float]]) -> Polygon:
    return tuple((float(x), float(y)) for x, y in box)


def _grey_line(crop: np.ndarray, width: int) -> np.ndarray:
    """Return a crop [64, w] in grey, no wider than `width`."""
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    wanted = min(width, max(1, round(_HEIGHT * crop.shape[1] / crop.shape[0])))
    return cv2.resize(grey, (wanted, _HEIGHT), interpolation=cv2.INTER_LANCZOS4)
