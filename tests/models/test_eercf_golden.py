"""EERCF, held to the numbers of the released implementation at a logit scale of 100."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.eercf_case import EVERY, encode, make_model, total_loss
from tvr_bench.models.eercf import Eercf
from tvr_bench.models.layers.levels import PARTS


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    """Inputs, parameters and outputs of the released implementation."""
    with np.load(Path(__file__).parents[1] / "data" / "eercf.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def _released(golden: dict[str, Tensor], **options: Any) -> Eercf:
    """Return our model with the golden parameters under our names."""
    settings = {"backbone.width": 64, "video.frames": 12, "mask_frames": False}
    model = make_model(**(settings | {"loss.scale": 100} | EVERY | options))
    names = {
        "attention.qkv.weight": "attn.in_proj_weight",
        "attention.qkv.bias": "attn.in_proj_bias",
        "attention.out.weight": "attn.out_proj.weight",
        "attention.out.bias": "attn.out_proj.bias",
        "norm1.weight": "ln_1.weight",
        "norm1.bias": "ln_1.bias",
        "norm2.weight": "ln_2.weight",
        "norm2.bias": "ln_2.bias",
        "mlp.0.weight": "mlp.c_fc.weight",
        "mlp.0.bias": "mlp.c_fc.bias",
        "mlp.2.weight": "mlp.c_proj.weight",
        "mlp.2.bias": "mlp.c_proj.bias",
    }
    blocks = "param.transformerClip.resblocks"
    state = {
        f"temporal.blocks.{i}.{ours}": golden[f"{blocks}.{i}.{theirs}"]
        for i in range(4)
        for ours, theirs in names.items()
    }
    state |= {
        "log_scale": golden["param.logit_scale"],
        "recall_map": golden["param.global_mat_weight"],
        "frame_map": golden["param.frame_logit_weight"],
        "temporal.position": golden["param.frame_position_embeddings"][:12],
    }
    model.load_state_dict(state)
    return model


def _golden_features(model: Eercf, golden: dict[str, Tensor], side: str) -> Any:
    given = {k: golden[f"{side}.in.{k}"] for k in ("text", "frames", "patches", "video_mask")}
    return encode(
        model,
        {
            "text_ids": given["text"],
            "text_mask": torch.ones(len(given["text"]), 1).bool(),
            "frames": torch.cat([given["frames"][:, :, None], given["patches"]], 2),
            "frame_mask": given["video_mask"].bool(),
        },
    )


GOLDEN_NAMES = dict(zip(PARTS, ("S_v", "S_fw", "S_pw", "S_fs", "S_ps"), strict=True))


def _same_as_released(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("part", PARTS)
def test_test_scores_equal_the_released_ones(golden: dict[str, Tensor], part: str) -> None:
    model = _released(golden)
    with torch.no_grad():
        parts = model.score_parts(*_golden_features(model, golden, "eval"))
    _same_as_released(model.logit_scale * parts[part], golden[f"eval.out.{GOLDEN_NAMES[part]}"])


def test_training_scores_equal_the_released_ones(golden: dict[str, Tensor]) -> None:
    weights = {"weak_frame": 0.5, "weak_video": 0.5, "strong_patch": 1.0}
    model = _released(golden, **weights)
    text, video = _golden_features(model, golden, "train")
    own = model.training_features(text, video)
    scores = model.training_scores(*own)
    out = {part: golden[f"train.out.{name}"] for part, name in GOLDEN_NAMES.items()}
    for name, parts in (("weak", model.weak), ("strong", model.strong)):
        expected = torch.stack([weight * out[part] for part, weight in parts.items()]).sum(0)
        _same_as_released(model.logit_scale * scores[name], expected)
    for part in ("tib_frame", "tib_patch"):
        _same_as_released(100 * own[0]["text"] @ own[1][part].mT, out[part])


@pytest.mark.parametrize(("level", "name"), enumerate(("video", "frame", "patch")))
def test_pearson_terms_equal_the_released_ones(
    golden: dict[str, Tensor], level: int, name: str
) -> None:
    weights = {f"pearson_{k}": float(k == name) for k in ("video", "frame", "patch")}
    model = _released(golden, pearson=1.0, **weights)
    own = model.training_features(*_golden_features(model, golden, "train"))
    found = model.batch_losses(*own)["pearson"].item()
    assert found == pytest.approx(golden["train.out.pearson"][level].item(), rel=1e-4)


def test_the_total_loss_equals_the_released_one(golden: dict[str, Tensor]) -> None:
    model = _released(golden, rerank="tied")
    found = total_loss(model, *_golden_features(model, golden, "train")).item()
    assert found == pytest.approx(golden["train.out.loss"].item(), rel=1e-4)
