"""A split evaluated by vectors: the same result as by the similarity."""

from __future__ import annotations

from dataclasses import astuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tvr_bench.evaluation.evaluate import evaluate_features
from tvr_bench.registry import create_model, list_models, model_class

SMALL = {
    "video.size": "[32,32]",
    "video.frames": 4,
    "text.words": 6,
    "text.vocab": 300,
    "backbone.weights": "none",
    "backbone.width": 16,
    "backbone.layers": 1,
    "backbone.text_layers": 1,
}


def whole_numbers(texts, videos, seed=0):
    """Vectors of whole numbers: every score is exact, and many tie."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda rows: torch.randint(-2, 3, (rows, 8), generator=generator).float()  # noqa: E731
    return SimpleNamespace(
        text={"x": draw(texts)},
        video={"x": draw(videos)},
        similarity=lambda text, video: text["x"] @ video["x"].T,
        vectors=lambda features: features["x"],
    )


@pytest.mark.parametrize("v2t", ["caption", "group"])
@pytest.mark.parametrize("failed", [(), ("v3", "v20", "v25")])
def test_vectors_and_similarity_give_one_result(v2t, failed, make_split):
    gold = [*range(24), *range(15)]
    skills = ["order" if clip < 12 else "colour" for clip in gold]
    split = make_split(gold, skills, [f"g{clip // 4}" for clip in gold], clips=26)
    model = whole_numbers(39, 26 - len(failed))
    args = (model.similarity, model.text, model.video, split)
    options = {"failed": failed, "keep_scores": True, "v2t": v2t}
    plain = evaluate_features(*args, **options)
    model.similarity = None
    ours = evaluate_features(*args, **options, vectors=model.vectors)
    names = ("t2v", "v2t", "in_group", "by_skill", "query_ids", "clip_ids", "failed", "nan_scores")
    for name in (*names, "pairs_scored"):
        assert getattr(ours, name) == getattr(plain, name), name
    for name in ("t2v_ranks", "v2t_ranks", "in_group_ranks"):
        pairs = zip(astuple(getattr(ours, name)), astuple(getattr(plain, name)), strict=True)
        assert all(np.array_equal(one, other) for one, other in pairs), name
    assert ours.t2v["tied_queries"] and ours.v2t["tied_queries"] and ours.in_group["tied_queries"]
    torch.testing.assert_close(ours.scores, plain.scores, rtol=0, atol=0, equal_nan=True)
    assert (ours.query_ms > 0).all() and 0 < ours.ms_per_query * 39 <= 1000 * ours.seconds


def test_a_matrix_is_made_only_where_it_is_asked_for_and_fits(make_split):
    model, split = whole_numbers(20, 10), make_split([i % 10 for i in range(20)])
    args = (model.similarity, model.text, model.video, split)
    for options in ({}, {"keep_scores": True, "max_matrix_gb": 0}):
        assert evaluate_features(*args, **options, vectors=model.vectors).scores is None


def test_every_model_that_offers_vectors_scores_as_they_do():
    offering = [name for name in list_models() if hasattr(model_class(name), "score_vectors")]
    assert "meanpool" in offering
    for name in offering:
        torch.manual_seed(0)
        model = create_model(name, **SMALL).eval()
        batch = {
            "text_ids": torch.randint(1, 300, (5, 6)),
            "text_mask": torch.ones(5, 6).bool(),
            "frames": torch.randint(0, 256, (5, 4, 3, 32, 32)).byte(),
            "frame_mask": torch.ones(5, 4).bool(),
        }
        with torch.no_grad():
            text, video = model.encode_text(batch), model.encode_video(batch)
            dots = model.score_vectors(text) @ model.score_vectors(video).T
            torch.testing.assert_close(dots, model.similarity(text, video))
