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
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Features = Mapping[str, Tensor]  # every tensor [items, ...]
_GATHERED = 1 << 20  # bytes of features that are put side by side to be scored at once


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
    """Milliseconds to search the whole gallery for one query: median and 95th percentile.

    `recall_p50_ms` is the median time of stage one, where there are two.
    """

    p50_ms: float
    p95_ms: float
    queries: int
    gallery: int
    recall_p50_ms: float | None = None


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
    videos = len(next(iter(video.values())))
    blocks = [_rows(video, at, at + block) for at in range(0, videos, block)]

    def once(query: dict[str, Tensor]) -> None:
        for part in blocks:
            similarity(query, part)

    return _latency(once, text, videos, queries, warmup)


def two_stage_latency(
    recall: Callable[[dict[str, Tensor]], Tensor],
    rerank: Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor],
    text: Features,
    video: Features,
    k: int,
    *,
    queries: int = 50,
    warmup: int = 3,
) -> Latency:
    """Time single queries that `recall` finds k candidates for, which `rerank` scores as a test.

    The vectors of the gallery are made beforehand. As many candidates are scored at once as fit
    in cache when their features are put side by side; a larger one is read where it lies.
    """
    videos = len(next(iter(video.values())))
    with torch.inference_mode():
        gallery = recall(dict(video))
    fitting = max(1, int(_GATHERED // max(1.0, bytes_per_item(video))))

    def first(query: dict[str, Tensor]) -> list[int]:
        scores = gallery @ recall(query)[0]
        found: list[int] = scores.topk(min(k, videos)).indices.tolist()
        return found

    def once(query: dict[str, Tensor]) -> None:
        best = first(query)
        for at in range(0, len(best), fitting):
            part = best[at : at + fitting]
            rerank(_some(query, [0] * len(part)), _some(video, part))

    whole = _latency(once, text, videos, queries, warmup)
    alone = _latency(first, text, videos, queries, warmup)
    return replace(whole, recall_p50_ms=alone.p50_ms)


def _latency(
    search: Callable[[dict[str, Tensor]], object],
    text: Features,
    videos: int,
    queries: int,
    warmup: int,
) -> Latency:
    """Time `search` on some texts, evenly spread, one by one after `warmup` untimed ones."""
    texts = len(next(iter(text.values())))
    timed = max(1, min(queries, texts))
    picked = [_rows(text, at, at + 1) for at in (i * texts // timed for i in range(timed))]
    device = next(iter(text.values())).device

    def once(query: dict[str, Tensor]) -> float:
        _synchronise(device)
        start = time.perf_counter()
        search(query)
        _synchronise(device)
        return (time.perf_counter() - start) * 1e3

    with torch.inference_mode():
        for i in range(warmup):
            once(picked[i % timed])
        taken = sorted(once(query) for query in picked)
    # the smallest time that 95 % of the queries do not exceed
    p95 = taken[-(-95 * timed // 100) - 1]
    return Latency(statistics.median(taken), p95, timed, videos)


def _some(features: Features, items: list[int]) -> dict[str, Tensor]:
    """Return some items; a single one is a view."""
    if len(items) == 1:
        return _rows(features, items[0], items[0] + 1)
    return {name: tensor[items] for name, tensor in features.items()}


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
