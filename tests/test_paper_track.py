"""The paper's track against docs/paper_track.md: every value, whose it is, and its steps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from omegaconf import OmegaConf

from tvr_bench import config, paper_track
from tvr_bench.bench import bench
from tvr_bench.cli import main
from tvr_bench.datamodules.activitynet import ActivityNetDataModule
from tvr_bench.datamodules.annotated import Counts
from tvr_bench.datamodules.didemo import DidemoDataModule
from tvr_bench.datamodules.lsmdc import LsmdcDataModule
from tvr_bench.datamodules.m4vitevqa import M4ViteVqaDataModule
from tvr_bench.datamodules.msvd import MsvdDataModule
from tvr_bench.datamodules.plan import AllCaptionsPlan, EpochPlan
from tvr_bench.datamodules.textvr import TextVrDataModule
from tvr_bench.datamodules.vatex import VatexDataModule
from tvr_bench.schema import Config

PAGE = Path(__file__).parents[1] / "docs" / "paper_track.md"
MODELS = {"T-CARD": "tcard", "CRET": "cret", "BiC-Net": "bicnet", "EERCF": "eercf"}
# what a data set or the controlled track would decide where the paper's track did not
RECIPE = (
    *("video.frames", "text.words", "text.normalise", "ocr.enabled"),
    *(f"optim.{k}" for k in ("name", "lr", "backbone_lr", "weight_decay", "betas", "warmup")),
    *("optim.schedule", "optim.clip", "loss.scale", "loss.learn_scale", "loss.mask_duplicates"),
    *(f"trainer.{k}" for k in ("epochs", "batch_size", "captions", "groups", "shift", "mirror")),
    *("trainer.precision", "eval.frames", "eval.selection", "eval.best_by", "eval.every"),
    *("eval.captions", "eval.v2t", "eval.two_stage"),
)
PIXELS = ("video.size", "video.resize", "video.crop")


def _tables() -> dict[str, dict[str, dict[str, str]]]:
    """Return cell by setting by data set by model, as the page has them."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for part in PAGE.read_text().split("\n## ")[1:]:
        model = MODELS[part.splitlines()[0]]
        lines = [line for line in part.splitlines() if line.startswith("|")]
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        for number, data in enumerate(head[1:], 1):
            cells = {row[0].strip("`"): row[number] for row in rows}
            found.setdefault(model, {})[data] = cells
    return found


TABLES = _tables()
PAIRS = [(model, data) for model, sets in TABLES.items() for data in sets]


@cache
def _paper(model: str, data: str, *more: str) -> Config:
    return config.load([f"model={model}", f"data={data}", "track=paper", *more])


def _at(cfg: Config, key: str) -> Any:
    value = OmegaConf.select(cast(Any, cfg), key, throw_on_missing=True)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def test_the_page_has_every_model_with_a_paper_and_the_data_sets_that_it_reports() -> None:
    assert TABLES.keys() == {m for m in config.names("model") if config.paper_section(m)}
    for model, sets in TABLES.items():
        assert sorted(sets) == paper_track.data_sets(model)
        assert set(sets) <= set(config.names("data"))


@pytest.mark.parametrize(("model", "data"), PAIRS)
def test_a_run_gets_what_the_page_says(model: str, data: str) -> None:
    cfg = _paper(model, data)
    cells = TABLES[model][data]
    settings = {k: v for k, v in cells.items() if "." in k and v != "-"}
    assert len(settings) > 40
    for key, cell in settings.items():
        match = re.fullmatch(r"(.*) \((paper|release|choice)\)", cell)
        assert match is not None, f"{key}: {cell}"
        value = _at(cfg, key)
        wanted = match[1].strip("'") if isinstance(value, str) else yaml.safe_load(match[1])
        assert value == wanted, key


@pytest.mark.parametrize(("model", "data"), PAIRS)
def test_what_is_our_choice_is_marked_on_the_page_and_in_the_models_file_alike(
    model: str, data: str
) -> None:
    cells = TABLES[model][data]
    choices = paper_track.choices(model, data)
    sections = tuple(f"{one}." for one in choices)
    ours = {key for key in cells if key in choices or key.startswith(sections)}
    marked = {key for key, cell in cells.items() if cell.endswith("(choice)")}
    assert marked == {key for key in ours if cells[key] != "-"}
    single = {one for one, keys in choices.items() if keys == [one]}
    assert single <= cells.keys(), "a choice that is neither a setting on the page nor a section"
    stated = {key for key in paper_track.stated(model, data) if cells.get(key) != "-"}
    unused = {"optim.backbone_lr", "optim.warmup", "loss.scale"}  # of frozen features and a hinge
    assert stated - cells.keys() <= (unused if model == "bicnet" else set())


@pytest.mark.parametrize("model", TABLES)
def test_a_papers_towers_come_with_the_size_that_they_see(model: str) -> None:
    """Also where they are asked for alone, on a data set of other pictures."""
    cfg = config.load([f"model={model}", "data=signvid", "backbone=paper"])
    assert cfg.track == "controlled"
    assert tuple(cfg.video.size) == ((80, 112) if model == "bicnet" else (224, 224))


@pytest.mark.parametrize("model", TABLES)
def test_nothing_of_the_recipe_is_left_to_the_controlled_track_or_a_data_set(model: str) -> None:
    wanted = RECIPE if model == "bicnet" else RECIPE + PIXELS  # features have no pixels
    assert set(wanted) <= set(paper_track.stated(model, "one that no paper reports"))


