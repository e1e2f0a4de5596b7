"""Sweeps: names that follow settings, what is left to run, and the table at the end."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.fakes import fake_command, starts, write_record
from tvr_bench import config
from tvr_bench.cli import main
from tvr_bench.errors import UserError
from tvr_bench.launch import sweep as launch
from tvr_bench.launch.sweep import Plan, bench_command, measured, plan, run_sweep, seeds_of
from tvr_bench.leaderboard.record import RECORD_FILE, load_record

OWN = """
title: rates
base: {model: meanpool}
grid: {optim.lr: [0.001, 0.002]}
metrics: [t2v_R@1, v2t_R@1]
"""
RUN_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"


@pytest.fixture
def own(tmp_path: Path) -> str:
    """Return the path of a sweep of two cells."""
    file = tmp_path / "own.yaml"
    file.write_text(OWN)
    return str(file)


@pytest.fixture
def root(tmp_path: Path) -> str:
    """Return the setting that keeps all runs in the test's folder."""
    return f"run.root={tmp_path / 'sweeps'}"


def _folders(planned: Plan) -> list[Path]:
    return [task.find() for _, _, task in planned.tasks]


def test_a_plan_has_a_run_per_cell_and_seed(own: str, root: str) -> None:
    planned = plan(own, [root], [0, 4])
    assert [(cell.label, seed) for cell, seed, _ in planned.tasks] == [
        ("lr=0.001", 0),
        ("lr=0.001", 4),
        ("lr=0.002", 0),
        ("lr=0.002", 4),
    ]
    names = [task.name for _, _, task in planned.tasks]
    assert len(set(names)) == 4
    assert all(re.fullmatch(RUN_NAME, name) for name in names)
    assert names[1].startswith("own-lr-0.001-s4-")
    assert {folder.parent for folder in _folders(planned)} == {planned.folder}


def test_a_name_follows_the_settings_and_not_the_place(own: str, tmp_path: Path) -> None:
    def names(*settings: str) -> list[str]:
        return [task.name for _, _, task in plan(own, settings, [0]).tasks]

    first = names()
    assert names() == first
    assert names(f"run.root={tmp_path}", f"paths.cache={tmp_path}", "run.picture=true") == first
    assert names("trainer.threads=1", "trainer.workers=2", "log.csv=false") == first
    assert names("video.timeout=7", "ocr.given=elsewhere") == first
    assert not set(names("trainer.epochs=3")) & set(first)
    assert names("trainer.epochs=24") == first  # the data set's own default


def test_cells_that_differ_in_the_test_alone_share_weights(tmp_path: Path, root: str) -> None:
    file = tmp_path / "topk.yaml"
    file.write_text(
        "title: k\nbase: {model: eercf}\ntest_only: [model.rerank]\nmetrics: [t2v_R@1]\n"
        "cells: {a: {}, b: {model.rerank: released}, c: {model.layers: 1}}\n"
        "grid: {eval.two_stage: [5, null]}\n"
    )
    planned = plan(str(file), [root], [0, 1])
    tasks = {(cell.label, seed): task for cell, seed, task in planned.tasks}
    assert len({task.name for task in tasks.values()}) == 12
    for seed in (0, 1):
        first = tasks["a, two_stage=5", seed]
        assert first.weights is None and tasks["c, two_stage=5", seed].weights is None
        for label in ("a, two_stage=none", "b, two_stage=5", "b, two_stage=none"):
            task = tasks[label, seed]
            assert task.weights is not None and task.weights() == first.find()
            assert f"run.weights={first.find()}" in bench_command(task, task.find())
        assert tasks["c, two_stage=none", seed].weights == tasks["c, two_stage=5", seed].find
    assert not any(s.startswith("run.weights") for s in bench_command(first, first.find()))


def test_names_of_odd_labels_are_names_of_folders(tmp_path: Path, root: str) -> None:
    file = tmp_path / "odd.yaml"
    labels = ["../../x", "\u00e9\u4e2d", "a b/c", "x" * 300, "-rf", ""]
    cells = "\n".join(f"  {label!r}: {{optim.lr: 0.{i + 1}}}" for i, label in enumerate(labels))
    file.write_text(f"title: odd\nmetrics: [t2v_R@1]\ncells:\n{cells}\n")
    planned = plan(str(file), [root], [2**31])
    for _, _, task in planned.tasks:
        assert re.fullmatch(RUN_NAME, task.name)
        assert task.find().resolve().parent == planned.folder.resolve()


