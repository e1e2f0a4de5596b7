"""GEES against the integrals it bounds, by Monte Carlo and quadrature, and against a slow loop."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tvr_bench.models.layers.gees import FrameScores, frame_moments, gees
from tvr_bench.models.losses import symmetric_info_nce

FORMS = ("split", "difference", "min", "isda_v2t", "naive_ce")
BOUNDS = FORMS[:-1]
B, F, D, TAU = 4, 5, 6, 0.35


def _features(seed: int, spread: float = 0.6) -> tuple[Tensor, Tensor]:
    """Unit texts [B, D] and frames [B, F, D] about them."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(B, D, generator=generator).double()
    centre = 0.7 * text + 0.5 * torch.randn(B, D, generator=generator).double()
    frames = centre[:, None] + spread * torch.randn(B, F, D, generator=generator).double()
    return torch.nn.functional.normalize(text, dim=-1), frames / D**0.5


def _scores(text: Tensor, frames: Tensor) -> Tensor:
    """S_ijm, [texts, videos, F], before the temperature."""
    return torch.einsum("id,jmd->ijm", text, frames)


def _both(scores: Tensor) -> tuple[FrameScores, FrameScores]:
    """Rows and columns of one process from scores [N, M, F]."""
    columns = scores.transpose(0, 1)
    return FrameScores(scores, scores), FrameScores(columns, columns)


