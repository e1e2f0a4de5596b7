"""What the two-stage table measures: EERCF behind given features, its gallery, its slow reference.

A video has a hidden vector and every frame of it one of its own; tokens are drawn around their sum,
a text around that of one frame, so that the truth is known and frames tell more than their mean.
The model's own index and scoring do the rest. N texts and as many videos, F frames, P
patches, D width, k candidates, Q queries of one direction. The shapes are those of CLIP ViT-B/32.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tvr_bench.evaluation.candidates import choose, first_stage, in_order
from tvr_bench.evaluation.outcome import Found
from tvr_bench.evaluation.ranks import Ranks
from tvr_bench.evaluation.scoring import BlockScores, MatrixScores, rank_both
from tvr_bench.evaluation.two_stage import Stages, rerank_pairs, search
from tvr_bench.models.eercf import Eercf
from tvr_bench.registry import create_model

D, FRAMES, P = 512, 12, 49
BLOCK = (1024, 64)  # texts x videos that full scoring looks at together
_OWN, _TOKEN_NOISE, _TEXT_NOISE = 2.0, 2.0, 7.0  # times the video's vector: most texts are found
_ENCODED = 16  # videos per call of the model, as a loader gives them
_NEAR = 2e-6  # what rounding may do to a score, which is a sum of cosines
Features = dict[str, Tensor]


class Given(nn.Module):
    """Towers whose features are those of the batch itself."""

    dim = D

    def encode_text(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return [N, D] that stand for token ids, as they are."""
        return ids, ids[:, None]

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return frame [N, F, D] and patch [N, F, P, D] of [N, F, 1 + P, D]."""
        return frames[:, :, 0], frames[:, :, 1:]


@dataclass(frozen=True)
class Gallery:
    """N texts and as many videos, encoded; text i belongs to video i. The times are per video."""

    model: Eercf
    text: Features
    video: Features
    index_ms: float
    index_cpu_ms: float

    @property
    def gold(self) -> Tensor:
        """The video of each text, int64 [N]."""
        return torch.arange(len(self.text["text"]))

    def search(self, k: int) -> Found:
        """Return what a search of both directions in two stages finds."""
        stages = Stages(k, self.model.recall_embedding, self.model.rerank)
        wanted = self.gold, self.gold
        return search(stages, self.text, self.video, self.gold, wanted, self.gold >= 0)

    def search_texts(self, k: int) -> tuple[Tensor, Tensor]:
        """Return the candidates [N, k] of every text and their fine scores: one direction alone."""
        stages = Stages(k, self.model.recall_embedding, self.model.rerank)
        made = first_stage(stages.recall, self.text, self.video, (1024, 1024))
        items = choose(made, k, False)[0].items
        videos, pair = items.flatten().sort(stable=True)
        texts = pair // items.shape[1]
        fine = rerank_pairs(stages, self.text, self.video, texts, videos)
        return items, torch.empty(items.numel()).index_copy_(0, pair, fine).view_as(items)

    def fine(self) -> Tensor:
        """Return the fused score of every pair, [N, N]."""
        return BlockScores(self.model.similarity, self.text, self.video, BLOCK).matrix()

    def first(self) -> Tensor:
        """Return the score of stage one of every pair, [N, N]."""
        with torch.inference_mode():
            vectors = [self.model.recall_embedding(side) for side in (self.text, self.video)]
            return vectors[0] @ vectors[1].T

    def everything(self) -> tuple[Ranks, Ranks]:
        """Score every pair and rank both directions: what two stages are compared with."""
        return rank_both(MatrixScores(self.fine()), self.gold)


def gallery(items: int) -> Gallery:
    """Return a gallery of so many videos, always the same, behind an untrained model."""
    torch.manual_seed(0)
    settings = {"backbone.weights": "none", "backbone.width": D}
    settings |= {"backbone.layers": 1, "backbone.text_layers": 1}
    model = create_model("eercf", **{"video.frames": FRAMES, "ocr.enabled": False, **settings})
    assert isinstance(model, Eercf)
    model.eval().network = Given()
    random = torch.Generator().manual_seed(1)
    wall = cpu = 0.0
    texts, parts = [], []
    with torch.inference_mode():
        for at in range(0, items, _ENCODED):
            text, batch = clips(min(_ENCODED, items - at), random)
            texts.append(text)
            start = time.perf_counter(), time.process_time()
            parts.append(model.encode_video(batch))
            wall += time.perf_counter() - start[0]
            cpu += time.process_time() - start[1]
        mask = torch.ones(items, 1).bool()
        text = model.encode_text({"text_ids": torch.cat(texts), "text_mask": mask})
        video = {name: torch.cat([part.pop(name) for part in parts]) for name in list(parts[0])}
    return Gallery(model, text, video, 1000 * wall / items, 1000 * cpu / items)


def clips(count: int, random: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Return texts [N, D] and the batch of their videos: tokens [N, F, 1 + P, D], all valid."""
    frames = torch.randn(count, 1, D, generator=random)
    frames = frames + _OWN * torch.randn(count, FRAMES, D, generator=random)
    noise = torch.randn(count, FRAMES, 1 + P, D, generator=random)
    chosen = torch.randint(FRAMES, (count,), generator=random)
    text = frames[torch.arange(count), chosen]
    text = text + _TEXT_NOISE * torch.randn(count, D, generator=random)
    mask = torch.ones(count, FRAMES).bool()
    return text, {"frames": frames[:, :, None] + _TOKEN_NOISE * noise, "frame_mask": mask}


