"""What the two-stage table is compared with: the scoring of the released EERCF.

`TVR_PEERS=DIR` names a folder of checkouts, `DIR/EERCF`. Its method of similarities is called as it
is, with a stand-in for the model that carries our model's weights and temporal transformer, so that
both score the same features. N texts and as many videos, F frames, P patches, D width.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from tvr_bench.leaderboard.provenance import git_state
from tvr_bench.models.eercf import Eercf
from tvr_bench.models.layers.levels import PARTS

Scores = Callable[[], dict[str, Tensor]]
_BATCH = 240  # of its evaluation
_MODULE = "modules.modeling_fineclip_patches_cdcl"


def released(model: Eercf, text: Tensor, tokens: Tensor, mask: Tensor) -> tuple[str, Scores] | str:
    """Return a name and a call that scores every pair its way, or why there is none.

    `text` [N, D], `tokens` [N, F, 1 + P, D] and `mask` bool [N, F] are what the towers give. The
    call returns the parts of the score by our names, [N, N]; of TIB on patches it makes none.
    """
    folder = Path(os.environ.get("TVR_PEERS") or ".") / "EERCF"
    if "TVR_PEERS" not in os.environ or not folder.is_dir():
        return "not at hand"
    sys.path.insert(0, str(folder))
    try:
        method = importlib.import_module(_MODULE).XCLIP._loose_similarity
    except (ImportError, AttributeError) as error:
        return f"not usable: {error}"
    finally:
        sys.path.remove(str(folder))
    stand_in = _stand_in(model, importlib.import_module(_MODULE).XCLIP)
    commit = git_state(folder).commit

    def scores() -> dict[str, Tensor]:
        rows = []
        for some in text.split(_BATCH):
            columns = [
                method(stand_in, some[:, None], None, *video)[0]
                for video in zip(
                    tokens[:, :, 0].split(_BATCH),
                    tokens[:, :, 1:].split(_BATCH),
                    [torch.ones(len(some), 1)] * len(text.split(_BATCH)),
                    mask.float().split(_BATCH),
                    strict=True,
                )
            ]
            rows.append([torch.cat(part, 1) for part in zip(*columns, strict=True)])
        whole = [torch.cat(part) for part in zip(*rows, strict=True)]
        names = ("video", "frame", "tib_frame", "patch")
        return {name: part for name, part in zip(names, whole, strict=False) if name in PARTS}

    return f"EERCF @ {commit[:7]}" if commit else "EERCF of an unknown commit", scores


def _stand_in(model: Eercf, kind: type) -> SimpleNamespace:
    """Return what its method reads of a model; the logit scale is 1."""
    assert model.temporal is not None
    temporal = model.temporal

    def see(frames: Tensor, mask: Tensor) -> Tensor:
        """Frames come first, and closed ones have a large negative number in every row."""
        return temporal(frames.transpose(0, 1), mask[:, 0] == 0).transpose(0, 1)

    own = SimpleNamespace(
        training=False,
        use_original_clip_for_frame_features=True,
        frame_position_embeddings=lambda places: torch.zeros(*places.shape, model.backbone.dim),
        transformerClip=see,
        clip=SimpleNamespace(logit_scale=torch.zeros(())),
        global_mat_weight=model.recall_map,
        frame_logit_weight=model.frame_map,
    )
    own._mean_pooling_for_similarity_visual = lambda *given: (
        kind._mean_pooling_for_similarity_visual(own, *given)
    )
    return own