def _losses(scores: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    return gees(*_both(scores), **{"scale": 1 / TAU, **options})


def _sampled_videos(frames: Tensor, samples: int, seed: int) -> np.ndarray:
    """Draws of v_j ~ N(mu_j, Sigma_j) for every video, [samples, B, D], by Cholesky's factor."""
    random = np.random.default_rng(seed)
    drawn = np.empty((samples, B, D))
    for j, clip in enumerate(frames.numpy()):
        covariance = np.cov(clip.T, bias=True) + 1e-12 * np.eye(D)
        factor = np.linalg.cholesky(covariance)
        drawn[:, j] = clip.mean(0) + random.standard_normal((samples, D)) @ factor.T
    return drawn


def _expected_nce(text: Tensor, videos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Monte-Carlo mean of InfoNCE, text to video [B] with all videos random and video to text."""
    logits = np.einsum("id,sjd->sij", text.numpy(), videos) / TAU
    diagonal = np.einsum("sii->si", logits)
    by_text = np.log(np.exp(logits).sum(2)) - diagonal
    by_video = np.log(np.exp(logits).sum(1)) - diagonal  # column i: only v_i is in it
    return by_text.mean(0), by_video.mean(0)


@pytest.mark.parametrize("seed", range(3))
def test_the_exponential_moment_is_that_of_sampled_gaussians(seed: int) -> None:
    text, frames = _features(seed)
    mean, half = (x.numpy() for x in frame_moments(_scores(text, frames) / TAU))
    logits = np.einsum("id,sjd->sij", text, _sampled_videos(frames, 200_000, seed)) / TAU
    assert np.exp(mean + half) == pytest.approx(np.exp(logits).mean(0), rel=0.03)
    assert half.mean() > 0.1, "the term that is tested must not be negligible"


@pytest.mark.parametrize("seed", range(3))
def test_every_form_but_the_naive_one_bounds_the_expected_loss(seed: int) -> None:
    text, frames = _features(seed)
    scores = _scores(text, frames)
    expected = _expected_nce(text, _sampled_videos(frames, 200_000, seed))
    plain = _losses(frame_moments(scores)[0][..., None])
    for form in BOUNDS:
        for bound, truth, at_mean in zip(_losses(scores, form=form), expected, plain, strict=True):
            assert (bound.numpy() > truth).all(), form
            assert (truth > at_mean.numpy() - 1e-3).all(), "NCE is convex here"
            assert (bound.numpy() < truth + 3).all(), "a bound of any use"
    naive = torch.stack(_losses(_scores(*_features(seed, 1.5)), form="naive_ce"))
    wide = _features(seed, 1.5)
    truth = np.stack(_expected_nce(wide[0], _sampled_videos(wide[1], 100_000, seed)))
    assert (naive.numpy() < truth).any(), "the naive form must fail where frames differ"


def test_difference_is_tighter_where_negatives_are_easy_and_min_is_the_tightest() -> None:
    for seed in range(6):
        scores = _scores(*_features(seed, 0.3 + 0.2 * seed))
        split, by_video = _losses(scores)
        difference = _losses(scores, form="difference")[0]
        isda = _losses(scores, form="isda_v2t")[1]
        mean, half = (x / TAU**n for n, x in enumerate(frame_moments(scores), start=1))
        others = (mean + half - mean.diagonal()[:, None]).exp()
        easy = others.sum(1) - others.diagonal() <= 1
        assert torch.equal(difference <= split, easy)
        least = _losses(scores, form="min")
        assert torch.equal(least[0], torch.minimum(split, difference))
        assert torch.equal(least[1], torch.minimum(by_video, isda))


def test_the_variance_of_scores_is_the_quadratic_form_of_the_covariance() -> None:
    text, frames = _features(0)
    for unbiased in (False, True):
        mean, half = frame_moments(_scores(text, frames) / TAU, unbiased)
        for j in range(B):
            covariance = np.cov(frames[j].numpy().T, bias=not unbiased)
            for i in range(B):
                t = text[i].numpy()
                assert half[i, j].item() == pytest.approx(t @ covariance @ t / (2 * TAU**2))
                assert mean[i, j].item() == pytest.approx(t @ frames[j].numpy().mean(0) / TAU)


def test_isda_is_the_quadratic_form_of_the_difference_of_texts() -> None:
    text, frames = _features(1)
    found = _losses(_scores(text, frames), form="isda_v2t")[1]
    for i in range(B):
        mu, covariance = frames[i].numpy().mean(0), np.cov(frames[i].numpy().T, bias=True)
        total = 0.0
        for j in range(B):
            d = (text[j] - text[i]).numpy()
            total += math.exp(d @ mu / TAU + d @ covariance @ d / (2 * TAU**2))
        assert found[i].item() == pytest.approx(math.log(total))


@pytest.mark.parametrize("form", FORMS)
def test_one_frame_or_no_weight_is_info_nce_of_the_mean(form: str) -> None:
    scores = _scores(*_features(2))
    mean = frame_moments(scores)[0] / TAU
    expected = symmetric_info_nce(mean, mean.T)
    single = frame_moments(scores)[0][..., None]
    for loss in (
        _losses(single, form=form),
        _losses(single, form=form, unbiased=True),
        _losses(scores, form=form, weight=0.0),
        _losses(single.expand(-1, -1, 3), form=form),
    ):
        assert torch.stack(loss).mean(1).mean().item() == pytest.approx(expected.item())


def _slow(scores: np.ndarray, mask: np.ndarray, form: str, unbiased: bool) -> list[list[float]]:
    """The forms by their formulas, item by item; scores [N, M, F], mask [M, F]."""
    count = len(scores)

    def moments(values: np.ndarray, video: int) -> tuple[float, float]:
        kept = [float(v) / TAU for v, valid in zip(values, mask[video], strict=True) if valid]
        mean = sum(kept) / len(kept)
        squares = sum((v - mean) ** 2 for v in kept)
        return mean, squares / max(1, len(kept) - unbiased) / 2

    m = [[moments(scores[i, j], j)[0] for j in range(count)] for i in range(count)]
    q = [[moments(scores[i, j], j)[1] for j in range(count)] for i in range(count)]
    by_text, by_video = [], []
    for i in range(count):
        split = math.log(sum(math.exp(m[i][j] + q[i][j]) for j in range(count))) - m[i][i]
        others = [j for j in range(count) if j != i]
        far = sum(math.exp(m[i][j] - m[i][i] + q[i][j] + q[i][i]) for j in others)
        difference = math.log(1 + far)
        naive = split - q[i][i]
        split_v = math.log(sum(math.exp(m[j][i] + q[j][i]) for j in range(count))) - m[i][i]
        apart = [moments(scores[j, i] - scores[i, i], i) for j in range(count)]
        isda = math.log(sum(math.exp(mean + half) for mean, half in apart))
        naive_v = split_v - q[i][i]
        texts = {"difference": difference, "naive_ce": naive, "min": min(split, difference)}
        videos = {"isda_v2t": isda, "naive_ce": naive_v, "min": min(split_v, isda)}
        by_text.append(texts.get(form, split))
        by_video.append(videos.get(form, split_v))
    return [by_text, by_video]


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_it_equals_a_loop_whatever_frames_are_missing(form: str, unbiased: bool) -> None:
    mask = np.ones((B, F), bool)
    mask[0, 3:] = mask[1, [0, 2]] = mask[2, 1:] = False
    scores = _scores(*_features(3))
    expected = _slow(scores.numpy(), mask, form, unbiased)
    hidden = scores.masked_fill(~torch.from_numpy(mask), -torch.inf).requires_grad_()
    found = _losses(hidden, form=form, unbiased=unbiased)
    for one, other in zip(found, expected, strict=True):
        assert one.tolist() == pytest.approx(other)
    torch.stack(found).sum().backward()
    assert hidden.grad is not None and hidden.grad.isfinite().all()
    assert not hidden.grad[:, ~torch.from_numpy(mask)].any()


@pytest.mark.parametrize("form", FORMS)
def test_a_share_of_the_batch_has_its_part_of_the_losses(form: str) -> None:
    scores = _scores(*_features(4))
    whole = _losses(scores, form=form)
    for start in (0, 2):
        own = slice(start, start + 2)
        rows, columns = (FrameScores(x[own], x[own]) for x in (scores, scores.transpose(0, 1)))
        part = gees(rows, columns, start, form=form, scale=1 / TAU)
        for one, other in zip(part, whole, strict=True):
            assert torch.allclose(one, other[own])


def _slope_of_own_variance(form: str) -> tuple[Tensor, Tensor]:
    """d L_i / d q_ii of both directions: the frames of each match drawn apart about their mean."""
    scores = _scores(*_features(5))
    apart = torch.zeros(B, dtype=torch.float64, requires_grad=True)
    mean = frame_moments(scores)[0].diagonal()
    own = (scores.diagonal().mT - mean[:, None]) * (1 + apart[:, None]) + mean[:, None]
    eye = torch.eye(B)[..., None].bool()
    moved = torch.where(eye, own[:, None].expand(-1, B, -1), scores)
    rate = 2 * frame_moments(scores)[1].diagonal() / TAU**2  # d q_ii / d apart_i
    slopes = []
    for loss in _losses(moved, form=form):
        (slope,) = torch.autograd.grad(loss.sum(), apart, retain_graph=True)
        slopes.append(slope / rate)
    return slopes[0], slopes[1]


def test_variance_of_the_match_is_penalised_by_bounds_and_paid_for_by_the_naive_form() -> None:
    scores = _scores(*_features(5))
    mean, half = (x / TAU**n for n, x in enumerate(frame_moments(scores), start=1))
    p_text = (mean + half).softmax(1).diagonal()
    p_video = (mean + half).softmax(0).diagonal()
    for slope, p in zip(_slope_of_own_variance("split"), (p_text, p_video), strict=True):
        assert torch.allclose(slope, p) and (slope > 0).all()
    for slope, p in zip(_slope_of_own_variance("naive_ce"), (p_text, p_video), strict=True):
        assert torch.allclose(slope, p - 1) and (slope < 0).all()
    assert (_slope_of_own_variance("difference")[0] > 0).all()


def test_losses_of_resampled_frames_approach_the_expectation() -> None:
    """Two videos: the difference of two Gaussians is one, so quadrature knows the truth."""
    text, frames = (x[:2] for x in _features(6))
    mean, half = (x / TAU**n for n, x in enumerate(frame_moments(_scores(text, frames)), start=1))
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    truth = []
    for i in range(2):
        apart = (mean[i, 1 - i] - mean[i, i]).item()
        spread = math.sqrt(2 * (half[i, 0] + half[i, 1]).item())
        truth.append(float(weights @ np.logaddexp(0, apart + spread * nodes)))
    bound = _losses(_scores(text, frames))[0]
    random = np.random.default_rng(0)
    errors = []
    for samples in (30, 3_000, 300_000):
        noise = random.standard_normal((2, samples, F)) / math.sqrt(F)
        centred = (frames - frames.mean(1, keepdim=True)).numpy()
        drawn = frames.numpy().mean(1)[:, None] + noise @ centred
        scores = _scores(text, torch.from_numpy(drawn))
        logits = scores / TAU
        sampled = (logits.logsumexp(1) - logits.diagonal().mT).mean(1)
        off = _losses(scores)[0] - bound
        errors.append([np.abs(sampled.numpy() - truth).max(), off.abs().max().item()])
    assert (np.array(errors[-1]) < 0.01).all()
    assert (np.array(errors[-1]) < 0.1 * np.array(errors[0])).all()
    assert (bound.numpy() > truth).all()


def test_the_ramp_scales_the_variance_term_and_the_limit_cuts_it() -> None:
    scores = _scores(*_features(7))
    mean, half = (x / TAU**n for n, x in enumerate(frame_moments(scores), start=1))
    for weight, limit in ((0.3, None), (1.0, 0.05), (0.5, 0.04)):
        extra = (weight * half).clamp_max(limit if limit is not None else math.inf)
        expected = (mean + extra).logsumexp(1) - mean.diagonal()
        found = _losses(scores, weight=weight, limit=limit)[0]
        assert torch.allclose(found, expected)
    ramped = _losses(scores, weight=torch.tensor(0.3, dtype=torch.float64))[0]
    assert torch.allclose(ramped, _losses(scores, weight=0.3)[0])


@pytest.mark.parametrize("form", FORMS)
def test_spread_without_gradient_changes_the_gradient_and_not_the_loss(form: str) -> None:
    """As ISDA: the covariance is a constant to the frames, and the text still moves by it."""
    text, frames = _features(8)
    gradients = []
    for detach in (False, True):
        t, f = text.clone().requires_grad_(), frames.clone().requires_grad_()
        values, spread = _scores(t, f), _scores(t, f.detach() if detach else f)
        rows = FrameScores(values, spread)
        columns = FrameScores(values.transpose(0, 1), spread.transpose(0, 1))
        losses = gees(rows, columns, form=form, scale=1 / TAU)
        assert torch.allclose(torch.stack(losses), torch.stack(_losses(_scores(t, f), form=form)))
        torch.stack(losses).mean().backward()
        assert t.grad is not None and f.grad is not None
        gradients.append((t.grad, f.grad))
    assert torch.allclose(gradients[0][0], gradients[1][0])
    assert not torch.allclose(gradients[0][1], gradients[1][1], atol=1e-4)
    # the covariance moves a frame apart from its mean; without it all frames move alike
    plain = gradients[1][1]
    assert torch.allclose(plain, plain[:, :1].expand_as(plain))


def test_large_scales_stay_finite() -> None:
    scores = _scores(*_features(9)).float().requires_grad_()
    for form in FORMS:
        loss = torch.stack(_losses(scores, form=form, scale=100.0)).sum()
        (gradient,) = torch.autograd.grad(loss, scores)
        assert loss.isfinite() and gradient.isfinite().all()


def test_a_nan_is_not_taken_for_a_missing_frame() -> None:
    scores = _scores(*_features(0))
    scores[1, 2, 0] = torch.nan
    assert torch.stack(_losses(scores)).isnan().any()
