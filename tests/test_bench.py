"""A whole run: every file is there, it repeats to the byte, and a killed one goes on."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from media.make_clips import make_clip
from tiny import TINY_MODEL, TINY_RUN, TINY_SIGNVID
from tvr_bench import config
from tvr_bench.bench import bench
from tvr_bench.cli import main
from tvr_bench.leaderboard.record import Record, load_ranks, load_record, metrics_json
from tvr_bench.models.base import RetrievalModule

EPOCHS = ("trainer.steps=null", "trainer.epochs=3")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the runs of this file leave their files."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def places(root: Path, shared_cache: Path) -> list[str]:
    return [f"run.root={root / 'runs'}", f"run.leaderboard={root}", f"paths.cache={shared_cache}"]


@pytest.fixture(scope="module")
def settings(places: list[str]) -> list[str]:
    return [*TINY_MODEL, *TINY_RUN, *TINY_SIGNVID, *places]


@pytest.fixture(scope="module")
def finished(root: Path, settings: list[str]) -> Path:
    """The folder of a finished run of the command line, with everything switched on but OCR."""
    words = ["model=tcard", "model.heads=2", "run.picture=true", "log.tensorboard=true"]
    assert main(["bench", *settings, *words, "run.name=first"]) == 0
    return root / "runs" / "first"


def _run(settings: list[str], *more: str) -> tuple[Path, Record]:
    """Run in this process; return the folder and the record."""
    cfg = config.load([*settings, *more])
    record = bench(cfg)
    assert record is not None
    return Path(cfg.run.root) / record.run.id, record


def test_a_finished_run_has_every_file(finished: Path, root: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        "record.json",
        "ranks.npz",
        "config.yaml",
        "model.safetensors",
        "tokenizer.json",
        "retrieval.png",
        "csv",
        "tensorboard",
    }
    assert (finished / "retrieval.png").read_bytes().startswith(b"\x89PNG")
    assert not list(finished.rglob("*.ckpt")), "its weights are enough"
    assert list((finished / "tensorboard").glob("events*"))
    with open(finished / "csv" / "metrics.csv") as file:
        logged = {key for row in csv.DictReader(file) for key, value in row.items() if value}
    assert {"train/loss", "train/loss_score", "val/t2v_R@1", "test/v2t_MdR"} <= logged
    with open(root / "leaderboard.csv") as file:
        assert [row["model"] for row in csv.DictReader(file)].count("tcard") == 1
    assert "tcard" in (root / "leaderboard.md").read_text()
    assert not [path for path in root.rglob("*.tmp*") if path.is_file()]


def test_the_record_says_what_was_measured_on_what(finished: Path) -> None:
    record = load_record(finished)
    cfg = config.load(file=finished / "config.yaml")
    assert (record.run.id, record.run.seed) == ("first", cfg.seed)
    assert record.run.command.startswith("tvr-bench ")
    assert (record.model.name, record.model.backbone) == ("tcard", "tiny")
    weights = (finished / "model.safetensors").read_bytes()
    assert record.model.checkpoint_sha256 == hashlib.sha256(weights).hexdigest()
    assert record.model.params == sum(t.numel() for t in load_file(_weights(finished)).values())
    assert (record.data.name, record.data.variant) == ("signvid", "tiny")
    assert (record.data.clips, record.data.queries, record.data.train_clips) == (16, 16, 16)
    assert (record.data.failed, record.data.missing_ids, record.data.failures) == ([], [], {})
    assert (record.protocol.frames, record.protocol.resolution) == (3, (32, 48))
    assert not record.protocol.ocr.enabled
    assert {"frames", "train", "test"} <= record.phases.keys()
    assert set(record.metrics.by_skill) == {"appearance", "relation", "scene_text", "temporal"}
    assert record.metrics.in_group["chance_R@1"] == 25
    assert record.efficiency.train_s is not None and record.efficiency.videos_per_s is not None
    assert record.efficiency.gflops_video is not None and record.efficiency.gflops_video > 0


def _weights(run: Path) -> Path:
    return run / "model.safetensors"


def test_the_ranks_give_the_metrics_again(finished: Path) -> None:
    record = load_record(finished)
    ranks = load_ranks(record, finished)
    for direction, metrics in (("t2v", record.metrics.t2v), ("v2t", record.metrics.v2t)):
        ahead, tied = ranks[f"{direction}_ahead"], ranks[f"{direction}_tied"]
        if not tied.any():
            assert metrics["R@1"] == pytest.approx(100 * np.mean(ahead == 0))
            assert metrics["MnR"] == pytest.approx(np.mean(ahead + 1))
    assert len(set(ranks["query_ids"])) == len(set(ranks["clip_ids"])) == 16


def test_the_ranks_name_what_was_found_for_every_query(finished: Path) -> None:
    ranks = load_ranks(load_record(finished), finished)
    found, gallery = ranks["t2v_found"], ranks["gallery_ids"]
    assert len(found) == len(ranks["query_ids"]) and found.max() < len(gallery)
    for row, clip in enumerate(ranks["query_clip_ids"].tolist()):
        place = int(ranks["t2v_ahead"][row])
        if not ranks["t2v_tied"][row] and place < found.shape[1]:
            assert gallery[found[row, place]] == clip


def test_a_run_repeats_from_its_own_configuration_to_the_byte(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the place of the result changes; the caches are full now and were empty then."""
    words = [f"run.root={tmp_path / 'runs'}", f"run.leaderboard={tmp_path}"]
    assert main(["bench", "--config", str(finished / "config.yaml"), *words]) == 0
    (again,) = (tmp_path / "runs").iterdir()
    assert metrics_json(load_record(again)) == metrics_json(load_record(finished))
    assert _weights(again).read_bytes() == _weights(finished).read_bytes()
    assert (again / "tokenizer.json").read_bytes() == (finished / "tokenizer.json").read_bytes()
    for name in ("t2v_ahead", "v2t_ahead", "query_ids"):
        one, other = (load_ranks(load_record(run), run)[name] for run in (again, finished))
        assert np.array_equal(one, other)
    printed = capsys.readouterr().out
    assert str(again) in printed.replace("\n", "") or again.name in printed
    assert "chance" in printed


