"""What a model costs: FLOPs, parameters, bytes, memory and time per query.

FLOPs, parameters and bytes do not depend on the machine; memory and time do, so a record names
the device beside them. N texts, M videos.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Features = Mapping[str, Tensor]  # every tensor [items, ...]


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters; a tensor that two layers share counts once."""

    total: int
    trainable: int


@dataclass(frozen=True)
class PeakMemory:
    """The most resident memory so far, in MB of 10^6 bytes.

    `process` is this process; `largest_child` is the largest of its finished child processes
    (the system keeps a maximum over children, not their sum).
    """

    process: float
    largest_child: float


@dataclass(frozen=True)
class Latency:
    """Milliseconds to score one query against the whole gallery: median and 95th percentile."""

    p50_ms: float
    p95_ms: float
    queries: int
    gallery: int


def count_flops(work: Callable[[], object]) -> int:
    """Return the floating point operations of `work()`, a multiply-add counting as two.

    Matrix products, convolutions and attention count; elementwise operations do not. Gradients
    are counted where `work` computes them. Both switches of the attention are put back after.
    """
    counter = FlopCounterMode(display=False)
    # a fused attention kernel on CPU and the encoder's fast path are one opaque operation each,
    # which the counter takes for 0
    with _without_fastpath(), sdpa_kernel(SDPBackend.MATH), counter:
        work()
    return int(counter.get_total_flops())


def parameter_count(module: nn.Module) -> ParameterCount:
    """Return how many parameters `module` has, and how many of them are trained."""
    parameters = list(module.parameters())
    return ParameterCount(
        total=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
    )


def bytes_per_item(features: Features) -> float:
    """Return the bytes that one item of `features` takes, i.e. what a gallery stores per video.

    Raises ValueError where the tensors do not have the same number of items, or none.
    """
    items = {len(tensor) for tensor in features.values()}
    if len(items) != 1 or items == {0}:
        raise ValueError(f"features must share one number of items above 0, not {sorted(items)}")
    total = sum(tensor.numel() * tensor.element_size() for tensor in features.values())
    return total / items.pop()


def peak_memory() -> PeakMemory:
    """Return the peak resident memory of this process and of its largest finished child."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return PeakMemory(own * unit / 1e6, child * unit / 1e6)


def query_latency(
    similarity: Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor],
    text: Features,
    video: Features,
    *,
    queries: int = 50,
    block: int = 1024,
    warmup: int = 3,
) -> Latency:
    """Time `similarity` on single queries against all videos of `video`, already encoded.

    `queries` of the N texts, evenly spread, are timed one by one after `warmup` untimed ones; the
    gallery is scored in blocks of `block` videos, as a search would that keeps its memory bounded.
    """
    texts = len(next(iter(text.values())))
    videos = len(next(iter(video.values())))
    timed = max(1, min(queries, texts))
    picked = [i * texts // timed for i in range(timed)]
    blocks = [_rows(video, at, at + block) for at in range(0, videos, block)]
    device = next(iter(video.values())).device

    def once(index: int) -> float:
        query = _rows(text, index, index + 1)
        _synchronise(device)
        start = time.perf_counter()
        for part in blocks:
            similarity(query, part)
        _synchronise(device)
        return (time.perf_counter() - start) * 1e3

    with torch.inference_mode():
        for i in range(warmup):
            once(picked[i % timed])
        taken = sorted(once(i) for i in picked)
    # the smallest time that 95 % of the queries do not exceed
    p95 = taken[-(-95 * timed // 100) - 1]
    return Latency(statistics.median(taken), p95, timed, videos)


def _rows(features: Features, start: int, stop: int) -> dict[str, Tensor]:
    return {name: tensor[start:stop] for name, tensor in features.items()}


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _without_fastpath() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
