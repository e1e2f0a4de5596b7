"""CRET as a RetrievalModule: branches, losses against a loop, frames, several ranks."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from cret_case import FRAMES, ITEMS, batch, build
from torch import Tensor
from torch.nn import functional as F

from tvr_bench.errors import UserError
from tvr_bench.models import losses as losses_module
from tvr_bench.models.cret import Cret
from tvr_bench.models.losses import Features, paired_losses
from tvr_bench.registry import create_model

Batch = dict[str, Tensor]


def _encode(model: Cret, batch: Batch) -> tuple[Features, Features]:
    return model.encode_text(batch), model.encode_video(batch)


def _scored(model: Cret, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model.similarity(*_encode(model, batch))


def _losses(model: Cret, batch: Batch) -> dict[str, Tensor]:
    own = model.training_features(*_encode(model, batch))
    return paired_losses(model.training_scores, model.contrast, own, own)


def _gradients(model: Cret, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("normalise", ["frame", "mean"])
def test_features_are_unit_vectors_and_frames_are_kept_for_the_loss_alone(normalise: str) -> None:
    model = build(normalise=normalise, **{"model.ccm.centres": 5})
    text, video = _encode(model, batch())
    assert {k: tuple(v.shape) for k, v in text.items()} == {"text": (ITEMS, 16), "local": (6, 80)}
    assert sorted(video) == ["frame_mask", "frames", "local", "video"]
    assert sorted(_encode(model.eval(), batch())[1]) == ["local", "video"]
    for vectors in (text["text"], text["local"], video["video"], video["local"]):
        assert torch.allclose(vectors.norm(dim=-1), torch.ones(ITEMS), atol=1e-5)
    valid = video["frames"][video["frame_mask"]]
    if normalise == "frame":
        assert torch.allclose(valid.norm(dim=-1), torch.ones(len(valid)), atol=1e-5)
    for i in range(ITEMS):
        mean = video["frames"][i][video["frame_mask"][i]].mean(0)
        assert torch.allclose(F.normalize(mean, dim=0), video["video"][i], atol=1e-5)
        assert normalise == "frame" or mean.norm().item() == pytest.approx(1, abs=1e-5)


def test_the_score_is_the_cosine_with_the_mean_frame_plus_the_local_similarity() -> None:
    model = build(local_weight=0.5)
    text, video = _encode(model, batch())
    parts = model.score_parts(text, video)
    words, _ = model.backbone.encode_text(batch()["text_ids"], batch()["text_mask"])
    for i in range(ITEMS):
        for j in range(ITEMS):
            mean = video["frames"][j][video["frame_mask"][j]].mean(0)
            cosine = F.cosine_similarity(words[i], mean, dim=0).item()
            assert parts["global"][i, j].item() == pytest.approx(cosine, abs=1e-5)
    expected = parts["global"] + 0.5 * parts["local"]
    assert torch.allclose(model.similarity(text, video), expected, atol=1e-6)


def test_the_local_branch_sees_the_largest_value_of_each_patch_over_valid_frames() -> None:
    model, clips = build(), batch()
    patches = model.backbone.encode_frames(clips["frames"])[1]
    rows = []
    for i in range(ITEMS):
        kept = [patches[i, f] for f in range(FRAMES) if clips["frame_mask"][i, f]]
        tokens = model.patch_project(torch.stack(kept).max(0).values)[None]
        aligned = model.ccm.video(tokens, torch.ones(1, tokens.shape[1]).bool())
        rows.append(model.ccm.embed(aligned)[0])
    assert torch.allclose(model.encode_video(clips)["local"], torch.stack(rows), atol=1e-5)


@pytest.mark.parametrize("place", ["after", "before"])
def test_the_patches_linear_layer_may_stand_on_either_side_of_the_maximum(place: str) -> None:
    model = build(patch_project=place)
    with torch.no_grad():
        plain = model.encode_video(batch())["local"]
        model.patch_project.weight.neg_()  # max(-x) is not -max(x)
        other = build(patch_project="before" if place == "after" else "after")
        assert torch.allclose(plain, other.encode_video(batch())["local"], atol=1e-6), "identity"
        other.load_state_dict(model.state_dict())
        turned = model.encode_video(batch())["local"]
    assert not torch.allclose(turned, other.encode_video(batch())["local"], atol=1e-3)


def test_order_of_frames_matters_to_the_global_branch_alone() -> None:
    model, clips = build(), batch()
    clips["frame_mask"][:] = True
    turned = clips | {"frames": clips["frames"].flip(1)}
    with torch.no_grad():
        model.temporal.position.mul_(50)  # its first values are small
        one, other = model.encode_video(clips), model.encode_video(turned)
    assert torch.allclose(one["local"], other["local"], atol=1e-5)
    assert not torch.allclose(one["video"], other["video"], atol=1e-3)


def test_missing_frames_have_no_say_in_score_and_loss() -> None:
    model, clips = build(), batch()
    hidden = clips | {"frames": clips["frames"].clone()}
    hidden["frames"][~clips["frame_mask"]] = 255
    assert torch.allclose(_scored(model, hidden), _scored(model, clips), atol=1e-6)
    ours, theirs = _losses(model, clips), _losses(model, hidden)
    for name, loss in ours.items():
        assert loss.item() == pytest.approx(theirs[name].item(), abs=1e-6)
    one, other = _gradients(model, sum(ours.values())), _gradients(model, sum(theirs.values()))
    for name in one:
        assert torch.allclose(one[name], other[name], atol=1e-5), name


def _slow_split(model: Cret, text: Features, video: Features) -> float:
    """The split bound by its formula, from covariance matrices, in both directions."""
    scale = model.logit_scale.item()
    m, q = np.zeros((ITEMS, ITEMS)), np.zeros((ITEMS, ITEMS))
    for j in range(ITEMS):
        frames = video["frames"][j][video["frame_mask"][j]].detach().double().numpy()
        covariance = (frames - frames.mean(0)).T @ (frames - frames.mean(0)) / len(frames)
        for i in range(ITEMS):
            t = text["text"][i].detach().double().numpy()
            m[i, j] = scale * t @ frames.mean(0)
            q[i, j] = scale**2 * t @ covariance @ t / 2
    total = 0.0
    for i in range(ITEMS):
        total += math.log(sum(math.exp(x) for x in m[i] + q[i])) - m[i, i]
        total += math.log(sum(math.exp(x) for x in m[:, i] + q[:, i])) - m[i, i]
    return total / (2 * ITEMS)


@pytest.mark.parametrize("normalise", ["frame", "mean"])
def test_the_losses_equal_their_formulas(normalise: str) -> None:
    model = build(normalise=normalise, local_loss=0.25)
    text, video = _encode(model, batch())
    found = _losses(model, batch())
    assert found["global"].item() == pytest.approx(_slow_split(model, text, video), rel=1e-4)
    logits = model.logit_scale * model.score_parts(text, video)["local"]
    diagonal = logits.diagonal()
    nce = (logits.logsumexp(0) - diagonal + logits.logsumexp(1) - diagonal).mean() / 2
    assert found["local"].item() == pytest.approx(nce.item(), rel=1e-5)
    total = model.training_step(batch(), 0)
    assert total.item() == pytest.approx((found["global"] + 0.25 * found["local"]).item(), rel=1e-5)


def test_without_variance_gees_is_info_nce_of_the_mean() -> None:
    clips = batch()
    nce = _losses(build(loss="nce"), clips)["global"].item()
    assert _losses(build(**{"model.gees.weight": 0.0}), clips)["global"].item() == pytest.approx(
        nce, rel=1e-6
    )
    assert _losses(build(), clips)["global"].item() > nce
    clips["frame_mask"][:, 1:] = False
    assert _losses(build(), clips)["global"].item() == pytest.approx(
        _losses(build(loss="nce"), clips)["global"].item(), rel=1e-6
    )


def test_with_mean_normalisation_the_loss_has_the_score_for_its_mean() -> None:
    model = build(normalise="mean", loss="nce")
    text, video = _encode(model, batch())
    logits = model.logit_scale * model.score_parts(text, video)["global"]
    target = torch.arange(ITEMS)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.mT, target)) / 2
    assert _losses(model, batch())["global"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("score", "weight"), [("aligned", 1.0), ("aligned", 0.0), ("flat", 0.3), ("projected", 0.3)]
)
def test_the_recall_embedding_ranks_exactly_as_the_score(score: str, weight: float) -> None:
    model = build(local_weight=weight, **{"model.ccm.score": score, "model.ccm.width": 7})
    text, video = _encode(model, batch())
    dot = model.recall_embedding(text) @ model.recall_embedding(video).mT
    assert torch.allclose((1 + weight) * dot, model.similarity(text, video), atol=1e-6)


@pytest.mark.parametrize("branch", ["global", "local"])
def test_a_branch_alone_is_the_score_and_the_only_loss(branch: str) -> None:
    model = build(branches=branch)
    text, video = _encode(model, batch())
    assert list(model.score_parts(text, video)) == list(_losses(model, batch())) == [branch]
    assert torch.equal(model.similarity(text, video), model.score_parts(text, video)[branch])
    dot = model.recall_embedding(text) @ model.recall_embedding(video).mT
    assert torch.allclose(dot, model.similarity(text, video), atol=1e-6)
    other = "ccm" if branch == "global" else "temporal"
    assert not any(name.startswith(other) for name, _ in model.named_parameters())


OPTIONS: list[dict[str, Any]] = [
    {"branches": "global"},
    {"branches": "local"},
    {"loss": "nce"},
    {"normalise": "mean"},
    {"model.ccm.share_queries": False, "model.ccm.share_weights": False},
    {"model.ccm.score": "projected"},
    {"model.ccm.self_attention": False},
    {"model.gees.form": "difference"},
    {"model.gees.form": "min", "model.gees.unbiased": True, "model.gees.limit": 5.0},
    {"model.gees.form": "isda_v2t", "model.gees.detach": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_trained_parameter_has_a_gradient_with_any_option(options: dict[str, Any]) -> None:
    model = build(**options)
    loss = model.training_step(batch(), 0)
    loss.backward()
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        unread = options.get("branches") == "local" and name.startswith("network.image.re")
        assert unread or (parameter.grad is not None and parameter.grad.isfinite().all()), name
    assert model.log_scale.grad is not None and model.log_scale.grad != 0


def test_detached_covariance_has_the_same_loss_and_another_gradient() -> None:
    plain, fixed = build(), build(**{"model.gees.detach": True})
    ours, theirs = _losses(plain, batch())["global"], _losses(fixed, batch())["global"]
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    one, other = _gradients(plain, ours), _gradients(fixed, theirs)
    name = "temporal.blocks.0.mlp.2.weight"
    assert not torch.allclose(one[name], other[name], rtol=0.01)
    assert torch.allclose(one["log_scale"], other["log_scale"])


def test_validation_does_not_count_as_a_step() -> None:
    model = build()
    clips = batch() | {"video_index": torch.arange(ITEMS), "text_index": torch.arange(ITEMS)}
    model.validation_step(clips, 0, 0)
    model.test_step(clips, 0, 1)
    assert model.steps_done == 0


@pytest.mark.parametrize("count", [2, FRAMES, 7])
def test_another_number_of_frames_meets_interpolated_positions(count: int) -> None:
    model = build(**{"eval.frames": count})
    table = model.temporal.position.detach()
    middles = (np.arange(FRAMES) + 0.5) / FRAMES
    wanted = (np.arange(count) + 0.5) / count
    fitted = np.stack([np.interp(wanted, middles, table[:, d].numpy()) for d in range(16)], 1)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(2, count, 16, generator=generator)
    mask = torch.ones(2, count).bool()
    expected = frames + torch.from_numpy(fitted).float()
    for block in model.temporal.blocks:
        expected = block(expected, mask)
    assert torch.allclose(model._in_time(frames, mask), expected, atol=1e-5)
    clip = torch.randint(0, 256, (2, count, 3, 32, 32), generator=generator).byte()
    assert model.encode_video({"frames": clip, "frame_mask": mask})["video"].isfinite().all()


def test_a_clip_without_any_frame_stays_finite() -> None:
    model, clips = build(), batch()
    clips["frame_mask"][3] = False
    assert _scored(model, clips).isfinite().all()
    assert all(loss.isfinite() for loss in _losses(model, clips).values())


def test_scores_are_made_in_full_precision() -> None:
    model = build().eval()
    with torch.autocast("cpu", torch.bfloat16):
        text, video = _encode(model, batch())
        scores = model.similarity(text, video)
    assert {v.dtype for v in (*text.values(), *video.values())} == {torch.float32}
    assert scores.dtype == torch.float32
    assert torch.equal(scores, model.similarity(text, video))
    halves = [{k: v.bfloat16() for k, v in features.items()} for features in (text, video)]
    with torch.autocast("cpu", torch.bfloat16):
        restored = [{k: v.float() for k, v in features.items()} for features in halves]
        assert torch.equal(model.similarity(*halves), model.similarity(*restored))


def test_gees_is_made_in_full_precision_under_autocast() -> None:
    model = build()
    with torch.autocast("cpu", torch.bfloat16):
        own = model.training_features(*_encode(model, batch()))
        scores = model.training_scores(*own)
    assert {value.dtype for value in scores.values()} == {torch.float32}
    exact = torch.einsum("id,jmd->ijm", own[0]["text"].double(), own[1]["frames"].double())
    valid = own[1]["frame_mask"].expand(ITEMS, -1, -1)
    assert torch.allclose(scores["global"][valid].double(), exact[valid], atol=1e-6)
    assert (scores["global"][~valid] == -torch.inf).all()


def test_share_flags_cost_exactly_their_parameters() -> None:
    def count(**options: Any) -> int:
        return sum(p.numel() for p in build(**options).parameters())

    both = count()
    decoder = sum(p.numel() for p in build().ccm.decoders[0].parameters())
    assert count(**{"model.ccm.share_queries": False}) == both + 8 * 16
    assert count(**{"model.ccm.share_weights": False}) == both + decoder


def test_only_the_naive_form_warns() -> None:
    with pytest.warns(UserWarning, match="naive_ce bounds nothing"):
        build(**{"model.gees.form": "naive_ce"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build()
        build(loss="nce", **{"model.gees.form": "naive_ce"})


def test_impossible_options_name_the_allowed_ones() -> None:
    with pytest.raises(UserError, match=r"split, difference, min, isda_v2t, naive_ce"):
        build(**{"model.gees.form": "splt"})
    with pytest.raises(UserError, match=r"model\.temporal\.heads=3"):
        build(**{"model.temporal.heads": 3})
    with pytest.raises(UserError, match=r"model\.ccm\.heads=3"):
        build(**{"model.ccm.heads": 3})
    with pytest.raises(UserError, match=r"model\.gees\.weight=2"):
        create_model("cret", **{"model.gees.weight": 2.0})


@pytest.mark.parametrize("options", [{}, OPTIONS[-1], OPTIONS[-2], {"loss": "nce"}], ids=str)
def test_shares_of_a_batch_add_up_to_the_loss_and_gradients_of_the_whole(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks, one after the other in one process: what each makes of its share."""
    model = build(**options)
    whole = model.training_features(*_encode(model, batch()))
    alone = sum(paired_losses(model.training_scores, model.contrast, whole, whole).values())
    expected = _gradients(model, alone)
    monkeypatch.setattr(losses_module, "world_size", lambda: 2)
    shares = []
    whole = model.training_features(*_encode(model, batch()))
    for rank in range(2):
        part = slice(3 * rank, 3 * rank + 3)
        own = tuple({k: v[part] for k, v in features.items()} for features in whole)
        monkeypatch.setattr(losses_module.dist, "get_rank", lambda rank=rank: rank)
        shares += paired_losses(model.training_scores, model.contrast, own, whole).values()
    together = torch.stack(shares).sum() / 2
    assert together.item() == pytest.approx(alone.item(), rel=1e-5)
    for name, gradient in _gradients(model, together).items():
        assert torch.allclose(gradient, expected[name], atol=1e-5), name
