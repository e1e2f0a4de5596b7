"""Pretraining of the tiny towers: a run like any other, resumable, and a folder of what it made."""

from __future__ import annotations

import configparser
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tiny import TINY_MODEL, TINY_RUN, TINY_SIGNVID, TINY_STILLS
from tvr_bench import config, recipe
from tvr_bench.bench import bench
from tvr_bench.cli import main
from tvr_bench.datamodules.stills import captions
from tvr_bench.errors import UserError
from tvr_bench.export import export_model
from tvr_bench.leaderboard.grouping import group_hash, protocol_key
from tvr_bench.leaderboard.record import Record
from tvr_bench.models.base import RetrievalModule
from tvr_bench.models.layers import tower_files
from tvr_bench.published import load_model
from tvr_bench.registry import build_model, dataset_class
from tvr_bench.runs import load_run
from tvr_bench.signals import Interrupted

MOTION = "backbone.motion=false"  # as stills have none
SHIPPED = tower_files.PACKAGE


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pretrain")


@pytest.fixture(scope="module")
def words(shared_cache: Path) -> list[str]:
    steps = ("trainer.steps=4", "trainer.checkpoint_every=0")
    return [*TINY_MODEL, *TINY_RUN, *TINY_STILLS, *steps, f"paths.cache={shared_cache}"]


@pytest.fixture(scope="module")
def made(root: Path, words: list[str]) -> Path:
    """Towers of the command line, without interruption."""
    folder = root / "towers"
    assert main(["pretrain", *words, f"run.root={root / 'whole'}", "--to", str(folder)]) == 0
    return folder


def _bench(root: Path, cache: Path, name: str, *more: str) -> Record:
    places = (f"run.root={root}", f"run.leaderboard={root}", f"paths.cache={cache}")
    words = [
        "model=meanpool",
        *TINY_MODEL,
        *TINY_RUN,
        *TINY_SIGNVID,
        *places,
        f"run.name={name}",
        MOTION,
    ]
    record = bench(config.load([*words, *more]))
    assert record is not None
    return record


def test_the_card_says_how_the_towers_were_made(made: Path, words: list[str]) -> None:
    assert {path.name for path in made.iterdir()} == {
        *(tower_files.WEIGHTS_FILE, tower_files.TOKENIZER_FILE, tower_files.CARD_FILE)
    }
    card = tower_files.read_card(made)
    cfg = recipe.settings(words)
    assert card["recipe"] == recipe.recipe_of(cfg)
    assert {"optim.lr", "trainer.steps", "data.groups", "seed"} <= card["recipe"].keys()
    assert card["towers"] == tower_files.sizes_of(cfg)
    assert card["data"] == "stills drawing-2"
    data = dataset_class("stills")(cfg)
    for split in ("train", "val", "test"):
        assert card["hashes"][f"{split}.captions"] == data.contents_hash(split)
        assert card["hashes"][f"{split}.videos"] == data.videos_hash(split)
    figures = card["figures"]
    assert (figures["steps"], figures["threads"]) == (4, 1)
    assert figures["processor"] and figures["train_s"] is not None and "t2v_R@1" in figures
    text = (made / "card.json").read_text()
    assert str(made.parent) not in text and str(Path.home()) not in text
    assert {tensor.dtype for tensor in load_file(made / "towers.safetensors").values()} == {
        torch.float16
    }


def test_features_of_towers_have_the_spread_of_clips(made: Path, words: list[str]) -> None:
    cfg = config.load([*recipe.DEFAULTS, *words, f"backbone.weights={made}"])
    model, data = build_model(cfg), dataset_class("stills")(cfg)
    data.prepare(("val",), trains=False)
    items = data.items("val")
    with torch.no_grad():
        frames = torch.stack([items.video(i)["frames"] for i in items.readable])
        found = [model.backbone.encode_frames(frames)[0]]
        texts = torch.from_numpy(items.text_ids), torch.from_numpy(items.text_mask)
        found.append(model.backbone.encode_text(*texts)[0])
    for one in found:  # a length of 10 in 512 dimensions
        assert one.square().mean().sqrt().item() == pytest.approx(10 / 512**0.5, rel=1e-2)


def test_a_killed_pretraining_goes_on_to_the_same_towers(
    made: Path, root: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: RetrievalModule, *_: Any) -> None:
        if self.trainer.global_step == 2:
            raise Killed

    command = ["pretrain", *words, f"run.root={root / 'killed'}", "--to", str(root / "again")]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RetrievalModule, "on_train_batch_start", stop, raising=False)
        main(command)
    assert not (root / "again").exists()
    steps: list[int] = []
    real = RetrievalModule.training_step
    monkeypatch.setattr(
        RetrievalModule,
        "training_step",
        lambda self, batch, i: steps.append(self.trainer.global_step) or real(self, batch, i),
    )
    assert main(command) == 0
    assert steps == [2, 3], "the same command goes on with the run that it began"
    for name in (tower_files.WEIGHTS_FILE, tower_files.TOKENIZER_FILE):
        assert (root / "again" / name).read_bytes() == (made / name).read_bytes()