def multiply_adds() -> int:
    """Return the multiply-adds of a pair's fused score: D + 2FD + 2FF + FPD."""
    return D + 2 * FRAMES * D + 2 * FRAMES**2 + FRAMES * P * D


def compare(made: Gallery, fine: Tensor, first: Tensor, k: int) -> dict[str, float]:
    """Stop with an error where a search finds other ranks than all scores do; return figures.

    The rule of two stages is applied to the scores of every pair, `fine` and `first` [N, N], by
    sorting whole rows. A rank may differ only by items within rounding of the right one's score.
    """
    found = made.search(k)
    equal = 0
    for ranks, one, other in ((found.t2v, fine, first), (found.v2t, fine.T, first.T)):
        expected, near = sorted_ranks(one, other, k)
        off = np.abs(ranks.ahead - expected)
        if (off > near).any():
            raise SystemExit(f"k={k}: {(off > near).sum()} ranks are not those of sorted scores")
        equal += int((off == 0).sum())
    gold = made.gold
    hold_texts(made, k, found.t2v)
    kept = in_order(first, fine, k)[:, :k]
    whole = (fine > fine.diagonal()[:, None]).sum(1)
    there = (kept == gold[:, None]).any(1)
    same = torch.from_numpy(found.t2v.ahead == whole.numpy())[there]
    return {
        "equal_ranks": equal,
        "ranks": 2 * len(gold),
        "recall_of_truth": there.double().mean().item(),
        "recall_of_best": (kept == fine.argmax(1)[:, None]).any(1).double().mean().item(),
        "R@1": 100 * float((found.t2v.ahead == 0).mean()),
        "R@1_all_pairs": 100 * (whole == 0).double().mean().item(),
        "rank_as_all_pairs_where_kept": same.double().mean().item(),
    }


def hold_texts(made: Gallery, k: int, ranks: Ranks) -> None:
    """Stop with an error where a search of texts alone finds other ranks than one of both ways."""
    items, fine = made.search_texts(k)
    line, place = (items == made.gold[:, None]).nonzero().unbind(1)
    ahead = (fine[line] > fine[line, place][:, None]).sum(1)
    if (ahead.numpy() != ranks.ahead[line.numpy()]).any():
        raise SystemExit(f"k={k}: a search of texts alone has other ranks")


def sorted_ranks(fine: Tensor, first: Tensor, k: int) -> tuple[Any, Any]:
    """Return the ranks [Q] of the diagonal by sorting, and how many scores are near it, [Q]."""
    order = in_order(first, fine, k)
    gold = torch.arange(len(fine))[:, None]
    place = (order == gold).int().argmax(1)
    near = [(m - m.diagonal()[:, None]).abs().le(_NEAR).sum(1) - 1 for m in (fine, first)]
    return place.numpy(), (near[0] + near[1]).numpy()


def after(items: int, k: int) -> Callable[[], object]:
    """Return a search, or with k = 0 the scoring of every pair, of a gallery made beforehand."""
    made = gallery(items)
    return made.everything if k == 0 else lambda: made.search(k)
