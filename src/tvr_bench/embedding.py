"""Vectors of any texts and video files, from a model alone: it tokenizes, decodes and reads itself.

n texts or files, D width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvr_bench.datamodules import tokens
from tvr_bench.datamodules.annotated import normalised
from tvr_bench.datamodules.base import VideoTextDataModule
from tvr_bench.datamodules.types import Clip, Query, Split
from tvr_bench.errors import UserError
from tvr_bench.models.base import RetrievalModule
from tvr_bench.models.losses import Features
from tvr_bench.schema import Config
from tvr_bench.settings import extracted


class _Files(VideoTextDataModule):
    """The frames and the scene text of single files, as those of a test; they have no captions."""

    def __init__(self, cfg: Config, paths: Sequence[Path], **keywords: Any) -> None:
        super().__init__(cfg, **keywords)
        self.paths = paths

    def read_split(self, name: str) -> Split:
        """Return a clip for each file, with its path in place of a caption."""
        clips = tuple(Clip(f"{i}", path) for i, path in enumerate(self.paths))
        return Split(clips, tuple(Query(clip.id, str(clip.path), clip.id) for clip in clips))


def texts(model: RetrievalModule, captions: Sequence[str]) -> Tensor:
    """Return unit vectors, float32 [n, D] on the CPU, of texts.

    Raises UserError for what is no list of texts, and for a model without tokenizer or first stage.
    """
    if isinstance(captions, str) or not all(isinstance(one, str) for one in captions):
        raise UserError('give a list of texts, such as ["a red ball"]')
    if model.tokenizer is None:
        raise UserError("the model has no tokenizer, as it was never trained; use load_run")
    if extracted(model.cfg):
        raise UserError("backbone=features reads features that others made, and no texts")
    how = model.cfg.text.normalise
    ids, mask = tokens.encode(model.tokenizer, [normalised(text, how) for text in captions])
    items = [
        {"text_ids": torch.from_numpy(one), "text_mask": torch.from_numpy(real)}
        for one, real in zip(ids, mask, strict=True)
    ]
    return _vectors(model, items, model.encode_text)


def videos(model: RetrievalModule, paths: Sequence[str | os.PathLike[str]]) -> Tensor:
    """Return unit vectors, float32 [n, D] on the CPU, of video files.

    They are sampled, and their scene text is read, as the model's run did; frames and text are kept
    in `paths.cache`. Raises UserError for a file that cannot be read.
    """
    if isinstance(paths, (str, os.PathLike)):
        raise UserError('give a list of video files, such as ["dog.mp4"]')
    if model.tokenizer is None:
        raise UserError("the model has no tokenizer, as it was never trained; use load_run")
    if extracted(model.cfg):
        raise UserError("backbone=features reads features that others made, and no videos")
    if not paths:
        return _vectors(model, [], model.encode_video)
    files = [Path(path) for path in paths]
    for path in files:
        if not path.is_file():
            raise UserError(f"there is no file {path}; give the path of a video")
    data = _Files(model.cfg, files, tokenizer=model.tokenizer, scene_text=model.reads_text)
    data.prepare(["test"], trains=False)
    if data.failed("test"):
        raise UserError(f"a video cannot be read: {data.ledger.entries[0].message}")
    items = data.items("test")
    return _vectors(model, (items.video(i) for i in range(len(files))), model.encode_video)


def _vectors(
    model: RetrievalModule, items: Any, encode: Callable[[dict[str, Tensor]], Features]
) -> Tensor:
    """Return the vectors of items, a batch at a time."""
    first: Any = getattr(model, "recall_embedding", None)
    if first is None:
        raise UserError(f"{type(model).__name__} has no recall_embedding, one vector per item")
    found = [torch.empty(0, 0)]
    with torch.inference_mode(), _evaluating(model):
        for batch in _batches(items, model.cfg.eval.batch_size, model.device):
            vectors = first(encode(batch)).float()
            found.append(torch.nn.functional.normalize(vectors, dim=-1).cpu())
    return torch.cat(found[1:] or found).clone()


def _batches(items: Any, size: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    held: list[dict[str, Tensor]] = []
    for item in items:
        held.append(item)
        if len(held) == size:
            yield _batch(held, device)
            held = []
    if held:
        yield _batch(held, device)


def _batch(items: Sequence[dict[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    return {key: torch.stack([item[key] for item in items]).to(device) for key in items[0]}


@contextmanager
def _evaluating(model: RetrievalModule) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
