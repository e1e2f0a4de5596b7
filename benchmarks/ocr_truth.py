"""What stands in the images and clips that are read, and how much of it was said."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tvr_bench.media.ocr import TextBox, latin_words
from tvr_bench.media.video import probe

SURE = 0.5  # least score of a line whose words count


@dataclass(frozen=True)
class Page:
    """One image, or a part of it, and the words that stand there; `word` says it is one crop."""

    image: np.ndarray
    words: frozenset[str]
    region: tuple[int, int, int, int] | None  # left, top, right, bottom
    word: bool


@dataclass
class Count:
    """Words found, wanted and said."""

    found: int = 0
    wanted: int = 0
    said: int = 0

    def add(self, said: set[str], wanted: frozenset[str]) -> None:
        """Count the words of one page."""
        self.found += len(said & wanted)
        self.wanted += len(wanted)
        self.said += len(said)

    def row(self) -> dict[str, Any]:
        """Return recall and precision with the numbers they come from."""
        return {
            "recall": self.found / self.wanted,
            "precision": self.found / max(1, self.said),
            "found": self.found,
            "wanted": self.wanted,
        }


def pages(folder: Path) -> list[Page]:
    """Return the images that GT.tsv names."""
    with open(folder / "ocr_images" / "GT.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    images = {row["image"]: _load(folder / row["image"]) for row in rows}
    found = []
    for row in rows:
        left, top, right, bottom = map(int, (row["crop"] or "0,0,0,0").split(","))
        region = (left, top, right, bottom) if row["crop"] else None
        words = frozenset(latin_words(row["text"].replace("|", " ")))
        found.append(Page(images[row["image"]], words, region, row["kind"].startswith("word")))
    return found


def _load(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def read_words(boxes: Sequence[TextBox], region: tuple[int, int, int, int] | None) -> set[str]:
    """Return the words of the lines whose middle lies in `region`."""
    words: set[str] = set()
    for box in boxes:
        x, y = np.mean(box.polygon, axis=0)
        inside = region is None or (region[0] <= x <= region[2] and region[1] <= y <= region[3])
        if inside and box.score >= SURE:
            words.update(latin_words(box.text))
    return words


def visible(folder: Path) -> dict[Path, list[tuple[float, frozenset[str]]]]:
    """Return, per clip, (second, words that a person saw then)."""
    clips = folder / "videos" / "datasets"
    seen: dict[Path, list[tuple[float, frozenset[str]]]] = {}
    with open(clips / "textvr_visible_text.tsv", encoding="utf-8", newline="") as file:
        for name, frame, text in list(csv.reader(file, delimiter="\t"))[1:]:
            words = frozenset(latin_words(re.sub(r"\(.*?\)|\|", " ", text)))
            seconds = int(frame) / probe(clips / name).fps
            seen.setdefault(clips / name, []).append((seconds, words))
    return seen
