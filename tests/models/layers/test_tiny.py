"""The small towers: what they see, what masks hide, what cannot be built."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_bench import config
from tvr_bench.errors import UserError
from tvr_bench.models.layers import tiny
from tvr_bench.models.layers.backbone import build_backbone
from tvr_bench.models.layers.tiny import (
    Attention,
    PatchEmbedding,
    TinyBackbone,
    TinyText,
    patchify,
)

SMALL = [
    *("backbone.weights=none", "backbone.width=16", "backbone.heads=2"),
    *("backbone.layers=2", "backbone.text_layers=2"),
]
SIZE = ["video.size=[32,48]", "text.vocab=300", "text.words=7"]
PATCHES = 6


def _backbone(*settings: str) -> TinyBackbone:
    torch.manual_seed(0)
    backbone = build_backbone(config.load([*SMALL, *SIZE, *settings]))
    assert isinstance(backbone, TinyBackbone)
    return backbone.eval()


def _frames(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (*shape, 3, 32, 48), generator=generator).byte()


def _texts(count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 300, (count, 7), generator=generator)
    lengths = torch.tensor([3, 5, 2, 6])[:count]
    return ids, torch.arange(7) < lengths[:, None]


def test_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours = Attention(16, 4)
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.in_proj_weight.data.copy_(ours.qkv.weight)
    theirs.in_proj_bias.data.copy_(ours.qkv.bias)
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    x, mask = torch.randn(3, 5, 16), torch.arange(5) < torch.tensor([[5], [2], [1]])
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x, x, x)[0], atol=1e-6)
        expected = theirs(x, x, x, key_padding_mask=~mask)[0]
        assert torch.allclose(ours(x, mask)[mask], expected[mask], atol=1e-6)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_mask_hides_in_half_precision_too(kind: torch.dtype) -> None:
    attention = Attention(16, 4).to(kind)
    x, mask = torch.randn(1, 4, 16).to(kind), torch.tensor([[True, True, False, False]])
    other = x.clone()
    other[:, 2:] = 30
    with torch.no_grad():
        found = attention(x, mask)
        assert found.isfinite().all()
        assert torch.equal(found[:, :2], attention(other, mask)[:, :2])


def test_patches_are_squares_in_reading_order() -> None:
    frames = _frames(2, 3)
    patches = patchify(frames, 16)
    assert patches.shape == (2, 3, PATCHES, 3 * 16 * 16)
    second_row_third_column = frames[1, 2, :, 16:32, 32:48]
    assert torch.equal(patches[1, 2, 5], second_row_third_column.flatten())


def test_motion_is_the_difference_to_the_frame_before() -> None:
    torch.manual_seed(0)
    embed, frames = PatchEmbedding(16, 16, motion=True), _frames(2, 4)
    pixels = (patchify(frames, 16).float() - 127.5) / 64
    change = torch.cat([torch.zeros_like(pixels[:, :1]), pixels[:, 1:] - pixels[:, :-1]], dim=1)
    assert embed.motion is not None
    expected = embed.still(pixels) + F.linear(change, embed.motion.weight)
    assert torch.allclose(embed(frames), expected, atol=1e-4)
    blind = PatchEmbedding(16, 16, motion=False)
    assert torch.allclose(blind(frames), blind.still(pixels), atol=1e-4)


def test_the_frames_given_are_not_changed() -> None:
    frames = _frames(1, 2)
    before = frames.clone()
    _backbone().encode_frames(frames)
    with torch.autocast("cpu", torch.bfloat16):
        _backbone().encode_frames(frames)
    assert torch.equal(frames, before)


@pytest.mark.parametrize("motion", [True, False])
def test_frames_have_a_feature_each_and_know_the_one_before(motion: bool) -> None:
    backbone, frames = _backbone(f"backbone.motion={str(motion).lower()}"), _frames(2, 4)
    with torch.no_grad():
        whole, patches = backbone.encode_frames(frames)
        single, _ = backbone.encode_frames(frames[:, 2:3])
        pair, _ = backbone.encode_frames(frames[:, 1:3])
    assert whole.shape == (2, 4, 16) and patches.shape == (2, 4, PATCHES, 16)
    assert torch.allclose(pair[:, 1], whole[:, 2], atol=1e-5)
    assert torch.allclose(single[:, 0], whole[:, 2], atol=1e-5) != motion


@pytest.mark.parametrize("grid", [0, 4])
def test_the_read_out_is_optional(grid: int) -> None:
    backbone = _backbone(f"backbone.grid={grid}")
    whole, _ = backbone.encode_frames(_frames(1, 2))
    assert whole.shape == (1, 2, 16) and whole.isfinite().all()
    assert (backbone.image.read is not None) == bool(grid)


def test_text_features_do_not_depend_on_padding_or_company() -> None:
    backbone, (ids, mask) = _backbone(), _texts()
    with torch.no_grad():
        pooled, words = backbone.encode_text(ids, mask)
        assert pooled.shape == (4, 16) and words.shape == (4, 7, 16)
        other = ids.masked_fill(~mask, 5)
        assert torch.allclose(backbone.encode_text(other, mask)[0], pooled, atol=1e-6)
        for i, length in enumerate(mask.sum(1).tolist()):
            alone, own = backbone.encode_text(ids[i : i + 1, :length], mask[i : i + 1, :length])
            assert torch.allclose(alone[0], pooled[i], atol=1e-6)
            assert torch.allclose(own[0], words[i, :length], atol=1e-6)


def test_pooled_is_the_last_word_plus_the_mean() -> None:
    backbone, (ids, mask) = _backbone(), _texts()
    pooled, words = backbone.encode_text(ids, mask)
    for i, length in enumerate(mask.sum(1).tolist()):
        expected = words[i, length - 1] + words[i, :length].mean(0)
        assert torch.allclose(pooled[i], expected, atol=1e-6)


def test_a_text_of_no_word_is_finite() -> None:
    ids = torch.zeros(2, 7, dtype=torch.int64)
    pooled, words = _backbone().encode_text(ids, torch.zeros(2, 7).bool())
    assert pooled.isfinite().all() and words.isfinite().all()


def test_the_order_of_words_matters() -> None:
    cfg = config.load([*SMALL, *SIZE])
    torch.manual_seed(0)
    tower = TinyText(cfg.backbone, 300, 7)
    ids = torch.tensor([[1, 40, 50, 2, 0, 0, 0], [1, 50, 40, 2, 0, 0, 0]])
    pooled, _ = tower(ids, torch.arange(7).expand(2, -1) < 4)
    assert not torch.allclose(pooled[0], pooled[1], atol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_towers_train_nothing(frozen: bool) -> None:
    backbone = _backbone(f"backbone.frozen={str(frozen).lower()}")
    assert backbone.dim == 16
    assert {parameter.requires_grad for parameter in backbone.parameters()} == {not frozen}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["backbone.width=18", "backbone.heads=4"], r"backbone\.width=18 .*backbone\.heads=4"),
        (["video.size=[32,50]"], r"video\.size=32x50 .*backbone\.patch=16"),
        (["backbone.patch=20"], r"video\.size=32x48 .*backbone\.patch=20"),
    ],
)
def test_what_cannot_be_built_is_one_line(settings: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        _backbone(*settings)


def test_scaled_features_have_the_same_cosines() -> None:
    backbone, frames, texts = _backbone(), _frames(2, 3), _texts()
    with torch.no_grad():
        before = (*backbone.encode_frames(frames), *backbone.encode_text(*texts))
        backbone.scale_features(0.25, 3.0)
        after = (*backbone.encode_frames(frames), *backbone.encode_text(*texts))
    for was, now, factor in zip(before, after, (0.25, 0.25, 3.0, 3.0), strict=True):
        assert torch.allclose(now, factor * was, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alike", [1, 2, 4])
def test_texts_sorted_by_length_give_what_all_of_them_at_once_give(
    alike: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = torch.tensor([5, 12, 3, 12, 0, 7, 4])
    mask = torch.arange(12) < lengths[:, None]
    torch.manual_seed(0)
    ids = torch.randint(3, 50, mask.shape)
    tower = TinyText(config.load(SMALL).backbone, 50, 12).double()
    found = []
    for size in (alike, 100):
        monkeypatch.setattr(tiny, "_ALIKE", size)
        pooled, words = tower(ids, mask)
        kept = [pooled[lengths > 0], words[mask]]
        loss = sum(((x * (i + 1)).sin().sum() for i, x in enumerate(kept)), torch.zeros(()))
        found.append([*kept, *torch.autograd.grad(loss, list(tower.parameters()))])
    for own, expected in zip(*found, strict=True):
        assert torch.allclose(own, expected, rtol=0, atol=1e-12)
