"""Commits, versions and weights are those of this run, or unknown."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
import torch

from tvr_bench.errors import UserError
from tvr_bench.leaderboard.provenance import (
    GitState,
    checkpoint_sha256,
    collect_env,
    git_state,
)


def _git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(root), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    (root / "src" / "a.py").write_text("x = 1\n")
    _git(root, "init", "-q")
    _git(root, "add", ".")
    _git(root, "commit", "-q", "-m", "first")
    return root


def test_sources_make_a_checkout_dirty_and_results_do_not(checkout: Path) -> None:
    commit = _git(checkout, "rev-parse", "HEAD")
    (checkout / "leaderboard.csv").write_text("model\n")
    assert git_state(checkout) == GitState(commit, False)
    (checkout / "src" / "new.py").write_text("y = 2\n")
    assert git_state(checkout) == GitState(commit, True)


def test_a_foreign_checkout_above_is_not_ours(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert git_state(checkout / "src") == GitState(None, None)
    assert git_state(tmp_path) == GitState(None, None)
    monkeypatch.setenv("GIT_DIR", str(checkout / ".git"))
    assert git_state(tmp_path) == GitState(None, None)


def test_no_git_is_unknown(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_state(checkout) == GitState(None, None)


def test_checkpoint_hash(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"x" * 3_000_000)
    assert checkpoint_sha256(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    for wrong in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match="give another path"):
            checkpoint_sha256(wrong)


def test_environment_names_versions_and_no_place() -> None:
    env = collect_env()
    assert env["torch"] == torch.__version__
    assert {"python", "pytorch-lightning", "transformers", "cuda", "gpu", "cpu"} <= env.keys()
    assert all(isinstance(value, str) and value for value in env.values())
    assert str(Path.home()) not in " ".join(env.values())
