"""All models from one command: each its own process, none hidden by another's failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.fakes import fake_command, starts
from tvr_bench import config
from tvr_bench.cli import main
from tvr_bench.errors import UserError
from tvr_bench.launch import all_models
from tvr_bench.launch.all_models import bench_all


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
    assert "T2V" in printed.out and "40.0" in printed.out


def test_a_failing_model_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [f"run.root={tmp_path}", "run.name=x"]
    assert bench_all(settings, command=fake_command({"cret": "fail"})) == 1
    printed = capsys.readouterr()
    assert printed.out.count("40.0") == 2 * (len(config.names("model")) - 1) / 2
    assert "failed" in printed.out
    assert "FAILED cret-x: ValueError: a broken cell" in printed.err
    assert bench_all(settings, command=fake_command()) == 0  # the finished ones are not run again
    counts = {name: len(starts(tmp_path / name)) for name in _runs(tmp_path)}
    assert counts.pop("cret-x") == 2 and set(counts.values()) == {1}


def test_names_are_those_of_single_runs(tmp_path: Path) -> None:
    bench_all([f"run.root={tmp_path}", "seed=3"], command=fake_command())
    assert all("-signvid-s3-20" in name for name in _runs(tmp_path))
    assert len(_runs(tmp_path)) == len(config.names("model"))


def test_each_process_is_the_plain_bench(tmp_path: Path) -> None:
    seen = []

    def command(task: object, folder: Path) -> list[str]:
        seen.append(all_models._command(task, folder)[3:])  # type: ignore[arg-type]
        return ["true"]

    settings = ["model=all", "model.name=all", f"run.root={tmp_path}", "run.name=x", "seed=3"]
    assert bench_all(settings, command=command) == 1  # `true` leaves no record
    assert seen[0] == [
        *("bench", "model=meanpool", f"run.root={tmp_path}", "seed=3", "run.name=meanpool-x"),
    ]


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
    monkeypatch.setattr(all_models, "bench_all", lambda *words: seen.append(words) or 1)
    assert main(["bench", "model=all", "seed=3"]) == 1
    assert seen == [(["model=all", "seed=3"], None)]
