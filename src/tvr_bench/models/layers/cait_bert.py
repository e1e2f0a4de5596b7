"""CRET's own towers: CaiT-S/24 of `timm` and BERT-base of `transformers`, from the hub or a folder.

They were never trained together, so there is no joint space: CaiT's features are narrower than
BERT's and are padded with zeros to the joint width, which keeps every product between them. A model
with a projection of its own takes the first `image_dim` channels.

B batch, F frames, P patches, L words, D width of BERT.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_bench.errors import UserError

NAME = "cait_bert"
HUB = {  # by the name of the folder under backbone.weights
    "cait_s24_224": "timm/cait_s24_224.fb_dist_in1k",
    "bert-base-uncased": "google-bert/bert-base-uncased",
}
_IMAGE, _TEXT = HUB
_FILES = ["config.json", "model.safetensors"]
_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)


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

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str | None, size: tuple[int, int]) -> None:
        super().__init__()
        self.image, self.text = _load_image(weights), _load_text(weights)
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

    def encode_text(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled [B, D] (the CLS token) and word [B, L, D] features."""
        words = self.text(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return words[:, 0], words

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return frame [B, F, D] and patch [B, F, P, D] features of uint8 [B, F, 3, H, W]."""
        pixels = (frames.flatten(0, 1).float() / 255 - self.mean) / self.std
        tokens = self.image.forward_features(pixels)
        tokens = F.pad(tokens, (0, self.dim - self.image_dim)).unflatten(0, frames.shape[:2])
        return tokens[:, :, 0], tokens[:, :, 1:]


def _source(part: str, weights: str | None) -> str:
    return str(Path(weights) / part) if weights else HUB[part]


def _load_image(weights: str | None) -> Any:
    """Return CaiT with the weights of a folder, its classifier left out."""
    import timm
    from huggingface_hub import snapshot_download
    from timm.models.cait import Cait

    where = _source(_IMAGE, weights)
    try:
        folder = Path(where if weights else snapshot_download(where, allow_patterns=_FILES))
        # timm would take a pickle too, and leave what the file lacks at random
        tensors = load_file(folder / "model.safetensors")
        model = timm.create_model(f"local-dir:{folder}", pretrained=False, num_classes=0)
        if not isinstance(model, Cait):
            raise ValueError(f"a {type(model).__name__} is no CaiT")
        heads = ("head.weight", "head.bias")
        model.load_state_dict({k: v.float() for k, v in tensors.items() if k not in heads})
    except _ERRORS as error:
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
    except _ERRORS as error:
        raise missing(NAME, where, error) from error
    model, info = loaded
    if info["missing_keys"]:  # transformers would leave these random
        raise missing(NAME, where, KeyError(f"no {min(info['missing_keys'])} in it"))
    return model