def _training(cfg: Config) -> tuple[list[int], str]:
    """Return the captions of each clip that trains, by official counts, and the clips as written.

    Where only the captions are counted each stands for a clip, which leaves the steps as they are.
    """
    data = cfg.data
    task = f"{data.task}train" if data.name == "m4vitevqa" else ""
    counts = {
        "msrvtt": lambda: Counts({"9k": 9_000, "7k": 7_010}[data.train], None),
        "msvd": lambda: MsvdDataModule.counts["train"],
        "vatex": lambda: VatexDataModule.counts["train"],
        "activitynet": lambda: Counts(ActivityNetDataModule.counts["train"].clips, None),
        "didemo": lambda: DidemoDataModule.listed,
        "lsmdc": lambda: LsmdcDataModule.counts["train"],
        "textvr": lambda: TextVrDataModule.counts["train"],
        "m4vitevqa": lambda: M4ViteVqaDataModule.counts[task],
    }[data.name]()
    if counts.clips is None:
        assert counts.captions is not None and cfg.trainer.captions == "all"
        return [1] * counts.captions, "all"
    clips = counts.clips - (data.holdout if "holdout" in data else 0)
    captions = counts.captions or clips * (20 if data.name == "msrvtt" else 1)
    each = [captions // clips] * clips
    each[0] += captions - sum(each)
    return each, f"{clips:,}"


@pytest.mark.parametrize(("model", "data"), [pair for pair in PAIRS if pair[1] != "youcook2"])
def test_the_steps_follow_from_the_official_counts(model: str, data: str) -> None:
    cfg, cells = _paper(model, data), TABLES[model][data]
    captions, clips = _training(cfg)
    groups = [[item] for item in range(len(captions))]
    plan = EpochPlan(groups, cfg.trainer.batch_size, 0)
    samples = len(captions)
    if cfg.trainer.captions == "all":
        plan, samples = AllCaptionsPlan(groups, captions, cfg.trainer.batch_size, 0), sum(captions)
    assert cells["clips that train"] == clips
    assert cells["samples of an epoch"] == f"{samples:,}"
    assert cells["steps"] == f"{len(plan) * cfg.trainer.epochs:,}"


def test_eercf_trains_as_long_as_the_release() -> None:
    """Every sentence five times, in batches of 240: the release's, but for whole batches."""
    for data, sentences, steps in (
        ("msrvtt", 180_000, 3_750),
        ("msvd", 48_774, 1_016),
        ("vatex", 259_910, 5_415),
    ):
        cfg = _paper("eercf", data)
        captions, _ = _training(cfg)
        assert sum(captions) == sentences and cfg.trainer.captions == "all"
        assert round(sentences * cfg.trainer.epochs / cfg.trainer.batch_size) == steps
        whole = int(TABLES["eercf"][data]["steps"].replace(",", ""))
        assert 0 <= steps - whole <= cfg.trainer.epochs


def test_a_data_set_that_the_paper_does_not_report_is_named_with_what_it_loses() -> None:
    first, second = paper_track.notes(_paper("tcard", "didemo"))
    assert "tcard's paper does not report didemo" in first
    assert "m4vitevqa, msrvtt, textvr" in first
    assert "video.frames=12 where didemo itself has 64" in first
    assert "text.words=32 where didemo itself has 64" in first
    assert second.startswith("track=paper: our choice")
    mine = _paper("tcard", "didemo", "video.frames=64", "text.words=64")
    assert "where didemo itself" not in " ".join(paper_track.notes(mine))


@pytest.mark.parametrize(("model", "data"), PAIRS)
def test_our_choices_are_named_and_what_the_user_sets_is_none(model: str, data: str) -> None:
    (line,) = paper_track.notes(_paper(model, data))
    named = line.partition(": our choice")[2].rpartition(": ")[2].split(", ")
    assert named == list(paper_track.choices(model, data))
    assert paper_track.notes(config.load([f"model={model}", f"data={data}"])) == []


def test_a_choice_that_the_user_makes_is_his_own() -> None:
    (line,) = paper_track.notes(_paper("cret", "msvd", "optim.lr=1", "trainer.workers=2"))
    named = line.rpartition(": ")[2].split(", ")
    assert "optim.lr" not in named and "optim" not in named and "optim.clip" in named
    assert "trainer" in named, "of the trainer only the machine was changed"


def test_a_run_says_it_when_it_begins_and_in_its_record(
    tiny_settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("model=cret", "track=paper", "backbone=tiny", "model.ccm.heads=2")
    record = bench(config.load([*tiny_settings, *words]))
    assert record is not None and record.protocol.track == "paper"
    unreported, ours = record.run.notes
    assert "cret's paper does not report signvid" in unreported
    assert "model.gees" in ours and "trainer.batch_size" not in ours
    said = capsys.readouterr().err
    assert unreported in said and ours in said


def test_the_printed_configuration_says_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "model=eercf", "data=msvd", "track=paper"]) == 0
    printed = capsys.readouterr().out
    first = printed.splitlines()[0]
    assert first.startswith("# track=paper: our choice") and "optim.lr" in first
    assert yaml.safe_load(printed)["optim"]["name"] == "bert_adam"
