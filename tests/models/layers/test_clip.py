"""The CLIP towers against transformers itself, from a checkpoint made here; no download."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from tvr_bench.config import load
from tvr_bench.datamodules.tokens import build_tokenizer, encode
from tvr_bench.errors import UserError
from tvr_bench.models.layers.clip import ClipBackbone
from tvr_bench.registry import create_model

SIDE, WIDTH = 32, 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the hub would give it, with random weights."""
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    tower |= {"num_hidden_layers": 2, "projection_dim": WIDTH}
    text = tower | {"vocab_size": 60, "max_position_embeddings": 16, "eos_token_id": 2}
    image = tower | {"image_size": SIDE, "patch_size": 16}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=image, projection_dim=WIDTH)
    path = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(path)
    vocab = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "a", "red", "ball"])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def test_features_equal_those_of_transformers(folder: Path) -> None:
    from transformers import CLIPModel

    backbone = ClipBackbone("clip_vit_b32", str(folder), (SIDE, SIDE)).eval()
    reference = CLIPModel.from_pretrained(folder).eval()
    frames = torch.randint(0, 256, (2, 3, 3, SIDE, SIDE), dtype=torch.uint8)
    pixels = (frames.flatten(0, 1) / 255 - backbone.mean) / backbone.std
    ids = torch.tensor([[1, 3, 4, 5, 2], [1, 3, 5, 2, 0]])
    mask = torch.tensor([[True] * 5, [True] * 4 + [False]])
    with torch.no_grad():
        frame, patches = backbone.encode_frames(frames)
        vision = reference.vision_model(pixel_values=pixels).pooler_output
        pooled, words = backbone.encode_text(ids, mask)
        hidden = reference.text_model(input_ids=ids, attention_mask=mask.long())
        expected = reference.visual_projection(vision).view(2, 3, WIDTH)
        last = reference.text_projection(hidden.last_hidden_state)
    torch.testing.assert_close(frame, expected)
    assert patches.shape == (2, 3, 4, WIDTH) and words.shape == (2, 5, WIDTH)
    torch.testing.assert_close(pooled, torch.stack([last[0, 4], last[1, 3]]))


def test_a_model_is_built_on_a_local_folder(folder: Path) -> None:
    settings = {"backbone.name": "clip_vit_b32", "backbone.weights": folder, "text.words": 8}
    model = create_model("tcard", **settings, **{"video.size": f"[{SIDE},{SIDE}]", "heads": 2})
    assert model.backbone.dim == WIDTH
    rates = sorted({group["lr"] for group in model.parameter_groups()})
    assert len(rates) == 2 and rates[0] == pytest.approx(1e-3 * rates[1])


def test_the_tokenizer_of_the_folder_is_used(folder: Path) -> None:
    cfg = load(["backbone.name=clip_vit_b32", f"backbone.weights={folder}", "text.words=8"])
    ids, mask = encode(build_tokenizer(cfg, []), ["a red ball"])
    assert ids[0, :3].tolist() == [3, 4, 5] and mask[0].tolist() == [True] * 3 + [False] * 5


def test_missing_weights_say_what_to_bring_and_where(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.safetensors.*backbone\.weights=FOLDER"):
        ClipBackbone("clip_vit_b32", str(tmp_path), (SIDE, SIDE))
    with pytest.raises(UserError, match="no such folder"):
        ClipBackbone("clip_vit_b32", str(tmp_path / "none"), (SIDE, SIDE))


def test_another_frame_size_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"video\.size=\[32,32\]"):
        ClipBackbone("clip_vit_b32", str(folder), (64, 64))
