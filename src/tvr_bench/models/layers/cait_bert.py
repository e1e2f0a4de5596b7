"""CRET's own towers: CaiT-S/24 of `timm` and BERT-base of `transformers`, from the hub or a folder.

They were never trained together, so there is no joint space: CaiT's features are narrower than
BERT's and are padded with zeros to the joint width, which keeps every product between them. A model
with a projection of its own takes the first `image_dim` channels.

B batch, F frames, P patches, L words, D width of BERT.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_bench.errors import UserError
from tvr_bench.models.layers import towers
from tvr_bench.models.layers.hub import CAIT_BERT as HUB
from tvr_bench.models.layers.hub import SAFE

NAME = "cait_bert"
_IMAGE, _TEXT = HUB
_TEXT_SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("intermediate_size", "hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob"),
    *("max_position_embeddings", "type_vocab_size", "layer_norm_eps"),
)
_IMAGE_SIZES = (
    *("img_size", "patch_size", "embed_dim", "depth", "depth_token_only"),
    *("num_heads", "mlp_ratio", "mlp_ratio_token_only"),
)
_FILES = ["config.json", SAFE]


def text_source(name: str, weights: str | None) -> str:
    """Return the folder or hub name of BERT and its tokenizer; `name` is that of the backbone."""
    return _source(_TEXT, weights)


def missing(name: str, where: str, error: BaseException) -> UserError:
    """Return the one error that says which weights to download and where to put them."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    image, text = HUB.values()
    return UserError(
        f"backbone {name} has no weights at '{where}' ({reason}). Download from the Hugging Face "
        f"hub {image} (config.json, model.safetensors) into FOLDER/{_IMAGE} and {text} "
        f"(config.json, model.safetensors, tokenizer.json) into FOLDER/{_TEXT}, and set "
        "backbone.weights=FOLDER"
    )


