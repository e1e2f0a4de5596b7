"""What holds for every model of the registry: one file and one YAML more are tested here too."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small import FRAMES, SMALL, WINDOWS, WORDS
from torch import Tensor

from tvr_bench.bench import save_weights
from tvr_bench.datamodules.types import Clip, Query, Split
from tvr_bench.evaluation.evaluate import evaluate_features
from tvr_bench.evaluation.two_stage import Stages
from tvr_bench.models.base import RetrievalModule
from tvr_bench.models.losses import Features
from tvr_bench.registry import create_model, list_models, model_class
from tvr_bench.runs import WEIGHTS_FILE

ITEMS, HEIGHT, WIDTH = 8, 32, 48
SETTINGS = SMALL | {"video.size": [HEIGHT, WIDTH]}
Batch = dict[str, Tensor]


@pytest.fixture(params=["read", "unread", "added"])
def ocr(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Scene text is read, or not, or matched beside a model that does not look at it."""
    kinds = {"read": {}, "unread": {"ocr.enabled": False}, "added": {"ocr.add": 0.5}}
    return dict(kinds[request.param])


@pytest.fixture(params=list_models())
def model(request: pytest.FixtureRequest, ocr: dict[str, Any]) -> RetrievalModule:
    """An untrained model of each name, in evaluation mode: dropout would make scores random."""
    if "ocr.add" in ocr and model_class(request.param).reads_text:
        pytest.skip(f"{request.param} reads scene text itself")
    torch.manual_seed(0)
    return create_model(request.param, **SETTINGS, **ocr).eval()


