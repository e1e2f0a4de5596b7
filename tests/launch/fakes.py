"""Records without a run, and processes that leave one in milliseconds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tvr_bench.launch.local import Task
from tvr_bench.leaderboard.record import RECORD_FILE, Record

SKILLS = ("appearance", "temporal", "relation", "scene_text")

# One process: appends its process id to `starts`, then does what the file `behaviour` says.
_SCRIPT = """
import json, os, sys, time, signal
folder, record, behaviour = sys.argv[1:4]
with open(os.path.join(folder, "starts"), "a") as file:
    file.write(f"{os.getpid()}\\n")
with open(os.path.join(folder, "place"), "w") as file:
    file.write(os.environ.get("PLACE", ""))
print("fake run begins", flush=True)
doing = behaviour
if doing == "fail":
    print("Traceback (most recent call last):\\nValueError: a broken cell", flush=True)
    print("some library says goodbye", flush=True)
    sys.exit(1)
if doing == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if doing == "hang":
    time.sleep(60)
if doing == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf", flush=True)
    time.sleep(60)
if doing.startswith("slow"):
    time.sleep(float(doing[4:]))
if doing != "silent":
    with open(os.path.join(folder, ".part"), "w") as file:
        file.write(record)
    os.replace(os.path.join(folder, ".part"), os.path.join(folder, "record.json"))
"""


def fake_record(run_id: str = "a-run", *, seed: int = 0, r1: float = 40.0) -> Record:
    """Return a whole record whose numbers follow from `r1`."""
    values = {"R@1": r1, "R@5": r1 + 20, "R@10": r1 + 30, "R@50": r1 + 40, "MdR": 2.0, "MnR": 7.5}
    skills = {
        skill: {
            "t2v": {**values, "R@1": r1 - i, "queries": 64},
            "in_group": {"R@1": r1 + 5 * i, "chance_R@1": 25.0, "queries": 64},
        }
        for i, skill in enumerate(SKILLS)
    }
    content = {
        "run": {
            "id": run_id,
            "date": datetime(2030, 1, 2, tzinfo=UTC),
            "git": None,
            "dirty": None,
            "command": "tvr-bench bench",
            "seed": seed,
            "wall_s": 250.0,
        },
        "model": {
            "name": "meanpool",
            "backbone": "tiny",
            "checkpoint_sha256": "a" * 64,
            "params": 1_000_000 + seed,
        },
        "data": {
            "name": "signvid",
            "variant": "small",
            "annotations_sha256": "b" * 64,
            "clips": 256,
            "queries": 256,
        },
        "protocol": {
            "split": "test",
            "captions": "single",
            "frames": 6,
            "resolution": (80, 112),
            "words": 32,
        },
        "metrics": {
            "t2v": values,
            "v2t": {**values, "R@1": r1 - 2},
            "by_skill": skills,
        },
        "efficiency": {
            "device": "cpu",
            "dtype": "32-true",
            "pairs_scored": 65_536,
            "gflops_video": 0.1234,
            "ms_per_query_p50": 1.5,
            "train_s": 200.0,
        },
        "env": {"cpu": "a CPU"},
    }
    return Record.model_validate(content)


def write_record(folder: Path, **keywords: float | int) -> Record:
    """Write a record into a run folder and return it."""
    record = fake_record(folder.name, **keywords)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD_FILE).write_text(record.model_dump_json())
    return record


def fake_command(
    behaviour: Mapping[str, str] | None = None,
) -> Callable[[Task, Path], Sequence[str]]:
    """Return a command builder; `behaviour` maps a part of a task's name to what it does.

    A task does `ok`: leave a record. Others: fail, die, hang, stubborn (deaf to SIGTERM), silent
    (no record), slowS (S seconds).
    """

    def command(task: Task, folder: Path) -> list[str]:
        does = [what for part, what in (behaviour or {}).items() if part in task.name]
        seed = [s for s in task.settings if s.startswith("seed=")]
        record = fake_record(folder.name, seed=int(seed[-1][5:]) if seed else 0)
        words = [str(folder), json.dumps(record.model_dump(mode="json")), (does or ["ok"])[0]]
        return [sys.executable, "-S", "-c", _SCRIPT, *words]

    return command


def starts(folder: Path) -> list[int]:
    """Return the process ids of all starts of a run."""
    file = folder / "starts"
    return [int(line) for line in file.read_text().split()] if file.exists() else []
