"""EERCF searched in two stages: what is done once per video, and what each pair costs.

N texts and as many videos, F frames, P patches, D width.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.eercf_case import FRAMES, D, P, make_model
from tvr_bench.evaluation.efficiency import count_flops
from tvr_bench.evaluation.outcome import Found
from tvr_bench.evaluation.two_stage import Stages, search
from tvr_bench.models.eercf import Eercf

Features = dict[str, Tensor]
PER_PAIR = D + 2 * FRAMES * D + 2 * FRAMES**2 + FRAMES * P * D
K = 5


@pytest.fixture
def model() -> Eercf:
    return make_model().eval()


def _batch(items: int) -> Features:
    generator = torch.Generator().manual_seed(2)
    centre = torch.randn(items, D, generator=generator)
    noise = torch.randn(items, FRAMES, 1 + P, D, generator=generator)
    return {
        "text_ids": centre + torch.randn(items, D, generator=generator),
        "text_mask": torch.ones(items, 1).bool(),
        "frames": centre[:, None, None] + 2 * noise,
        "frame_mask": torch.ones(items, FRAMES).bool(),
    }


def _encode(model: Eercf, items: int) -> tuple[Features, Features]:
    with torch.no_grad():
        return model.encode_text(_batch(items)), model.encode_video(_batch(items))


def _search(model: Eercf, sides: tuple[Features, Features], k: int = K) -> Found:
    gold = torch.arange(len(sides[0]["text"]))
    stages = Stages(k, model.recall_embedding, model.rerank)
    return search(stages, *sides, gold, (gold, gold), gold >= 0)


def _refuse(*_: object) -> Tensor:
    raise AssertionError("a search must not encode anything again")


def test_a_search_encodes_nothing_and_scores_the_pairs_that_it_counts(
    model: Eercf, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = _encode(model, 30)
    scored: list[int] = []
    rerank = model.rerank

    def counting(text: Features, video: Features) -> Tensor:
        scored.append(len(text["text"]))
        return rerank(text, video)

    monkeypatch.setattr(model, "rerank", counting)
    monkeypatch.setattr(model, "encode_video", _refuse)
    monkeypatch.setattr(model, "encode_text", _refuse)
    monkeypatch.setattr(model.temporal, "forward", _refuse)
    found = _search(model, sides)
    assert found.stages is not None
    assert sum(scored) == found.pairs_scored
    assert 30 * K <= found.pairs_scored <= 2 * 30 * K
    assert (found.stages.pairs_t2v, found.stages.pairs_v2t) == (30 * K, 30 * K)
    assert len(scored) == 30, "each video is looked at once"


def test_the_index_grows_as_the_videos_and_a_search_as_the_pairs(model: Eercf) -> None:
    index, work, pairs = [], [], []
    for items in (20, 40):
        batch, sides = _batch(items), _encode(model, items)
        with torch.no_grad():
            index.append(count_flops(lambda batch=batch: model.encode_video(batch)))
        work.append(count_flops(lambda sides=sides: _search(model, sides)))
        pairs.append(_search(model, sides).pairs_scored)
    assert index[1] == 2 * index[0] > 0
    for items, flops, scored in zip((20, 40), work, pairs, strict=True):
        assert flops == 2 * (items**2 * D + scored * PER_PAIR)


@pytest.mark.parametrize("k", [3, 40])
def test_ranks_are_those_of_sorting_the_scores_of_every_pair(model: Eercf, k: int) -> None:
    text, video = sides = _encode(model, 40)
    found = _search(model, sides, k)
    with torch.no_grad():
        fine = model.similarity(text, video)
        first = model.recall_embedding(text) @ model.recall_embedding(video).T
    for ranks, rows, coarse in ((found.t2v, fine, first), (found.v2t, fine.T, first.T)):
        for query in range(40):
            order = coarse[query].argsort(descending=True).tolist()
            best = sorted(order[:k], key=lambda item: -float(rows[query][item]))
            assert ranks.ahead[query] == (best + order[k:]).index(query)
    assert found.t2v.ahead.any()
