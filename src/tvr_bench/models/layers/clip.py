"""CLIP towers of `transformers`, from the hub, a local folder or a file of OpenAI's.

B batch, F frames, P patches, L words, D width of the joint space.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tvr_bench.errors import UserError
from tvr_bench.models.layers import towers
from tvr_bench.models.layers.hub import CLIP as HUB
from tvr_bench.models.layers.hub import OPENAI, PICKLE, SAFE
from tvr_bench.models.layers.openai_clip import load_openai
from tvr_bench.models.layers.torch_files import read_state

_PART = "clip"
_SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("layer_norm_eps", "attention_dropout", "hidden_act"),
)
_TEXT_SIZES = (
    *(*_SIZES, "vocab_size", "max_position_embeddings"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
_IMAGE_SIZES = (*_SIZES, "num_channels", "image_size", "patch_size")
_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's own preprocessing
_STD = (0.26862954, 0.26130258, 0.27577711)


def source(name: str, weights: str | None) -> str:
    """Return the folder, file or hub name that the weights of backbone `name` come from."""
    return weights or HUB[name]


def text_source(name: str, weights: str | None) -> str:
    """Return the folder or hub name of the tokenizer.

    A file of OpenAI's has none: it is taken from beside it, or else from the hub.
    """
    where = source(name, weights)
    if not is_file(where):
        return where
    beside = Path(where).parent
    return str(beside) if (beside / "tokenizer.json").is_file() else HUB[name]


def is_file(where: str) -> bool:
    """Return whether weights are one file, there or not, and no folder or hub name."""
    return Path(where).is_file() or (Path(where).suffix == ".pt" and not Path(where).is_dir())


def missing(name: str, where: str, error: BaseException) -> UserError:
    """Return the one error that says which weights to download and where to put them."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    file = next(file for file, (backbone, _) in OPENAI.items() if backbone == name)
    return UserError(
        f"backbone {name} has no weights at '{where}' ({reason}). Download the repository "
        f"{HUB[name]} (config.json, tokenizer.json, model.safetensors or pytorch_model.bin) from "
        "the Hugging Face hub into a folder and set backbone.weights=FOLDER, or OpenAI's "
        f"{file} and put that tokenizer.json beside it"
    )


def missing_tokenizer(name: str, weights: str, error: BaseException) -> UserError:
    """Return the one error for a file of OpenAI's that no tokenizer is found for."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return UserError(
        f"{weights} brings no tokenizer, and there is none for it ({reason}). Put tokenizer.json "
        f"of {HUB[name]} on the Hugging Face hub beside it"
    )


class ClipBackbone(nn.Module):
    """CLIP's image and text tower behind the interface that every backbone has."""

    image_parts = ("clip.vision_model", "clip.visual_projection")
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        weights: str | None,
        size: tuple[int, int],
        activation: str | None = None,
    ) -> None:
        """Take backbone `name` from `weights` for pictures of `size`; `activation`: `_load`."""
        super().__init__()
        shape = towers.kept(_PART)
        where = source(name, weights)
        self.clip = _load(name, where, activation) if shape is None else _build(shape)
        self.clip.logit_scale.requires_grad_(False)  # RetrievalModule has its own
        # where that one starts; a model made from a kept shape gets all its weights later
        self.trained_scale = self.clip.logit_scale.exp().item() if shape is None else None
        config: Any = self.clip.config
        side = config.vision_config.image_size
        if tuple(size) != (side, side):
            raise UserError(
                f"backbone {name} sees {side}x{side} pixels, not {size[0]}x{size[1]}; "
                f"set video.size=[{side},{side}]"
            )
        self.dim = int(config.projection_dim)
        self.words = int(config.text_config.max_position_embeddings)  # most that a text may have
        self.shapes = {_PART: _shape(config)}
        self.pretrained = {} if shape else {_PART: towers.content(self.clip)}
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


def _load(name: str, where: str, activation: str | None) -> Any:
    """Return the CLIPModel of a file, a folder or a hub name; UserError where there is none.

    `activation` is for a file that does not name its own.
    """
    if is_file(where):
        return load_openai(name, Path(where), activation)
    if activation is not None:
        raise UserError(
            f"the config.json of {where} names its activation; leave backbone.activation alone"
        )
    if not Path(where).is_dir() and where.count("/") != 1:
        raise missing(name, where, FileNotFoundError("no such folder"))
    try:
        folder = Path(where) if Path(where).is_dir() else _download(where)
        model, info = _open(folder)
    except Exception as error:  # a stranger's files may be broken in any way
        raise missing(name, where, error) from error
    if info["missing_keys"]:  # transformers would leave these random
        raise missing(name, where, KeyError(f"no {min(info['missing_keys'])} in it"))
    return model


def _download(repository: str) -> Path:
    """Return the folder of a repository on the hub, or of what was once downloaded of it.

    OpenAI's own have tensors as safetensors only in a pull request; the main branch has a pickle.
    """
    from huggingface_hub import snapshot_download

    for weights in (SAFE, PICKLE):
        files = ["config.json", "tokenizer.json", weights]
        folder = Path(snapshot_download(repository, allow_patterns=files))
        if (folder / weights).is_file():
            break
    return folder


def _open(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return the model of a folder, float32, and what transformers says of its loading."""
    from transformers import CLIPConfig, CLIPModel

    place: Path | None = folder
    how: dict[str, Any] = {"use_safetensors": True}  # never a pickle that can run code
    if (folder / PICKLE).is_file() and not list(folder.glob("*.safetensors")):
        place = None
        how = {
            "config": CLIPConfig.from_pretrained(folder),
            "state_dict": read_state(folder / PICKLE),
        }
    loaded: Any = CLIPModel.from_pretrained(
        place, dtype=torch.float32, output_loading_info=True, **how
    )
    return loaded


def _build(shape: dict[str, Any]) -> Any:
    """Return the CLIPModel of a kept shape, with random weights; UserError for impossible ones."""
    from transformers import CLIPConfig, CLIPModel

    try:
        config = CLIPConfig(
            projection_dim=shape["projection_dim"],
            text_config=towers.select(shape["text_config"], _TEXT_SIZES),
            vision_config=towers.select(shape["vision_config"], _IMAGE_SIZES),
        )
        return CLIPModel(config).eval()
    except Exception as error:  # sizes of a stranger
        raise towers.impossible(_PART, error) from error


def _shape(config: Any) -> dict[str, Any]:
    return {
        "projection_dim": config.projection_dim,
        "text_config": towers.select(config.text_config.to_dict(), _TEXT_SIZES),
        "vision_config": towers.select(config.vision_config.to_dict(), _IMAGE_SIZES),
    }
