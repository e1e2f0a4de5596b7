"""Window captions beside a model that reads none: scores by hand, first stage, losses, refusals."""

from __future__ import annotations

import pytest
import torch
from small import FRAMES, SMALL, WORDS
from torch import Tensor
from torch.nn import functional as F

from tvr_bench.errors import UserError
from tvr_bench.models.base import RetrievalModule
from tvr_bench.models.window_matching import PART, TEXT, WINDOWS
from tvr_bench.registry import create_model

ITEMS, WINDOW, WEIGHT = 5, 4, 0.7
SETTINGS = SMALL | {"video.size": [32, 48], "ocr.windows": WINDOW}
READS_NOTHING = ("meanpool", "cret", "bicnet", "eercf")


@pytest.fixture(params=READS_NOTHING)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(ITEMS, WINDOW, WORDS, generator=generator) < 0.7
    mask = mask.sort(dim=-1, descending=True).values
    mask[3] = False
    return {
        "text_ids": torch.randint(3, 300, (ITEMS, WORDS), generator=generator),
        "text_mask": torch.ones(ITEMS, WORDS).bool(),
        "frames": torch.randint(0, 256, (ITEMS, FRAMES, 3, 32, 48), generator=generator).byte(),
        "frame_mask": torch.ones(ITEMS, FRAMES).bool(),
        "ocr_ids": torch.randint(3, 300, (ITEMS, WINDOW, WORDS), generator=generator),
        "ocr_mask": mask,
    }


def _pair(name: str) -> tuple[RetrievalModule, RetrievalModule]:
    """Return a model with and one without windows, of equal weights."""
    torch.manual_seed(0)
    added = create_model(name, **SETTINGS, **{"ocr.add": WEIGHT}).eval()
    alone = create_model(name, **SETTINGS).eval()
    alone.load_state_dict(added.state_dict())
    return added, alone


@torch.no_grad()
def _by_hand(model: RetrievalModule, batch: dict[str, Tensor]) -> Tensor:
    """Return the windows' cosines [N, M], one caption at a time."""
    found = torch.zeros(ITEMS, ITEMS)
    for i in range(ITEMS):
        text = model.backbone.encode_text(
            batch["text_ids"][i : i + 1], batch["text_mask"][i : i + 1]
        )[0][0]
        for j in range(ITEMS):
            read = [
                model.backbone.encode_text(ids[None], mask[None])[0][0]
                for ids, mask in zip(batch["ocr_ids"][j], batch["ocr_mask"][j], strict=True)
                if mask.any()
            ]
            if read:
                mean = torch.stack(read).mean(0)
                found[i, j] = F.cosine_similarity(text, mean, dim=0)
    return found


@torch.no_grad()
def test_the_score_is_the_models_own_plus_the_weighted_cosine(
    name: str, batch: dict[str, Tensor]
) -> None:
    added, alone = _pair(name)
    text, video = added.encode_text(batch), added.encode_video(batch)
    own = alone.similarity(alone.encode_text(batch), alone.encode_video(batch))
    expected = own + WEIGHT * _by_hand(added, batch)
    assert torch.allclose(added.similarity(text, video), expected, atol=1e-6)
    assert torch.equal(added.similarity(text, video)[:, 3], own[:, 3]), "nothing to read there"
    parts = added.score_parts(text, video)
    assert torch.allclose(parts[PART], _by_hand(added, batch), atol=1e-6)
    assert not (expected - own).std().isclose(torch.zeros(()))


@torch.no_grad()
def test_the_first_stage_weighs_the_windows_as_the_score_does(
    name: str, batch: dict[str, Tensor]
) -> None:
    added, alone = _pair(name)
    text, video = added.encode_text(batch), added.encode_video(batch)
    coarse = added.recall_embedding(text) @ added.recall_embedding(video).mT
    own = alone.recall_embedding(alone.encode_text(batch)) @ (
        alone.recall_embedding(alone.encode_video(batch)).mT
    )
    expected = (own + WEIGHT * text[TEXT] @ video[WINDOWS].mT) / (1 + WEIGHT)
    assert torch.allclose(coarse, expected, atol=1e-6)


def test_the_models_own_losses_stay_as_they_are(name: str, batch: dict[str, Tensor]) -> None:
    added, alone = (model.train() for model in _pair(name))
    logged: list[dict[str, float]] = []
    for model in (added, alone):
        found: dict[str, float] = {}
        model.log = lambda key, value, found=found, **_: found.__setitem__(key, float(value))  # type: ignore[method-assign]
        model.training_step(batch, 0)
        logged.append(found)
    with_windows, without = logged
    extra = with_windows.pop(f"train/loss_{PART}")
    assert with_windows.pop("train/loss") == pytest.approx(without.pop("train/loss") + extra)
    assert with_windows == pytest.approx(without, rel=1e-5)
    scores = added.logit_scale * _by_hand(added, batch)
    here = torch.arange(ITEMS)
    expected = (F.cross_entropy(scores, here) + F.cross_entropy(scores.mT, here)) / 2
    assert extra == pytest.approx(expected.item(), rel=1e-4)


def test_what_reads_already_or_cannot_read_is_refused() -> None:
    for bad, word in (
        (("tcard", {}), "reads scene text itself"),
        (("meanpool", {"ocr.enabled": False}), "set ocr.enabled=true"),
        (("bicnet", {"backbone.name": "features"}), "needs a text tower"),
    ):
        with pytest.raises(UserError, match=word):
            create_model(bad[0], **SETTINGS, **{"ocr.add": 1.0}, **bad[1])
