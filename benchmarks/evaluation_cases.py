"""The vectors of the evaluation table, and slow ranks in float64 to hold ours against.

N texts, M videos, D width.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tvr_bench.evaluation.ranks import Ranks, rank, rank_pairs

D = 512
NOISE = {1_000: 0.22, 2_000: 0.21, 5_000: 0.2, 20_000: 0.18, 100_000: 0.18}
SAMPLE = 200
Case = tuple[Tensor, Tensor, Tensor]  # texts [N, D], videos [M, D], the video of each text [N]


def paired(count: int) -> Case:
    """Return vectors of `count` texts and as many videos."""
    return vectors(torch.arange(count), count, NOISE[count])


def ragged(texts: int, videos: int) -> Case:
    """Return vectors with a seeded number of captions per video, at least 1, as MSVD has."""
    extra = np.random.default_rng(0).integers(0, videos, texts - videos)
    gold = np.sort(np.concatenate([np.arange(videos), extra]))
    return vectors(torch.from_numpy(gold), videos, 0.23)


def many(texts: int, videos: int, folder: str | None = None) -> Case:
    """Return vectors with equally many captions per video, or those of MSR-VTT in `folder`."""
    gold = torch.arange(texts) // (texts // videos)
    if folder is not None:
        path = next(Path(folder).rglob("test_videodatainfo.json"))
        names = [line["video_id"] for line in json.loads(path.read_text())["sentences"]]
        place = {name: number for number, name in enumerate(dict.fromkeys(names))}
        gold = torch.tensor([place[name] for name in names])
    return vectors(gold, int(gold.max()) + 1, 0.21)


def against_float64(case: Case, found: tuple[Ranks, Ranks]) -> str:
    """Return that the ranks are those of a matrix in float64, or stop with an error."""
    text, video, gold = case
    scores = text.double() @ video.double().T
    back = rank_pairs(scores.T, gold, torch.arange(len(gold)))
    for mine, theirs in zip(found, (rank(scores, gold), back), strict=True):
        if not np.array_equal(mine.expected, theirs.expected):
            raise SystemExit("ranks differ from those of a float64 matrix")
    return "ranks equal those in float64"


def against_sample(case: Case, found: tuple[Ranks, Ranks]) -> str:
    """Return that ranks of sampled queries are those in float64, or stop; pairs (i, i) only."""
    text, video, gold = case
    some = torch.randperm(len(gold), generator=torch.Generator().manual_seed(1))[:SAMPLE]
    for mine, query, items in zip(found, (text, video), (video, text), strict=True):
        scores = torch.cat(
            [query[some].double() @ part.double().T for part in items.split(8192)], 1
        )
        if not np.array_equal(mine.expected[some.numpy()], rank(scores, some).expected):
            raise SystemExit("sampled ranks differ from those in float64")
    return f"ranks of {2 * SAMPLE} sampled queries equal those in float64"


def vectors(gold: Tensor, videos: int, noise: float) -> Case:
    """Return unit vectors of a fixed seed, a text being its video and `noise`."""
    generator = torch.Generator().manual_seed(0)
    video = F.normalize(torch.randn(videos, D, generator=generator), dim=1)
    text = torch.empty(len(gold), D)
    for part, mine in zip(text.split(8192), gold.split(8192), strict=True):
        part.copy_(video[mine] + noise * torch.randn(len(mine), D, generator=generator))
    return F.normalize(text, dim=1, out=text), video, gold
