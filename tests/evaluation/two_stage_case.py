"""A search in two stages by plain loops, and problems to try it on."""

from __future__ import annotations

from collections import Counter
from statistics import median
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor


def problem(
    seed: int,
    texts: int = 12,
    videos: int = 7,
    absent: int = 0,
    nan: float = 0.05,
    levels: int = 3,
) -> SimpleNamespace:
    """Whole-number vectors and a table of fine scores, both with ties, NaN and infinities.

    `gold` leaves some videos without a text and gives others several; `absent` videos have no
    features.
    """
    rng = np.random.default_rng(seed)
    vectors = [
        rng.integers(-levels, levels + 1, (n, 3)).astype(np.float32) for n in (texts, videos)
    ]
    for side in vectors:
        side[rng.random(len(side)) < nan] = np.nan
    fine = rng.integers(-levels, levels + 1, (texts, videos)).astype(np.float32)
    fine[rng.random(fine.shape) < nan] = np.nan
    fine[rng.random(fine.shape) < nan] = np.inf
    fine[(fine == 0) & (rng.random(fine.shape) < 0.5)] = -0.0
    present = np.ones(videos, bool)
    present[rng.permutation(videos)[: min(absent, videos - 1)]] = False
    there = np.flatnonzero(present)
    table = torch.from_numpy(fine)
    made = SimpleNamespace(
        first=(vectors[0] @ vectors[1].T).tolist(),
        fine=fine.tolist(),
        gold=rng.integers(0, videos, texts).tolist(),
        present=present.tolist(),
        groups=[f"g{g}" if g else "" for g in rng.integers(0, 3, texts)],
        text={"vector": torch.from_numpy(vectors[0]), "row": torch.arange(texts)},
        video={"vector": torch.from_numpy(vectors[1][there]), "column": torch.from_numpy(there)},
        pairs=Counter(),
        calls=[],
    )

    def rerank(text: dict[str, Tensor], video: dict[str, Tensor]) -> Tensor:
        assert len(video["column"]) == 1
        made.pairs.update((row, int(video["column"])) for row in text["row"].tolist())
        made.calls.append((int(video["column"]), len(text["row"])))
        return table[text["row"], video["column"]]

    made.rerank = rerank
    made.similarity = lambda text, video: table[text["row"]][:, video["column"]]
    return made


def recall(features: dict[str, Tensor]) -> Tensor:
    return features["vector"]


def chosen(first: list[float], there: list[int], k: int) -> list[int]:
    """The k best of the items that are there: the greatest, of equals the first, NaN last."""
    unknown = [first[item] != first[item] for item in range(len(first))]
    return sorted(there, key=lambda i: (unknown[i], 0 if unknown[i] else -first[i], i))[:k]


def standing(
    first: list[float], fine: list[float], there: list[int], k: int
) -> list[tuple[int, float]]:
    """What each item is compared by: a stage and its score, (0, 0) where that is NaN."""
    best = chosen(first, there, k)
    order = []
    for item in range(len(first)):
        stage, score = (2, fine[item]) if item in best else (1, first[item])
        known = item in there and score == score
        order.append((stage, score) if known else (0, 0.0))
    return order


def slow_rank(order: list[tuple[int, float]], right: set[int]) -> tuple[int, int, int, int, bool]:
    """ahead, tied, gold, items and nan of one query, by looking at every item."""
    best = max(order[item] for item in right)
    if best[0] == 0:
        return len(order) - 1, 0, 1, len(order), True
    ahead = sum(one > best for one in order)
    level = [item for item, one in enumerate(order) if one == best]
    gold = sum(item in right for item in level)
    return ahead, len(level) - gold, gold, len(order), False


def transposed(table: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*table, strict=True)]


def slow_search(made: SimpleNamespace, k: int) -> dict[str, list[tuple]]:
    """The ranks of both directions and inside groups, and the pairs of each direction."""
    texts, videos = len(made.gold), len(made.present)
    there = [video for video in range(videos) if made.present[video]]
    found: dict[str, list[tuple]] = {"t2v": [], "v2t": [], "in_group": []}
    for text in range(texts):
        order = standing(made.first[text], made.fine[text], there, k)
        found["t2v"].append(slow_rank(order, {made.gold[text]}))
        if made.groups[text]:
            mine = {made.gold[t] for t in range(texts) if made.groups[t] == made.groups[text]}
            members = sorted(mine)
            inside = [order[video] for video in members]
            found["in_group"].append(slow_rank(inside, {members.index(made.gold[text])}))
    first, fine = transposed(made.first), transposed(made.fine)
    found["pairs_t2v"] = [(t, v) for t in range(texts) for v in chosen(made.first[t], there, k)]
    found["pairs_v2t"] = []
    for video in range(videos):
        right = {text for text in range(texts) if made.gold[text] == video}
        if right and video in there:
            order = standing(first[video], fine[video], list(range(texts)), k)
            found["pairs_v2t"] += [(t, video) for t in chosen(first[video], list(range(texts)), k)]
        else:
            order = [(0, 0.0)] * texts
        found["v2t"].append(slow_rank(order, right or {0}))
    return found


def real_problem(seed: int, texts: int, videos: int) -> SimpleNamespace:
    """Random unit vectors and fine scores near their products, with a split and its groups."""
    rng = np.random.default_rng(seed)
    vectors = [rng.normal(size=(n, 16)).astype(np.float32) for n in (texts, videos)]
    unit = [torch.from_numpy(v / np.linalg.norm(v, axis=1, keepdims=True)) for v in vectors]
    noise = torch.from_numpy(rng.normal(size=(texts, videos)).astype(np.float32))
    table = unit[0] @ unit[1].T + noise / 4
    return SimpleNamespace(
        text={"vector": unit[0], "row": torch.arange(texts)},
        video={"vector": unit[1], "column": torch.arange(videos)},
        similarity=lambda text, video: table[text["row"]][:, video["column"]],
        rerank=lambda text, video: table[text["row"], video["column"]],
    )


def released(made: SimpleNamespace, k: int, scale: float) -> dict[str, dict[str, float]]:
    """The released evaluation, step by step: boost, sort, transpose, best sentence of a clip."""
    matrix = [[scale * score for score in row] for row in made.first]
    for text, row in enumerate(made.first):
        for video in sorted(range(len(row)), key=lambda v: -row[v])[:k]:
            matrix[text][video] = 100 + scale * made.fine[text][video]
    forward = [sorted(row, reverse=True).index(row[made.gold[t]]) for t, row in enumerate(matrix)]
    clips = sorted(set(made.gold))
    backward = []
    for video in clips:
        best = [
            max(matrix[text][video] for text in range(len(matrix)) if made.gold[text] == clip)
            for clip in clips
        ]
        backward.append(sorted(best, reverse=True).index(best[clips.index(video)]))
    return {
        name: {
            **{f"R@{r}": 100 * sum(i < r for i in ranks) / len(ranks) for r in (1, 5, 10)},
            "MdR": median(ranks) + 1,
            "MnR": sum(ranks) / len(ranks) + 1,
        }
        for name, ranks in (("t2v", forward), ("v2t", backward))
    }
