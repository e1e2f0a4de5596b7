"""The Trainer that a configuration asks for: rates, precision, validation, what is printed."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tvr_bench import config, progress, training
from tvr_bench.bench import bench
from tvr_bench.errors import UserError
from tvr_bench.evaluation.evaluate import EvaluationResult
from tvr_bench.leaderboard.record import Record, load_record
from tvr_bench.models.base import RetrievalModule
from tvr_bench.models.optim import warmup_cosine
from tvr_bench.registry import create_model

SMALL: dict[str, Any] = {
    "video.size": "[32,48]",
    "backbone.weights": "none",
    "backbone.width": 16,
    "backbone.layers": 1,
}
EPOCHS = ("trainer.steps=null", "trainer.epochs=3")  # of two steps each


@pytest.fixture
def run(tiny_settings: list[str], tmp_path: Path) -> Callable[..., tuple[Path, Record]]:
    """Train and test meanpool with settings of one's own; return the folder and the record."""

    def make(*settings: str) -> tuple[Path, Record]:
        record = bench(config.load([*tiny_settings, "model=meanpool", *settings]))
        assert record is not None
        return tmp_path / "runs" / record.run.id, record

    return make


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps after which the model was validated."""
    steps: list[int] = []

    def note(self: RetrievalModule) -> None:
        steps.append(self.trainer.global_step)

    monkeypatch.setattr(RetrievalModule, "on_validation_start", note, raising=False)
    return steps


@pytest.mark.parametrize("captions", ["one", "all"])
def test_videos_per_second_are_those_that_training_encoded(
    captions: str, run: Callable[..., tuple[Path, Record]]
) -> None:
    _, record = run(f"trainer.captions={captions}", "trainer.steps=5", "trainer.batch_size=8")
    cost = record.efficiency
    assert cost.videos_per_s is not None and cost.train_s is not None
    assert cost.videos_per_s * cost.train_s == pytest.approx(5 * 8)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["eval.every=1", *EPOCHS], [2, 4, 6]),
        (["eval.every=2", *EPOCHS], [4, 6]),
        (["eval.every=9", *EPOCHS], [6]),
        (["eval.every=0.5", *EPOCHS], [1, 2, 3, 4, 5, 6]),
        (["eval.every=1", "trainer.steps=1"], [1]),
        (["eval.every=1", "trainer.steps=3"], [2, 3]),
    ],
    ids=str,
)
def test_validation_comes_as_often_as_asked_and_after_the_last_step(
    settings: list[str],
    expected: list[int],
    run: Callable[..., tuple[Path, Record]],
    validated: list[int],
) -> None:
    folder, record = run(*settings, "eval.selection=best_val", "trainer.keep_checkpoints=true")
    assert validated == expected
    kept = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert kept in expected and last == expected[-1]
    assert record.protocol.selection == "best_val"


@pytest.mark.parametrize(("best_by", "best"), [("R@1", 2), ("R@10", 4), ("RSum", 6)])
def test_the_best_is_that_of_the_metric_asked_for(
    best_by: str,
    best: int,
    run: Callable[..., tuple[Path, Record]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    epochs, test = ((9.0, 1.0, 1.0), (1.0, 9.0, 1.0), (1.0, 1.0, 9.0)), (0.0, 0.0, 0.0)
    values = iter({"R@1_mean": a, "R@10_mean": b, "RSum": c} for a, b, c in (*epochs, test))
    monkeypatch.setattr(EvaluationResult, "flat", lambda _: next(values))
    words = ["eval.selection=best_val", f"eval.best_by={best_by}", "trainer.keep_checkpoints=true"]
    folder, _ = run(*words, *EPOCHS)
    kept = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert kept["global_step"] == best


def test_the_rate_rises_and_falls_once_per_step(
    run: Callable[..., tuple[Path, Record]],
) -> None:
    words = ["optim.lr=0.01", "optim.warmup=0.5", "trainer.log_every=1", "trainer.threads=1"]
    folder, _ = run(*words, "trainer.steps=4")
    with open(folder / "csv" / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row.get("lr-AdamW/pg1")]
    rates = [float(row["lr-AdamW/pg1"]) for row in rows]
    assert rates == pytest.approx([0.005, 0.01, 0.01, 0.005])


def test_on_a_plateau_the_rate_is_halved(
    run: Callable[..., tuple[Path, Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EvaluationResult, "flat", lambda _: {"R@1_mean": 1.0, "R@10_mean": 5.0})
    words = ["optim.schedule=plateau", "optim.patience=1", "optim.lr=0.01", "optim.name=adam"]
    folder, _ = run(*words, "trainer.log_every=1", "trainer.steps=null", "trainer.epochs=5")
    with open(folder / "csv" / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row.get("lr-Adam/pg1")]
    rates = [float(row["lr-Adam/pg1"]) for row in rows]  # two steps an epoch
    # the first value is the best one; the second validation without a better one halves the rate
    assert rates == pytest.approx([0.01] * 6 + [0.005] * 4)


def test_the_test_may_see_another_number_of_frames(
    run: Callable[..., tuple[Path, Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[str, int]] = set()
    encode = RetrievalModule._encode
    step = RetrievalModule.training_step

    def note(self: RetrievalModule, batch: dict[str, torch.Tensor], loader: int) -> Any:
        if "frames" in batch:
            seen.add(("test", batch["frames"].shape[1]))
        return encode(self, batch, loader)

    def train(self: RetrievalModule, batch: dict[str, torch.Tensor], index: int) -> Any:
        seen.add(("train", batch["frames"].shape[1]))
        return step(self, batch, index)

    monkeypatch.setattr(RetrievalModule, "_encode", note)
    monkeypatch.setattr(RetrievalModule, "training_step", train)
    _, record = run("video.frames=2", "eval.frames=5")
    assert seen == {("train", 2), ("test", 5)}
    assert record.protocol.frames == 5
    with pytest.raises(UserError, match=r"leave eval\.frames alone"):
        create_model("tcard", **SMALL, **{"video.frames": 2, "eval.frames": 5})


@pytest.mark.parametrize("steps", [1, 2, 10, 333])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
def test_warm_up_then_half_a_cosine(steps: int, warmup: float) -> None:
    factors = [warmup_cosine(step, steps, warmup) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    rise = max(1, round(steps * warmup))
    assert factors[:rise] == pytest.approx([(i + 1) / rise for i in range(rise)])
    assert factors[rise:] == sorted(factors[rise:], reverse=True)
    assert warmup_cosine(steps, steps, warmup) == pytest.approx(0, abs=1e-9) or rise == steps


def test_the_backbone_and_vectors_are_groups_of_their_own() -> None:
    model = create_model("tcard", heads=2, **SMALL, **{"optim.lr": 0.1, "optim.backbone_lr": 0.01})
    groups = model.parameter_groups()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen = [names[id(parameter)] for group in groups for parameter in group["params"]]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(seen) == sorted(trained)
    for group in groups:
        for parameter in group["params"]:
            tower = names[id(parameter)].startswith("network.")
            assert group["lr"] == pytest.approx(0.001 if tower else 0.1)
            assert (group["weight_decay"] > 0) == (parameter.ndim > 1)


def test_pretrained_towers_learn_slower_unless_told_otherwise() -> None:
    rates = {group["lr"] for group in create_model("meanpool", **SMALL).parameter_groups()}
    assert len(rates) == 1
    frozen = create_model("meanpool", **SMALL, **{"backbone.frozen": True})
    (group,) = frozen.parameter_groups()
    assert [parameter.ndim for parameter in group["params"]] == [0], "the logit scale alone"


def test_the_logit_scale_starts_where_told_and_ends_at_a_hundred() -> None:
    assert create_model("meanpool", **SMALL).logit_scale.item() == pytest.approx(14.28)
    model = create_model("meanpool", **SMALL, **{"loss.scale": 20})
    assert model.logit_scale.item() == pytest.approx(20)
    with torch.no_grad():
        model.log_scale.fill_(50)
    assert model.logit_scale.item() == 100
    assert create_model("meanpool", **SMALL, **{"loss.scale": 100}).logit_scale.item() == 100
    fixed = create_model("meanpool", **SMALL, **{"loss.learn_scale": False})
    assert not fixed.log_scale.requires_grad


def test_a_logit_scale_that_is_driven_up_stops_at_a_hundred_and_comes_down_at_once(
    run: Callable[..., tuple[Path, Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scales: list[float] = []

    def drive(self: RetrievalModule, *_: Any) -> torch.Tensor:
        scales.append(self.log_scale.item())
        return self.logit_scale * (-1 if self.trainer.global_step < 3 else 1000)

    monkeypatch.setattr(RetrievalModule, "contrast", drive)
    words = ["optim.lr=0.5", "optim.warmup=0", "optim.clip=0", "trainer.steps=6", "loss.scale=90"]
    run(*words, "optim.betas=[0.5,0.5]")
    assert scales[:4] == pytest.approx([math.log(90), *[math.log(100)] * 3])
    assert scales[3] > scales[4] > scales[5]


def test_nothing_left_to_train_is_one_line(
    tiny_settings: list[str],
) -> None:
    words = ["model=meanpool", "backbone.frozen=true", "loss.learn_scale=false"]
    with pytest.raises(UserError, match=r"nothing .*train.*backbone\.frozen"):
        bench(config.load([*tiny_settings, *words]))


@pytest.mark.parametrize(
    ("asked", "expected"), [("32", "32-true"), ("bf16", "bf16-mixed"), ("16", "16-mixed")]
)
def test_precision_by_name(asked: str, expected: str) -> None:
    assert training.precision(config.load([f"trainer.precision={asked}"])) == expected


@pytest.mark.parametrize("has", [True, False])
def test_automatic_precision_follows_the_hardware(
    has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    cfg = config.load(["trainer.accelerator=cpu", "trainer.precision=auto"])
    assert training.precision(cfg) == ("bf16-mixed" if has else "32-true")


def test_a_run_in_bf16_has_finite_scores_and_says_its_type(
    run: Callable[..., tuple[Path, Record]],
) -> None:
    folder, record = run("trainer.precision=bf16", "run.picture=true")
    assert record.efficiency.dtype == "bf16-mixed"
    assert record.metrics.nan_scores == 0
    assert (folder / "retrieval.png").exists()


def test_seed_fixes_numbers_and_threads() -> None:
    drawn = []
    for seed in (4, 4, 5):
        training.seed(config.load([f"seed={seed}", "trainer.threads=1"]))
        assert torch.get_num_threads() == 1
        drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_log_file_gets_lines_instead_of_a_bar(
    run: Callable[..., tuple[Path, Record]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "_EVERY_S", 0.0)
    run()
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("train: step")]
    assert [line.split()[2] for line in lines] == ["1/3,", "2/3,", "3/3,"]
    assert all("steps/s" in line and "loss" in line and "s left" in line for line in lines)
    assert "val R@1" in printed.err
    assert "\x1b" not in printed.err and "━" not in printed.out.split("meanpool on")[0]


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_gets_one_bar_for_the_whole_run_and_nothing_is_cut(
    width: int,
    run: Callable[..., tuple[Path, Record]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(training, "terminal", lambda: True)
    monkeypatch.setattr(training, "Bar", lambda: progress.Bar(console))
    run(*EPOCHS, "log.tensorboard=true", "trainer.log_every=1")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", plain) if line.strip()]
    assert {line.split()[0] for line in lines} <= {"train", "validate", "test"}
    counts = {found[1] for line in lines if (found := re.search(r"\d+/(\d+) ", line + " "))}
    assert counts == {"6", "4"}, "steps of the run, batches of the test; never an epoch's"
    (last,) = [line for line in lines if "6/6" in line and line.startswith("train")][-1:]
    assert re.search(r"6/6 \d+\.\d/s  loss \d+\.\d{3}  val R@1 \d+\.\d  0:00:00 left", last)
    assert max(map(len, lines)) <= width


def test_logs_can_be_switched_off(run: Callable[..., tuple[Path, Record]]) -> None:
    folder, _ = run("log.csv=false", "log.tensorboard=false")
    assert not (folder / "csv").exists() and not (folder / "tensorboard").exists()
    assert load_record(folder).run.id == folder.name


def test_the_record_says_the_threads_that_were_told(
    run: Callable[..., tuple[Path, Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    _, record = run("trainer.threads=null")
    assert (record.env["threads"], record.efficiency.threads) == ("1", 1)
