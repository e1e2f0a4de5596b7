"""EERCF as a RetrievalModule: stages, gates, masks, memory, options and what they train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.eercf_case import (
    EVERY,
    FRAMES,
    SMALL,
    D,
    M,
    N,
    all_losses,
    encode,
    make_batch,
    make_model,
    take,
    total_loss,
)
from tvr_bench import config
from tvr_bench.errors import UserError
from tvr_bench.models.eercf import Eercf
from tvr_bench.models.layers.levels import PARTS
from tvr_bench.registry import create_model


def test_the_total_is_weak_strong_and_pearson() -> None:
    model = make_model()
    pairs = encode(model, make_batch())
    assert set(all_losses(model, *pairs)) == {"weak", "strong", "pearson"}
    assert set(all_losses(make_model(pearson=0), *pairs)) == {"weak", "strong"}
    assert set(all_losses(make_model(strong=0, pearson=0), *pairs)) == {"weak"}


def test_own_and_pairwise_gates_agree_on_the_diagonal_alone() -> None:
    own, pairwise = make_model(tib_train="own"), make_model(tib_train="pairwise")
    pairs = encode(own, make_batch())
    one = own.training_scores(*own.training_features(*pairs))
    two = pairwise.training_scores(*pairwise.training_features(*pairs))
    assert torch.equal(one["weak"], two["weak"])
    assert torch.allclose(one["strong"].diagonal(), two["strong"].diagonal(), atol=1e-6)
    assert not torch.allclose(one["strong"], two["strong"], atol=1e-3)


@pytest.mark.parametrize("train", ["own", "pairwise"])
def test_a_detached_gate_stops_the_gradient(train: str) -> None:
    """The raw frames reach the strong score through the gate alone."""

    def gradient(detach: bool) -> Tensor:
        model = make_model(tib_train=train, tib_detach=detach, strong_patch=0.0)
        text, video = encode(model, make_batch())
        video = {key: value.detach() for key, value in video.items()}
        video["frames"].requires_grad_()
        video["temporal"].requires_grad_()
        scores = model.training_scores(*model.training_features(text, video))
        scores["strong"].square().sum().backward()
        assert video["temporal"].grad is not None and video["temporal"].grad.any()
        grad = video["frames"].grad
        return torch.zeros(1) if grad is None else grad

    assert not gradient(True).any() and gradient(False).any()


@pytest.mark.parametrize("options", [{}, EVERY, {"granularity": "frame"}], ids=str)
def test_rerank_is_similarity_on_pairs(options: dict[str, Any]) -> None:
    model = make_model(**options)
    with torch.no_grad():
        text, video = encode(model, make_batch(N))
        whole = model.similarity(text, video)
        rows, columns = torch.tensor([0, 4, 2, 2, 1]), torch.tensor([5, 1, 1, 0, 3])
        found = model.rerank(take(text, rows), take(video, columns))
        one = model.rerank(text, take(video, [1]))
    assert torch.allclose(found, whole[rows, columns], atol=1e-6)
    assert torch.allclose(one, whole[:, 1], atol=1e-6)


def test_parity_keeps_the_length_of_the_coarse_query() -> None:
    """The released code transposes the coarse scores, where that length is a factor of a text."""
    model = make_model(**{"eval.parity": "eercf", "eval.two_stage": 2})
    with torch.no_grad():
        model.recall_map.mul_(3.0)
        text, video = encode(model, make_batch(N))
        found = model.recall_embedding(text) @ model.recall_embedding(video).mT
        coarse = text["text"] @ model.recall_map @ video["video"].mT
    assert torch.allclose(found, coarse, atol=1e-6)


def test_the_first_stage_ranks_a_texts_videos_as_the_coarse_score() -> None:
    model = make_model(granularity="video")
    text, video = encode(model, make_batch(N))
    found = model.recall_embedding(text) @ model.recall_embedding(video).mT
    coarse = model.score_parts(text, video)["video"]
    assert torch.equal(found.argsort(1), coarse.argsort(1))
    assert set(video) == {"video"}  # nothing fine is computed, kept or gathered


def test_padded_frames_count_only_where_the_released_form_is_asked_for() -> None:
    batch = make_batch(N)
    changed = batch | {"frames": batch["frames"].clone()}
    changed["frames"][1, 2:] *= -1
    for masked in (True, False):
        model = make_model(mask_frames=masked, **EVERY)
        with torch.no_grad():
            one, two = (model.score_parts(*encode(model, b)) for b in (batch, changed))
        for part in PARTS:
            same = masked or part == "video"
            assert torch.allclose(one[part][:, 1], two[part][:, 1], atol=1e-6) == same, part


def test_a_clip_without_a_frame_scores_zero_and_trains() -> None:
    model, batch = make_model(**EVERY), make_batch()
    batch["frame_mask"][3] = False
    text, video = encode(model, batch)
    assert (model.similarity(text, video)[:, 3] == 0).all()
    total_loss(model, text, video).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_learnt_maps_start_as_the_identity() -> None:
    model = create_model("eercf", **SMALL)
    assert isinstance(model, Eercf)
    assert torch.equal(model.recall_map, torch.eye(D))
    assert torch.equal(model.frame_map, torch.eye(FRAMES))
    text, _ = encode(model, _tokens())
    assert torch.equal(text["query"], text["text"])


def _tokens() -> dict[str, Tensor]:
    return {
        "text_ids": torch.randint(3, 300, (M, 6)),
        "text_mask": torch.ones(M, 6).bool(),
        "frames": torch.randint(0, 256, (M, FRAMES, 3, 32, 48)).byte(),
        "frame_mask": torch.ones(M, FRAMES).bool(),
    }


def test_scores_and_losses_are_exact_under_autocast() -> None:
    model = make_model()
    with torch.no_grad():
        text, video = encode(model, make_batch())
        plain = model.similarity(text, video), total_loss(model, text, video)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model.similarity(text, video), total_loss(model, text, video)
            encoded = model.encode_video(make_batch())
    assert all(torch.equal(a, b) for a, b in zip(plain, mixed, strict=True))
    assert encoded["gram"].dtype == torch.float32


TIED = {"video": 0.4, "frame": 0.4, "patch": 0.04, "tib_frame": 0.2}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, TIED),
        ({"strong": 0}, {"video": 0.4, "frame": 0.4, "patch": 0.04}),
        ({"granularity": "frame"}, {"video": 0.4, "frame": 0.4, "tib_frame": 0.2}),
        ({"granularity": "video", "rerank": "released"}, {"video": 0.5}),
        ({"rerank": "released"}, {"video": 0.5, "frame": 0.8, "patch": 0.2, "tib_frame": 0.2}),
        ({"rerank": "custom", "rerank_weights": "[0,2,0,0,1]"}, {"frame": 2, "tib_patch": 1}),
    ],
    ids=str,
)
def test_the_fused_score_has_the_weights_that_are_asked_for(
    options: dict[str, Any], expected: dict[str, float]
) -> None:
    model = make_model(**options)
    assert model.scoring == pytest.approx(expected)
    with torch.no_grad():
        text, video = encode(model, make_batch(N))
        parts, score = model.score_parts(text, video), model.similarity(text, video)
    assert parts.keys() == expected.keys()
    by_hand = torch.stack([w * parts[k] for k, w in expected.items()]).sum(0)
    assert torch.allclose(score, by_hand, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"granularity": "video"},
        {"granularity": "frame"},
        {"weak_frame": 0},
        {"strong": 0, "pearson": 0},
        {"tib_train": "pairwise"},
        {"strong_patch": 1.0, "pearson_patch": 1.0, "pearson_off": 0.1},
        {"layers": 0},
    ],
    ids=str,
)
def test_every_ablation_trains_all_that_it_has(options: dict[str, Any]) -> None:
    model = make_model(**options)
    total_loss(model, *encode(model, make_batch())).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "does not divide"),
        ({"rerank": "custom", "rerank_weights": "[1,1]"}, "five numbers"),
        (
            {"granularity": "video", "rerank": "custom", "rerank_weights": "[0,1,0,0,0]"},
            "no part is left",
        ),
        ({"eval.frames": FRAMES + 1}, "leave eval.frames alone"),
        ({"tib_train": "all"}, "Choose one of: own, pairwise"),
    ],
)
def test_an_impossible_configuration_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_model(**options)


def test_towers_of_clip_lend_their_text_blocks(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    shared = {"hidden_size": D, "num_attention_heads": 1, "num_hidden_layers": 4}
    text = shared | {"vocab_size": 300, "intermediate_size": 4 * D}
    vision = shared | {"image_size": 32, "patch_size": 16}
    clip = CLIPModel(CLIPConfig(projection_dim=D, text_config=text, vision_config=vision))
    clip.save_pretrained(tmp_path)
    towers = {"backbone.name": "clip_vit_b32", "backbone.weights": str(tmp_path)}
    model = create_model("eercf", **(SMALL | towers | {"video.size": "[32,32]"}))
    assert isinstance(model, Eercf) and model.temporal is not None
    state = model.temporal.state_dict()
    lent = clip.text_model
    assert torch.equal(state["position"], lent.embeddings.position_embedding.weight[:FRAMES])
    last = lent.encoder.layers[3]
    assert torch.equal(state["blocks.3.attention.out.weight"], last.self_attn.out_proj.weight)
    assert torch.equal(state["blocks.3.mlp.2.bias"], last.mlp.fc2.bias)


def test_the_papers_settings_are_those_of_the_released_script() -> None:
    cfg = config.load(["model=tib", "track=paper"])
    assert cfg.model.name == "eercf" and cfg.backbone.name == "clip_vit_b32"
    assert (cfg.trainer.batch_size, cfg.trainer.epochs, cfg.video.frames) == (240, 5, 12)
    assert cfg.optim.lr * cfg.optim.backbone_lr == pytest.approx(1e-7)
    assert cfg.optim.name == "bert_adam" and cfg.trainer.captions == "all"
    assert not cfg.model.mask_frames and cfg.loss.scale is None and cfg.eval.two_stage == 50


def test_unit_features_are_unit() -> None:
    model = make_model()
    text, video = encode(model, make_batch())
    for tensor in (text["text"], video["video"], video["frames"][0], video["patches"][0]):
        assert torch.allclose(tensor.norm(dim=-1), torch.ones(tensor.shape[:-1]), atol=1e-5)
    assert torch.allclose(F.normalize(video["temporal"][0], dim=-1), video["temporal"][0])
