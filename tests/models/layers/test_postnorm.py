"""The post-norm layer against its equations, one number at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tvr_bench.errors import UserError
from tvr_bench.models.layers import postnorm
from tvr_bench.models.layers.postnorm import (
    LayerSpec,
    PostNormLayer,
    SelfAttention,
    UnbiasedNorm,
    positions,
    small_start,
)

WIDTH, HEADS, TOKENS, BATCH = 8, 2, 5, 3
SPEC = LayerSpec(WIDTH, HEADS, mlp=3)


def _random(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).double() / 2
    return module


def _tokens(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, TOKENS, WIDTH, generator=generator, dtype=torch.float64)


def _mask() -> Tensor:
    return torch.arange(TOKENS) < torch.tensor([[TOKENS], [2], [4]])


def _slow_norm(norm: UnbiasedNorm, row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    std = math.sqrt(sum((x - mean) ** 2 for x in row) / (len(row) - 1))
    gain, bias = norm.gain.tolist(), norm.bias.tolist()
    return [g * (x - mean) / (std + 1e-6) + b for x, g, b in zip(row, gain, bias, strict=True)]


def _slow_linear(linear: nn.Linear, row: list[float]) -> list[float]:
    return [
        sum(w * x for w, x in zip(weights, row, strict=True)) + bias
        for weights, bias in zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)
    ]


def _slow_attention(attention: SelfAttention, rows: list[list[float]], open_: list[bool]) -> Tensor:
    size = WIDTH // HEADS
    parts = [_slow_linear(attention.qkv, row) for row in rows]
    out = []
    for query in parts:
        mixed = []
        for head in range(HEADS):
            q = query[head * size :][:size]
            logits = [
                sum(a * b for a, b in zip(q, key[WIDTH + head * size :][:size], strict=True))
                / math.sqrt(size)
                for key in parts
            ]
            weights = [math.exp(z) if seen else 0.0 for z, seen in zip(logits, open_, strict=True)]
            values = [value[2 * WIDTH + head * size :][:size] for value in parts]
            mixed += [
                sum(w * v[i] for w, v in zip(weights, values, strict=True)) / sum(weights)
                for i in range(size)
            ]
        out.append(_slow_linear(attention.out, mixed))
    return torch.tensor(out, dtype=torch.float64)


def _slow_layer(layer: PostNormLayer, rows: list[list[float]], open_: list[bool]) -> Tensor:
    seen = _slow_attention(layer.attention, rows, open_).tolist()
    first = [
        _slow_norm(layer.norm1, [a + b for a, b in zip(*pair, strict=True)])
        for pair in zip(rows, seen, strict=True)
    ]
    into, back = layer.mlp[0], layer.mlp[3]
    assert isinstance(into, nn.Linear) and isinstance(back, nn.Linear)
    out = []
    for row in first:
        hidden = [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in _slow_linear(into, row)]
        added = [a + b for a, b in zip(row, _slow_linear(back, hidden), strict=True)]
        out.append(_slow_norm(layer.norm2, added))
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_layer_by_its_equations(
    fused: bool, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postnorm, "_LONG", 0 if fused else 999)
    layer = _random(PostNormLayer(SPEC).double())
    assert isinstance(layer, PostNormLayer)
    x, mask = _tokens(), _mask()
    found = layer(x, mask if masked else None)
    for i in range(BATCH):
        open_ = mask[i].tolist() if masked else [True] * TOKENS
        expected = _slow_layer(layer, x[i].tolist(), open_)
        assert torch.allclose(found[i], expected, atol=1e-12)


@pytest.mark.parametrize("fused", [False, True])
def test_a_masked_token_is_seen_by_none(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postnorm, "_LONG", 0 if fused else 999)
    attention = SelfAttention(SPEC)
    x, mask = _tokens().float(), _mask()
    other = x.masked_fill(~mask[..., None], 100.0)
    assert torch.equal(attention(x, mask)[mask], attention(other, mask)[mask])
    nothing = attention(x, torch.zeros_like(mask))
    assert nothing.isfinite().all()
    assert torch.allclose(nothing, nothing[:, :1].expand_as(nothing), atol=1e-6)
    half = attention.bfloat16()(x.bfloat16(), torch.zeros_like(mask))
    assert half.isfinite().all()


def test_the_norm_divides_by_the_unbiased_deviation() -> None:
    norm = _random(UnbiasedNorm(WIDTH).double())
    assert isinstance(norm, UnbiasedNorm)
    for scale in (1e-6, 1e-3, 1.0, 1e4):
        x = scale * _tokens()
        expected = torch.tensor(
            [_slow_norm(norm, row) for row in x.flatten(0, 1).tolist()], dtype=torch.float64
        )
        assert torch.allclose(norm(x).flatten(0, 1), expected, rtol=1e-12, atol=1e-12)
    usual = nn.functional.layer_norm(_tokens(), (WIDTH,), norm.gain, norm.bias)
    assert not torch.allclose(norm(_tokens()), usual, atol=1e-2)


def test_the_gradient_of_the_norm_lacks_a_millionth() -> None:
    norm = _random(UnbiasedNorm(WIDTH).double())
    x = _tokens().requires_grad_()
    weights = torch.randn_like(x)
    std, mean = torch.std_mean(x, -1, keepdim=True)
    full = norm.gain * (x - mean) / (std + 1e-6) + norm.bias
    wanted = torch.autograd.grad((full * weights).sum(), [x, norm.gain, norm.bias])
    found = torch.autograd.grad((norm(x) * weights).sum(), [x, norm.gain, norm.bias])
    for one, other in zip(wanted, found, strict=True):
        assert (one - other).abs().max() < 1e-5 * one.abs().max()


def test_a_constant_token_has_a_value_and_a_gradient() -> None:
    norm = UnbiasedNorm(WIDTH)
    x = torch.full((2, WIDTH), 3.0, requires_grad=True)
    norm(x).sum().backward()
    assert (norm(x) == 0).all() and x.grad is not None and x.grad.isfinite().all()
    assert norm(x.bfloat16()).dtype == torch.bfloat16


def test_positions_count_every_dimension() -> None:
    found = positions(7, torch.zeros(1, 6, dtype=torch.float64))
    for p in range(7):
        for d in range(6):
            angle = p / 10000 ** (2 * d / 6)
            expected = math.sin(angle) if d % 2 == 0 else math.cos(angle)
            assert found[p, d].item() == pytest.approx(expected, abs=1e-6)
    assert found.dtype == torch.float64


def test_dropout_is_only_of_training() -> None:
    layer = PostNormLayer(LayerSpec(WIDTH, HEADS, dropout=0.5))
    x = _tokens().float()
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_small_first_values_leave_the_gains() -> None:
    torch.manual_seed(0)
    layer = PostNormLayer(LayerSpec(64, 4))
    small_start(layer, 0.1)
    assert (layer.norm1.gain == 1).all() and layer.norm1.bias.std() > 0
    assert layer.mlp[0].weight.abs().max() <= 0.2
    assert layer.mlp[0].weight.abs().max() > 0.19 and layer.mlp[0].weight.std() < 0.1


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(UserError, match=r"model\.heads=3 does not divide the width 8"):
        LayerSpec(8, 3)
