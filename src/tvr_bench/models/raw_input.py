"""Texts and video files as they are, given to a model: it makes vectors of them, n of width D."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any, cast

from torch import Tensor

from tvr_bench.errors import UserError


def _of_batches(encode: Any, other: str) -> Any:
    """Return an encoder that raises UserError for anything but a batch, naming the `other` one."""

    @wraps(encode)
    def encoding(self: Any, batch: Any) -> Any:
        if not isinstance(batch, Mapping):
            raise UserError(
                f"{encode.__name__} takes a batch of tensors, not a {type(batch).__name__}; "
                f"{other}([...]) takes them as they are"
            )
        return encode(self, batch)

    return encoding


class TakesRawInput:
    """What every model can do with raw input, beside its encoders of batches."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Let the encoders of every model say what they take, where they are given raw input."""
        super().__init_subclass__(**keywords)
        for name, other in (("encode_text", "embed_texts"), ("encode_video", "embed_videos")):
            if name in vars(cls):
                setattr(cls, name, _of_batches(vars(cls)[name], other))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors of texts, float32 [n, D] on the CPU, tokenized as in training.

        Their dot products with those of `embed_videos` are the model's score or, where that is no
        dot product, its first stage's (`recall_embedding`). Raises UserError for no list of texts.
        """
        from tvr_bench import embedding

        return embedding.texts(cast(Any, self), texts)

    def embed_videos(self, paths: Sequence[str | os.PathLike[str]]) -> Tensor:
        """Return unit vectors of video files, float32 [n, D] on the CPU; see `embed_texts`.

        The files are decoded and sampled, and their scene text is read, as in the model's run.
        Raises UserError for a file that cannot be read.
        """
        from tvr_bench import embedding

        return embedding.videos(cast(Any, self), paths)
