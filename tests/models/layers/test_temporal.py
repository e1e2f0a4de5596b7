"""The temporal transformer, held to torch's own attention and to CLIP's own text layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_bench.evaluation.efficiency import count_flops
from tvr_bench.models.layers.temporal import ClipBlock, QuickGELU, TemporalTransformer

B, FRAMES, D, HEADS = 3, 5, 16, 2


@pytest.fixture
def model() -> TemporalTransformer:
    """An untrained transformer whose biases are not zero, so that they count."""
    torch.manual_seed(0)
    made = TemporalTransformer(D, 2, HEADS, 7)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


@pytest.fixture
def mask() -> Tensor:
    """Clip 1 has two padded frames, clip 2 no valid one."""
    found = torch.ones(B, FRAMES).bool()
    found[1, 3:] = False
    found[2] = False
    return found


def _reference_block(block: ClipBlock, x: Tensor, mask: Tensor) -> Tensor:
    attention = nn.MultiheadAttention(D, HEADS, batch_first=True)
    attention.in_proj_weight = block.attention.qkv.weight
    attention.in_proj_bias = block.attention.qkv.bias
    attention.out_proj = block.attention.out
    seen = F.layer_norm(x, (D,), block.norm1.weight, block.norm1.bias)
    x = x + attention(seen, seen, seen, key_padding_mask=~mask)[0]
    hidden = block.mlp[0](F.layer_norm(x, (D,), block.norm2.weight, block.norm2.bias))
    return x + block.mlp[2](hidden / (1 + torch.exp(-1.702 * hidden)))


def test_it_is_positions_and_then_blocks(model: TemporalTransformer, mask: Tensor) -> None:
    x = torch.randn(B, FRAMES, D)
    expected = x[:2] + model.position[:FRAMES]
    for block in model.blocks:
        expected = _reference_block(block, expected, mask[:2])
    assert torch.allclose(model(x, mask)[:2], expected, atol=1e-5)


def test_padded_frames_change_nothing_but_themselves(
    model: TemporalTransformer, mask: Tensor
) -> None:
    x = torch.randn(B, FRAMES, D)
    changed = x.clone()
    changed[1, 3:] += 9
    found, expected = model(changed, mask), model(x, mask)
    assert torch.allclose(found[1, :3], expected[1, :3], atol=1e-6)
    assert not torch.allclose(found[1, 3:], expected[1, 3:])


def test_a_clip_without_a_frame_stays_finite_in_half_precision(
    model: TemporalTransformer, mask: Tensor
) -> None:
    found = model.to(torch.bfloat16)(torch.randn(B, FRAMES, D).bfloat16(), mask)
    assert found.dtype == torch.bfloat16 and found.isfinite().all()
    assert model.half()(torch.randn(B, FRAMES, D).half(), mask).isfinite().all()


def test_frames_are_told_apart_by_their_positions(model: TemporalTransformer) -> None:
    x = torch.randn(1, 1, D).expand(1, FRAMES, D)
    found = model(x, torch.ones(1, FRAMES).bool())
    assert not torch.allclose(found[0, 0], found[0, 1], atol=1e-3)


def test_every_parameter_gets_a_gradient() -> None:
    model = TemporalTransformer(D, 2, HEADS, FRAMES)
    model(torch.randn(B, FRAMES, D), torch.ones(B, FRAMES).bool()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(AssertionError, match="3 heads"):
        TemporalTransformer(D, 1, 3, FRAMES)


def test_quick_gelu_is_near_gelu() -> None:
    x = torch.linspace(-4, 4, 41)
    assert (QuickGELU()(x) - F.gelu(x)).abs().max() < 0.03


def _clip(width: int, heads: int) -> Any:
    from transformers import CLIPConfig, CLIPModel

    shared = {"num_hidden_layers": 3, "intermediate_size": 4 * width, "num_attention_heads": heads}
    text = shared | {"hidden_size": width, "max_position_embeddings": 6, "vocab_size": 50}
    vision = shared | {"hidden_size": width, "image_size": 32, "patch_size": 16}
    torch.manual_seed(1)
    clip = CLIPModel(CLIPConfig(projection_dim=width, text_config=text, vision_config=vision))
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return clip


def test_it_starts_from_clips_text_blocks(model: TemporalTransformer) -> None:
    clip, x = _clip(D, HEADS), torch.randn(B, FRAMES, D)
    own = model.position[6].clone()
    model.copy_clip_text(clip)
    expected = x + clip.text_model.embeddings.position_embedding.weight[:FRAMES]
    for layer in clip.text_model.encoder.layers[:2]:
        output = layer(expected, attention_mask=None)
        expected = output if isinstance(output, Tensor) else output[0]
    assert torch.allclose(model(x, torch.ones(B, FRAMES).bool()), expected, atol=1e-4)
    assert torch.equal(model.position[6], own)  # CLIP has six positions here, not seven


@pytest.mark.parametrize(("width", "heads"), [(32, HEADS), (D, 4)])
def test_a_clip_of_another_shape_is_left_alone(
    model: TemporalTransformer, width: int, heads: int
) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.copy_clip_text(_clip(width, heads))
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_its_cost_is_that_of_the_formula(model: TemporalTransformer) -> None:
    x, mask = torch.randn(B, FRAMES, D), torch.ones(B, FRAMES).bool()
    linear = 4 * D * D + 2 * 4 * D * D  # projections and MLP, multiply-adds per frame
    attention = 2 * FRAMES * D
    expected = 2 * 2 * B * FRAMES * (linear + attention)
    assert count_flops(lambda: model(x, mask)) == expected
