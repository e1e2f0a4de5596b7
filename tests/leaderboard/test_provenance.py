"""Commits, versions and weights are those of this run, or unknown."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
import torch

from tvr_bench.errors import UserError
from tvr_bench.leaderboard.provenance import (
    GitState,
    checkpoint_sha256,
    code_state,
    collect_env,
)


def _git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(root), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "src" / "tvr_bench").mkdir(parents=True)
    (root / "src" / "tvr_bench" / "__init__.py").write_text("x = 1\n")
    (root / ".gitignore").write_text(".venv/\n")
    _git(root, "init", "-q")
    _git(root, "add", ".")
    _git(root, "commit", "-q", "-m", "first")
    return root


def _installed(site: Path, commit: str) -> Path:
    """Install a package below `site` as pip does from a repository; return its folder."""
    package, note = site / "tvr_bench", site / "tvr_bench-9.9.dist-info"
    for folder in (package, note):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("x = 1\n")
    (note / "METADATA").write_text("Metadata-Version: 2.1\nName: tvr-bench\nVersion: 9.9\n")
    url = {"url": "https://example.org/x", "vcs_info": {"vcs": "git", "commit_id": commit}}
    (note / "direct_url.json").write_text(json.dumps(url))
    return package


def test_sources_make_a_checkout_dirty_and_results_do_not(checkout: Path) -> None:
    commit, package = _git(checkout, "rev-parse", "HEAD"), checkout / "src" / "tvr_bench"
    (checkout / "leaderboard.csv").write_text("model\n")
    assert code_state(package) == GitState(commit, False)
    (checkout / "src" / "new.py").write_text("y = 2\n")
    assert code_state(package) == GitState(commit, True)


def test_the_repository_that_one_stands_in_is_not_ours(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = code_state()
    monkeypatch.chdir(checkout)
    assert code_state() == ours
    assert ours.commit != _git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(checkout / ".git"))
    assert code_state() == ours
    assert code_state(tmp_path) == GitState(None, None)


@pytest.mark.parametrize("place", [".venv/lib", "untracked"])
def test_a_package_installed_in_another_repository_has_its_own_commit(
    checkout: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = _installed(checkout / place, "c" * 40)
    assert code_state(package) == GitState(None, None), "not the copy that runs"
    monkeypatch.syspath_prepend(str(package.parent))
    assert code_state(package) == GitState("c" * 40, False)
    (package.parent / "tvr_bench-9.9.dist-info" / "direct_url.json").write_text("{}")
    assert code_state(package) == GitState(None, None)


def test_no_git_is_unknown(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert code_state(checkout / "src" / "tvr_bench") == GitState(None, None)


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
