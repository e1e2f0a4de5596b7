"""OpenAI's CLIP files, such as `ViT-B-32.pt`, as the CLIPModel of `transformers`.

What a file of OpenAI's layout says is what their own loader takes from it: sizes from the tensors'
shapes, a head per 64 channels, quick GELU, the end of a text at its highest token. The weights are
half-precision there and float32 here. Others write that layout too, with a plain GELU, which no
tensor tells: theirs is the one that the archive or the user names.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from tvr_bench.errors import UserError
from tvr_bench.files import file_sha256
from tvr_bench.models.layers.hub import OPENAI
from tvr_bench.models.layers.torch_files import (
    is_torchscript,
    module_names,
    read_state,
    read_torchscript,
)

_HEAD = 64  # channels per attention head in every CLIP of OpenAI
_SIZES = ("input_resolution", "context_length", "vocab_size")  # kept among the tensors
_RENAMED = (  # in this order
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^text_projection$", "text_projection.weight"),
    (r"\.attn\.", ".self_attn."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
_TURNED = ("visual_projection.weight", "text_projection.weight")  # matrices, not linear layers


def load_openai(name: str, path: Path, activation: str | None = None) -> Any:
    """Return the CLIPModel in a `.pt` file of OpenAI's layout, float32, for backbone `name`.

    `activation` is quick_gelu or gelu; None is what the file has, and that quick GELU is taken is
    said where nothing tells. Raises UserError for a file that is none, and for one with an official
    name but other content.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}; {_advice(name)}")
    known = activation or ("quick_gelu" if _is_official(name, path) else None)
    try:
        # a module has other attributes than its weights
        archive = is_torchscript(path)
        tensors = read_torchscript(path) if archive else read_state(path)
        if archive:
            known = known or _named_activation(module_names(path))
        model = _model(tensors, known or "quick_gelu", more=archive)
    except Exception as error:  # a stranger's file may be broken in any way
        lines = str(error).splitlines() or [type(error).__name__]
        reason = f"no {lines[0]} in it" if isinstance(error, KeyError) else lines[0]
        raise UserError(
            f"{path} is no CLIP in OpenAI's layout ({reason[:120]}); {_advice(name)}"
        ) from error
    if known is None:
        _say(
            f"note: {path} is no file that OpenAI released and does not name its activation; quick "
            "GELU is taken, as OpenAI's have it. Weights of open_clip mostly have the plain one: "
            "set backbone.activation=gelu, or quick_gelu to confirm"
        )
    return model


def _say(line: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(line)


def _named_activation(modules: set[str]) -> str | None:
    """Return the activation among the names of an archive's modules, None where there is none."""
    kinds = {name.rsplit(".", 1)[-1] for name in modules}
    if "QuickGELU" in kinds:
        return "quick_gelu"
    return "gelu" if "GELU" in kinds else None


def _advice(name: str) -> str:
    file, (_, digest) = next(pair for pair in OPENAI.items() if pair[1][0] == name)
    return (
        f"fetch OpenAI's {file} (sha256 {digest}), or set backbone.weights to a folder or a name "
        "on the Hugging Face hub"
    )


def _is_official(name: str, path: Path) -> bool:
    """Return whether a file is one of OpenAI's, whatever it is called.

    Raises UserError where it is not the one that its name says, or is another backbone.
    """
    found = file_sha256(path)
    wanted = OPENAI[path.name][1] if path.name in OPENAI else found
    if found != wanted:
        raise UserError(
            f"{path} is not OpenAI's {path.name} (sha256 {found}, not {wanted}) and is not read; "
            "fetch it again, or give a file of your own another name"
        )
    backbone = {digest: backbone for backbone, digest in OPENAI.values()}.get(found)
    if backbone not in (None, name):
        raise UserError(f"{path} holds {backbone}, not {name}; set backbone.name={backbone}")
    return backbone is not None


def _model(tensors: dict[str, Tensor], activation: str, more: bool) -> Any:
    """Return the model; raises ValueError where a tensor is missing, of another shape, or unknown.

    With `more` unknown ones are left out.
    """
    from transformers import CLIPModel

    config = _config(tensors, activation)
    with torch.device("meta"):
        wanted = {key: value.shape for key, value in CLIPModel(config).state_dict().items()}
    state = _renamed({key: value for key, value in tensors.items() if key not in _SIZES})
    for key, shape in wanted.items():
        if key not in state:
            raise KeyError(key)
        if state[key].shape != shape:
            raise ValueError(f"{key} is {list(state[key].shape)}, not {list(shape)}")
    if not more and (unknown := set(state) - set(wanted)):
        raise ValueError(f"it has {min(unknown)[:60]}, which CLIP has not")
    return CLIPModel.from_pretrained(
        None, config=config, state_dict={key: state[key].float() for key in wanted}
    )


def _config(tensors: dict[str, Tensor], activation: str) -> Any:
    """Return the configuration that the tensors' shapes give."""
    from transformers import CLIPConfig

    words, width = tensors["positional_embedding"].shape
    image_width, _, patch, _ = tensors["visual.conv1.weight"].shape
    side = math.isqrt(tensors["visual.positional_embedding"].shape[0] - 1)
    vocab = tensors["token_embedding.weight"].shape[0]
    if width % _HEAD or image_width % _HEAD:
        raise ValueError(f"its towers are {width} and {image_width} wide, no multiples of {_HEAD}")
    ends = {"bos_token_id": vocab - 2, "eos_token_id": vocab - 1, "pad_token_id": None}
    places = {"vocab_size": vocab, "max_position_embeddings": words}
    pixels = {"image_size": side * patch, "patch_size": patch}
    return CLIPConfig(
        projection_dim=tensors["text_projection"].shape[1],
        text_config=_tower(tensors, "", width, activation) | places | ends,
        vision_config=_tower(tensors, "visual.", image_width, activation) | pixels,
    )


def _tower(tensors: dict[str, Tensor], prefix: str, width: int, activation: str) -> dict[str, Any]:
    block = re.compile(rf"{re.escape(prefix)}transformer\.resblocks\.(\d+)\.")
    return {
        "hidden_size": width,
        "intermediate_size": tensors[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": len({found[1] for key in tensors if (found := block.match(key))}),
        "num_attention_heads": width // _HEAD,
        "hidden_act": activation,
    }


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as `transformers` names them, with query, key and value apart."""
    state: dict[str, Tensor] = {}
    for key, value in tensors.items():
        for pattern, new in _RENAMED:
            key = re.sub(pattern, new, key)
        if found := re.fullmatch(r"(.+\.self_attn\.)in_proj_(weight|bias)", key):
            for part, third in zip("qkv", value.chunk(3), strict=True):
                state[f"{found[1]}{part}_proj.{found[2]}"] = third
        else:
            state[key] = value.t() if key in _TURNED else value
    return state
