"""A CLIP of OpenAI's layout with random weights, its file in both forms, and its forward pass."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

SIDE, PATCH, IMAGE_WIDTH, IMAGE_LAYERS = 24, 8, 128, 1
WIDTH, LAYERS, WORDS, JOINT = 64, 2, 12, 20
State = dict[str, Tensor]


def random_state(vocab: int) -> State:
    """Return the tensors as OpenAI publishes them: half precision, but for the layer norms."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * (
            0.5 / math.sqrt(shape[-1] if shape else 1)
        )

    state = {
        "positional_embedding": normal(WORDS, WIDTH),
        "text_projection": normal(WIDTH, JOINT),
        "logit_scale": torch.tensor(4.6),
        "token_embedding.weight": normal(vocab, WIDTH),
        "visual.class_embedding": normal(IMAGE_WIDTH),
        "visual.positional_embedding": normal((SIDE // PATCH) ** 2 + 1, IMAGE_WIDTH),
        "visual.proj": normal(IMAGE_WIDTH, JOINT),
        "visual.conv1.weight": normal(IMAGE_WIDTH, 3, PATCH, PATCH),
    }
    for place, width in (
        ("ln_final", WIDTH),
        ("visual.ln_pre", IMAGE_WIDTH),
        ("visual.ln_post", IMAGE_WIDTH),
    ):
        state |= {f"{place}.weight": 1 + normal(width), f"{place}.bias": normal(width)}
    for prefix, width, layers in (("", WIDTH, LAYERS), ("visual.", IMAGE_WIDTH, IMAGE_LAYERS)):
        for layer in range(layers):
            block = f"{prefix}transformer.resblocks.{layer}."
            state |= {
                f"{block}attn.in_proj_weight": 4 * normal(3 * width, width),
                f"{block}attn.in_proj_bias": normal(3 * width),
                f"{block}attn.out_proj.weight": normal(width, width),
                f"{block}attn.out_proj.bias": normal(width),
                f"{block}ln_1.weight": 1 + normal(width),
                f"{block}ln_1.bias": normal(width),
                f"{block}mlp.c_fc.weight": normal(4 * width, width),
                f"{block}mlp.c_fc.bias": normal(4 * width),
                f"{block}mlp.c_proj.weight": normal(width, 4 * width),
                f"{block}mlp.c_proj.bias": normal(width),
                f"{block}ln_2.weight": 1 + normal(width),
                f"{block}ln_2.bias": normal(width),
            }
    return {key: value if ".ln_" in f".{key}" else value.half() for key, value in state.items()}


class Node(nn.Module):
    """A part of the model that has its tensors and computes nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def save_archive(state: State, path: Path, activation: nn.Module | None = None) -> None:
    """Write the tensors as the attributes of modules, as `torch.jit.save` does.

    `activation` is a module of the first block's, if it is there.
    """
    root = Node()
    for key, value in state.items():
        *places, last = key.split(".")
        node: nn.Module = root
        for place in places:
            if place not in dict(node.named_children()):
                node.add_module(place, Node())
            node = node.get_submodule(place)
        node.register_parameter(last, nn.Parameter(value))
    for name, number in (("input_resolution", SIDE), ("context_length", WORDS)):
        root.register_buffer(name, torch.tensor(number))
    # an attribute that is no weight, such as the mask of the text tower
    root.get_submodule("transformer.resblocks.0").attn_mask = torch.zeros(WORDS, WORDS)
    if activation is not None:
        root.get_submodule("transformer.resblocks.0.mlp").add_module("gelu", activation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(root), str(path))


def encode_image(state: State, pixels: Tensor) -> Tensor:
    """Return the features [B, JOINT] of normalised images [B, 3, SIDE, SIDE]."""
    v = {key.removeprefix("visual."): w for key, w in state.items() if key.startswith("visual.")}
    b, grid = len(pixels), SIDE // PATCH
    cut = pixels.reshape(b, 3, grid, PATCH, grid, PATCH).permute(0, 2, 4, 1, 3, 5)
    patches = cut.reshape(b, grid * grid, -1) @ v["conv1.weight"].reshape(IMAGE_WIDTH, -1).T
    x = torch.cat([v["class_embedding"].expand(b, 1, -1), patches], 1) + v["positional_embedding"]
    x = _norm(x, v, "ln_pre")
    for layer in range(IMAGE_LAYERS):
        x = _block(x, v, f"transformer.resblocks.{layer}.", None)
    return _norm(x[:, 0], v, "ln_post") @ v["proj"]


def encode_text(state: State, ids: Tensor) -> Tensor:
    """Return the features [B, JOINT] of texts [B, L] at their highest token."""
    length = ids.shape[1]
    x = state["token_embedding.weight"][ids] + state["positional_embedding"][:length]
    mask = torch.full((length, length), -math.inf).triu(1)
    for layer in range(LAYERS):
        x = _block(x, state, f"transformer.resblocks.{layer}.", mask)
    x = _norm(x, state, "ln_final")
    return x[torch.arange(len(ids)), ids.argmax(1)] @ state["text_projection"]


def _block(x: Tensor, state: State, prefix: str, mask: Tensor | None) -> Tensor:
    w = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    x = x + _attention(_norm(x, w, "ln_1"), w, mask)
    hidden = _norm(x, w, "ln_2") @ w["mlp.c_fc.weight"].T + w["mlp.c_fc.bias"]
    hidden = hidden * torch.sigmoid(1.702 * hidden)
    return x + hidden @ w["mlp.c_proj.weight"].T + w["mlp.c_proj.bias"]


def _attention(x: Tensor, w: State, mask: Tensor | None) -> Tensor:
    width = x.shape[-1]
    whole = x @ w["attn.in_proj_weight"].T + w["attn.in_proj_bias"]
    outputs = []
    for head in range(width // 64):
        query, key, value = (
            whole[..., part * width + head * 64 : part * width + head * 64 + 64]
            for part in range(3)
        )
        scores = query @ key.transpose(1, 2) / 8
        outputs.append((scores if mask is None else scores + mask).softmax(-1) @ value)
    return torch.cat(outputs, -1) @ w["attn.out_proj.weight"].T + w["attn.out_proj.bias"]


def _norm(x: Tensor, w: State, name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def pickle_of(path: Path) -> str:
    """Return the name of the entry that lists an archive's tensors."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        return next(n for n in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", n))