def test_the_command_of_a_cell_is_a_valid_bench(own: str, root: str, tmp_path: Path) -> None:
    planned = plan(own, [root, "trainer.epochs=3"], [7])
    task = planned.tasks[1][2]
    command = bench_command(task, task.find())
    assert command[:4] == [sys.executable, "-m", "tvr_bench", "bench"]
    cfg = config.load(command[4:])
    assert (cfg.model.name, cfg.optim.lr, cfg.seed, cfg.trainer.epochs) == ("meanpool", 0.002, 7, 3)
    assert Path(cfg.run.root) / str(cfg.run.name) == task.find()
    assert cfg.run.leaderboard == cfg.run.root == str(tmp_path / "sweeps" / "own")
    assert not cfg.run.picture


def test_a_sweep_runs_once_and_ends_with_its_table(
    own: str, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_sweep(own, [root], seeds=[0, 1], command=fake_command()) == 0
    planned = plan(own, [root], [0, 1])
    assert [len(starts(folder)) for folder in _folders(planned)] == [1] * 4
    printed = capsys.readouterr()
    assert "[4/4]" in printed.err and "40.0" in printed.out
    for name in ("table.md", "table.csv", "figure.png"):
        assert str(planned.folder / name) in printed.out
        assert (planned.folder / name).stat().st_size > 100
    assert run_sweep(own, [root], seeds=[0, 1], command=fake_command()) == 0
    assert [len(starts(folder)) for folder in _folders(planned)] == [1] * 4


def test_more_seeds_run_only_what_is_left(own: str, root: str) -> None:
    run_sweep(own, [root], seeds=[0], command=fake_command())
    run_sweep(own, [root], seeds=[0, 1], command=fake_command())
    planned = plan(own, [root], [0, 1])
    assert [len(starts(folder)) for folder in _folders(planned)] == [1] * 4
    with open(planned.folder / "table.csv") as file:
        assert [row["n"] for row in csv.DictReader(file)] == ["2", "2"]


def test_a_failed_cell_is_reported_and_the_rest_are_in_the_table(
    own: str, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = fake_command({"lr-0.001-s1": "fail"})
    assert run_sweep(own, [root], seeds=[0, 1], command=command) == 1
    planned = plan(own, [root], [0, 1])
    assert [len(entry.records) for entry in measured(planned)] == [1, 2]
    last = capsys.readouterr().err.splitlines()[-2:]
    assert last[0].startswith("FAILED own-lr-0.001-s1-")
    assert last[0].endswith("ValueError: a broken cell")
    assert last[1].strip() == str(planned.tasks[1][2].find() / "bench.log")
    assert "ValueError: a broken cell" in (planned.folder / "table.md").read_text()
    assert run_sweep(own, [root], seeds=[0, 1], command=fake_command()) == 0
    assert "Failed" not in (planned.folder / "table.md").read_text()


def test_a_broken_record_is_named_and_counted_out(
    own: str, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_sweep(own, [root], seeds=[0, 1], command=fake_command())
    planned = plan(own, [root], [0, 1])
    record = planned.tasks[0][2].find() / RECORD_FILE
    record.write_text(record.read_text()[:100])
    assert main(["sweep", own, root, "seeds=2", "--report"]) == 0
    assert f"left out of the table: {record}" in capsys.readouterr().err
    assert "| lr=0.001 | 1 |" in (planned.folder / "table.md").read_text()


def test_a_sweep_whose_cells_all_fail_has_no_table(
    own: str, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_sweep(own, [root], seeds=[0], command=fake_command({"own": "fail"})) == 1
    assert "no run has left a record" in capsys.readouterr().out


def test_a_cell_that_another_sweep_ran_is_not_run_again(
    own: str, root: str, tmp_path: Path
) -> None:
    run_sweep(own, [root], seeds=[0], command=fake_command())
    other = tmp_path / "other.yaml"
    other.write_text(OWN.replace("0.002", "0.003").replace("rates", "other rates"))
    run_sweep(str(other), [root], seeds=[0], command=fake_command())
    same, new = _folders(plan(str(other), [root], [0]))
    assert (same.parent.name, new.parent.name) == ("own", "other")
    assert len(starts(same)) == 1
    assert all(len(entry.records) == 1 for entry in measured(plan(str(other), [root], [0])))


def test_a_begun_run_is_gone_on_with(own: str, root: str) -> None:
    planned = plan(own, [root], [0])
    begun = planned.tasks[0][2].find()
    begun.mkdir(parents=True)
    (begun / "config.yaml").touch()
    run_sweep(own, [root], seeds=[0], command=fake_command())
    assert len(starts(begun)) == 1 and (begun / RECORD_FILE).exists()


def test_an_interrupt_says_how_to_go_on(
    own: str, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "run_tasks", interrupt)
    with pytest.raises(KeyboardInterrupt) as stop:
        run_sweep(own, [root, "trainer.epochs=3"], seeds=[4], jobs=2, command=fake_command())
    words = f"tvr-bench sweep {own} seeds=4, --jobs 2 {root} trainer.epochs=3"
    assert str(stop.value) == f"go on with `{words}`"


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("1", [0]), ("3", [0, 1, 2]), ("0,4,7", [0, 4, 7]), ("4,", [4]), ("[2, 1, 2]", [2, 1])],
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert seeds_of(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "-1", "a", "1.5", "1;2", "99999"])
def test_impossible_seeds(text: str) -> None:
    with pytest.raises(UserError, match="seeds"):
        seeds_of(text)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["give one sweep", "--list"]),
        (["tcard/tau", "tcard/xi"], ["give one sweep"]),
        (["tcard/tua"], ["'tcard/tua'", "'tcard/tau'"]),
        (["tcard/tau", "seeds=x"], ["seeds=x"]),
        (["tcard/tau", "--jobs", "0"], ["--jobs 0"]),
        (["tcard/tau", "model.tau=1"], ["model.tau", "varies"]),
        (["tcard/tau", "seed=1"], ["seed", "seeds=N"]),
        (["tcard/tau", "run.name=x"], ["run.name"]),
        (["tcard/tau", "optim.lrr=1"], ["tcard/tau, tau=0.1", "optim.lr"]),
        (["tcard/tau", "--sedes", "1"], ["--sedes"]),
        (["{own}", "run.root={own}/x"], ["cannot make the folder"]),
    ],
)
def test_a_wrong_sweep_is_one_line_and_exit_code_2(
    words: list[str], expected: list[str], own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *(word.replace("{own}", own) for word in words)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    for text in expected:
        assert text in printed.err


def test_a_metric_that_no_record_has_is_refused_before_any_run(
    tmp_path: Path, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(OWN.replace("v2t_R@1", "v2t_R1"))
    assert main(["sweep", str(file), root]) == 2
    assert "'v2t_R1'. Did you mean 'v2t_R@1'?" in capsys.readouterr().err
    assert not (tmp_path / "sweeps").exists()


def test_list_and_dry_run_start_nothing(
    own: str, root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "--list"]) == 0
    listed = capsys.readouterr().out
    assert "tcard/tau" in listed and "6 cells" in listed
    write_record(plan(own, [root], [0]).tasks[1][2].find())
    assert main(["sweep", "--dry-run", "--seeds", "1", own, root]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[2]] == ["to do  lr=0.001, seed 0", "done   lr=0.002, seed 0"]
    assert lines[1].strip().startswith("tvr-bench bench model=meanpool optim.lr=0.001 seed=0")
    assert lines[-1] == "own: 2 cells, 1 to do, 1 done"
    assert not list(tmp_path.rglob("*.log"))
    assert main(["sweep", "--report", own, root, "seeds=1"]) == 0
    assert "lr=0.002" in capsys.readouterr().out


TINY_SWEEP = """
title: a real one
base: {model: meanpool}
grid: {optim.lr: [0.001]}
metrics: [t2v_R@1, "in_group:temporal", train_s]
"""


@pytest.fixture
def real(tmp_path: Path, tiny_settings: list[str]) -> list[str]:
    """Return the words of a sweep of one real cell that takes two steps."""
    file = tmp_path / "real.yaml"
    file.write_text(TINY_SWEEP)
    settings = [s for s in tiny_settings if not s.startswith(("run.", "trainer.steps"))]
    return [str(file), f"run.root={tmp_path / 'sweeps'}", "trainer.steps=2", *settings]


def test_a_real_cell_trains_and_is_reported(
    real: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *real, "seeds=1"]) == 0
    planned = plan(real[0], real[1:], [0])
    record = load_record(planned.tasks[0][2].find())
    assert (record.model.name, record.run.seed) == ("meanpool", 0)
    assert f"{record.metrics.t2v['R@1']:.1f}" in capfd.readouterr().out
    assert os.path.getsize(planned.folder / "figure.png") > 5000


@pytest.mark.slow
def test_a_real_cell_that_is_stopped_in_training_goes_on(real: list[str]) -> None:
    real = [*real, "trainer.steps=400", "eval.every=100"]
    command = [sys.executable, "-m", "tvr_bench", "sweep", *real, "seeds=1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    run = plan(real[0], real[1:], [0]).tasks[0][2].find()
    end = time.monotonic() + 120
    while not (run / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"go on with `tvr-bench sweep {real[0]}" in printed
    assert not (run / RECORD_FILE).exists()
    assert "interrupted" in (run / "bench.log").read_text()
    assert main(["sweep", *real, "seeds=1"]) == 0
    assert load_record(run).model.name == "meanpool"


@pytest.mark.parametrize(("seeds", "said"), [([0, 1], "seeds=2"), ([4], "seeds=4,")])
def test_the_table_says_with_which_seeds_it_was_made(
    own: str, root: str, seeds: list[int], said: str
) -> None:
    run_sweep(own, [root], seeds=seeds, command=fake_command())
    page = (plan(own, [root], seeds).folder / "table.md").read_text()
    assert f" {said} {root}`." in page
