"""Real annotations with the few real clips at hand: check, prepare and an untrained evaluation."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from real import DATA
from tiny import TINY_MODEL, TINY_RUN
from tvr_bench.cli import main
from tvr_bench.leaderboard.record import load_record

CLIPS = DATA / "videos" / "datasets"
SETS = {"msrvtt": (1_000, 1_000), "msvd": (27_763, 670), "textvr": (2_727, 2_727)}  # test split

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CLIPS.is_dir(), reason="the shared data are not there"),
]


def _folder(name: str, target: Path) -> Path:
    """Copy the clips of a data set under the names that its annotations have."""
    target.mkdir()
    for path in CLIPS.glob(f"{name}_*"):
        if path.suffix != ".tsv":
            shutil.copy(path, target / path.name.removeprefix(f"{name}_"))
    if name == "textvr":  # its clips at hand are not in the test split: one stands in
        first = json.loads((DATA / name / "TextVR_test.json").read_text())[0]["path"]
        (target / first).parent.mkdir(parents=True)
        shutil.copy(next(CLIPS.glob("textvr_*.mp4")), target / first)
    return target


@pytest.mark.parametrize("name", SETS)
def test_a_real_test_split_is_evaluated_and_every_missing_id_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries, clips = SETS[name]
    videos = _folder(name, tmp_path / "videos")
    words = [f"data={name}", f"data.annotations={DATA / name}", f"data.videos={videos}"]
    words += [*TINY_MODEL, *TINY_RUN, f"paths.cache={tmp_path / 'cache'}"]
    words += ["model=meanpool", "trainer.epochs=0", "trainer.steps=null", "text.words=16"]

    assert main(["data", "check", *words, "--out", str(tmp_path / "check")]) == 1
    assert "not comparable" in capsys.readouterr().out
    manifest = [json.loads(line) for line in (tmp_path / "check/manifest.jsonl").open()]
    test = [line for line in manifest if line["split"] == "test"]
    assert len(test) == clips
    here = {line["id"] for line in test if "error" not in line}
    assert 1 <= len(here) <= len(list(videos.rglob("*.*")))

    words += [f"run.root={tmp_path / 'runs'}", f"run.leaderboard={tmp_path}"]
    for command in (["data", "prepare"], ["bench"]):
        assert main([*command, *words]) == 2
        assert "are not there" in capsys.readouterr().err
    assert main(["data", "prepare", *words, "data.allow_missing=true"]) == 0
    assert main(["bench", *words, "data.allow_missing=true"]) == 0
    (run,) = (path.parent for path in (tmp_path / "runs").glob("*/record.json"))
    record = load_record(run)
    assert (record.data.queries, record.data.clips) == (queries, clips)
    assert set(record.data.missing_ids) == {line["id"] for line in test} - here
    found = record.metrics.t2v["R@50"]
    assert found <= 100 * len([1 for line in test if "error" not in line]) / 5, "no free hits"
    with (tmp_path / "runs.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert int(row["missing"]) == len(record.data.missing_ids)
