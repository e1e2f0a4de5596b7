"""What every model shares: the interface, the training step and the optimiser.

N texts, M videos, B batch, D width. A model is written for one device; `losses.py` alone gathers.
"""

from __future__ import annotations

import math
from typing import Any, Protocol, cast

import pytorch_lightning as pl
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from tvr_bench.errors import UserError
from tvr_bench.models.layers.backbone import Backbone, EncodedBackbone, build_backbone
from tvr_bench.models.losses import (
    Features,
    duplicates,
    gather,
    paired_losses,
    symmetric_info_nce,
)
from tvr_bench.schema import Config

Batch = dict[str, Tensor]
_LARGEST_SCALE = 100.0  # CLIP's own ceiling


class Retriever(Protocol):
    """What the evaluator needs: features as opaque tensors [items, ...] and a score per pair."""

    def encode_text(self, batch: Batch) -> Features:
        """Return the features of a batch of texts."""
        ...

    def encode_video(self, batch: Batch) -> Features:
        """Return the features of a batch of videos."""
        ...

    def similarity(self, text: Features, video: Features) -> Tensor:
        """Return the score of every pair, [N, M]; each depends on its own pair alone."""
        ...


class RetrievalModule(pl.LightningModule):
    """A Retriever that trains; a model overrides the methods of Retriever and what it needs."""

    reads_text = False  # whether it looks at scene text, which is otherwise not read at all
    looks_at_patches = True  # whether frames alone would do
    fixed_frames = False  # whether the test must have as many frames per clip as the training

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        if self.fixed_frames and cfg.eval.frames not in (None, cfg.video.frames):
            raise UserError(
                f"{cfg.model.name} learns something for each of its {cfg.video.frames} frames; "
                "leave eval.frames alone"
            )
        self.cfg = cfg
        self.tokenizer: Tokenizer | None = None  # of the texts that the weights were trained on
        self.trained_epochs = 0.0  # passes over the training clips
        self.network = build_backbone(cfg)
        self.log_scale = nn.Parameter(
            torch.tensor(math.log(cfg.loss.scale)), requires_grad=cfg.loss.learn_scale
        )

    @property
    def backbone(self) -> Backbone:
        """The towers of image and text."""
        network = cast(Backbone, self.network)
        return EncodedBackbone(network) if self.cfg.backbone.cache else network

    @property
    def logit_scale(self) -> Tensor:
        """The factor of the scores before the softmax, at most 100."""
        return self.log_scale.exp().clamp_max(_LARGEST_SCALE)

    def encode_text(self, batch: Batch) -> Features:
        """Return the features of a batch of texts."""
        raise NotImplementedError(f"{type(self).__name__} must define encode_text")

    def encode_video(self, batch: Batch) -> Features:
        """Return the features of a batch of videos."""
        raise NotImplementedError(f"{type(self).__name__} must define encode_video")

    def similarity(self, text: Features, video: Features) -> Tensor:
        """Return the score of every pair, [N, M]; each depends on its own pair alone."""
        raise NotImplementedError(f"{type(self).__name__} must define similarity")

    def rerank(self, text: Features, video: Features) -> Tensor:
        """Return the score of row i of `text` with row i of `video`, [P]; one video is for all."""
        if len(next(iter(video.values()))) == 1:
            return self.similarity(text, video)[:, 0]
        pairs = [
            self.similarity(*({k: v[i : i + 1] for k, v in part.items()} for part in (text, video)))
            for i in range(len(next(iter(text.values()))))
        ]
        return torch.cat(pairs).flatten()

    def score_parts(self, text: Features, video: Features) -> dict[str, Tensor]:
        """Return the named parts [N, M] that the score is made of."""
        return {"score": self.similarity(text, video)}

    def training_features(self, text: Features, video: Features) -> tuple[Features, Features]:
        """Return the features of matched pairs as the losses see them, before any gathering."""
        return text, video

    def training_scores(self, text: Features, video: Features) -> dict[str, Tensor]:
        """Return the named scores [N, M, ...] that each get a contrastive loss."""
        return {"score": self.similarity(text, video)}

    def contrast(self, name: str, rows: Tensor, columns: Tensor, start: int) -> Tensor:
        """Return the loss of one named score, symmetric InfoNCE; arguments: `paired_losses`."""
        scale = self.logit_scale
        return symmetric_info_nce(scale * rows.float(), scale * columns.float(), start)

    @property
    def loss_weights(self) -> dict[str, float]:
        """Return the weights of the named contrastive losses that do not have weight 1."""
        return {}

    def auxiliary_losses(self, text: Features, video: Features) -> dict[str, Tensor]:
        """Return further losses of this rank's matched pairs, weighted, as scalars."""
        return {}

    def batch_losses(self, text: Features, video: Features) -> dict[str, Tensor]:
        """Return further losses of the matched pairs of all ranks at once, weighted, as scalars."""
        return {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the sum of all losses of one batch of matched pairs."""
        own = self.training_features(self.encode_text(batch), self.encode_video(batch))
        whole = gather(own[0]), gather(own[1])
        same = duplicates(batch["text_ids"]) if self.cfg.loss.mask_duplicates else None
        losses = paired_losses(self.training_scores, self.contrast, own, whole, same)
        losses = {name: self.loss_weights.get(name, 1.0) * loss for name, loss in losses.items()}
        losses |= self.auxiliary_losses(*own) | self.batch_losses(*whole)
        total = torch.stack(list(losses.values())).sum()
        self.log("train/loss", total.detach(), prog_bar=True)
        for name, value in losses.items():
            self.log(f"train/loss_{name}", value.detach())
        return total

    def on_train_end(self) -> None:
        """Keep how often the clips were seen."""
        per_epoch = max(1, int(self.trainer.num_training_batches))
        self.trained_epochs = self.trainer.global_step / per_epoch

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Return the features of one batch of texts (loader 0) or videos (loader 1)."""
        return self._encode(batch, dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Return the features of one batch of texts (loader 0) or videos (loader 1)."""
        return self._encode(batch, dataloader_idx)

    def _encode(self, batch: Batch, loader: int) -> dict[str, Any]:
        if loader == 0:
            features, index = self.encode_text(batch), batch["text_index"]
            return {"kind": "text", "index": index, "features": features}
        features, index = self.encode_video(batch), batch["video_index"]
        return {"kind": "video", "index": index, "features": features}

    def configure_optimizers(self) -> Any:
        """Return AdamW with a rate of its own for the backbone, warm-up and cosine per step."""
        optim, groups = self.cfg.optim, self.parameter_groups()
        if not groups:
            raise UserError(
                "nothing is left to train; set backbone.frozen=false or loss.learn_scale=true"
            )
        kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[optim.name]
        optimizer = kind(groups, lr=optim.lr, betas=(optim.betas[0], optim.betas[1]))
        if optim.schedule == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, mode="max", factor=0.5, patience=optim.patience, cooldown=optim.patience
            )
            return {
                "optimizer": optimizer,
                "lr_scheduler": {
                    "scheduler": plateau,
                    "monitor": "val/R@10_mean",
                    "frequency": max(1, int(self.cfg.eval.every)),
                    "strict": False,
                },
            }
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_cosine(step, steps, optim.warmup)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return backbone and head parameters, each split by weight decay (vectors have none)."""
        factor = self.cfg.optim.backbone_lr
        if factor is None:
            factor = 1.0 if self.cfg.backbone.name == "tiny" else 1e-3
        groups: dict[tuple[bool, bool], list[Tensor]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                key = (name.startswith("network."), parameter.ndim > 1)
                groups.setdefault(key, []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": self.cfg.optim.lr * (factor if tower else 1.0),
                "weight_decay": self.cfg.optim.weight_decay if decay else 0.0,
            }
            for (tower, decay), parameters in groups.items()
        ]


def warmup_cosine(step: int, steps: int, warmup: float) -> float:
    """Return the factor of the peak rate at `step`: linear rise, then half a cosine to zero."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise))))
