"""The cost counters against arithmetic done by hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_bench.evaluation.efficiency import (
    bytes_per_item,
    count_flops,
    parameter_count,
    peak_memory,
    query_latency,
)

B, L, D, HIDDEN = 3, 7, 16, 40


def encoder_flops(batch: int, length: int, width: int, hidden: int) -> int:
    """Two per multiply-add: q, k, v and output projections, scores, weighted sum, two linears."""
    projections = 4 * length * width * width
    attention = 2 * length * length * width
    feed_forward = 2 * length * width * hidden
    return 2 * batch * (projections + attention + feed_forward)


def encoder_layer() -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(D, 4, HIDDEN, dropout=0.0, batch_first=True).eval()


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_count_includes_attention(context: Callable[[], torch.enable_grad]) -> None:
    layer, tokens = encoder_layer(), torch.randn(B, L, D)
    with context():
        counted = count_flops(lambda: layer(tokens))
    assert counted == encoder_flops(B, L, D, HIDDEN)


def test_count_of_a_masked_attention_and_a_convolution() -> None:
    q = torch.randn(B, 2, L, D)
    mask = torch.ones(L, L, dtype=torch.bool).tril()
    attend = count_flops(lambda: F.scaled_dot_product_attention(q, q, q, attn_mask=mask))
    assert attend == 2 * B * 2 * (2 * L * L * D)
    image, kernel = torch.randn(1, 3, 32, 32), torch.randn(8, 3, 16, 16)
    assert count_flops(lambda: F.conv2d(image, kernel, stride=16)) == 2 * 4 * 8 * 3 * 16 * 16


def test_count_of_a_backward_pass_is_two_more_products() -> None:
    weight = torch.randn(D, D, requires_grad=True)
    x = torch.randn(L, D, requires_grad=True)
    forward = count_flops(lambda: x @ weight)
    assert forward == 2 * L * D * D
    assert count_flops(lambda: (x @ weight).sum().backward()) == 3 * forward


@pytest.mark.parametrize("enabled", [True, False])
def test_count_leaves_the_switches_as_they_were(enabled: bool) -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    flash = torch.backends.cuda.flash_sdp_enabled()
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        with pytest.raises(RuntimeError, match="stop"):
            count_flops(_fail)
        assert torch.backends.mha.get_fastpath_enabled() is enabled
        assert torch.backends.cuda.flash_sdp_enabled() is flash
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _fail() -> None:
    raise RuntimeError("stop")


def test_parameters_shared_by_two_layers_count_once() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    first.bias.requires_grad_(False)
    count = parameter_count(nn.Sequential(first, second))
    assert (count.total, count.trainable) == (16 + 4 + 4, 16 + 4)


def test_bytes_per_item_follow_shape_and_type() -> None:
    features = {
        "frames": torch.zeros(5, 12, 8, dtype=torch.float16),
        "mask": torch.zeros(5, 12, dtype=torch.bool),
    }
    assert bytes_per_item(features) == 12 * 8 * 2 + 12
    with pytest.raises(ValueError, match="number of items"):
        bytes_per_item({**features, "mean": torch.zeros(4, 8)})
    with pytest.raises(ValueError, match="above 0"):
        bytes_per_item({"mean": torch.zeros(0, 8)})


def test_peak_memory_sees_this_process_and_its_children() -> None:
    block = 150_000_000
    before = peak_memory()
    subprocess.run([sys.executable, "-c", f"x = b'x' * {block}"], check=True)
    assert peak_memory().largest_child > block / 1e6
    held = torch.ones(block, dtype=torch.uint8)
    # whole-process peaks never fall, so a peak reached before this test may hide the block
    assert peak_memory().process >= max(before.process, held.numel() / 1e6)


def test_latency_scores_every_query_against_the_whole_gallery() -> None:
    calls: list[tuple[int, int]] = []

    def similarity(text: dict[str, Tensor], video: dict[str, Tensor]) -> Tensor:
        calls.append((len(text["t"]), len(video["v"])))
        assert torch.is_inference_mode_enabled()
        return text["t"] @ video["v"].T

    text, video = {"t": torch.randn(9, D)}, {"v": torch.randn(25, D)}
    latency = query_latency(similarity, text, video, queries=4, block=10, warmup=2)
    assert calls == [(1, 10), (1, 10), (1, 5)] * 6
    assert (latency.queries, latency.gallery) == (4, 25)
    assert 0 < latency.p50_ms <= latency.p95_ms


def test_latency_takes_percentiles_of_single_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = iter([5.0, *[1.0] * 18, 7.0, 90.0])  # the first is the warm-up
    clock = [0.0]

    def similarity(text: dict[str, Tensor], video: dict[str, Tensor]) -> Tensor:
        clock[0] += next(durations) / 1e3
        return torch.zeros(1, 1)

    monkeypatch.setattr("tvr_bench.evaluation.efficiency.time.perf_counter", lambda: clock[0])
    latency = query_latency(
        similarity, {"t": torch.zeros(20, 1)}, {"v": torch.zeros(3, 1)}, warmup=1
    )
    assert latency.queries == 20
    assert latency.p50_ms == pytest.approx(1.0)
    assert latency.p95_ms == pytest.approx(7.0)
