"""Whole runs of several processes: the same results, and one end for all where one fails."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tiny import TINY_MODEL, TINY_RUN, TINY_SIGNVID
from tvr_bench.leaderboard.record import load_ranks, load_record, metrics_json
from tvr_bench.runs import WEIGHTS_FILE

pytestmark = pytest.mark.slow

LAUNCHERS = ("ours", "torchrun")
LIMIT_S = 60  # from a fault to the end of the last process
UNEVEN = ("data.val=20", "data.test=20", "eval.batch_size=8", "trainer.batch_size=12")


def run(launcher: str, world: int, words: list[str], *fault: str) -> tuple[int, str]:
    """Return the exit code and what was said of a run of `world` processes, with a `fault`."""
    worker = str(Path(__file__).with_name("devices_worker.py"))
    command = [worker, *fault] if fault else ["-m", "tvr_bench"]
    start = [sys.executable]
    if launcher == "torchrun":
        torchrun = str(Path(sys.executable).with_name("torchrun"))
        start = [torchrun, "--standalone", "--nproc-per-node", str(world)]
    process = subprocess.Popen(
        [*start, *command, "bench", *words, f"trainer.devices={world}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    said = process.communicate()[1]
    return process.returncode, said


def left_over(text: str) -> list[str]:
    """Return the command lines of processes that have `text` in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


def only_run(folder: Path) -> Path:
    (found,) = (folder / "runs").glob("[!.]*")  # a killed run leaves the file that it locked
    return found


@pytest.fixture
def words(tiny_settings: list[str]) -> list[str]:
    return [*tiny_settings, *UNEVEN]


def places(words: list[str], folder: Path) -> list[str]:
    return [*words, f"run.root={folder / 'runs'}", f"run.leaderboard={folder}"]


def test_the_same_weights_have_the_same_numbers_in_any_world(
    words: list[str], tmp_path: Path
) -> None:
    """To the last digit: of scores, ranks and metrics, with a share of a batch for nobody."""
    untrained = [
        *words,
        "model=cret",
        "model.ccm.heads=2",
        "trainer.steps=null",
        "trainer.epochs=0",
    ]
    found = []
    for number, (launcher, world) in enumerate([("ours", 1), ("torchrun", 2), ("ours", 3)]):
        folder = tmp_path / str(number)
        more = ["trainer.batch_size=12", *places(untrained, folder)]
        assert run(launcher, world, more)[0] == 0
        record = load_record(only_run(folder))
        assert (record.data.queries, record.data.clips) == (20, 20)
        ranks = load_ranks(record, only_run(folder))
        found.append((metrics_json(record), {k: v.tolist() for k, v in ranks.items()}))
    assert all(one == found[0] for one in found)


@pytest.fixture(scope="module")
def alone(
    shared_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[list[str]], dict[str, Tensor]]:
    """What one process trains, by the settings; made once for each."""
    made: dict[tuple[str, ...], dict[str, Tensor]] = {}

    def train(words: list[str]) -> dict[str, Tensor]:
        if tuple(words) not in made:
            folder = tmp_path_factory.mktemp("alone")
            made[tuple(words)] = trained("ours", 1, words, folder)
        return made[tuple(words)]

    return train


def trained(launcher: str, world: int, words: list[str], folder: Path) -> dict[str, Tensor]:
    """Return the weights of a run, which is the only one in its folder."""
    code, said = run(launcher, world, places(words, folder))
    assert code == 0, said
    assert load_record(only_run(folder)).run.id == only_run(folder).name
    return load_file(only_run(folder) / WEIGHTS_FILE)


