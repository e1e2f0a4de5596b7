"""EasyOCR behind the OcrEngine protocol; its two weight files are the user's to bring.

They are pickles, so each is handed to the library only after its sha256 has been found to be the
known one. Frames are detected in batches, and crops recognised in batches of equal width, also on a
CPU, where the library's own `recognize` goes box by box. Texts and scores are those that it gives
for the same box, but for lines that run downwards, which are turned here and not there.
"""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tvr_bench.errors import UserError
from tvr_bench.files import file_sha256
from tvr_bench.media.ocr import LineReader, Polygon
from tvr_bench.workers import place

# File, where the library has it from, and sha256. The library lists an md5 alone, which it checks
# as well; the sums here are those that other projects pin the same two files by, keras-ocr for one.
WEIGHTS = (
    (
        "craft_mlt_25k.pth",
        "https://github.com/JaidedAI/EasyOCR/releases/download/pre-v1.1.6/craft_mlt_25k.zip",
        "4a5efbfb48b4081100544e75e1e2b57f8de3d84f213004b14b85fd4b3748db17",
    ),
    (
        "english_g2.pth",
        "https://github.com/JaidedAI/EasyOCR/releases/download/v1.3/english_g2.zip",
        "e2272681d9d67a04e2dff396b6e95077bc19001f8f6d3593c307b9852e1c29e8",
    ),
)
_HEIGHT = 64  # of a recogniser's input, fixed in the library
_BATCH = 16  # lines
# Pixels of the frames detected at once. More gains nothing on a CPU, and the detector, a VGG16,
# keeps about 1 kB for each.
_CPU_PIXELS = 400_000
_GPU_PIXELS = 4_000_000
_MIN_BOX = 8  # pixels
_SECOND_LOOK = 0.1  # score below which the library reads again with more contrast
_CONTRAST = 0.5


class Engine(LineReader):
    """CRAFT and the English recogniser; on a GPU where torch sees one.

    `half` runs the detector in bfloat16 on a CPU. Raises UserError where the package or a weight
    file is missing or is not the known one.
    """

    name = "easyocr"

    def __init__(
        self, *, side: int = 960, weights: str | None = None, threads: int = 1, half: bool = False
    ) -> None:
        self.side = side
        self.version = version(weights)
        self._reader = _open(_checked(_folder(weights)), threads)
        self._pixels = _CPU_PIXELS if self._reader.device == "cpu" else _GPU_PIXELS
        if half and self._reader.device == "cpu":
            self._reader.detector = _in_half(self._reader.detector)

    def detect(self, frames: Sequence[np.ndarray]) -> list[list[Polygon]]:
        """Return the text lines of each frame; all frames have one size."""
        if not len(frames):
            return []
        height, width = frames[0].shape[:2]
        shrunk = min(1.0, self.side / max(height, width))
        step = max(1, int(self._pixels / (height * width * shrunk**2)))
        found = []
        for low in range(0, len(frames), step):
            level, free = self._reader.detect(
                np.stack(frames[low : low + step]),
                canvas_size=self.side,
                min_size=_MIN_BOX,
                reformat=False,
            )
            for boxes, tilted in zip(level, free, strict=True):
                upright = [_rectangle(box, height, width) for box in boxes]
                found.append([*upright, *map(_corners, tilted)])
        return found

    def recognise(self, crops: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """Return the text and the confidence of each crop."""
        buckets: dict[int, list[tuple[int, np.ndarray]]] = defaultdict(list)
        for i, crop in enumerate(crops):
            width, line = _line(crop)
            buckets[width].append((i, line))
        read: dict[int, tuple[str, float]] = {}
        for width, lines in buckets.items():
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
    return "-".join((metadata.version("easyocr"), *(sha256[:16] for *_, sha256 in WEIGHTS)))


def cards() -> int:
    """Return the number of cards that torch sees, 0 where the library computes on the CPU."""
    import torch

    return torch.cuda.device_count() or int(torch.backends.mps.is_available())


def _take_one_card(place: int | None) -> None:
    """Leave a worker process the card of its place alone; the library would use all of them."""
    if place is None:
        return
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = [str(place)] if named is None else named.split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = cards[place % len(cards)]


def _folder(weights: str | None) -> Path:
    """Return the folder of the weight files, which exist."""
    if find_spec("easyocr") is None:
        raise UserError("ocr.engine=easyocr needs its package: pip install easyocr")
    home = os.environ.get("EASYOCR_MODULE_PATH") or os.environ.get("MODULE_PATH") or "~/.EasyOCR"
    folder = Path(weights).expanduser() if weights else Path(home).expanduser() / "model"
    missing = [(name, url) for name, url, _ in WEIGHTS if not (folder / name).is_file()]
    if missing:
        files = " and ".join(f"{name} (in {url})" for name, url in missing)
        raise UserError(
            f"ocr.engine=easyocr needs {files} in {folder}: download and unpack, or set "
            "ocr.weights to their folder, or use ocr.engine=rapidocr, which brings its own"
        )
    return folder


def _checked(folder: Path) -> Path:
    """Return `folder`; raise UserError for a weight file in it that is not the known one."""
    for name, url, sha256 in WEIGHTS:
        found = file_sha256(folder / name)
        if found != sha256:
            raise UserError(
                f"{folder / name} is not easyocr's (sha256 {found}, not {sha256}) and is not "
                f"opened: replace it by the one in {url}"
            )
    return folder


def _open(folder: Path, threads: int) -> Any:
    """Return the library's reader; it downloads nothing, and refuses a wrong md5 itself."""
    _take_one_card(place())
    import easyocr
    import torch

    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if not gpu:
        torch.set_num_threads(threads)
    reader = easyocr.Reader(
        ["en"],
        gpu=gpu,
        model_storage_directory=str(folder),
        user_network_directory=str(folder),
        download_enabled=False,
        verbose=False,
        quantize=False,  # its int8 scales follow the batch, so a crop's text would too
    )
    sys.path.remove(str(folder))  # the library would import modules from beside the weights
    return reader


def _in_half(network: Any) -> Callable[[Any], Any]:
    """Return the detector with bfloat16 inside and float32 outside, [B, 3, H, W] to its maps."""
    import torch

    layout = {"dtype": torch.bfloat16, "memory_format": torch.channels_last}
    network.to(**layout)

    def detect(images: Any) -> Any:
        maps, features = network(images.to(**layout))
        return maps.float(), features

    return detect


def _rectangle(box: Sequence[float], height: int, width: int) -> Polygon:
    """Return the corners of (left, right, top, bottom), inside the frame."""
    left, right = (min(max(0.0, float(x)), float(width)) for x in box[:2])
    top, bottom = (min(max(0.0, float(y)), float(height)) for y in box[2:])
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def _corners(box: Sequence[Sequence[float]]) -> Polygon:
    return tuple((float(x), float(y)) for x, y in box)


def _line(crop: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the width to read a crop at and its grey line, scaled as the library does."""
    from easyocr.utils import compute_ratio_and_resize

    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    line, ratio = compute_ratio_and_resize(grey, grey.shape[1], grey.shape[0], _HEIGHT)
    return math.ceil(ratio) * _HEIGHT, line
