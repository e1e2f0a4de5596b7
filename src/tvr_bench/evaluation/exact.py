"""The score that ranks of vectors are defined by: a dot product whose last bit never changes.

Products of two float32 numbers are exact in float64. They are added in a fixed tree that depends
on the width alone, by element-wise sums: so a pair has the same score in any block, on any number
of threads and on any device, and equal vectors tie.

K pairs, n and m items, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

_CPU_PAIRS = 256  # scored at once: at D = 512 buffers of 1.5 MB, which stay in cache
_GPU_PAIRS = 1 << 15


def exact_scores(text: Tensor, video: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the scores of the pairs (rows, columns), float64 [K], on the vectors' device.

    `text` and `video` are float32 [n, D] and [m, D], `rows` and `columns` positions int64 [K].
    """
    if not len(rows):
        return text.new_empty(0, dtype=torch.float64)
    most = _CPU_PAIRS if text.device.type == "cpu" else _GPU_PAIRS
    size = math.ceil(len(rows) / math.ceil(len(rows) / most))
    single = text.new_empty(size, text.shape[1])
    products = torch.empty_like(single, dtype=torch.float64)
    tree = list(_halves(products))
    # Whole chunks only, so that every buffer and view is made once; what is over is cut off.
    chunks = [F.pad(part, (0, -len(rows) % size)).split(size) for part in (rows, columns)]
    scores = text.new_empty(len(chunks[0]), size, dtype=torch.float64)
    for line, mine, theirs in zip(scores, *chunks, strict=True):
        products.copy_(torch.index_select(text, 0, mine, out=single))
        products.mul_(torch.index_select(video, 0, theirs, out=single))
        for kept, added in tree:
            kept.add_(added)
        line.copy_(products[:, 0])
    return scores.flatten()[: len(rows)]


class ExactPass:
    """The exact score of every pair of a block; items with the same vector are scored once.

    It is the last resort for blocks whose scores are all but equal, as a collapsed model's are.
    """

    def __init__(self, text: Tensor, video: Tensor) -> None:
        """Take vectors float32 [N, D] and [M, D]."""
        self.text, self.video = text, video

    def scores(self, rows: slice, columns: slice) -> Tensor:
        """Return the scores of a block, float64 [n, m]."""
        texts, row = self._texts[rows].unique(return_inverse=True)
        videos, column = self._videos[columns].unique(return_inverse=True)
        left = texts.repeat_interleave(len(videos))
        table = exact_scores(self.text, self.video, left, videos.repeat(len(texts)))
        return table.view(len(texts), len(videos))[row][:, column]

    @cached_property
    def _texts(self) -> Tensor:
        return first_alike(self.text)

    @cached_property
    def _videos(self) -> Tensor:
        return first_alike(self.video)


def first_alike(vectors: Tensor) -> Tensor:
    """Return for each vector the position of one that has the same bits, int64 [n]."""
    _, kind = torch.unique(vectors.view(torch.int32), dim=0, return_inverse=True)
    places = torch.arange(len(vectors), device=vectors.device)
    return places.scatter_reduce(0, kind, places, "amin", include_self=False)[kind]


def _halves(products: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield views of products [K, D]: what to add to, and what to add, until one column is left."""
    width = products.shape[1]
    while width > 1:
        half = (width + 1) // 2
        yield products[:, : width - half], products[:, half:width]
        width = half
