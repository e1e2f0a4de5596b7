"""A finished run, what is made of it, and a copy that a test may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from export.made import bench_run
from tvr_bench.export import export_model


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs that are exported."""
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="session")
def run(root: Path, shared_cache: Path) -> Path:
    """The folder of a finished run."""
    return bench_run(root, shared_cache, "tcard", "model=tcard", "model.heads=2")


@pytest.fixture(scope="session")
def exported(run: Path, root: Path) -> Path:
    """What is made of it."""
    export_model(run, root / "exported", "apache-2.0")
    return root / "exported"


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))
