"""The engines that are compared: ours, the libraries' own, and what wraps them to be measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from tvr_bench.media import ocr_easy
from tvr_bench.media.captioner import WindowSpec
from tvr_bench.media.ocr import LineReader, OcrEngine, Polygon, TextBox, create_engine

SIDES = (1280, 960, 736, 640, 480, 320)


class Library(LineReader):
    """RapidOCR through its own interface, one thread; `settings` as it names them."""

    name = "rapidocr itself"
    version = metadata.version("rapidocr")

    def __init__(self, settings: dict[str, Any]) -> None:
        from rapidocr import RapidOCR

        threads = {"EngineConfig.onnxruntime.intra_op_num_threads": 1}
        self._reader = RapidOCR(params={"Global.log_level": "critical"} | threads | settings)

    def read(self, frame: np.ndarray) -> list[TextBox]:
        """Return every line of one frame."""
        found = self._reader(frame[:, :, ::-1], use_det=True, use_cls=True, use_rec=True)
        if found.txts is None:
            return []
        polygons = [tuple((float(x), float(y)) for x, y in box) for box in found.boxes]
        return [TextBox(*line) for line in zip(found.txts, found.scores, polygons, strict=True)]

    def recognise(self, crops: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """Return the text and the score of each crop."""
        ask = {"use_det": False, "use_cls": False, "use_rec": True}
        read = [self._reader(crop[:, :, ::-1], **ask) for crop in crops]
        return [(r.txts[0], float(r.scores[0])) for r in read]


def engines() -> Iterator[tuple[str, str, OcrEngine]]:
    """Yield (engine, setting, engine) of all rows."""
    yield "rapidocr's own interface", "as it comes: shorter side to 736", Library({})
    for side in (960, 640, 320):
        limit = {"Det.limit_side_len": side, "Det.limit_type": "max"}
        yield "rapidocr's own interface", f"longer side at most {side}", Library(limit)
    for side in SIDES:
        default = ", the default" if side == WindowSpec.side else ""
        yield "rapidocr", f"side={side}{default}", create_engine("rapidocr", side=side)


@contextmanager
def random_easyocr() -> Iterator[Callable[..., Any]]:
    """Yield a maker of EasyOCR engines on random weights, which cost what the real ones cost."""
    import hashlib

    import torch
    from easyocr import config
    from easyocr.craft import CRAFT
    from easyocr.model.vgg_model import Model

    models = (config.detection_models["craft"], config.recognition_models["gen2"]["english_g2"])
    networks = (CRAFT(), Model(1, 256, 256, len(models[1]["characters"]) + 1))
    known = []
    with tempfile.TemporaryDirectory() as folder:
        for (name, url, _), model, network in zip(ocr_easy.WEIGHTS, models, networks, strict=True):
            weights = {f"module.{key}": value for key, value in network.state_dict().items()}
            torch.save(weights, Path(folder, name))
            content = Path(folder, name).read_bytes()
            known.append((name, url, hashlib.sha256(content).hexdigest()))
            model["md5sum"] = hashlib.md5(content).hexdigest()
        # A random network is never sure, and a second look would double the time.
        with patch.multiple(ocr_easy, WEIGHTS=tuple(known), _SECOND_LOOK=0.0):
            yield lambda **rest: create_engine("easyocr", weights=folder, **rest)


class Counting(LineReader):
    """Another engine, and how many frames and lines it was asked for."""

    def __init__(self, engine: OcrEngine) -> None:
        self.name, self.version, self._engine = engine.name, engine.version, engine
        self.frames = self.lines = 0

    def detect(self, frames: Sequence[np.ndarray]) -> list[list[Polygon]]:
        """Return the text lines of each frame."""
        self.frames += len(frames)
        return self._engine.detect(frames)

    def recognise(self, crops: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """Return the text and the score of each crop."""
        self.lines += len(crops)
        return self._engine.recognise(crops)
