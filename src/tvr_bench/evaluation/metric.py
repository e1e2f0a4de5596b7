"""The retrieval metric as a `torchmetrics.Metric`, for one process or many.

N texts, M videos, B batch. Features are gathered by the position of their item, because a
distributed sampler repeats items to give every process as many; the repeats are dropped.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from tvr_bench.datamodules.types import Split
from tvr_bench.errors import UserError
from tvr_bench.evaluation.evaluate import EvaluationResult, evaluate_features
from tvr_bench.evaluation.scoring import BlockSize, Features, Similarity
from tvr_bench.evaluation.two_stage import Stages
from tvr_bench.evaluation.vector_scores import Vectors

KINDS = ("text", "video")
PARTS = {"index": torch.int64, "bytes": torch.uint8, "layout": torch.uint8}


class RetrievalMetric(Metric):
    """Collects the features of a split in any order and ranks them when all are there.

    The features of an item are kept as a row of bytes. So the states are plain one-dimensional
    lists, which torchmetrics gathers over any number of processes with any number of items,
    whatever the names, shapes and types of a model's features.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    def __init__(
        self,
        similarity: Similarity,
        split: Split,
        *,
        name: str = "",
        failed: Collection[str] = (),
        block: BlockSize = None,
        max_matrix_gb: float | None = None,
        keep_scores: bool = False,
        keep_features: bool = False,
        stages: Stages | None = None,
        vectors: Vectors | None = None,
        v2t: str = "caption",
        top: int = 0,
        **kwargs: Any,
    ) -> None:
        """Take what `evaluate_features` takes; `keep_features` keeps them in the result."""
        super().__init__(**kwargs)
        self.similarity, self.split, self.name = similarity, split, name
        self.failed = frozenset(failed)
        self.block, self.max_matrix_gb = block, max_matrix_gb
        self.keep_scores, self.keep_features = keep_scores, keep_features
        self.stages, self.vectors, self.v2t, self.top = stages, vectors, v2t, top
        self.result: EvaluationResult | None = None
        for kind in KINDS:
            for part in PARTS:
                self.add_state(f"{kind}_{part}", default=[], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forget all features; the result stays."""
        super().reset()
        # A process without items must still bring a tensor of the right type to the gathering.
        for kind in KINDS:
            for part, dtype in PARTS.items():
                self._state(kind, part).append(torch.empty(0, dtype=dtype, device=self.device))

    def update(self, kind: str, index: Tensor, features: Features) -> None:
        """Add the features of B items; `kind` is "text" or "video", `index` int64 [B].

        `index` holds positions in the split's queries or clips. Raises UserError where an item is
        not of the split, or the features differ in shape or type from those before.
        """
        items = len(self.split.queries if kind == "text" else self.split.clips)
        if kind not in KINDS or index.ndim != 1 or _outside(index, items):
            raise UserError(
                f"cannot place features of kind '{kind}' and index {_brief(index)}: kind must be "
                f"text or video, index [B] with positions from 0 to {items - 1} of the split"
            )
        if not len(index):
            return
        lengths = {name: len(tensor) for name, tensor in features.items()}
        if set(lengths.values()) != {len(index)}:
            raise UserError(
                f"{kind} features have {lengths} items for {len(index)} positions; "
                "every tensor must have one row per item"
            )
        layout = _layout(features).to(self.device)
        known = [seen for seen in self._state(kind, "layout") if len(seen)]
        if known and not torch.equal(known[0], layout):
            raise UserError(
                f"{kind} features changed from {_text(known[0])} to {_text(layout)}; pad them to "
                "a fixed shape, the same in every batch"
            )
        if not known:
            self._state(kind, "layout").append(layout)
        self._state(kind, "index").append(index.to(self.device, torch.int64))
        self._state(kind, "bytes").append(_pack(features).to(self.device))

    def compute(self) -> dict[str, float]:
        """Return the metrics by name (`EvaluationResult.flat`) and keep the whole in `result`.

        Raises UserError where items of the split are missing.
        """
        texts, text = self._collect("text")
        videos, video = self._collect("video")
        self._check("queries", [query.id for query in self.split.queries], texts, ())
        self._check("clips", [clip.id for clip in self.split.clips], videos, self.failed)
        readable = [self.split.clips[position].id not in self.failed for position in videos]
        if not all(readable):
            video = {name: tensor[torch.tensor(readable)] for name, tensor in video.items()}
        self.result = evaluate_features(
            self.similarity,
            text,
            video,
            self.split,
            name=self.name,
            failed=self.failed,
            block=self.block,
            max_matrix_gb=self.max_matrix_gb,
            keep_scores=self.keep_scores,
            stages=self.stages,
            vectors=self.vectors,
            v2t=self.v2t,
            top=self.top,
        )
        if self.keep_features:
            self.result.text = {name: tensor.cpu() for name, tensor in text.items()}
            self.result.video = {name: tensor.cpu() for name, tensor in video.items()}
        return self.result.flat()

    def _state(self, kind: str, part: str) -> list[Tensor]:
        state: list[Tensor] = getattr(self, f"{kind}_{part}")
        return state

    def _collect(self, kind: str) -> tuple[list[int], Features]:
        """Return the positions that have features, in rising order, and the features."""
        index, data, layouts = (dim_zero_cat(getattr(self, f"{kind}_{part}")) for part in PARTS)
        lines = set(_text(layouts).splitlines())
        if len(lines) > 1:
            raise UserError(
                f"{kind} features differ between processes: {' and '.join(sorted(lines))}; "
                "pad them to a fixed shape"
            )
        if not lines:
            return [], {}
        # Of an item's repeats the one that comes first in the order of the processes is kept.
        order = torch.argsort(index, stable=True)
        ordered = index[order]
        fresh = torch.ones_like(ordered, dtype=torch.bool)
        fresh[1:] = ordered[1:] != ordered[:-1]
        rows = data.view(len(index), -1)[order[fresh]]
        return ordered[fresh].tolist(), _unpack(rows, lines.pop())

    def _check(
        self, what: str, ids: Sequence[str], positions: list[int], failed: Collection[str]
    ) -> None:
        seen = {ids[position] for position in positions} | set(failed)
        missing = [name for name in ids if name not in seen]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(ids)} {what} of split '{self.name}' have no features "
                f"(first: '{missing[0]}'); the loaders must give every item of the split, or the "
                "data module name it as failed"
            )


def _outside(index: Tensor, items: int) -> bool:
    return bool(len(index)) and (int(index.min()) < 0 or int(index.max()) >= items)


def _brief(index: Tensor) -> str:
    return f"{index.flatten()[:8].tolist()} {list(index.shape)}"


def _layout(features: Features) -> Tensor:
    """Return name, type and shape of the features of one item as a line of bytes."""
    parts = [
        [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape[1:])]
        for name, tensor in sorted(features.items())
    ]
    return torch.tensor(list(f"{json.dumps(parts)}\n".encode()), dtype=torch.uint8)


def _text(layout: Tensor) -> str:
    return bytes(layout.tolist()).decode().strip()


def _pack(features: Features) -> Tensor:
    """Return the bytes of B items, each a row of all its features by name, uint8 [B * bytes]."""
    parts = [
        tensor.detach().contiguous().view(len(tensor), tensor[0].numel()).view(torch.uint8)
        for _, tensor in sorted(features.items())
    ]
    return torch.cat(parts, dim=1).flatten()


def _unpack(rows: Tensor, layout: str) -> Features:
    """Return the features of the rows [items, bytes] that `_pack` made."""
    features, start = {}, 0
    for name, type_name, shape in json.loads(layout):
        dtype: torch.dtype = getattr(torch, type_name)
        stop = start + dtype.itemsize * torch.Size(shape).numel()
        # The copy is needed: a view at another type must begin at a multiple of its item size.
        part = rows[:, start:stop].clone(memory_format=torch.contiguous_format)
        features[name] = part.flatten().view(dtype).view(len(rows), *shape)
        start = stop
    return features
