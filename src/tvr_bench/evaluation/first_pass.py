"""Fast scores of blocks of vectors, and how far they can be from the exact ones.

A pass scores by a matrix product in bf16, fp32 or fp64. With `t'` and `v'` the rounded vectors,
no score is further from the exact one than

    |t - t'| |v| + |t'| |v - v'| + g |t'| |v'|,    g = 2 D u,

where u is the unit roundoff of the sums, 2^-24 in fp32 and 2^-53 in fp64. D u bounds a sum in any
order, so it holds for any blocking and any number of threads; the factor 2 is for sums of parts
that are rounded once more, and for the rounding of the exact score itself.

N texts, M videos, n and m those of a block, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

PASSES = ("bf16", "fp32", "fp64")
_TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}
_CHUNK = 256  # vectors whose rounding is measured at once, in cache
_BF16_PAIRS = 1 << 18  # below this many scores, preparing bf16 costs more than it saves
# Largest norms for which neither overflow nor underflow can reach a float32 score.
_ORDINARY = (2.0**-20, 2.0**40)
_SLACK = 2.0**-40  # above what is lost of an ordinary score's norms where squares underflow


@dataclass(frozen=True)
class _Sizes:
    """Upper bounds of the norms [n] of one side and of what rounding takes off, float64."""

    norm: Tensor
    lost: Tensor

    def most(self) -> tuple[Tensor, Tensor]:
        """Return the greatest of each; vectors that are not finite have scores that are exact."""
        return self.norm.max(), self.lost.max()


class FirstPass:
    """The scores of blocks by one matrix product each, in buffers that are used again.

    `text_error` [N] and `video_error` [M], float64, bound the error of all scores of an item.
    Scores come as float32, or as float64 from fp64. They are those of the rounded product: a
    limit must be rounded by `limit` before it is compared with them.
    """

    def __init__(self, kind: str, text: Tensor, video: Tensor, area: int) -> None:
        """Take vectors float32 [N, D] and [M, D], and the number of scores of the largest block."""
        self.kind, self.dtype = kind, _TYPES[kind]
        self.text, self.video = text, video
        self.wide = torch.float64 if kind == "fp64" else torch.float32
        self._out = text.new_empty(area, dtype=self.dtype)
        self._scores = self._out if self.dtype == self.wide else text.new_empty(area)
        self._columns, self._right = slice(0, 0), video[:0].to(self.dtype)
        roundoff = 2.0**-53 if kind == "fp64" else 2.0**-24
        growth = 2 * text.shape[1] * roundoff
        sizes = _sizes(text, self.dtype), _sizes(video, self.dtype)
        self.text_error = _error(sizes[0], sizes[1], growth)
        self.video_error = _error(sizes[1], sizes[0], growth)

    def scores(self, rows: slice, columns: slice) -> Tensor:
        """Return the scores of a block [n, m]; the next call overwrites them."""
        if columns != self._columns:
            self._columns, self._right = columns, self.video[columns].to(self.dtype)
        left = self.text[rows].to(self.dtype)
        shape = len(left), len(self._right)
        out = self._out[: shape[0] * shape[1]].view(shape)
        torch.mm(left, self._right.T, out=out)
        if self.dtype == self.wide:
            return out
        return self._scores[: out.numel()].view(shape).copy_(out)

    def limit(self, limit: Tensor) -> Tensor:
        """Return float64 limits as the scores are rounded.

        Rounding keeps the order, so a rounded score above a rounded limit was above before.
        """
        return limit.to(self.dtype).to(self.wide)


def choose_pass(text: Tensor, video: Tensor, wanted: str | None = None) -> str:
    """Return the kind of the first pass: `wanted`, or what is fast for these vectors here.

    Vectors that are not finite, or so long or short that float32 overflows or underflows, are
    scored in fp64 from the start.
    """
    longest = [float(torch.linalg.vector_norm(side, dim=1).max()) for side in (text, video)]
    if not all(_ORDINARY[0] <= norm <= _ORDINARY[1] for norm in longest):
        return "fp64"
    if wanted is not None:
        return wanted
    many = len(text) * len(video) >= _BF16_PAIRS
    return "bf16" if many and _bf16_is_fast(text.device) else "fp32"


class _Modes:
    """How float32 products are made, which is set for all threads of the process at once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._before: tuple[str, str, bool] | None = None

    def hold(self) -> None:
        """Set full precision; the first of those who ask for it remembers what was set."""
        with self._lock:
            self._inside += 1
            if self._before is None:
                self._before = self._get()
                self._set("ieee", "ieee", False)

    def release(self) -> None:
        """Set what was set before, when the last of those who asked is done."""
        with self._lock:
            self._inside -= 1
            if not self._inside and self._before is not None:
                self._set(*self._before)
                self._before = None

    def _get(self) -> tuple[str, str, bool]:
        cuda = torch.backends.cuda.matmul
        cpu = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
        return cpu, cuda.fp32_precision, cuda.allow_bf16_reduced_precision_reduction

    def _set(self, cpu: str, gpu: str, sums: bool) -> None:
        cuda = torch.backends.cuda.matmul
        torch.backends.mkldnn.matmul.fp32_precision = cpu  # type: ignore[attr-defined]
        cuda.fp32_precision = gpu
        cuda.allow_bf16_reduced_precision_reduction = sums


_MODES = _Modes()


@contextmanager
def full_precision() -> Iterator[None]:
    """Let float32 products be what they say: no TF32, no bf16, no sums in bf16.

    Threads may be inside at the same time: what was set before comes back after the last one.
    """
    _MODES.hold()
    try:
        yield
    finally:
        _MODES.release()


def _bf16_is_fast(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def _sizes(vectors: Tensor, dtype: torch.dtype) -> _Sizes:
    """Return the norms of vectors [n, D] and of their rounding to `dtype`, from above."""
    work = torch.float64 if dtype == torch.float64 else torch.float32
    norm = torch.zeros(len(vectors), dtype=torch.float64, device=vectors.device)
    lost = torch.zeros_like(norm)
    for at in range(0, len(vectors), _CHUNK):
        part = vectors[at : at + _CHUNK]
        norm[at : at + _CHUNK] = torch.linalg.vector_norm(part, dim=1, dtype=work)
        if dtype == torch.bfloat16:
            lost[at : at + _CHUNK] = torch.linalg.vector_norm(part - part.to(dtype), dim=1)
    if work == torch.float32:
        grown = 1 + vectors.shape[1] * 2.0**-22  # the norms are float32 sums themselves
        norm, lost = norm * grown + _SLACK, lost * grown + _SLACK
    return _Sizes(norm.nan_to_num(0, 0, 0), lost)


def _error(mine: _Sizes, other: _Sizes, growth: float) -> Tensor:
    """Return the bound of the error of every score of mine with any of the other side, [n]."""
    norm, lost = other.most()
    rounded = mine.norm + mine.lost
    return mine.lost * norm + rounded * lost + growth * rounded * (norm + lost)