def test_another_seed_makes_another_model(finished: Path, settings: list[str]) -> None:
    words = ["model=tcard", "model.heads=2", "seed=1"]
    run, record = _run(settings, *words)
    assert run.name.startswith("tcard-signvid-s1-")
    assert _weights(run).read_bytes() != _weights(finished).read_bytes()
    assert record.data.annotations_sha256 == load_record(finished).data.annotations_sha256


def test_loader_workers_change_nothing(settings: list[str]) -> None:
    found = [
        _run(settings, "model=meanpool", f"trainer.workers={n}", f"run.name=workers{n}")
        for n in (0, 2)
    ]
    assert metrics_json(found[0][1]) == metrics_json(found[1][1])
    assert _weights(found[0][0]).read_bytes() == _weights(found[1][0]).read_bytes()


def test_a_finished_run_is_refused_in_one_line(
    finished: Path, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    assert main(["bench", *settings, "model=tcard", "model.heads=2", "run.name=first"]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "is finished" in printed and "run.name" in printed
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before


class Killed(Exception):
    """What stops a run in the tests."""


def _stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    def stop(self: RetrievalModule, *_: Any) -> None:
        if self.trainer.global_step == step:
            raise Killed

    monkeypatch.setattr(RetrievalModule, "on_train_batch_start", stop, raising=False)


@pytest.fixture(scope="module")
def whole(settings: list[str]) -> tuple[Path, Record]:
    """A run of three epochs of two steps, without interruption."""
    return _run(settings, "model=meanpool", *EPOCHS, "run.name=whole")


@pytest.mark.parametrize("step", [0, 3, 4])
def test_a_killed_run_of_a_name_goes_on_to_the_same_result(
    step: int, whole: tuple[Path, Record], settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["model=meanpool", *EPOCHS, f"run.name=killed{step}"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        _stop_at(patch, step)
        _run(settings, *words)
    steps: list[int] = []
    real = RetrievalModule.training_step
    monkeypatch.setattr(
        RetrievalModule,
        "training_step",
        lambda self, batch, i: steps.append(self.trainer.global_step) or real(self, batch, i),
    )
    run, record = _run(settings, *words)
    assert steps == list(range(step // 2 * 2, 6)), "it must go on from the last whole epoch"
    assert metrics_json(record) == metrics_json(whole[1])
    for name, tensor in load_file(_weights(run)).items():
        assert torch.equal(tensor, load_file(_weights(whole[0]))[name])


def test_a_run_killed_after_training_is_only_tested_again(
    whole: tuple[Path, Record], settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["model=meanpool", *EPOCHS, "run.name=untested"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RetrievalModule, "on_test_start", _raise, raising=False)
        _run(settings, *words)
    monkeypatch.setattr(RetrievalModule, "training_step", _raise)
    run, record = _run(settings, *words, "trainer.keep_checkpoints=true")
    assert metrics_json(record) == metrics_json(whole[1])
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert record.phases["train"] >= last["callbacks"]["TrainClock"]["seconds"] > 0


def _raise(*_: Any) -> None:
    raise Killed


def test_a_killed_run_is_not_gone_on_with_under_other_settings(
    settings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["model=meanpool", "run.name=other"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        _stop_at(patch, 2)
        _run(settings, *words)
    capsys.readouterr()
    assert main(["bench", *settings, *words, "optim.lr=0.5"]) == 2
    printed = capsys.readouterr().err
    assert "begun with other settings" in printed and printed.count("\n") == 1


def test_ctrl_c_leaves_a_run_that_can_go_on(
    settings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(self: RetrievalModule, *_: Any) -> None:
        if self.trainer.global_step == 2:
            raise KeyboardInterrupt

    words = ["bench", *settings, "model=meanpool", *EPOCHS, "seed=5"]
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(RetrievalModule, "on_train_batch_start", interrupt, raising=False)
        try:
            assert main(words) == 130
        finally:
            signal.signal(signal.SIGINT, handler)  # Lightning has switched it off
    printed = capsys.readouterr().err
    command = shlex.split(printed.split("`")[1])
    assert command[:3] == ["tvr-bench", "bench", "--config"]
    assert main(command[1:]) == 0
    run = Path(command[3]).parent
    assert load_record(run).run.id == run.name


@pytest.mark.parametrize("selection", ["best_val", "last"])
def test_the_tested_weights_are_those_that_the_selection_names(
    selection: str, settings: list[str]
) -> None:
    words = ["model=meanpool", *EPOCHS, f"eval.selection={selection}", f"run.name={selection}"]
    run, record = _run(settings, *words, "trainer.keep_checkpoints=true")
    assert record.protocol.selection == selection
    name = "best.ckpt" if selection == "best_val" else "last.ckpt"
    kept = torch.load(run / "checkpoints" / name, weights_only=True)["state_dict"]
    tested = load_file(_weights(run))
    assert kept.keys() == tested.keys()
    assert all(torch.equal(kept[key], tested[key]) for key in kept)


def test_fewer_steps_than_an_epoch_are_validated_too(settings: list[str]) -> None:
    run, record = _run(
        *(settings, "model=meanpool", "trainer.steps=1", "run.name=one"),
        *("eval.selection=best_val", "trainer.keep_checkpoints=true"),
    )
    assert record.protocol.selection == "best_val"
    kept = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert kept["global_step"] == 1


def test_a_smoke_run_connects_everything_and_records_nothing(
    settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["model=tcard", "model.heads=2", "trainer.smoke=true", "run.name=smoke"]
    cfg = config.load([*settings, *words])
    assert bench(cfg) is None
    assert "no record is written" in capsys.readouterr().err
    assert not (Path(cfg.run.root) / "smoke").exists()


@pytest.fixture(scope="module")
def own_videos(root: Path) -> Path:
    """A CSV of eleven clips, of which the test clip `bad.mp4` cannot be read."""
    rows = []
    for i in range(10):
        make_clip(root / f"clip{i}.mp4", count=10, size=(64, 48))
        split = "train" if i < 5 else "val" if i < 7 else "test"
        rows.append((f"clip{i}.mp4", f"what is to be seen in number {i}", split))
    (root / "bad.mp4").write_bytes(b"this is no video")
    rows.append(("bad.mp4", "something that nobody has seen", "test"))
    path = root / "own.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("video", "caption", "split"), *rows])
    return path


def test_an_unreadable_test_video_is_a_named_miss_and_the_denominator_stays(
    own_videos: Path, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY_MODEL, *TINY_RUN, *places, "data=csv", f"data.file={own_videos}"]
    run, record = _run(words, "model=meanpool", "trainer.batch_size=4", "run.picture=true")
    lines = [json.loads(line) for line in (run / "failures.jsonl").read_text().splitlines()]
    assert [(line["id"], line["stage"]) for line in lines] == [("bad.mp4", "frames")]
    assert lines[0]["path"].endswith("bad.mp4") and lines[0]["message"]
    assert record.data.failed == ["bad.mp4"] and record.data.failures == {"frames": 1}
    assert (record.data.clips, record.data.queries) == (4, 4)
    ranks = load_ranks(record, run)
    query = [str(name).startswith("bad.mp4") for name in ranks["query_ids"]].index(True)
    assert len(ranks["query_ids"]) == 4
    assert (ranks["t2v_nan"] != 0).tolist() == [i == query for i in range(4)]
    assert record.metrics.nan_queries == {"t2v": 1, "v2t": 1}
    for metrics in (record.metrics.t2v, record.metrics.v2t):
        assert metrics["queries"] == 4 and metrics["R@1"] <= 75
    assert "bad.mp4" in capsys.readouterr().out
    assert (run / "retrieval.png").exists()


@pytest.mark.parametrize(
    ("damaged", "allowed", "expected"),
    [
        (["clip0.mp4"], [], "1 of 5 videos of split 'train' are not there"),
        (["bad.mp4"], [], "1 of 4 videos of split 'test' are not there"),
        (["bad.mp4"], ["data.allow_missing=true", "text.words=3"], ""),
    ],
)
def test_a_csv_of_one_file_that_is_gone(
    damaged: list[str],
    allowed: list[str],
    expected: str,
    own_videos: Path,
    places: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in own_videos.parent.glob("*.mp4"):
        if path.name not in damaged:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    words = [*TINY_MODEL, *TINY_RUN, *places, "data=csv", f"data.file={own_videos}"]
    words += [f"data.root={tmp_path}", "model=meanpool", "trainer.batch_size=4", *allowed]
    code = main(["bench", *words, f"run.root={tmp_path / 'runs'}"])
    printed = capsys.readouterr().err
    if expected:
        assert code == 2 and expected in printed
        return
    assert code == 0
    (run,) = (tmp_path / "runs").iterdir()
    data = load_record(run).data
    assert data.missing_ids == ["bad.mp4"] and data.failed == []
    assert data.captions_cut == {"train": 5, "val": 2, "test": 4}
    assert data.notes == [
        f"{name}: {count} of {count} captions have more than text.words=3 tokens and are cut there"
        for name, count in data.captions_cut.items()
    ]
    assert all(printed.count(f"note: {line}") == 1 for line in data.notes)


def test_a_run_leaves_nothing_outside_of_its_places(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _run(settings, "model=meanpool", "run.name=tidy")
    assert list(tmp_path.iterdir()) == []


def test_the_weights_of_a_run_are_tested_in_another_way(
    finished: Path, settings: list[str]
) -> None:
    words = ["model=tcard", "model.heads=2", f"run.weights={finished}"]
    run, record = _run(settings, *words, "run.name=retested")
    first = load_record(finished)
    assert metrics_json(record) == metrics_json(first)
    assert record.model.checkpoint_sha256 == first.model.checkpoint_sha256
    assert record.run.weights_of == "first" and first.run.weights_of is None
    assert "train" not in record.phases and not (run / "checkpoints").exists()
    elsewhere = ["video.timeout=7", "trainer.threads=1"]  # what changes no number
    two = ["eval.two_stage=3", "run.name=retested-in-two-stages"]
    _, coarse = _run(settings, *words, *elsewhere, *two)
    assert coarse.protocol.two_stage == 3
    assert coarse.model.checkpoint_sha256 == first.model.checkpoint_sha256


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["seed=7"], ["seed 0, not 7", "trained with other settings"]),
        (["optim.lr=0.5"], ["optim.lr 0.002, not 0.5"]),
        (["trainer.batch_size=4"], ["trainer.batch_size 8, not 4"]),
        (["model.ctcd=none"], ["model.safetensors does not fit"]),
        (["run.weights=nowhere"], ["nowhere is no finished run"]),
    ],
    ids=str,
)
def test_weights_of_another_training_are_refused_in_one_line(
    words: list[str],
    expected: list[str],
    finished: Path,
    settings: list[str],
    root: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = ["model=tcard", "model.heads=2", f"run.weights={finished}", "run.name=refused"]
    assert main(["bench", *settings, *own, *words]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert all(part in printed for part in expected)
    assert not (root / "runs" / "refused").exists()


def test_a_test_without_a_readable_video_is_one_line_with_the_ledger(
    places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained = ["trainer.steps=null", "trainer.epochs=0"]
    (tmp_path / "bad.mp4").write_bytes(b"this is no video")
    (tmp_path / "own.csv").write_text("video,caption,split\nbad.mp4,something,test\n")
    words = [*TINY_MODEL, *TINY_RUN, *places, "data=csv", f"data.file={tmp_path / 'own.csv'}"]
    assert main(["bench", *words, "model=meanpool", *untrained, "run.name=none"]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert "none of the 1 videos of split 'test' can be read" in printed[-1]
    ledger = Path(printed[-1].split("(see ")[1].split(")")[0])
    assert json.loads(ledger.read_text())["id"] == "bad.mp4"
    assert not [line for line in printed if "PatientLoader" in line]


def test_no_text_is_read_for_a_model_that_looks_at_none(
    settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("scene text is read")

    monkeypatch.setattr("tvr_bench.datamodules.base.build_windows", refuse)
    record = bench(config.load([*settings, "model=meanpool", "ocr.enabled=true"]))
    assert record is not None and not record.protocol.ocr.enabled
    assert record.data.clips_with_text is None and "ocr" not in record.phases


@pytest.mark.slow
def test_a_run_that_reads_scene_text(settings: list[str]) -> None:
    words = ["model=tcard", "model.heads=2", "ocr.enabled=true", "run.picture=true"]
    run, record = _run(settings, *words, "run.name=reads")
    assert record.protocol.ocr.enabled and record.protocol.ocr.engine == "rapidocr"
    assert record.data.clips_with_text is not None and record.data.clips_with_text >= 4
    assert "ocr" in record.phases
    again = _run(settings, *words, "run.name=reads-again")
    assert metrics_json(again[1]) == metrics_json(record)
    assert again[1].phases["ocr"] < record.phases["ocr"], "the cache must spare the reading"
    shown = yaml.safe_load((run / "config.yaml").read_text())
    assert shown["ocr"]["enabled"] is True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_with_a_code_that_says_so(
    number: signal.Signals, settings: list[str], root: Path
) -> None:
    words = [*settings, "model=meanpool", "trainer.steps=100000", f"run.name={number.name}"]
    run = root / "runs" / number.name
    process = _start(words)
    while process.poll() is None and not (run / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait() == 128 + number
    assert not (run / "record.json").exists()


def _start(words: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [Path(sys.executable).with_name("tvr-bench"), "bench", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_run_killed_anywhere_goes_on_to_the_same_result(
    settings: list[str], root: Path, random_seconds: Callable[[], float]
) -> None:
    words = [*settings, "model=meanpool", "trainer.steps=null", "trainer.epochs=20"]
    whole = _run(words, "run.name=uninterrupted")[1]
    last = root / "runs" / "dies" / "checkpoints" / "last.ckpt"
    deaths = 0
    while not (root / "runs" / "dies" / "record.json").exists():
        process = _start([*words, "run.name=dies"])
        while process.poll() is None and not last.exists():
            time.sleep(0.05)
        time.sleep(random_seconds())
        if process.poll() is None and deaths < 3:
            os.killpg(process.pid, signal.SIGKILL)
            deaths += 1
        process.wait()
    assert deaths > 0
    assert metrics_json(load_record(root / "runs" / "dies")) == metrics_json(whole)


@pytest.fixture
def random_seconds() -> Callable[[], float]:
    """Seconds between 0 and 1, the same ones every time."""
    generator = np.random.default_rng(0)
    return lambda: float(generator.random())


@pytest.mark.slow
def test_two_processes_make_one_run(settings: list[str], root: Path) -> None:
    words = [*settings, "model=tcard", "model.heads=2", "trainer.devices=2", "run.name="]
    before = set((root / "runs").iterdir()) if (root / "runs").exists() else set()
    assert _start([*words, "seed=77"]).wait() == 0
    (run,) = set((root / "runs").iterdir()) - before
    record = load_record(run)
    assert (record.data.queries, record.data.clips) == (16, 16)
    one = _run(settings, "model=tcard", "model.heads=2", "seed=77", "run.name=alone")
    for name, tensor in load_file(_weights(one[0])).items():
        assert torch.allclose(tensor, load_file(_weights(run))[name], atol=1e-4), name
