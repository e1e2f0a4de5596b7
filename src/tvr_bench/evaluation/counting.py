"""The counting kernel: how many scores of a row lie above, or level with, a threshold.

N rows, M columns. Scores are compared exactly, in float32 (in float64 where they need it).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Elements compared at once: on a CPU 1 MiB of float32, so that both operands stay in cache.
_CPU_CHUNK = 1 << 18
_GPU_CHUNK = 1 << 26
_EXACT = 1 << 24  # float32 counts every whole number up to here


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that scores of `dtype` are compared in: float32 or float64."""
    small = dtype.is_floating_point and dtype.itemsize <= 4
    return torch.float32 if small or dtype == torch.bool else torch.float64


def count_rows(scores: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Return per row how many of scores [N, M] are > and == threshold [N], each int64 [N].

    Nothing is above or level with a NaN, and a NaN is above or level with nothing. The matrix is
    walked in its own memory order, so a transposed view costs no more than the matrix.
    """
    columnwise = scores.stride(0) < scores.stride(1)
    scores = scores.T if columnwise else scores
    above = torch.zeros(len(threshold), dtype=torch.int64, device=scores.device)
    level = torch.zeros_like(above)
    threshold = threshold.to(scores.device, exact_dtype(scores.dtype))
    for lines, chunk, buffer in _chunks(scores):
        if columnwise:
            above += _sum(torch.gt(chunk, threshold, out=buffer), 0)
            level += _sum(torch.eq(chunk, threshold, out=buffer), 0)
        else:
            limit = threshold[lines, None]
            above[lines] = _sum(torch.gt(chunk, limit, out=buffer), 1)
            level[lines] = _sum(torch.eq(chunk, limit, out=buffer), 1)
    return above, level


def count_nan(scores: Tensor) -> int:
    """Return how many of the scores [N, M] are NaN."""
    if not (scores.is_floating_point() and len(scores)):
        return 0
    # A sum is several times faster than a count, and no NaN survives in a sum that is a number.
    if not any(bool(chunk.sum().isnan()) for _, chunk, _ in _chunks(scores)):
        return 0
    return sum(int(chunk.isnan().sum()) for _, chunk, _ in _chunks(scores))


def _chunks(scores: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield the rows of each chunk, the chunk ready to compare, and a float32 buffer like it."""
    size = _CPU_CHUNK if scores.device.type == "cpu" else _GPU_CHUNK
    rows = max(1, min(len(scores), size // max(1, scores.shape[1])))
    buffer = torch.empty(rows, scores.shape[1], device=scores.device)
    for start in range(0, len(scores), rows):
        chunk = scores[start : start + rows].to(exact_dtype(scores.dtype))
        yield slice(start, start + len(chunk)), chunk, buffer[: len(chunk)]


def _sum(flags: Tensor, dim: int) -> Tensor:
    """Return the sum of 0/1 floats; float flags are compared and summed faster than booleans."""
    exact = flags.shape[dim] <= _EXACT
    return flags.sum(dim, dtype=None if exact else torch.float64).to(torch.int64)
