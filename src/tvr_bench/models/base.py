"""What every model shares: the interface, the training step and the optimiser.

N texts, M videos, B batch, D width. A model is written for one device; `losses.py` alone gathers.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Protocol, Self, cast

import pytorch_lightning as pl
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from tvr_bench.errors import UserError
from tvr_bench.hooks import drop_idle_hooks
from tvr_bench.models.layers.backbone import Backbone, EncodedBackbone, build_backbone, freeze
from tvr_bench.models.losses import (
    Features,
    at_least_fp32,
    duplicates,
    gather,
    paired_losses,
    symmetric_info_nce,
    tiled_loss,
)
from tvr_bench.models.micro import WithinMemory, in_micro_batches, item_count
from tvr_bench.models.optim import build_optimizer, build_schedule
from tvr_bench.models.raw_input import TakesRawInput
from tvr_bench.models.tiled import Vectors
from tvr_bench.schema import Config

Batch = dict[str, Tensor]
_ON_HOST = ("ocr_ids", "ocr_mask")
_LARGEST_SCALE = 100.0  # CLIP's own ceiling
_SCALE_FROM_SCRATCH = 14.28  # 1 / 0.07, with which CLIP itself began


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


class VectorRetriever(Retriever, Protocol):
    """A Retriever whose score is the dot product of one vector per item.

    It is evaluated by these vectors, not by `similarity`: faster, and with ranks that are exact in
    any block. A subclass that changes `similarity` alone is evaluated by `similarity` again.
    """

    def score_vectors(self, features: Features) -> Tensor:
        """Return vectors [n, D] of texts or videos: `similarity` is text @ video transposed."""
        ...


class RetrievalModule(TakesRawInput, pl.LightningModule):
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
        self.trained_clips = 0  # clips encoded in training, each as often as it was
        self.planned_steps = 0  # of the whole training, known when it begins
        self.memory = WithinMemory(cfg.trainer.micro_batch)
        self._logs = True
        drop_idle_hooks(self)
        self.network = build_backbone(cfg)
        self.log_scale = nn.Parameter(
            torch.tensor(math.log(_first_scale(cfg, self.network))),
            requires_grad=cfg.loss.learn_scale,
        )

    @property
    def backbone(self) -> Backbone:
        """The towers of image and text."""
        network = cast(Backbone, self.network)
        return EncodedBackbone(network) if self.cfg.backbone.cache else network

    def train(self, mode: bool = True) -> Self:
        """Put all but the frozen towers into training mode, or out of it, and return the model."""
        super().train(mode)
        freeze(self.network, self.cfg.backbone.frozen)
        return self

    @property
    def logit_scale(self) -> Tensor:
        """The factor of the scores before the softmax, at most 100.

        Its gradient never vanishes: the exponential of the logarithm of 100 is a little more than
        100 in single precision, where a plain clamp would let none through.
        """
        value = self.log_scale.detach().exp().clamp_max(_LARGEST_SCALE)
        return value * (self.log_scale - self.log_scale.detach()).exp()

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
        rows, columns = (self.logit_scale * at_least_fp32(scores) for scores in (rows, columns))
        return symmetric_info_nce(rows, columns, start)

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
        self.memory.items = item_count(batch)
        own = in_micro_batches(self._pair_features, batch, self.memory.size)
        whole = gather(own[0]), gather(own[1])
        losses = self._contrastive_losses(own, whole, batch)
        losses = {name: self.loss_weights.get(name, 1.0) * loss for name, loss in losses.items()}
        losses |= self.auxiliary_losses(*own) | self.batch_losses(*whole)
        total = torch.stack(list(losses.values())).sum()
        if self._logs:
            self.log("train/loss", total.detach(), prog_bar=True, sync_dist=True)
            for name, value in losses.items():
                self.log(f"train/loss_{name}", value.detach(), sync_dist=True)
        return total

    def _pair_features(self, batch: Batch) -> tuple[Features, Features]:
        return self.training_features(self.encode_text(batch), self.encode_video(batch))

    def _contrastive_losses(
        self, own: tuple[Features, Features], whole: tuple[Features, Features], batch: Batch
    ) -> dict[str, Tensor]:
        """Return the loss of each named score; tile by tile where it is large and a dot product."""
        ids = batch["text_ids"] if self.cfg.loss.mask_duplicates else None
        tile, vectors = self.cfg.loss.tile, getattr(self, "score_vectors", None)
        if vectors is None or not self._plain or item_count(whole[0]) <= tile:
            same = None if ids is None else duplicates(ids)
            return paired_losses(self.training_scores, self.contrast, own, whole, same)
        pairs = Vectors(*(at_least_fp32(vectors(part)) for part in own))
        others = pairs
        if whole[0] is not own[0]:
            others = Vectors(*(at_least_fp32(vectors(part)) for part in whole))
        return {"score": tiled_loss(pairs, others, self.logit_scale, tile, ids)}

    @property
    def _plain(self) -> bool:
        """Whether the only contrastive loss is the InfoNCE of `similarity` itself."""
        kind, plain = type(self), RetrievalModule
        own = (kind.training_scores, kind.contrast)
        return own == (plain.training_scores, plain.contrast)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Log the losses of every n-th and every last step: the others then cost nothing."""
        step = self.trainer.global_step + 1
        last = self.trainer.is_last_batch or step == self.trainer.max_steps
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        self._logs = last or step % every == 0

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Make one step, in smaller micro-batches where memory runs out, and hold the scale."""
        step = partial(self.memory.run, self, optimizer_closure)
        super().optimizer_step(epoch, batch_idx, optimizer, step)
        with torch.no_grad():  # as CLIP does, so that it can come down again at once
            self.log_scale.clamp_(max=math.log(_LARGEST_SCALE))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the micro-batch that fits: another one would round differently."""
        checkpoint["micro_batch"] = self.memory.size

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the micro-batch of before, where the settings do not name one."""
        if self.cfg.trainer.micro_batch is None:
            self.memory.size = checkpoint.get("micro_batch")

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Return the batch on the device, but for the window captions.

        Which of them are alike is found in the host's memory, so that no step waits for the device.
        """
        host = {key: batch[key] for key in _ON_HOST if key in batch}
        rest = {key: value for key, value in batch.items() if key not in host}
        moved: Batch = super().transfer_batch_to_device(rest, device, dataloader_idx)
        return moved | host

    def on_train_end(self) -> None:
        """Keep how many clips were encoded, on all devices and before any interruption too."""
        plan = getattr(self.trainer.train_dataloader, "plan", None)
        if plan is not None:  # a loader that is not ours does not say how much it gives
            self.trained_clips = self.trainer.global_step * plan.size

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
        """Return the optimiser, with a rate of its own for the backbone, and the schedule."""
        optimizer = build_optimizer(self.cfg, self.parameter_groups())
        self.planned_steps = int(self.trainer.estimated_stepping_batches)
        return {
            "optimizer": optimizer,
            "lr_scheduler": build_schedule(self.cfg, optimizer, self.planned_steps),
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


def _first_scale(cfg: Config, network: nn.Module) -> float:
    """Return the first logit scale: the one set, else that of the towers' own training.

    Towers that were trained at 100 and start at 14 would have to sharpen all over again, which
    their usual rates and few steps do not allow.
    """
    if cfg.loss.scale is not None:
        return cfg.loss.scale
    own: float | None = getattr(network, "trained_scale", None)
    return _SCALE_FROM_SCRATCH if own is None else min(own, _LARGEST_SCALE)
