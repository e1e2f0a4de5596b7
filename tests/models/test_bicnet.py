"""BiC-Net: the released module's numbers, its loss by the definition, and both kinds of input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bicnet_release import GOLDEN, from_files, released_parameter
from bicnet_worker import ITEMS, OPTIONS, batch, build, scores, step
from torch import Tensor, nn

from tvr_bench import config
from tvr_bench.errors import UserError
from tvr_bench.models.bicnet import BicNet, grid_regions, hinge
from tvr_bench.models.layers.srt import ALL_OBJECTS, OFFICIAL, PER_REGION_TIME
from tvr_bench.registry import create_model

Batch = dict[str, Tensor]


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.fixture(scope="module")
def released(golden: dict[str, Tensor]) -> BicNet:
    """Our model with the released module's parameters, every one of them."""
    model = from_files().double().eval()
    state = {
        key: released_parameter(golden, key) if key != "log_scale" else value
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    used = sum(value.numel() for key, value in state.items() if key != "log_scale")
    given = sum(
        v.numel() for k, v in golden.items() if k.startswith("param.") and not k.endswith(".pe")
    )
    assert used == given
    return model


@pytest.fixture
def inputs(golden: dict[str, Tensor]) -> Batch:
    return {
        "text_features": golden["in.text"],
        "text_features_mask": golden["in.text_mask"].bool(),
        "region": golden["in.region"],
        "global": golden["in.global"],
        "frame_mask": torch.ones(golden["in.global"].shape[:2]).bool(),
    }


def test_the_embeddings_are_those_of_the_released_module(
    released: BicNet, inputs: Batch, golden: dict[str, Tensor]
) -> None:
    text, video = released.encode_text(inputs), released.encode_video(inputs)
    raw = {
        "text": released.text(inputs["text_features"], inputs["text_features_mask"]),
        "global": released.frames(inputs["global"], inputs["frame_mask"]),
        "region": released.regions(inputs["region"], inputs["frame_mask"]),
    }
    for name, found in raw.items():
        expected = golden[f"out.{name}"]
        assert (found - expected).abs().max() < 1e-12, name
        unit = (text | video)[name]
        assert (unit - nn.functional.normalize(expected, dim=-1)).abs().max() < 1e-12, name


def test_the_losses_are_those_of_the_released_module(
    released: BicNet, inputs: Batch, golden: dict[str, Tensor]
) -> None:
    found = released.training_scores(released.encode_text(inputs), released.encode_video(inputs))
    for name, rows in found.items():
        loss = released.contrast(name, rows, rows.T, 0)
        assert abs(loss - golden[f"out.loss_{name}"]) < 1e-12, name
    assert released.loss_weights == {"global": 0.5, "region": 0.5}


def test_the_full_size_has_the_parameters_of_the_release_that_are_used() -> None:
    """116,553,731 by instantiation, less one number that nothing reads in each pooling."""
    with torch.device("meta"):
        model = BicNet(config.load(["model=bicnet", "track=paper"]))
    width, layers = 1024, 4
    linear = {dim: dim * width + width for dim in (1536, 2048, 2560)}
    norm = 2 * width
    pool = 2 * (width * width + width) + 2 * (width * width // 2 + width // 2)
    mlp = width * 2 * width + 2 * width + 2 * width * width + width
    layer = 4 * (width * width + width) + mlp + 2 * norm
    region = linear[2048] + 2 * layers * layer + 3 * norm + pool
    whole = linear[2560] + layers * layer + 2 * norm + pool
    text = linear[1536] + 2 * norm + pool
    assert (layer, pool) == (8_399_872, 3_148_800)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == region + whole + text == 116_553_731 - 3


def test_the_paper_s_settings() -> None:
    with torch.device("meta"):
        model = BicNet(config.load(["model=bicnet", "track=paper"]))
    assert model.from_files
    assert model.regions.srt.temporal_form == ALL_OBJECTS
    assert model.regions.srt.spatial[0].attention.heads == 16
    assert model.regions.srt.spatial[0].dropout.p == 0.1
    cfg = model.cfg
    assert (cfg.optim.name, cfg.optim.lr, cfg.optim.schedule) == ("adam", 2e-4, "plateau")
    assert (cfg.trainer.batch_size, cfg.trainer.epochs) == (64, 100)
    assert (cfg.video.frames, cfg.features.regions) == (26, 36)
    assert (cfg.model.loss, cfg.trainer.precision) == ("hinge", "32")


def test_first_values_of_the_release() -> None:
    torch.manual_seed(0)
    model = from_files(**{"model.init": "paper"})
    for name, parameter in model.named_parameters():
        if name.endswith("gain"):
            assert (parameter == 1).all(), name
        elif name != "log_scale":
            assert 0 < parameter.abs().max() <= 0.02 and parameter.mean().abs() < 0.01, name
    spread = model.regions.srt.spatial[0].mlp[0].weight.std().item()
    assert spread == pytest.approx(0.0088, rel=0.05)  # of a normal that is cut at two sigma


@pytest.mark.parametrize(
    ("form", "frames"), [(OFFICIAL, {2}), (PER_REGION_TIME, None), (ALL_OBJECTS, None)]
)
def test_which_frames_meet_before_the_pooling(
    inputs: Batch, form: str, frames: set[int] | None
) -> None:
    """In the released form a change of one frame stays in it; with time in sight it spreads."""
    torch.manual_seed(0)
    model = from_files(**{"model.srt.temporal": form, "model.layers": 1}).double().eval()
    count = inputs["region"].shape[1]
    mask = inputs["frame_mask"]
    before = model.regions.per_frame(inputs["region"], mask)
    other = inputs["region"].clone()
    other[:, 2] += torch.randn(other[:, 2].shape, generator=torch.Generator().manual_seed(1))
    after = model.regions.per_frame(other, mask)
    changed = {f for f in range(count) if not torch.allclose(before[:, f], after[:, f], atol=1e-9)}
    assert changed == (frames or set(range(count)))


def test_the_order_of_frames_needs_their_positions(inputs: Batch) -> None:
    torch.manual_seed(0)
    for positions in (False, True):
        model = from_files(
            **{"model.srt.temporal": ALL_OBJECTS, "model.srt.frame_positions": positions}
        )
        model = model.double().eval()
        found = model.encode_video(inputs)
        turned = model.encode_video(inputs | {k: inputs[k].flip(1) for k in ("region", "global")})
        assert torch.allclose(found["region"], turned["region"], atol=1e-9) == (not positions)
        assert not torch.allclose(found["global"], turned["global"], atol=1e-6)


def _slow_hinge(scores: Tensor, margin: float, worst: bool) -> float:
    """The definition, pair by pair."""
    total = 0.0
    for i in range(len(scores)):
        for matrix in (scores, scores.T):
            found = [
                max(0.0, margin + float(matrix[i, j]) - float(matrix[i, i]))
                for j in range(len(scores))
                if j != i
            ]
            total += max(found) if worst else sum(found)
    return total


@pytest.mark.parametrize("worst", [False, True])
@pytest.mark.parametrize("margin", [0.0, 0.2, 1.0])
def test_the_hinge_by_its_definition_on_any_number_of_ranks(margin: float, worst: bool) -> None:
    whole = scores(7)
    expected = _slow_hinge(whole, margin, worst)
    assert hinge(whole, whole.T, 0, margin, worst).item() == pytest.approx(expected, rel=1e-12)
    for world in (2, 3):
        own = ITEMS // world
        starts = range(0, ITEMS, own)
        parts = [
            hinge(whole[s : s + own], whole.T[s : s + own], s, margin, worst).item() for s in starts
        ]
        assert sum(parts) / world == pytest.approx(expected, rel=1e-12)
        assert len(set(parts)) == world


@pytest.mark.slow
def test_two_processes_have_the_loss_and_gradients_of_one(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("bicnet_worker.py")
    ranks = [
        subprocess.Popen([sys.executable, str(worker), str(tmp_path), str(rank), "2"])
        for rank in range(2)
    ]
    model = build()
    loss = step(model, batch())
    assert [process.wait() for process in ranks] == [0, 0]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found["loss"].item() == pytest.approx(loss.item(), rel=1e-9)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None
                assert torch.allclose(found[name], parameter.grad, rtol=1e-6, atol=1e-12), name


def test_the_score_is_the_mean_of_two_cosines_and_the_first_stage_ranks_as_it(
    released: BicNet, inputs: Batch
) -> None:
    text, video = released.encode_text(inputs), released.encode_video(inputs)
    cosine = nn.functional.cosine_similarity
    expected = sum(0.5 * cosine(text["text"][:, None], video[name][None], dim=-1) for name in video)
    found = released.similarity(text, video)
    assert torch.allclose(found, expected, atol=1e-12)
    vectors = [released.recall_embedding(features) for features in (text, video)]
    for vector in vectors:
        assert torch.allclose(vector.norm(dim=-1), torch.ones(4).double(), atol=1e-12)
    assert torch.allclose(vectors[0] @ vectors[1].T, found, atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_first_stage_of_unequal_shares_is_in_proportion(inputs: Batch, share: float) -> None:
    model = from_files(**{"model.weight_global": share}).double().eval()
    text, video = model.encode_text(inputs), model.encode_video(inputs)
    score = model.similarity(text, video)
    dots = model.recall_embedding(text) @ model.recall_embedding(video).T
    ratio = dots / score
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-9)
    assert ratio[0, 0] > 0


@pytest.mark.parametrize("branch", ["global", "region"])
def test_one_branch_alone(inputs: Batch, branch: str) -> None:
    model = from_files(**{"model.branches": branch}).double().eval()
    text, video = model.encode_text(inputs), model.encode_video(inputs)
    assert set(video) == {branch} and model.loss_weights == {branch: 1.0}
    assert torch.allclose(model.similarity(text, video), text["text"] @ video[branch].T)
    other = "frames" if branch == "region" else "regions"
    assert not any(name.startswith(other) for name, _ in model.named_parameters())


@pytest.mark.parametrize("form", [OFFICIAL, PER_REGION_TIME, ALL_OBJECTS])
@pytest.mark.parametrize("pooling", ["attention", "mean", "max"])
def test_what_stands_behind_a_mask_does_not_matter(inputs: Batch, form: str, pooling: str) -> None:
    model = from_files(**{"model.srt.temporal": form, "model.pooling": pooling}).double().eval()
    mask = inputs["frame_mask"].clone()
    mask[1, 3:] = False
    batch = inputs | {"frame_mask": mask}
    hidden = {key: value.clone() for key, value in batch.items()}
    hidden["region"][1, 3:] = 9
    hidden["global"][1, 3:] = -9
    hidden["text_features"][~batch["text_features_mask"]] = 9
    for encode in (model.encode_video, model.encode_text):
        one, other = encode(batch), encode(hidden)
        full = encode(inputs)
        for key in one:
            assert torch.allclose(one[key], other[key], atol=1e-12), key
            assert (key == "text") == torch.allclose(one[key][1], full[key][1], atol=1e-6)
    short = {key: value[1:2, :3] for key, value in batch.items() if "text" not in key}
    for key, value in model.encode_video(short).items():
        assert torch.allclose(value, model.encode_video(batch)[key][1:2], atol=1e-12), key


def test_nothing_valid_is_still_a_number(inputs: Batch) -> None:
    model = from_files(**{"model.srt.temporal": ALL_OBJECTS}).eval()
    batch = {k: v.float() if v.is_floating_point() else v.clone() for k, v in inputs.items()}
    batch["frame_mask"][0] = False
    batch["text_features_mask"][0] = False
    batch["region"][2] = 0
    for features in (model.encode_video(batch), model.encode_text(batch)):
        assert all(value.isfinite().all() for value in features.values())


def test_infonce_in_each_space_where_the_towers_are_trained() -> None:
    model = create_model("bicnet", **{"model.loss": "infonce"})
    assert model.log_scale.requires_grad
    rows = torch.rand(5, 5, generator=torch.Generator().manual_seed(0)).double()
    logits, own = model.logit_scale.double() * rows, torch.arange(5)
    both = (nn.functional.cross_entropy(x, own) for x in (logits, logits.T))
    assert model.contrast("region", rows, rows.T, 0).item() == pytest.approx(
        sum(loss.item() for loss in both) / 2, rel=1e-6
    )
    assert model.loss_weights == {"global": 0.5, "region": 0.5}
    hinge = create_model("bicnet", **{"model.loss": "hinge"})
    assert not hinge.log_scale.requires_grad, "a hinge has a margin and no scale"


def test_patches_become_regions() -> None:
    patches = torch.randn(2, 3, 35, 4)
    assert grid_regions(patches, 80 / 112, 7, 7) is patches
    pooled = grid_regions(patches, 80 / 112, 1, 7)
    assert torch.allclose(pooled[1, 2, 6], patches[1, 2, 6::7].mean(0), atol=1e-6)
    square = torch.randn(1, 1, 196, 2)
    pooled = grid_regions(square, 1.0, 7, 7)
    assert pooled.shape == (1, 1, 49, 2)
    corner = square[0, 0].view(14, 14, 2)[12:, :2].mean((0, 1))
    assert torch.allclose(pooled[0, 0, 42], corner, atol=1e-6)


def test_end_to_end_every_option_trains() -> None:
    """Each ablation gives finite gradients to all that it has."""
    small = {
        "video.size": [32, 48],
        "video.frames": 3,
        "text.words": 6,
        "text.vocab": 300,
        "backbone.weights": "none",
        "backbone.width": 16,
        "backbone.heads": 2,
        "backbone.layers": 1,
        "backbone.text_layers": 1,
        "backbone.grid": 0,
    }
    generator = torch.Generator().manual_seed(0)
    batch = {
        "text_ids": torch.randint(3, 300, (4, 6), generator=generator),
        "text_mask": torch.ones(4, 6).bool(),
        "frames": torch.randint(0, 256, (4, 3, 3, 32, 48), generator=generator).byte(),
        "frame_mask": torch.ones(4, 3).bool(),
    }
    for options in OPTIONS:
        torch.manual_seed(0)
        model = create_model("bicnet", **small | options)
        assert isinstance(model, BicNet)
        found = model.training_scores(model.encode_text(batch), model.encode_video(batch))
        losses = [model.contrast(name, rows, rows.T, 0) for name, rows in found.items()]
        torch.stack(losses).sum().backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "network.image" not in name:
                assert parameter.grad is not None and parameter.grad.isfinite().all(), (
                    options,
                    name,
                )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.heads": 5}, "model.heads=5 does not divide the width 32"),
        ({"model.srt.temporal": "all_object"}, "Did you mean 'all_objects'"),
        ({"model.srt.residual": 4}, "model.srt.residual=4 is impossible"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        from_files(**settings)
    assert "\n" not in str(error.value)


def test_other_models_say_that_they_need_towers() -> None:
    model = create_model("meanpool", **{"backbone.name": "features"})
    for call in (
        lambda: model.encode_text({"text_ids": torch.ones(1, 2), "text_mask": torch.ones(1, 2)}),
        lambda: model.encode_video({"frames": torch.ones(1), "frame_mask": torch.ones(1)}),
    ):
        with pytest.raises(UserError, match="choose another backbone"):
            call()
