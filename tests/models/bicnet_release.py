"""The released BiC-Net's vectors: where they are, and which of its parameters each of ours is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvr_bench.models.bicnet import BicNet
from tvr_bench.models.layers.srt import OFFICIAL
from tvr_bench.registry import create_model

GOLDEN = Path(__file__).parents[1] / "data" / "bicnet.npz"

_LAYER = {
    "attention.out": "self_attention_layer.sublayer.final_projection",
    "norm1": "self_attention_layer.layer_normalization",
    "norm2": "pointwise_feedfoward_layer.layer_normalization",
    "mlp.0": "pointwise_feedfoward_layer.sublayer.feed_forward.0",
    "mlp.3": "pointwise_feedfoward_layer.sublayer.feed_forward.3",
}
_QKV = [f"self_attention_layer.sublayer.{part}_projection" for part in ("query", "key", "value")]
_POOL = {"weight1": "w1", "bias1": "b1", "weight2": "w2", "bias2": "b2"}
_NAMES = {
    "text.project": "proj_text",
    "text.norm_in": "norm_text",
    "text.norm_out": "norm_3",
    "text.pool": "pool_text",
    "regions.project": "proj_region",
    "regions.norm_in": "norm_region",
    "regions.norm_out": "norm_1",
    "regions.pool": "T_pool_region",
    "regions.srt.norm": "norm",
    "frames.project": "proj_global",
    "frames.norm_in": "norm_global",
    "frames.norm_out": "norm_2",
    "frames.pool": "T_pool_global",
}


def from_files(**settings: Any) -> BicNet:
    """Return a model of feature files at the size of the golden vectors."""
    model = create_model(
        "bicnet",
        **{
            "backbone.name": "features",
            "features.region_dim": 24,
            "features.global_dim": 40,
            "features.text_dim": 20,
            "model.width": 32,
            "model.heads": 4,
            "model.layers": 2,
            "model.srt.temporal": OFFICIAL,
        }
        | settings,
    )
    assert isinstance(model, BicNet)
    return model


def released_parameter(golden: dict[str, Tensor], own: str) -> Tensor:
    """Return the released module's parameter that stands for one of ours."""
    path, _, kind = own.rpartition(".")
    for branch, block in (("regions.srt.spatial.", 0), ("regions.srt.temporal.", 1)):
        if path.startswith(branch):
            layer, _, part = path.removeprefix(branch).partition(".")
            return _layer(golden, f"S_T_trans_region.{layer}.encoder_layers.{block}", part, kind)
    if path.startswith("frames.layers."):
        layer, _, part = path.removeprefix("frames.layers.").partition(".")
        return _layer(golden, f"T_Trans_global.{layer}.encoder_layers.0", part, kind)
    if path.endswith(".pool"):
        return golden[f"param.{_NAMES[path]}.genpool_{_POOL[kind]}_head"]
    return golden[f"param.{_NAMES[path]}.{kind}"]


def _layer(golden: dict[str, Tensor], prefix: str, part: str, kind: str) -> Tensor:
    if part == "attention.qkv":
        return torch.cat([golden[f"param.{prefix}.{name}.{kind}"] for name in _QKV])
    return golden[f"param.{prefix}.{_LAYER[part]}.{kind}"]