@pytest.fixture
def batch(ocr: dict[str, Any]) -> Batch:
    """Matched pairs: texts of several lengths, clips with missing frames and missing windows."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.arange(ITEMS) % (WORDS - 2) + 3
    made = {
        "text_ids": torch.randint(3, 300, (ITEMS, WORDS), generator=generator),
        "text_mask": torch.arange(WORDS)[None] < lengths[:, None],
        "frames": torch.randint(0, 256, (ITEMS, FRAMES, 3, HEIGHT, WIDTH), generator=generator),
        "frame_mask": torch.ones(ITEMS, FRAMES).bool(),
        "text_index": torch.arange(ITEMS),
        "video_index": torch.arange(ITEMS),
    }
    made["frames"] = made["frames"].byte()
    made["frame_mask"][2, 2] = False
    if ocr.get("ocr.enabled", True):
        made["ocr_ids"] = torch.randint(3, 300, (ITEMS, WINDOWS, WORDS), generator=generator)
        made["ocr_mask"] = torch.arange(WORDS) < torch.randint(
            1, WORDS, (ITEMS, WINDOWS, 1), generator=generator
        )
        made["ocr_mask"][0] = False
        made["ocr_mask"][1, 0] = False
    return made


def _encode(model: RetrievalModule, batch: Batch) -> tuple[Features, Features]:
    with torch.no_grad():
        return model.encode_text(batch), model.encode_video(batch)


def _take(features: Features, rows: Any) -> Features:
    return {key: value[rows] for key, value in features.items()}


def _needs_a_first_stage(model: RetrievalModule) -> None:
    if not hasattr(model, "recall_embedding"):
        pytest.skip(f"{model.cfg.model.name} has no first stage")


def _loss(model: RetrievalModule, batch: Batch) -> Tensor:
    return model.train().training_step(batch, 0)


@pytest.fixture(autouse=True)
def _no_warning_without_trainer() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RetrievalModule, "log", lambda *_, **__: None)
        yield


def test_features_are_tensors_by_item(model: RetrievalModule, batch: Batch) -> None:
    for features in _encode(model, batch):
        assert features and all(isinstance(key, str) for key in features)
        for key, value in features.items():
            assert isinstance(value, Tensor) and len(value) == ITEMS, key
            assert not value.is_floating_point() or value.isfinite().all(), key


def test_scores_are_finite_and_pair_by_pair(model: RetrievalModule, batch: Batch) -> None:
    text, video = _encode(model, batch)
    with torch.no_grad():
        scores = model.similarity(text, _take(video, slice(0, 5)))
        parts = model.score_parts(text, _take(video, slice(0, 5)))
    assert scores.shape == (ITEMS, 5) and scores.isfinite().all()
    assert scores.std() > 0
    assert parts and all(part.shape == (ITEMS, 5) for part in parts.values())


def test_blocks_of_any_size_give_the_same_scores(model: RetrievalModule, batch: Batch) -> None:
    text, video = _encode(model, batch)
    with torch.no_grad():
        whole = model.similarity(text, video)
        for size in (1, 7):
            rows = [
                torch.cat(
                    [
                        model.similarity(_take(text, slice(i, i + size)), _take(video, columns))
                        for columns in torch.arange(ITEMS).split(size)
                    ],
                    dim=1,
                )
                for i in range(0, ITEMS, size)
            ]
            assert torch.allclose(torch.cat(rows), whole, atol=1e-6)


def test_the_score_of_a_query_knows_nothing_of_the_others(
    model: RetrievalModule, batch: Batch
) -> None:
    """The leak test: other texts change, in number and content, and its scores do not."""
    text, video = _encode(model, batch)
    others = {
        **batch,
        "text_ids": batch["text_ids"].flip(0),
        "text_mask": batch["text_mask"].flip(0),
    }
    changed, _ = _encode(model, others)
    with torch.no_grad():
        for query in (0, 3):
            alone = model.similarity(_take(text, [query]), video)[0]
            mixed = {key: value.clone() for key, value in changed.items()}
            for key in mixed:
                mixed[key][query] = text[key][query]
            among = model.similarity(mixed, video)
            assert torch.allclose(among[query], alone, atol=1e-6)
            assert not torch.allclose(among, model.similarity(text, video), atol=1e-6)


def test_the_score_of_a_video_knows_nothing_of_the_gallery(
    model: RetrievalModule, batch: Batch
) -> None:
    text, video = _encode(model, batch)
    with torch.no_grad():
        whole = model.similarity(text, video)
        alone = model.similarity(text, _take(video, [4, 1]))
    assert torch.allclose(alone, whole[:, [4, 1]], atol=1e-6)


def test_items_keep_their_order(model: RetrievalModule, batch: Batch) -> None:
    order = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    plain = _encode(model, batch)
    turned = _encode(model, {key: value[order] for key, value in batch.items()})
    for one, other in zip(plain, turned, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert torch.allclose(one[key][order].float(), other[key].float(), atol=1e-6), key


def test_an_item_does_not_depend_on_its_batch(model: RetrievalModule, batch: Batch) -> None:
    plain = _encode(model, batch)
    for item in (0, 5):
        alone = _encode(model, {key: value[item : item + 1] for key, value in batch.items()})
        for one, other in zip(plain, alone, strict=True):
            for key in one:
                assert torch.allclose(one[key][item].float(), other[key][0].float(), atol=1e-6), key


def test_what_stands_behind_a_mask_does_not_matter(model: RetrievalModule, batch: Batch) -> None:
    text, video = _encode(model, batch)
    hidden = {key: value.clone() for key, value in batch.items()}
    hidden["text_ids"][~hidden["text_mask"]] = 7
    if "ocr_ids" in hidden:
        hidden["ocr_ids"][~hidden["ocr_mask"]] = 7
    with torch.no_grad():
        expected = model.similarity(text, video)
        found = model.similarity(*_encode(model, hidden))
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_training_step_is_finite_and_reaches_every_parameter(
    model: RetrievalModule, batch: Batch
) -> None:
    loss = _loss(model, batch)
    assert loss.shape == () and loss.isfinite() and loss > 0
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_a_few_steps_learn_a_batch_by_heart(model: RetrievalModule, batch: Batch) -> None:
    optimizer = torch.optim.AdamW(model.parameter_groups(), lr=1e-3)
    for group in optimizer.param_groups:
        group["lr"] = 3e-3
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = _loss(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_frozen_towers_get_no_gradient(
    model: RetrievalModule, batch: Batch, ocr: dict[str, Any]
) -> None:
    name = model.cfg.model.name
    frozen = create_model(name, **SETTINGS, **ocr, **{"backbone.frozen": True})
    _loss(frozen, batch).backward()
    for key, parameter in frozen.named_parameters():
        assert (parameter.grad is None) == (
            key.startswith("network.") or not parameter.requires_grad
        )


def test_a_frozen_image_tower_leaves_text_and_heads_to_learn(
    model: RetrievalModule, batch: Batch, ocr: dict[str, Any]
) -> None:
    name = model.cfg.model.name
    more = {"backbone.frozen": "image", "backbone.dropout": 0.5}
    frozen = create_model(name, **SETTINGS, **ocr, **more)
    frozen.eval().train()
    _loss(frozen, batch).backward()
    for key, parameter in frozen.named_parameters():
        if key.startswith("network.image."):
            assert parameter.grad is None and not parameter.requires_grad
        elif parameter.requires_grad:
            assert parameter.grad is not None
    assert any(p.grad is not None for p in frozen.network.text.parameters())
    frames = batch["frames"]
    for one, other in zip(*(frozen.backbone.encode_frames(frames) for _ in "12"), strict=True):
        assert torch.equal(one, other), "a frozen tower has no dropout"
    assert frozen.network.text.training and not frozen.network.image.training


def test_a_scale_that_starts_at_its_ceiling_can_be_learned(
    model: RetrievalModule, batch: Batch, ocr: dict[str, Any]
) -> None:
    name = model.cfg.model.name
    highest = create_model(name, **SETTINGS, **ocr, **{"loss.scale": 100})
    _loss(highest, batch).backward()
    if highest.log_scale.requires_grad:
        assert highest.log_scale.grad is not None and highest.log_scale.grad != 0


def test_weights_survive_a_file(
    model: RetrievalModule, batch: Batch, ocr: dict[str, Any], tmp_path: Path
) -> None:
    save_weights(model, tmp_path)
    torch.manual_seed(9)
    other = create_model(model.cfg.model.name, **SETTINGS, **ocr).eval()
    with torch.no_grad():
        expected = model.similarity(*_encode(model, batch))
        before = other.similarity(*_encode(other, batch))
        other.load_state_dict(load_file(tmp_path / WEIGHTS_FILE))
        after = other.similarity(*_encode(other, batch))
    assert torch.equal(after, expected)
    assert not torch.allclose(before, expected, atol=1e-6)


def test_steps_of_validation_and_test_return_features_by_kind(
    model: RetrievalModule, batch: Batch
) -> None:
    for step in (model.validation_step, model.test_step):
        for loader, (kind, index) in enumerate((("text", "text_index"), ("video", "video_index"))):
            found = step(batch, 0, loader)
            assert found["kind"] == kind
            assert torch.equal(found["index"], batch[index])
            expected = _encode(model, batch)[loader]
            assert found["features"].keys() == expected.keys()


def test_a_first_stage_where_there_is_one_has_unit_vectors(
    model: RetrievalModule, batch: Batch
) -> None:
    _needs_a_first_stage(model)
    widths = set()
    for features in _encode(model, batch):
        with torch.no_grad():
            vectors = model.recall_embedding(features)
        assert torch.allclose(vectors.norm(dim=-1), torch.ones(ITEMS), atol=1e-5)
        widths.add(vectors.shape[1])
    assert len(widths) == 1


def test_a_rerank_gives_the_scores_of_the_pairs(model: RetrievalModule, batch: Batch) -> None:
    text, video = _encode(model, batch)
    rows, columns = [0, 3, 3, 7, 1], [2, 2, 5, 7, 0]
    with torch.no_grad():
        scores = model.similarity(text, video)
        aligned = model.rerank(_take(text, rows), _take(video, columns))
        to_one = model.rerank(_take(text, rows), _take(video, [5]))
    assert aligned.shape == to_one.shape == (5,)
    assert torch.allclose(aligned, scores[rows, columns], atol=1e-6)
    assert torch.allclose(to_one, scores[rows, 5], atol=1e-6)


def test_two_stages_over_all_items_rank_as_all_pairs_do(
    model: RetrievalModule, batch: Batch
) -> None:
    _needs_a_first_stage(model)
    text, video = _encode(model, batch)
    clips = tuple(Clip(f"v{i}", Path(f"{i}.mp4")) for i in range(ITEMS))
    queries = tuple(Query(f"q{i}", "", f"v{i}", "", f"g{i // 4}") for i in range(ITEMS))
    args = (model.similarity, text, video, Split(clips, queries))
    whole = evaluate_features(*args)
    stages = Stages(ITEMS, model.recall_embedding, model.rerank)
    found = evaluate_features(*args, stages=stages)
    for name in ("t2v_ranks", "v2t_ranks", "in_group_ranks"):
        for one, other in zip(
            astuple(getattr(found, name)), astuple(getattr(whole, name)), strict=True
        ):
            assert (one == other).all(), name
    assert (found.t2v, found.v2t, found.in_group) == (whole.t2v, whole.v2t, whole.in_group)
    assert found.pairs_scored == ITEMS**2


@pytest.mark.parametrize("name", list_models())
def test_a_model_names_its_paper_or_purpose_and_never_asks_who_it_is(name: str) -> None:
    """House rules: a head that says what it is, and no rank or Trainer inside a model's file."""
    module = inspect.getmodule(model_class(name))
    assert module is not None and module.__doc__
    source = inspect.getsource(module)
    for word in ("trainer.", "torch.distributed", "world_size", "global_rank"):
        assert word not in source


def test_a_model_must_define_the_three_methods() -> None:
    bare = RetrievalModule(create_model("meanpool", **SETTINGS).cfg)
    for call in (
        lambda: bare.encode_text({}),
        lambda: bare.encode_video({}),
        lambda: bare.similarity({}, {}),
    ):
        with pytest.raises(NotImplementedError, match="must define"):
            call()