@pytest.mark.parametrize(
    ("launcher", "strategy", "model"),
    [
        ("ours", "ddp", "model.ccm.heads=2"),
        ("torchrun", "ddp", "model.branches=local"),  # which leaves parameters out
        ("torchrun", "fsdp", "model.ccm.heads=2"),
    ],
)
def test_two_processes_train_as_one_and_leave_one_run(
    launcher: str,
    strategy: str,
    model: str,
    alone: Callable[[list[str]], dict[str, Tensor]],
    shared_cache: Path,
    tmp_path: Path,
) -> None:
    own = [*TINY_MODEL, *TINY_RUN, *TINY_SIGNVID, *UNEVEN, f"paths.cache={shared_cache}"]
    own += ["model=cret", "model.ccm.heads=2", model]
    expected = alone(own)
    found = trained(launcher, 2, [*own, f"trainer.strategy={strategy}"], tmp_path)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if not name.endswith(("key.bias", "qkv.bias")):  # no gradient but rounding, which Adam
            assert torch.allclose(found[name], tensor, atol=1e-4), name  # makes a step of


def ends_together(launcher: str, words: list[str], folder: Path, *fault: str) -> None:
    """Assert that a run of three ends in time after a fault, says so in one line, and leaves
    nobody behind.
    """
    code, said = run(launcher, 3, [*places(words, folder), "run.name=run"], *fault)
    while left_over(str(folder)):
        time.sleep(0.05)
    took = time.time() - float(re.findall(r"fault at (\S+)", said)[0])
    assert code != 0 and took < LIMIT_S
    assert not (folder / "runs" / "run" / "record.json").exists()
    lines = [line for line in said.splitlines() if line.startswith("tvr-bench: ")]
    if launcher == "torchrun":  # its SIGTERM to the others may come before they see the death
        lines = [line for line in lines if "stops after this step" not in line]
    kind, rank, _ = fault
    expected = {
        "kill": f"process {rank} of 3 has died",
        "user": "this step cannot be done; mend it",
        "bug": "KeyError" if rank == "0" else f"process {rank} of 3 failed (KeyError)",
    }
    if (kind, rank) == ("bug", "0"):
        assert "KeyError: 'a bug'" in said
    else:
        assert len(lines) == 1 and expected[kind] in lines[0], said
    if kind == "user" and launcher == "ours":
        assert code == 2
    if kind == "user":
        assert "Traceback" not in said.split("ChildFailedError")[0].split("elastic")[0]


@pytest.mark.parametrize(
    ("launcher", "kind", "rank"),
    [("ours", "kill", "1"), ("torchrun", "kill", "0"), ("ours", "user", "2"), ("ours", "bug", "1")],
)
def test_a_fault_of_one_process_ends_all(
    launcher: str, kind: str, rank: str, words: list[str], tmp_path: Path
) -> None:
    ends_together(launcher, [*words, "model=meanpool"], tmp_path, kind, rank, "1")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_of_which_a_process_was_killed_goes_on_to_the_same_weights(
    strategy: str, words: list[str], tmp_path: Path
) -> None:
    trained = [*words, "model=meanpool", "backbone.dropout=0.1", f"trainer.strategy={strategy}"]
    trained += ["trainer.steps=null", "trainer.epochs=4", "run.name=run"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run("ours", 2, places(trained, whole))[0] == 0
    assert run("ours", 2, places(trained, broken), "kill", "1", "2")[0] != 0
    assert not (only_run(broken) / WEIGHTS_FILE).exists()
    assert run("ours", 2, places(trained, broken))[0] == 0
    states = [load_file(only_run(folder) / WEIGHTS_FILE) for folder in (whole, broken)]
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())
    records = [load_record(only_run(folder)) for folder in (whole, broken)]
    assert metrics_json(records[0]) == metrics_json(records[1])


@pytest.mark.parametrize("trial", range(int(os.environ.get("TVR_TRIALS", "1"))))
def test_any_fault_anywhere_ends_all(trial: int, words: list[str], tmp_path: Path) -> None:
    chance = random.Random(trial)
    kind, rank, step = chance.choice(["kill", "kill", "user", "bug"]), chance.randrange(3), 0
    step = chance.randrange(6)
    more = [*words, "model=meanpool", "trainer.steps=6"]
    ends_together(chance.choice(LAUNCHERS), more, tmp_path, kind, str(rank), str(step))
