"""T-CARD as a RetrievalModule: features, losses, options, and scene text that may be missing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import FRAMES, SMALL, WINDOWS, WORDS
from torch import Tensor, nn

from tvr_bench.errors import UserError
from tvr_bench.models import tcard
from tvr_bench.models.losses import paired_losses
from tvr_bench.models.tcard import TCard
from tvr_bench.registry import create_model

B = 4
SETTINGS = SMALL | {"video.size": "[32,32]", "heads": 2}


def _model(**options: Any) -> TCard:
    torch.manual_seed(0)
    model = create_model("tcard", **(SETTINGS | options))
    assert isinstance(model, TCard)
    return model


def _batch() -> dict[str, Tensor]:
    """Clip 0 has no scene text, clip 1 one empty window, clips 2 and 3 share a caption."""
    generator = torch.Generator().manual_seed(0)
    ocr_mask = torch.zeros(B, WINDOWS, WORDS).bool()
    ocr_mask[1:, :, :3] = True
    ocr_mask[1, 1] = False
    ocr_ids = torch.randint(1, 300, (B, WINDOWS, WORDS), generator=generator)
    ocr_ids[3, 0] = ocr_ids[2, 0]
    return {
        "text_ids": torch.randint(1, 300, (B, WORDS), generator=generator),
        "text_mask": torch.ones(B, WORDS).bool(),
        "frames": torch.randint(0, 256, (B, FRAMES, 3, 32, 32), generator=generator).byte(),
        "frame_mask": torch.ones(B, FRAMES).bool(),
        "ocr_ids": ocr_ids,
        "ocr_mask": ocr_mask,
    }


def _encode(model: TCard, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return model.encode_text(batch), model.encode_video(batch)


def _total(model: TCard, batch: dict[str, Tensor]) -> Tensor:
    pairs = _encode(model, batch)
    losses = paired_losses(model.training_scores, model.contrast, pairs, pairs)
    losses |= model.auxiliary_losses(*pairs)
    return torch.stack(list(losses.values())).sum()


def test_ocr_features_equal_encoding_every_window_by_itself() -> None:
    model, batch = _model(), _batch()
    features = model.encode_video(batch)
    assert features["ocr"].shape == (B, WINDOWS, 16)
    assert features["ocr_mask"].tolist() == [
        [False, False],
        [True, False],
        [True, True],
        [True, True],
    ]
    for b in range(B):
        for w in range(WINDOWS):
            ids, mask = batch["ocr_ids"][b, w][None], batch["ocr_mask"][b, w][None]
            alone = model.backbone.encode_text(ids, mask)[0][0]
            expected = alone if mask.any() else torch.zeros(16)
            assert torch.allclose(features["ocr"][b, w], expected, atol=1e-6)


def test_each_distinct_caption_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = _model(), _batch()
    shapes = []
    encode = model.network.encode_text

    def spy(ids: Tensor, mask: Tensor) -> Any:
        shapes.append(tuple(ids.shape))
        return encode(ids, mask)

    monkeypatch.setattr(model.network, "encode_text", spy)
    model.encode_video(batch)
    # five captions, one of them twice, and a row for the empty windows; three words at most
    assert shapes == [(5, 3)]


@pytest.mark.parametrize("loss", ["joint", "branch", "both"])
def test_training_scores_follow_the_loss_key(loss: str) -> None:
    model = _model(loss=loss, frame_loss=0.0)
    text, video = _encode(model, _batch())
    parts = ["text-video", "text-ocr", "text-hybrid"]
    expected = {"joint": ["score"], "branch": parts, "both": ["score", *parts]}[loss]
    scores = model.training_scores(text, video)
    assert list(scores) == expected
    if "score" in scores:
        assert torch.allclose(scores["score"], model.similarity(text, video))


@pytest.mark.parametrize("loss", ["joint", "branch", "both"])
def test_plain_frames_get_a_weighted_loss_but_no_say_in_the_score(loss: str) -> None:
    model = _model(frame_loss=3.0, loss=loss)
    text, video = _encode(model, _batch())
    scores = model.training_scores(text, video)
    means = video["frames"].mean(1)
    expected = nn.functional.cosine_similarity(text["text"][:, None], means[None], dim=-1)
    assert torch.allclose(scores["frames"], expected, atol=1e-6)
    assert model.loss_weights == {"text-hybrid": 1.0, "frames": 3.0}
    assert "frames" not in model.score_parts(text, video)


def test_co_attention_with_gain_zero_starts_by_adding_nothing() -> None:
    model, without = _model(coattention_gain=0.0), _model(coattention=False)
    text, video = _encode(model, _batch())
    plain = nn.functional.layer_norm(video["frames"], (16,))
    # LN(w v) = LN(v) but for its epsilon, so what is left is the mean of the normed frames
    expected = nn.functional.cosine_similarity(text["text"][:, None], plain.mean(1)[None], dim=-1)
    got = model.score_parts(text, video)["text-video"]
    assert torch.allclose(got, expected, atol=1e-3)
    assert not torch.allclose(got, without.score_parts(text, video)["text-video"], atol=1e-3)


def test_a_video_without_scene_text_has_text_ocr_zero_and_a_mean_over_three() -> None:
    model = _model()
    text, video = _encode(model, _batch())
    parts = model.score_parts(text, video)
    assert not parts["text-ocr"][:, 0].any() and parts["text-ocr"][:, 1:].all()
    expected = (parts["text-video"] + parts["text-hybrid"])[:, 0] / 3
    assert torch.allclose(model.similarity(text, video)[:, 0], expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"match": "wti"},
        {"ocr_encoder": "untied"},
        {"hsc_features": "conditioned"},
        {"ctcd": "cross_attention"},
        {"fast_path": "direct"},
        {"ocr.enabled": False},
    ],
    ids=str,
)
def test_every_trained_parameter_has_a_gradient(options: dict[str, Any]) -> None:
    model = _model(**options)
    _total(model, _batch()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("encoder", ["shared", "untied"])
def test_a_batch_without_any_scene_text_trains(encoder: str) -> None:
    model, batch = _model(ocr_encoder=encoder), _batch()
    batch["ocr_mask"][:] = False
    loss = _total(model, batch)
    loss.backward()
    assert loss.isfinite()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_hsc_reaches_both_encoders_and_follows_its_weight() -> None:
    model, batch = _model(), _batch()
    losses = model.auxiliary_losses(*_encode(model, batch))
    losses["hsc"].backward()
    assert losses["hsc"] > 0
    for tower in (model.network.image, model.network.text):
        assert sum(float(p.grad.abs().sum()) for p in tower.parameters() if p.grad is not None) > 0
    double = _model(hsc_weight=0.2)
    double.load_state_dict(model.state_dict())
    doubled = double.auxiliary_losses(*_encode(double, batch))["hsc"]
    assert doubled.item() == pytest.approx(2 * losses["hsc"].item())
    assert _model(hsc_weight=0.0).auxiliary_losses(*_encode(model, batch)) == {}


def test_without_ocr_it_scores_and_never_reads_the_captions() -> None:
    model, batch = _model(**{"ocr.enabled": False}), _batch()
    text, video = _encode(model, batch)
    other = {**batch, "ocr_ids": batch["ocr_ids"].flip(0)}
    assert list(model.score_parts(text, video)) == ["text-video", "text-hybrid"]
    assert sorted(video) == ["frame_mask", "frames"]
    score = model.similarity(text, video)
    assert torch.equal(score, model.similarity(text, model.encode_video(other)))
    assert model.auxiliary_losses(text, video) == {}


def test_scores_know_the_order_of_frames_and_the_words_on_signs() -> None:
    model, batch = _model(**{"backbone.motion": False}), _batch()
    text, video = _encode(model, batch)
    score = model.similarity(text, video)
    backward = model.encode_video({**batch, "frames": batch["frames"].flip(1)})
    assert not torch.allclose(score, model.similarity(text, backward), atol=1e-6)
    reread = model.encode_video({**batch, "ocr_ids": batch["ocr_ids"].flip(0)})
    changed = (score - model.similarity(text, reread)).abs().amax(0)
    assert changed[0] == 0 and changed[1:].min() > 1e-6


def test_untied_encoder_is_a_copy_of_the_text_tower_that_goes_its_own_way() -> None:
    model, batch = _model(ocr_encoder="untied"), _batch()
    before = _model().encode_video(batch)["ocr"]
    assert torch.allclose(model.encode_video(batch)["ocr"], before)
    assert not any("ocr.image" in name for name, _ in model.named_parameters())
    with torch.no_grad():
        model.network.text.embed.weight.zero_()
    assert torch.allclose(model.encode_video(batch)["ocr"], before)


def test_text_copy_leaves_nested_image_parts_out() -> None:
    backbone: Any = nn.Module()
    backbone.image_parts = ("clip.vision_model", "clip.visual_projection")
    backbone.clip = nn.ModuleDict(
        {k: nn.Linear(1, 1) for k in ("vision_model", "visual_projection", "text_model")}
    )
    twin = tcard._text_copy(backbone)
    assert [name for name, _ in twin.named_children()] == ["clip"]
    assert sorted(twin.get_submodule("clip")._modules) == ["text_model"]
    assert len(backbone.clip) == 3


def test_features_in_half_precision_are_scored_in_fp32() -> None:
    model = _model()
    text, video = _encode(model, _batch())
    half = [
        {k: v.bfloat16() if v.is_floating_point() else v for k, v in f.items()}
        for f in (text, video)
    ]
    with torch.autocast("cpu", torch.bfloat16):
        score = model.similarity(*half)
    assert score.dtype == torch.float32
    restored = [{k: v.float() if v.is_floating_point() else v for k, v in f.items()} for f in half]
    assert torch.allclose(score, model.similarity(*restored), atol=1e-6)


def test_recall_embeddings_are_unit_vectors_of_frames_and_captions() -> None:
    model = _model()
    text, video = _encode(model, _batch())
    for features in (text, video):
        norms = model.recall_embedding(features).norm(dim=-1)
        assert torch.allclose(norms, torch.ones(B), atol=1e-5)
    mute = {**video, "ocr_mask": torch.zeros_like(video["ocr_mask"])}
    frames = nn.functional.normalize(video["frames"].mean(1), dim=-1)
    assert torch.allclose(model.recall_embedding(mute), frames, atol=1e-5)


def test_state_dict_round_trip() -> None:
    model, batch = _model(ocr_encoder="untied", match="wti"), _batch()
    torch.manual_seed(1)
    twin = create_model("tcard", **(SETTINGS | {"ocr_encoder": "untied", "match": "wti"}))
    before = twin.similarity(*_encode(twin, batch))
    twin.load_state_dict(model.state_dict())
    score = model.similarity(*_encode(model, batch))
    assert torch.equal(twin.similarity(*_encode(twin, batch)), score)
    assert not torch.allclose(before, score)


def test_impossible_options_name_the_allowed_ones() -> None:
    with pytest.raises(UserError, match="figure, printed"):
        _model(ctcd_wiring="figur")
    with pytest.raises(UserError, match=r"model\.tau"):
        _model(tau=0.0)
    with pytest.raises(UserError, match="does not divide"):
        _model(heads=3)
