"""What the README shows in Python works as it stands there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny import TINY_MODEL, TINY_RUN, TINY_SIGNVID
from tvr_bench import config
from tvr_bench.bench import bench

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Path:
    """The folder `runs` with a finished run."""
    root = tmp_path_factory.mktemp("readme") / "runs"
    places = [f"run.root={root}", f"run.leaderboard={root}", f"paths.cache={shared_cache}"]
    own = ["model=tcard", "model.heads=2", "run.name=NAME"]
    bench(config.load([*TINY_MODEL, *TINY_RUN, *TINY_SIGNVID, *places, *own]))
    return root


def snippet(heading: str) -> str:
    """Return the first Python of a section."""
    section = README.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a reader brings: vectors and queries that resemble the first of them, in a folder."""
    monkeypatch.chdir(tmp_path)
    vectors = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    queries = vectors[:5]
    return {
        "vectors": vectors,
        "ids": [f"video{i}" for i in range(50)],
        "queries": queries,
        "scores": queries @ vectors.T,
        "gold": torch.arange(5),
    }


@pytest.fixture
def here(run: Path, tiny_video: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with the run and the videos that the README names."""
    (tmp_path / "runs").symlink_to(run)
    for name, colour in (("dog.mp4", 4), ("shop.mp4", 200)):
        tiny_video(name, seconds=1, size=(96, 64 + colour % 8 * 2))
    return tmp_path


def test_a_trained_model_is_evaluated_used_and_searched_with(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    names: dict[str, Any] = {}
    exec(snippet("Settings") + snippet("Search a large gallery"), names)
    assert names["result"].t2v["queries"] == 16
    assert names["vectors"].shape[0] == 2 and names["queries"].shape[0] == 1
    assert names["scores"].shape == (1, 2) and sorted(names["found"][0]) == ["dog.mp4", "shop.mp4"]
    order = (names["queries"] @ names["vectors"].T)[0].argsort(descending=True)
    assert names["found"][0] == [names["ids"][i] for i in order]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["script", "standard input", "no file"])
def test_it_works_as_written_with_nothing_cached(way: str, here: Path, shared_cache: Path) -> None:
    """From a plain script and standard input; a notebook's `__main__` has no file, like `-c`."""
    settings = (here / "runs" / "NAME" / "config.yaml").read_text()
    for old, new in (
        (f"cache: {shared_cache}", f"cache: {here / 'cold'}"),
        ("prepare_workers: 0", "prepare_workers: 2"),
        ("workers: 0", "workers: 1"),
    ):
        assert old in settings
        settings = settings.replace(old, new, 1)
    folder = here / "cold-runs" / "NAME"
    shutil.copytree(here / "runs" / "NAME", folder)
    (folder / "config.yaml").write_text(settings)
    code = snippet("Settings").replace("runs/NAME", "cold-runs/NAME")
    code = "open('ran', 'a').write('x')\n" + code + snippet("Search a large gallery")
    (here / "script.py").write_text(code)
    words = {"script": ["script.py"], "standard input": ["-"], "no file": ["-c", code]}
    done = subprocess.run(
        [sys.executable, *words[way]],
        input=code if way == "standard input" else "",
        cwd=here,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert (here / "ran").read_text() == "x" and (here / "index").is_dir()


def test_a_matrix_of_ones_own_is_scored(names: dict[str, Any]) -> None:
    code = snippet("Score your own similarity matrix")
    exec(
        code.replace("tvr_bench.retrieval_metrics(", "found = tvr_bench.retrieval_metrics("), names
    )
    assert names["found"]["R@1"] == 100.0
