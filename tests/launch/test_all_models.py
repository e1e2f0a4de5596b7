"""All models from one command: each its own process, none hidden by another's failure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.console import Console

from launch.fakes import SKILLS, fake_command, starts
from leaderboard.fake_runs import write_run
from tvr_bench import config, prepare
from tvr_bench.cli import main
from tvr_bench.errors import UserError
from tvr_bench.launch import all_models
from tvr_bench.launch.all_models import bench_all
from tvr_bench.launch.local import Outcome, Task
from tvr_bench.launch.summary import print_summary


@pytest.fixture(autouse=True)
def filled(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Fill no cache; return the words of what would have."""
    done: list[list[str]] = []
    monkeypatch.setattr(all_models, "run_first", lambda words: done.append(words[3:]) or 0)
    return done


def _runs(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if not p.name.startswith("."))


def test_every_model_runs_the_floor_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["model=all", "seed=3", f"run.root={tmp_path}", "run.name=x"]
    assert bench_all(settings, command=fake_command()) == 0
    assert _runs(tmp_path) == sorted(f"{model}-x" for model in config.names("model"))
    printed = capsys.readouterr()
    assert printed.err.startswith("[0/5] meanpool-x: begins")
    assert all(model in printed.out for model in config.names("model"))
    assert "signvid small test: 256 queries, 256 videos, seed 3" in printed.out
    rows = [line.split() for line in printed.out.splitlines()]
    assert rows[rows.index(["model", "R@1", "R@1", *SKILLS, "training"]) + 2] == [
        *("meanpool", "40.0", "38.0", "40.0", "45.0", "50.0", "55.0", "3", "min"),
    ]
    assert ["chance", "0.4", "0.4", *["25.0"] * 4] in rows


def test_a_failing_model_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [f"run.root={tmp_path}", "run.name=x"]
    assert bench_all(settings, command=fake_command({"cret": "fail"})) == 1
    printed = capsys.readouterr()
    rows = [line.split() for line in printed.out.splitlines()]
    assert sum("38.0" in row for row in rows) == len(config.names("model")) - 1
    assert ["cret", "failed"] in rows
    assert "FAILED cret-x: ValueError: a broken cell" in printed.err
    assert bench_all(settings, command=fake_command()) == 0  # the finished ones are not run again
    counts = {name: len(starts(tmp_path / name)) for name in _runs(tmp_path)}
    assert counts.pop("cret-x") == 2 and set(counts.values()) == {1}


def test_names_are_those_of_single_runs(tmp_path: Path) -> None:
    bench_all([f"run.root={tmp_path}", "seed=3"], command=fake_command())
    assert all("-signvid-s3-20" in name for name in _runs(tmp_path))
    assert len(_runs(tmp_path)) == len(config.names("model"))


def test_each_process_is_the_plain_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def command(task: object, folder: Path) -> list[str]:
        seen.append(all_models._command(task, folder)[3:])  # type: ignore[arg-type]
        return ["true"]

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(all_models, "cores", lambda: 6)
    settings = ["model=all", "model.name=all", f"run.root={tmp_path}", "run.name=x", "seed=3"]
    for jobs in (1, 2):  # threads order sums, so they are the same whatever runs beside
        assert bench_all(settings, jobs=jobs, command=command) == 1  # `true` leaves no record
        assert seen[-5] == [
            *("bench", "model=meanpool", f"run.root={tmp_path}", "seed=3", "trainer.threads=3"),
            "run.name=meanpool-x",
        ]
    assert all_models._threads(config.load(["trainer.threads=5"])) == []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert all_models._threads(config.load([])) == []


@pytest.mark.parametrize(
    ("words", "cores", "memory", "cards", "jobs"),
    [
        ("trainer.accelerator=cpu", 2, 7.0, 1, 2),
        ("trainer.accelerator=cpu", 1, 7.0, 0, 1),
        ("trainer.accelerator=cpu", 8, 5.0, 0, 1),
        ("trainer.accelerator=cpu", 8, 1.0, 0, 1),
        ("trainer.accelerator=auto", 8, 64.0, 0, 2),
        ("trainer.accelerator=auto", 8, 64.0, 1, 1),
        ("trainer.accelerator=gpu", 8, 64.0, 4, 1),
        ("trainer.devices=2", 8, 64.0, 0, 1),
    ],
)
def test_two_run_at_a_time_where_they_have_room(
    monkeypatch: pytest.MonkeyPatch, words: str, cores: int, memory: float, cards: int, jobs: int
) -> None:
    monkeypatch.setattr(all_models, "cores", lambda: cores)
    monkeypatch.setattr(all_models, "free_gb", lambda: memory)
    monkeypatch.setattr(all_models, "gpus", lambda: ["0"] * cards)
    assert all_models._jobs(config.load([words])) == jobs


