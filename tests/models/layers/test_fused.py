"""EERCF's fused score, held to the plain form that builds what a text makes of every video.

N texts, M videos, F frames, P patches, J = F * P, D width.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.eercf_case import EVERY, FRAMES, D, P, make_model, take
from tvr_bench.models.eercf import Eercf

N = M = 40
Features = dict[str, Tensor]


@pytest.fixture
def model() -> Eercf:
    return make_model(**EVERY, tib_tau_patch=0.05)


@pytest.fixture
def sides(model: Eercf) -> tuple[Features, Features]:
    """The features of texts near the videos that they belong to; some frames are padded."""
    generator = torch.Generator().manual_seed(3)
    centre = torch.randn(N, D, generator=generator)
    mask = torch.rand(M, FRAMES, generator=generator) > 0.2
    mask[:, 0] = True
    batch = {
        "text_ids": centre + torch.randn(N, D, generator=generator),
        "text_mask": torch.ones(N, 1).bool(),
        "frames": centre[:, None, None] + 2 * torch.randn(M, FRAMES, 1 + P, D, generator=generator),
        "frame_mask": mask,
    }
    with torch.no_grad():
        return model.encode_text(batch), model.encode_video(batch)


def _plain(model: Eercf, text: Features, video: Features) -> dict[str, Tensor]:
    """The five parts [N, M] with the tokens of every pair, [N, M, T, D], and their sum's norm."""
    t, options = text["text"], model.options
    shut = video["closed"][None]
    shut_patch = shut.repeat_interleave(P, 2)

    def soft(products: Tensor, tau: float, closed: Tensor) -> Tensor:
        return (products / tau).masked_fill(closed, -torch.inf).softmax(-1)

    def cosine(weights: Tensor, tokens: Tensor) -> Tensor:
        mixed = (weights[..., None] * tokens[None]).sum(2)  # [N, M, D]
        return F.cosine_similarity(t[:, None], mixed, dim=-1)

    seen = torch.einsum("nd,mfd->nmf", t, video["frames"])
    patch = torch.einsum("nd,mjd->nmj", t, video["patches"])
    turned = torch.einsum("nmf,fg->nmg", soft(seen, options.tau_frame, shut), model.frame_map)
    weak = soft(patch, options.tau_patch, shut_patch)
    return {
        "video": text["query"] @ video["video"].mT,
        "frame": (turned * seen).sum(-1),
        "patch": (weak * patch).sum(-1),
        "tib_frame": cosine(soft(seen, options.tib_tau_frame, shut), video["temporal"]),
        "tib_patch": cosine(soft(patch, options.tib_tau_patch, shut_patch), video["patches"]),
    }


def _ranks(scores: Tensor) -> tuple[Tensor, Tensor]:
    best = scores.diagonal()
    return (scores > best[:, None]).sum(1), (scores > best).sum(0)


def test_the_score_and_its_ranks_are_those_of_the_plain_form(
    model: Eercf, sides: tuple[Features, Features]
) -> None:
    with torch.no_grad():
        expected = _plain(model, *sides)
        found = model.score_parts(*sides)
        for part, scores in expected.items():
            assert (found[part] - scores).abs().max() < 2e-6, part
        whole, plain = model.similarity(*sides), torch.stack(list(expected.values())).sum(0)
    assert (whole - plain).abs().max() < 5e-6
    for one, other in zip(_ranks(whole), _ranks(plain), strict=True):
        assert torch.equal(one, other)
        assert one.any(), "a rank that is always the first shows nothing"


def test_one_video_and_aligned_pairs_score_as_the_plain_form_does(
    model: Eercf, sides: tuple[Features, Features]
) -> None:
    text, video = sides
    with torch.no_grad():
        expected = torch.stack(list(_plain(model, text, video).values())).sum(0)
        for one in (0, 7, M - 1):
            found = model.rerank(text, take(video, [one]))
            assert found.shape == (N,) and (found - expected[:, one]).abs().max() < 5e-6
        pairs = model.rerank(text, take(video, list(range(M))))
    assert (pairs - expected.diagonal()).abs().max() < 5e-6


def test_a_search_reads_the_configuration_once(
    model: Eercf, sides: tuple[Features, Features]
) -> None:
    """A key costs 25 us to read there, and a video has only some hundreds of them."""
    text, video = sides
    model.options = model.cfg = None  # type: ignore[assignment]
    with torch.no_grad():
        assert model.rerank(text, take(video, [0])).shape == (N,)
