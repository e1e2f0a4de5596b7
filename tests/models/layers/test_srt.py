"""The spatio-temporal residual transformer: its residuals, and what each form attends to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tvr_bench.models.layers.postnorm import LayerSpec
from tvr_bench.models.layers.srt import (
    ALL_OBJECTS,
    OFFICIAL,
    PER_REGION_TIME,
    ResidualTransformer,
)

BATCH, FRAMES, REGIONS, WIDTH = 2, 4, 3, 8
FORMS = [ALL_OBJECTS, PER_REGION_TIME, OFFICIAL]
SPEC = LayerSpec(WIDTH, 2)


def _srt(temporal: str, residual: str = "all", layers: int = 2) -> ResidualTransformer:
    torch.manual_seed(0)
    return ResidualTransformer(SPEC, layers, temporal, residual).double()


def _regions() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, FRAMES, REGIONS, WIDTH, generator=generator, dtype=torch.float64)


def _valid() -> Tensor:
    return torch.ones(BATCH, FRAMES).bool()


def _slow(srt: ResidualTransformer, x: Tensor, mask: Tensor, residual: str) -> Tensor:
    """Return one video's regions, block by block, each sequence by itself."""
    frames = range(FRAMES)
    for spatial, temporal in zip(srt.spatial, srt.temporal, strict=True):
        raw = x
        s = torch.stack([spatial(raw[f][None])[0] for f in frames])
        if residual in ("1", "all"):
            s = srt.norm(s + raw)
        if srt.temporal_form == ALL_OBJECTS:
            open_ = torch.tensor([[bool(mask[f]) for f in frames for _ in range(REGIONS)]])
            t = temporal(s.reshape(1, FRAMES * REGIONS, WIDTH), open_)[0].view_as(s)
        elif srt.temporal_form == PER_REGION_TIME:
            slots = [temporal(s[:, r][None], mask[None])[0] for r in range(REGIONS)]
            t = torch.stack(slots, 1)
        else:
            t = torch.stack([temporal(s[f][None])[0] for f in frames])
        if residual in ("2", "all"):
            t = srt.norm(t + s)
        x = srt.norm(t + raw) if residual in ("3", "all") else t
    return x


@pytest.mark.parametrize("residual", ["none", "1", "2", "3", "all"])
@pytest.mark.parametrize("form", FORMS)
def test_blocks_and_residuals_one_sequence_at_a_time(form: str, residual: str) -> None:
    srt, x, mask = _srt(form, residual), _regions(), _valid()
    mask[1, 2:] = False
    found = srt(x, mask)
    for i in range(BATCH):
        expected = _slow(srt, x[i], mask[i], residual)
        assert torch.allclose(found[i][mask[i]], expected[mask[i]], atol=1e-12)


def test_the_residuals_differ_and_share_one_norm() -> None:
    results = {}
    for residual in ("none", "1", "2", "3", "all"):
        srt = _srt(ALL_OBJECTS, residual)
        assert (srt.norm is None) == (residual == "none")
        assert len([n for n, _ in srt.named_parameters() if n.startswith("norm.")]) in (0, 2)
        results[residual] = srt(_regions(), _valid())
    names = list(results)
    for i, one in enumerate(names):
        for other in names[:i]:
            assert not torch.allclose(results[one], results[other], atol=1e-3), (one, other)


def _changed(form: str, frame: int, region: int) -> set[tuple[int, int]]:
    """Return the (frame, region) that notice a change of one of them, in one temporal block."""
    srt, x = _srt(form, "none", 1), _regions()
    srt.spatial[0] = torch.nn.Identity()
    other = x.clone()
    other[:, frame, region] += torch.randn(WIDTH)
    moved = (srt(x, _valid()) - srt(other, _valid())).abs().amax((0, 3)) > 1e-9
    return {(int(f), int(r)) for f, r in moved.nonzero()}


def test_what_a_region_s_change_reaches() -> None:
    """The released temporal block is a second spatial one; the two others reach other frames."""
    everything = {(f, r) for f in range(FRAMES) for r in range(REGIONS)}
    assert _changed(OFFICIAL, 2, 1) == {(2, r) for r in range(REGIONS)}
    assert _changed(PER_REGION_TIME, 2, 1) == {(f, 1) for f in range(FRAMES)}
    assert _changed(ALL_OBJECTS, 2, 1) == everything


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_frame_is_seen_by_none(form: str) -> None:
    srt, x, mask = _srt(form), _regions(), _valid()
    mask[:, 1] = False
    other = x.clone()
    other[:, 1] = 7.0
    found, changed = srt(x, mask), srt(other, mask)
    assert torch.allclose(found[mask], changed[mask], atol=1e-12)
    assert found.isfinite().all()
    without = srt(x[:, [0, 2, 3]], _valid()[:, :3])
    assert torch.allclose(found[:, [0, 2, 3]], without, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_it_takes_any_number_of_frames_and_regions(form: str) -> None:
    srt = _srt(form)
    x = torch.randn(1, 7, 5, WIDTH, dtype=torch.float64)
    assert srt(x, torch.ones(1, 7).bool()).shape == x.shape
