"""Pretrained tiny towers in a folder: read back to the bit, or refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny import TINY_MODEL
from tvr_bench import config, early
from tvr_bench.datamodules.tokens import build_tokenizer, train_tokenizer
from tvr_bench.errors import UserError
from tvr_bench.models.layers import pretrained, tower_files, towers
from tvr_bench.models.layers.backbone import build_backbone
from tvr_bench.registry import build_model

CAPTIONS = ["a grown red ball on the left", "a blue ring on a beach"]


def _cfg(folder: Path | str, *settings: str) -> Any:
    towers = (f"backbone.weights={folder}", "backbone.motion=true")
    return config.load(["model=meanpool", *TINY_MODEL, *towers, *settings])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    cfg = _cfg("none")
    torch.manual_seed(1)
    tokenizer = train_tokenizer(CAPTIONS, cfg.text.vocab, cfg.text.words).to_str()
    card = {"towers": tower_files.sizes_of(cfg), "logit_scale": 21.5}
    pretrained.save(build_backbone(cfg), tokenizer, card, folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "t"))


def test_the_weights_are_stored_as_halves_and_used_in_single_precision(folder: Path) -> None:
    torch.manual_seed(1)
    first = build_backbone(_cfg("none")).state_dict()
    network = build_backbone(_cfg(folder))
    for name, weight in network.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, first[name].half().float())
    card = json.loads((folder / "card.json").read_text())
    assert network.pretrained == {"tiny": card["weights_sha256"]}
    assert (folder / "towers.safetensors").stat().st_size < sum(
        2.2 * weight.numel() for weight in first.values()
    ) + 9000


def test_a_model_begins_with_the_towers_and_the_scale_of_their_training(folder: Path) -> None:
    model = build_model(_cfg(folder))
    assert model.logit_scale.item() == pytest.approx(21.5)
    assert build_model(_cfg("none")).logit_scale.item() == pytest.approx(14.28)
    assert towers.content(model.network) == model.network.pretrained["tiny"]


def test_the_tokenizer_of_the_towers_is_the_runs(folder: Path) -> None:
    own = build_tokenizer(_cfg(folder), ["other words altogether"])
    assert own.get_vocab() == train_tokenizer(CAPTIONS, 400, 32).get_vocab()
    assert (
        own.encode("a red ball").ids == train_tokenizer(CAPTIONS, 400, 32).encode("a red ball").ids
    )
    scratch = build_tokenizer(_cfg("none"), ["other words altogether"])
    assert scratch.get_vocab() != own.get_vocab()


def test_weights_that_come_later_need_no_folder(tmp_path: Path) -> None:
    with towers.without_weights(tmp_path, needed=True):
        network = build_backbone(_cfg(tmp_path / "gone"))
    assert not hasattr(network, "pretrained")


@pytest.mark.parametrize(
    "changed",
    [
        *("backbone.width=32", "backbone.layers=2", "backbone.text_layers=2", "backbone.heads=4"),
        *("backbone.mlp=3", "backbone.patch=8", "backbone.motion=false", "backbone.grid=8"),
        *("video.size=[48,48]", "text.words=16", "text.vocab=500"),
    ],
)
def test_another_size_is_answered_with_the_key_to_set(folder: Path, changed: str) -> None:
    key = changed.partition("=")[0]
    theirs = json.dumps(tower_files.sizes_of(_cfg(folder))[key]).replace(" ", "")
    for look in (early.check, build_backbone, lambda cfg: build_tokenizer(cfg, CAPTIONS)):
        with pytest.raises(UserError) as error:
            look(_cfg(folder, changed))
        assert f"set {key}={theirs}" in str(error.value)
        assert "backbone.weights=none" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["towers.safetensors", "tokenizer.json", "card.json"])
def test_a_file_that_is_not_there_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"no folder of towers: it has no {name}"):
        early.check(_cfg(folder))


@pytest.mark.parametrize("name", ["towers.safetensors", "tokenizer.json", "card.json"])
@pytest.mark.parametrize("how", ["cut", "flip", "other"])
def test_a_damaged_file_is_refused_in_one_line(folder: Path, name: str, how: str) -> None:
    path = folder / name
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "flip":
        data[data.index(b'"weights_sha256": "') + 20 if name == "card.json" else -9] ^= 1
    else:
        data = bytearray(b"cos\nsystem\n(S'echo no'\ntR.")  # a pickle
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        build_backbone(_cfg(folder))
        build_tokenizer(_cfg(folder), CAPTIONS)
    assert "damaged or of other towers" in str(error.value) and "\n" not in str(error.value)


def test_other_towers_take_no_default_of_a_data_set() -> None:
    """What a data set's file names is for the tiny towers alone."""
    assert config.load(["data=stills"]).backbone.weights == "none"
    clip = ["data=stills", "backbone=clip_vit_b32"]
    assert config.load(clip).backbone.weights is None
    assert config.load([*clip, "backbone.weights=/clip"]).backbone.weights == "/clip"