class CaitBertBackbone(nn.Module):
    """CaiT and BERT behind the interface that every backbone has."""

    image_parts = ("image",)
    mean: Tensor
    std: Tensor

    def __init__(self, weights: str | None, size: tuple[int, int]) -> None:
        super().__init__()
        image, text = towers.kept(_IMAGE), towers.kept(_TEXT)
        self.image = _load_image(weights) if image is None else _build_image(image)
        self.text = _load_text(weights) if text is None else _build_text(text)
        side = tuple(self.image.patch_embed.img_size)
        if tuple(size) != side:
            raise UserError(
                f"backbone {NAME} sees {side[0]}x{side[1]} pixels, not {size[0]}x{size[1]}; "
                f"set video.size=[{side[0]},{side[1]}]"
            )
        self.dim = int(self.text.config.hidden_size)
        self.image_dim = int(self.image.num_features)
        if self.image_dim > self.dim:
            raise UserError(
                f"backbone {NAME}: an image tower {self.image_dim} wide does not fit into BERT's "
                f"{self.dim}; choose a narrower CaiT"
            )
        self.words = int(self.text.config.max_position_embeddings)  # most that a text may have
        for key in ("mean", "std"):
            value = torch.tensor(self.image.pretrained_cfg[key]).view(3, 1, 1)
            self.register_buffer(key, value, persistent=False)
        sizes = towers.select(self.text.config.to_dict(), _TEXT_SIZES)
        self.shapes = {_IMAGE: _image_shape(self.image), _TEXT: sizes}
        parts = ((_IMAGE, image, self.image), (_TEXT, text, self.text))
        self.pretrained = {part: towers.content(t) for part, kept, t in parts if kept is None}

    def encode_text(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled [B, D] (the CLS token) and word [B, L, D] features."""
        words = self.text(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return words[:, 0], words

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return frame [B, F, D] and patch [B, F, P, D] features of uint8 [B, F, 3, H, W]."""
        pixels = (frames.flatten(0, 1).float() / 255 - self.mean) / self.std
        with _without_gradient(self.image.cls_token):
            tokens = self.image.forward_features(pixels)
        tokens = F.pad(tokens, (0, self.dim - self.image_dim)).unflatten(0, frames.shape[:2])
        return tokens[:, :, 0], tokens[:, :, 1:]


@contextmanager
def _without_gradient(token: Tensor) -> Iterator[None]:
    """Let a parameter want no gradient where none are made.

    Torch says of its views that they do all the same, which its FLOP counter does not survive.
    """
    wanted = token.requires_grad
    token.requires_grad_(wanted and torch.is_grad_enabled())
    try:
        yield
    finally:
        token.requires_grad_(wanted)


def _source(part: str, weights: str | None) -> str:
    return str(Path(weights) / part) if weights else HUB[part]


def _load_image(weights: str | None) -> Any:
    """Return CaiT with the weights of a folder, its classifier left out."""
    import timm
    from huggingface_hub import snapshot_download

    where = _source(_IMAGE, weights)
    try:
        folder = Path(where if weights else snapshot_download(where, allow_patterns=_FILES))
        # timm would take a pickle too, and leave what the file lacks at random
        tensors = load_file(folder / SAFE)
        kind = str(json.loads((folder / "config.json").read_text())["architecture"])
        if not kind.startswith("cait_"):
            raise ValueError(f"{kind[:60]} is no CaiT")
        model = timm.create_model(f"local-dir:{folder}", pretrained=False, num_classes=0)
        heads = ("head.weight", "head.bias")
        model.load_state_dict({k: v.float() for k, v in tensors.items() if k not in heads})
    except Exception as error:  # a stranger's files may be broken in any way
        raise missing(NAME, where, error) from error
    return model


def _load_text(weights: str | None) -> Any:
    """Return BERT without its pooler, which reads a token that no one here reads."""
    from transformers import BertModel

    where = _source(_TEXT, weights)
    try:
        if weights and not Path(where).is_dir():
            raise FileNotFoundError("no such folder")
        # safetensors only: a pickle from a stranger can run code
        loaded: Any = BertModel.from_pretrained(
            where,
            use_safetensors=True,
            dtype=torch.float32,
            add_pooling_layer=False,
            output_loading_info=True,
        )
    except Exception as error:  # a stranger's files may be broken in any way
        raise missing(NAME, where, error) from error
    model, info = loaded
    if info["missing_keys"]:  # transformers would leave these random
        raise missing(NAME, where, KeyError(f"no {min(info['missing_keys'])} in it"))
    return model


def _build_image(shape: dict[str, Any]) -> Any:
    """Return the CaiT of a kept shape, with random weights; UserError for an impossible one."""
    import timm

    try:
        if shape["embed_dim"] % shape["num_heads"]:
            raise ValueError("heads do not part the width")
        model: Any = timm.create_model(
            _IMAGE, pretrained=False, num_classes=0, **towers.select(shape, _IMAGE_SIZES)
        )
        colours = {key: tuple(shape[key]) for key in ("mean", "std")}
        model.pretrained_cfg = {**model.pretrained_cfg, **colours}
    except Exception as error:  # sizes of a stranger
        raise towers.impossible(_IMAGE, error) from error
    return model.eval()


def _build_text(shape: dict[str, Any]) -> Any:
    """Return the BERT of a kept shape, with random weights; UserError for an impossible one."""
    from transformers import BertConfig, BertModel

    try:
        config = BertConfig(**towers.select(shape, _TEXT_SIZES))
        return BertModel(config, add_pooling_layer=False).eval()
    except Exception as error:  # sizes of a stranger
        raise towers.impossible(_TEXT, error) from error


def _image_shape(model: Any) -> dict[str, Any]:
    block, last = model.blocks[0], model.blocks_token_only[0]
    width = model.num_features
    return {
        "img_size": list(model.patch_embed.img_size),
        "patch_size": list(model.patch_embed.patch_size),
        "embed_dim": width,
        "depth": len(model.blocks),
        "depth_token_only": len(model.blocks_token_only),
        "num_heads": block.attn.num_heads,
        "mlp_ratio": block.mlp.fc1.out_features / width,
        "mlp_ratio_token_only": last.mlp.fc1.out_features / width,
        **{key: list(model.pretrained_cfg[key]) for key in ("mean", "std")},
    }