def test_a_finished_pretraining_is_not_repeated_and_no_folder_is_overwritten(
    made: Path, root: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(RetrievalModule, "training_step", _never)
    command = ["pretrain", *words, f"run.root={root / 'whole'}", "--to"]
    assert main([*command, str(root / "twin")]) == 0
    for path in made.iterdir():
        assert (root / "twin" / path.name).read_bytes() == path.read_bytes()
    capsys.readouterr()
    assert main([*command, str(made)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_run_on_other_stills_is_not_taken_for_one_on_those_of_now(
    made: Path, root: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(captions, "_WITH_PLACE", 0.0)
    command = ["pretrain", *words, f"run.root={root / 'whole'}", "--to", str(root / "other")]
    assert main(command) == 2
    assert "told otherwise then; remove its folder" in capsys.readouterr().err
    assert not (root / "other").exists()


def _never(*_: Any) -> None:
    raise AssertionError("it trained again")


def test_only_tiny_towers_are_pretrained() -> None:
    with pytest.raises(UserError, match="leave it at tiny"):
        recipe.settings(["backbone=clip_vit_b32"])


def test_other_settings_are_another_run_and_places_are_none() -> None:
    one = recipe.settings(["paths.cache=a"]).run.name
    assert one == recipe.settings(["paths.cache=b", "trainer.threads=1"]).run.name
    assert one != recipe.settings(["optim.lr=1e-3"]).run.name
    assert recipe.settings(["run.name=mine"]).run.name == "mine"


@pytest.fixture(scope="module")
def began(made: Path, root: Path, shared_cache: Path) -> tuple[Record, Path]:
    """The record and the folder of a run that began from the towers."""
    folder = made.rename(made.with_name("moving"))
    record = _bench(root / "runs", shared_cache, "began", f"backbone.weights={folder}")
    folder.rename(made)  # nothing of it is needed again
    return record, root / "runs" / "began"


def test_a_run_says_which_towers_it_began_from(
    made: Path, root: Path, shared_cache: Path, began: tuple[Record, Path]
) -> None:
    record, run = began
    towers = record.protocol.towers
    assert towers is not None and towers.name == "moving"
    assert (run / "tokenizer.json").read_bytes() == (made / "tokenizer.json").read_bytes()
    same = _bench(root / "runs", shared_cache, "same", f"backbone.weights={made}")
    assert same.metrics == record.metrics
    assert group_hash(same) == group_hash(record), "another name of the folder is no other group"
    scratch = _bench(root / "runs", shared_cache, "scratch")
    assert scratch.protocol.towers is None
    assert group_hash(scratch) != group_hash(record)
    assert "towers moving #" in protocol_key(record) and "towers" not in protocol_key(scratch)


def test_a_trained_model_needs_the_folder_of_its_towers_no_more(
    began: tuple[Record, Path], root: Path, shared_cache: Path, tmp_path: Path
) -> None:
    record, run = began
    again = load_run(run)
    export_model(run, tmp_path / "exported")
    settings = (tmp_path / "exported" / "config.yaml").read_text()
    assert "moving" not in settings and str(root) not in settings
    other = load_model(tmp_path / "exported").state_dict()
    assert all(torch.equal(one, other[name]) for name, one in again.state_dict().items())
    weights = (f"run.weights={run}", f"backbone.weights={root / 'moving'}")
    tested = _bench(tmp_path, shared_cache, "tested", *weights)
    assert tested.metrics == record.metrics
    assert tested.protocol.towers == record.protocol.towers


def test_a_wheel_has_the_towers() -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[1] / "setup.cfg")
    patterns = setup["options.package_data"]["tvr_bench"].split()
    package = Path(config.__file__).parent
    assert str(SHIPPED.relative_to(package) / "*") in patterns


@pytest.fixture(scope="module")
def shipped() -> Iterator[dict[str, Any]]:
    yield tower_files.read_card(SHIPPED)


def test_who_interrupts_it_is_told_to_repeat_the_command(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def stopped(*_: Any) -> None:
        raise Interrupted("go on with `tvr-bench bench --config runs/a/config.yaml`", 143)

    monkeypatch.setattr("tvr_bench.pretrain.bench", stopped)
    run = f"run.root={tmp_path / 'runs'}"
    assert main(["pretrain", *words, run, "--to", str(tmp_path / "towers")]) == 143
    assert "the same command goes on from here" in capsys.readouterr().err


def test_the_shipped_towers_are_those_of_the_recipe(shipped: dict[str, Any]) -> None:
    """A change of the recipe, the renderer, the captions or the sizes needs new weights."""
    cfg = recipe.settings()
    anew = (
        "make the towers anew: tvr-bench pretrain --to src/tvr_bench/models/layers/signvid_towers"
    )
    assert shipped["recipe"] == recipe.recipe_of(cfg), anew
    assert shipped["towers"] == tower_files.sizes_of(cfg), anew
    data = dataset_class(cfg.data.name)(cfg)
    assert shipped["data"] == f"{cfg.data.name} {data.variant}", anew
    for split in ("val", "test"):  # made by the same code as train, in no time
        assert shipped["hashes"][f"{split}.captions"] == data.contents_hash(split), anew
        assert shipped["hashes"][f"{split}.videos"] == data.videos_hash(split), anew


@pytest.mark.slow
def test_the_shipped_towers_saw_the_training_stills_of_the_recipe(shipped: dict[str, Any]) -> None:
    data = dataset_class("stills")(recipe.settings())
    assert shipped["hashes"]["train.captions"] == data.contents_hash("train")
    assert shipped["hashes"]["train.videos"] == data.videos_hash("train")


def test_the_default_towers_of_signvid_fit_its_settings(shipped: dict[str, Any]) -> None:
    cfg = config.load(["data=signvid", "backbone.weights=signvid"])
    assert tower_files.check(cfg) == shipped
    assert json.loads((SHIPPED / "card.json").read_text()) == shipped
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 4e6
