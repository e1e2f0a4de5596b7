"""The one callback that turns what a validation or test step returns into metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from tvr_bench.errors import UserError
from tvr_bench.evaluation.evaluate import EvaluationResult
from tvr_bench.evaluation.metric import RetrievalMetric
from tvr_bench.evaluation.scoring import BlockSize, Features
from tvr_bench.evaluation.two_stage import Stages
from tvr_bench.evaluation.vector_scores import Vectors

_LISTED = 10  # first videos of each text that the result of a test keeps


class RetrievalEvaluation(pl.Callback):
    """Evaluates every model the same way at the end of each validation and test epoch.

    The step returns `{"kind": "text" | "video", "index": int64 [B], "features": Features}` for
    both loaders of a split. `results` maps "val" and "test" to the latest `EvaluationResult`;
    the metrics are logged as `val/t2v_R@1`, `val/v2t_R@1`, `val/R@1_mean` and so on.
    A run over part of a split (a sanity check, `limit_val_batches`, `fast_dev_run`) has no
    metrics.
    """

    def __init__(
        self,
        block: BlockSize = None,
        max_matrix_gb: float | None = None,
        *,
        two_stage: int | None = None,
        parity: str = "none",
        v2t: str = "caption",
        keep_scores: bool = False,
        keep_features: bool = False,
    ) -> None:
        """Take the block (texts, videos), the largest matrix in 10^9 bytes and what to keep.

        `two_stage`, `parity` and `v2t` are those of the configuration's `eval`. Raises UserError
        for a parity without two stages.
        """
        if parity != "none" and two_stage is None:
            raise UserError(
                f"eval.parity={parity} is about a search in two stages; set eval.two_stage, or "
                "eval.parity=none"
            )
        self.block, self.max_matrix_gb = block, max_matrix_gb
        self.two_stage, self.parity, self.v2t = two_stage, parity, v2t
        self.keep_scores, self.keep_features = keep_scores, keep_features
        self.results: dict[str, EvaluationResult] = {}
        self._metric: RetrievalMetric | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model that cannot be searched in this way, before it is trained."""
        self.check(pl_module)
        if self.parity != "none":
            rank_zero_warn(
                f"eval.parity={self.parity} transposes the text-to-video scores as the released "
                "code does, so the V2T numbers are not those of a V2T retrieval"
            )

    def check(self, pl_module: pl.LightningModule) -> None:
        """Raise UserError where two stages are asked for and the model has only one."""
        missing = [name for name in ("recall_embedding", "rerank") if not hasattr(pl_module, name)]
        if self.two_stage is not None and missing:
            raise UserError(
                f"{type(pl_module).__name__} has no {' and no '.join(missing)}, which "
                "eval.two_stage needs; define it in the model, or set eval.two_stage=null"
            )

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare to collect the features of the validation split."""
        self._start(trainer, pl_module, "val", trainer.val_dataloaders, trainer.num_val_batches)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare to collect the features of the test split."""
        self._start(trainer, pl_module, "test", trainer.test_dataloaders, trainer.num_test_batches)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the features of one batch."""
        self._collect(outputs)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the features of one batch."""
        self._collect(outputs)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Rank, log and keep the result of the validation split."""
        self._finish(trainer, pl_module)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Rank, log and keep the result of the test split."""
        self._finish(trainer, pl_module)

    def _start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        name: str,
        loaders: Any,
        batches: Sequence[float],
    ) -> None:
        self._metric = None
        if trainer.sanity_checking:
            return
        if _limited(loaders, batches):
            rank_zero_warn(
                f"only part of split '{name}' is run, so there are no retrieval metrics; "
                "leave the number of batches unlimited to get them"
            )
            return
        data: Any = getattr(trainer, "datamodule", None)
        if data is None:
            raise UserError(
                "retrieval metrics need the split's queries; give the Trainer a datamodule with "
                "split(name) and failed(name) instead of loaders"
            )
        self._metric = RetrievalMetric(
            _Exactly(trainer, pl_module, "similarity"),
            data.split(name),
            name=name,
            failed=data.failed(name),
            block=self.block,
            max_matrix_gb=self.max_matrix_gb,
            keep_scores=self.keep_scores,
            keep_features=self.keep_features,
            stages=self._stages(trainer, pl_module),
            vectors=_vectors(trainer, pl_module),
            v2t=self.v2t,
            top=_LISTED if name == "test" else 0,
        ).to(pl_module.device)

    def _stages(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Stages | None:
        if self.two_stage is None:
            return None
        return Stages(
            self.two_stage,
            _Exactly(trainer, pl_module, "recall_embedding"),
            _Exactly(trainer, pl_module, "rerank"),
            self.parity,
            float(getattr(pl_module, "logit_scale", 1.0)),
        )

    def _collect(self, outputs: Any) -> None:
        if self._metric is None:
            return
        if not isinstance(outputs, Mapping) or not {"kind", "index", "features"} <= outputs.keys():
            raise UserError(
                "the validation or test step returned no features; it must return "
                '{"kind": "text" or "video", "index": positions, "features": dict of tensors}'
            )
        self._metric.update(outputs["kind"], outputs["index"], outputs["features"])

    def _finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metric, self._metric = self._metric, None
        if metric is None:
            return
        values = metric.compute()
        assert metric.result is not None
        name = metric.result.split
        self.results[name] = metric.result
        _warn(metric.result)
        # Every process has the same values, and the greatest of equal numbers is that number.
        pl_module.log_dict(
            {f"{name}/{key}": value for key, value in values.items()},
            sync_dist=trainer.world_size > 1,
            reduce_fx="max",
        )


class _Exactly:
    """A method of the module on features, at the module's own precision, never under autocast.

    Autocast would round scores to 8 or 11 bits, and rounded scores tie. So features go to the
    type of the module's weights: float32, but for a module that is half precision throughout.
    """

    def __init__(self, trainer: pl.Trainer, pl_module: pl.LightningModule, name: str) -> None:
        self.precision, self.module, self.name = trainer.precision_plugin, pl_module, name

    def __call__(self, *features: Features) -> Tensor:
        """Return what the method makes of features: scores, or vectors."""
        with ExitStack() as stack:
            stack.enter_context(self.precision.forward_context())
            stack.enter_context(torch.autocast(self.module.device.type, enabled=False))
            found: Tensor = getattr(self.module, self.name)(*map(self._cast, features))
            return found

    def _cast(self, features: Features) -> Features:
        dtype = self.module.dtype
        assert isinstance(dtype, torch.dtype)
        return {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in features.items()
        }


def _vectors(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Vectors | None:
    """Return the model's `score_vectors`, if it says the same as its `similarity`.

    A class that defines `similarity` anew has another score than the vectors it inherits.
    """
    owners = [
        next((kind for kind in type(pl_module).__mro__ if name in vars(kind)), None)
        for name in ("score_vectors", "similarity")
    ]
    if owners[0] is None or owners[1] is None or not issubclass(owners[0], owners[1]):
        return None
    return _Exactly(trainer, pl_module, "score_vectors")


def _limited(loaders: Any, batches: Sequence[float]) -> bool:
    """Return whether some loader is run for fewer batches than it has."""
    loaders = loaders if isinstance(loaders, list | tuple) else [loaders]
    return any(run < _length(loader) for run, loader in zip(batches, loaders, strict=True))


def _length(loader: Any) -> int:
    """Return the number of batches; 0 where a loader cannot say (it is iterable only)."""
    try:
        return len(loader)
    except TypeError:
        return 0


def _warn(result: EvaluationResult) -> None:
    """Warn where the model made NaN scores; unreadable clips have none and are not its fault."""
    if result.nan_scores:
        rank_zero_warn(
            f"{result.nan_scores} scores of split '{result.split}' are NaN and count as the "
            "worst; see what the model computes"
        )