def test_the_caches_are_filled_once_before_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filled: list[list[str]]
) -> None:
    monkeypatch.setattr(all_models, "_command", fake_command())
    settings = [f"run.root={tmp_path}", "run.name=x", "seed=3"]
    assert bench_all(["model=all", *settings]) == 0
    assert filled == [["data", "prepare", "model=all", settings[0], "seed=3"]]
    assert bench_all(["model=all", *settings]) == 0 and len(filled) == 1  # nothing was left to run
    monkeypatch.setattr(all_models, "run_first", lambda _: 2)
    assert bench_all(["model=all", settings[0], "run.name=y"]) == 2
    assert _runs(tmp_path) == sorted(f"{model}-x" for model in config.names("model"))


def test_rows_come_with_intervals_and_the_best_is_first(tmp_path: Path) -> None:
    strengths = {"bicnet": 0.0, "tcard": 4.0}
    outcomes = {
        name: Outcome(
            Task(name, tmp_path / "lock", Path),
            "done",
            write_run(tmp_path, name, model=name, strength={"temporal": 3.0 * s, "relation": s}),
        )
        for name, s in strengths.items()
    }
    console = Console(width=80)
    with console.capture() as capture:
        print_summary(outcomes, console)
    lines = capture.get().splitlines()
    rows = [line.split() for line in lines if line.startswith(("bicnet", "tcard", "chance"))]
    assert [row[0] for row in rows] == ["tcard", "bicnet", "chance"]
    assert rows[0][1:3] == ["+", "OCR"] and re.fullmatch(r"\([0-9]+\.\.[0-9]+\)", rows[0][4])
    assert max(map(len, lines)) <= 80 and "training" in capture.get()
    assert rows[0][-3] == "100.0" and rows[1][-3].startswith("(")  # temporal; one only guesses


def test_a_setting_that_does_not_suit_every_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model=\w+: unknown key 'model.tau'"):
        bench_all(["model=all", "model.tau=1", f"run.root={tmp_path / 'runs'}"])
    assert not (tmp_path / "runs").exists()


def test_an_interrupt_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(all_models, "run_tasks", interrupt)
    with pytest.raises(KeyboardInterrupt) as stop:
        bench_all(["model=all", f"run.root={tmp_path}", "seed=3"])
    start = f"go on with `tvr-bench bench model=all run.root={tmp_path} seed=3 run.name=signvid-s3-"
    assert str(stop.value).startswith(start)


def test_the_command_line_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        all_models, "bench_all", lambda *words, jobs: seen.append((*words, jobs)) or 1
    )
    assert main(["bench", "model=all", "seed=3"]) == 1
    assert main(["bench", "--jobs", "3", "model=all"]) == 1
    assert seen == [(["model=all", "seed=3"], None, None), (["model=all"], None, 3)]


@pytest.mark.parametrize(
    ("words", "said"),
    [("model=all --jobs 0", "it is 1 or more"), ("model=cret --jobs 2", "--jobs is of model=all")],
)
def test_jobs_that_cannot_be_are_refused(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words.split()]) == 2
    assert said in capsys.readouterr().err


def test_the_caches_of_all_models_are_filled_by_one_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []
    monkeypatch.setattr(prepare, "prepare_data", lambda cfg, part: seen.append((cfg, part.index)))
    file = tmp_path / "own.yaml"
    file.write_text("seed: 4\n")
    words = ["data", "prepare", "--config", str(file), "model=all", "--shard", "1/2"]
    assert main(words) == 0
    assert [cfg.model.name for cfg, _ in seen] == config.names("model")
    assert {(cfg.seed, part) for cfg, part in seen} == {(4, 1)}
