"""CLIP towers of `transformers`, from the hub or a local folder.

B batch, F frames, P patches, L words, D width of the joint space.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from tvr_bench.errors import UserError

HUB = {
    "clip_vit_b32": "openai/clip-vit-base-patch32",
    "clip_vit_b16": "openai/clip-vit-base-patch16",
}
_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's own preprocessing
_STD = (0.26862954, 0.26130258, 0.27577711)


def source(name: str, weights: str | None) -> str:
    """Return the folder or hub name that the weights of backbone `name` come from."""
    return weights or HUB[name]


def missing(name: str, where: str, error: BaseException) -> UserError:
    """Return the one error that says which weights to download and where to put them."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return UserError(
        f"backbone {name} has no weights at '{where}' ({reason}). Download the repository "
        f"{HUB[name]} (config.json, model.safetensors, tokenizer.json, vocab.json, merges.txt) "
        "from the Hugging Face hub into a folder and set backbone.weights=FOLDER"
    )


class ClipBackbone(nn.Module):
    """CLIP's image and text tower behind the interface that every backbone has."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, weights: str | None, size: tuple[int, int]) -> None:
        super().__init__()
        from transformers import CLIPModel

        where = source(name, weights)
        if weights and not Path(weights).is_dir() and weights.count("/") != 1:
            raise missing(name, where, FileNotFoundError("no such folder"))
        try:
            # safetensors only: a pickle from a stranger can run code
            loaded: Any = CLIPModel.from_pretrained(
                where, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise missing(name, where, error) from error
        self.clip, info = loaded
        if info["missing_keys"]:  # transformers would leave these random
            raise missing(name, where, KeyError(f"no {min(info['missing_keys'])} in it"))
        self.clip.logit_scale.requires_grad_(False)  # RetrievalModule has its own
        config: Any = self.clip.config
        side = config.vision_config.image_size
        if tuple(size) != (side, side):
            raise UserError(
                f"backbone {name} sees {side}x{side} pixels, not {size[0]}x{size[1]}; "
                f"set video.size=[{side},{side}]"
            )
        self.dim = int(config.projection_dim)
        self.words = int(config.text_config.max_position_embeddings)  # most that a text may have
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)

    def encode_text(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled [B, D] (the end-of-text token) and word [B, L, D] features."""
        output = self.clip.text_model(input_ids=ids, attention_mask=mask.long())
        words = self.clip.text_projection(output.last_hidden_state)
        end = (mask.sum(1) - 1).clamp_min(0)
        return words[torch.arange(len(ids), device=ids.device), end], words

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return frame [B, F, D] and patch [B, F, P, D] features of uint8 [B, F, 3, H, W]."""
        b, f = frames.shape[:2]
        pixels = (frames.flatten(0, 1).float() / 255 - self.mean) / self.std
        hidden = self.clip.vision_model(pixel_values=pixels).last_hidden_state
        tokens = self.clip.visual_projection(self.clip.vision_model.post_layernorm(hidden))
        tokens = tokens.view(b, f, tokens.shape[1], -1)
        return tokens[:, :, 0], tokens[:, :, 1:]
