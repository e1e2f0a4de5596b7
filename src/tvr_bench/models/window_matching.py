"""Window captions beside any model that reads no scene text itself, with `ocr.add` as the weight.

After Table A3 of the T-CARD (TCD) paper, which adds its window-OCR captioner ("+WOC") to four other
models and does not say how. Here, one line each:

- The text tower reads the window captions; their mean is one vector per video.
- The score is the model's own plus `ocr.add` times the cosine of that vector with the text's; a
  video without scene text adds nothing, so it ranks as one whose text neither fits nor contradicts.
- The cosine has an InfoNCE of its own, and the model's losses stay as they are: a loss on the sum
  would let what is easily read excuse what must be seen.

N texts, M videos, W windows, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_bench.errors import UserError
from tvr_bench.models.base import Batch, RetrievalModule
from tvr_bench.models.layers.masking import masked_mean
from tvr_bench.models.layers.windows import encode_windows
from tvr_bench.models.losses import Features
from tvr_bench.schema import Config

TEXT, WINDOWS = "window_text", "windows"
PART = "text-windows"


class WindowMatching(RetrievalModule):
    """What `with_windows` puts before a model's own methods.

    Features without windows are scored by the model alone, so that its methods may call each other.
    """

    reads_text = True

    def __init__(self, cfg: Config) -> None:
        """Build the model; raises UserError where nothing could be read."""
        super().__init__(cfg)
        if not cfg.ocr.enabled:
            raise UserError("ocr.add needs scene text; set ocr.enabled=true, or ocr.add=0")
        if cfg.backbone.name == "features":
            raise UserError(
                "ocr.add needs a text tower to read captions with, and backbone=features has "
                "none; choose another backbone, or ocr.add=0"
            )
        self.window_weight = float(cfg.ocr.add)

    def encode_text(self, batch: Batch) -> Features:
        """Return the model's features and `window_text` [N, D], unit vectors."""
        pooled, _ = self.backbone.encode_text(batch["text_ids"], batch["text_mask"])
        return super().encode_text(batch) | {TEXT: self._vector(pooled)}

    def encode_video(self, batch: Batch) -> Features:
        """Return the model's features and `windows` [M, D], unit vectors, zero without text."""
        mask = batch["ocr_mask"]
        read = encode_windows(self.backbone, batch["ocr_ids"], mask, self.device)
        present = mask.any(-1).to(read.device)
        mean = self._vector(masked_mean(read, present))
        return super().encode_video(batch) | {WINDOWS: mean * present.any(-1, keepdim=True)}

    def similarity(self, text: Features, video: Features) -> Tensor:
        """Return the model's score plus `ocr.add` times the windows' cosine, [N, M]."""
        score = super().similarity(_own(text), _own(video))
        return score + self.window_weight * _cosines(text, video) if TEXT in text else score

    def score_parts(self, text: Features, video: Features) -> dict[str, Tensor]:
        """Return the model's parts and `text-windows`, each [N, M]."""
        parts = super().score_parts(_own(text), _own(video))
        return parts | ({PART: _cosines(text, video)} if TEXT in text else {})

    def rerank(self, text: Features, video: Features) -> Tensor:
        """Return the score of text i with video i, [P]; one video stands for all texts."""
        pairs = (text[TEXT] * video[WINDOWS]).sum(-1)
        return super().rerank(_own(text), _own(video)) + self.window_weight * pairs

    def training_scores(self, text: Features, video: Features) -> dict[str, Tensor]:
        """Return what the model trains on, and `text-windows` [N, M]."""
        scores = super().training_scores(_own(text), _own(video))
        return scores | ({PART: _cosines(text, video)} if TEXT in text else {})

    def contrast(self, name: str, rows: Tensor, columns: Tensor, start: int) -> Tensor:
        """Return the model's loss of its own scores, and symmetric InfoNCE of the windows'."""
        if name == PART:
            return RetrievalModule.contrast(self, name, rows, columns, start)
        return super().contrast(name, rows, columns, start)

    def _vector(self, pooled: Tensor) -> Tensor:
        """Return unit vectors in the precision of the weights: scores are made in fp32."""
        return F.normalize(pooled.to(self.log_scale.dtype), dim=-1)


def with_windows(model: type[RetrievalModule]) -> type[RetrievalModule]:
    """Return the model with a second matching; raises UserError for one that reads by itself."""
    if model.reads_text:
        raise UserError(f"{model.__name__} reads scene text itself; set ocr.add=0")
    name = f"{model.__name__}WithWindows"
    own: Callable[..., Tensor] | None = getattr(model, "recall_embedding", None)
    if own is None:
        return type(name, (WindowMatching, model), {})

    def recall_embedding(self: WindowMatching, features: Features) -> Tensor:
        """Return unit vectors [n, .]: the model's own and the windows', weighted as in the score.

        A video whose windows hold no text is filled up to length 1 by a number that texts have as
        0, so that it gains nothing by what it lacks.
        """
        part = features[TEXT] if TEXT in features else features[WINDOWS]
        rest = 1 - part.square().sum(-1, keepdim=True).round()
        share = self.window_weight / (1 + self.window_weight)
        whole = torch.cat([part, rest], -1)
        return torch.cat(
            [math.sqrt(1 - share) * own(self, _own(features)), math.sqrt(share) * whole], -1
        )

    return type(name, (WindowMatching, model), {"recall_embedding": recall_embedding})


def _own(features: Features) -> Features:
    return {name: value for name, value in features.items() if name not in (TEXT, WINDOWS)}


def _cosines(text: Features, video: Features) -> Tensor:
    with torch.autocast(text[TEXT].device.type, enabled=False):
        return text[TEXT] @ video[WINDOWS].mT
