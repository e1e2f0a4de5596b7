"""Where a result comes from: the commit, the weights, the versions and the hardware."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from tvr_bench.cores import cores
from tvr_bench.errors import UserError
from tvr_bench.files import file_sha256

# untracked results and logs lie in the same checkout and change no result; these do
_SOURCES = ("src", "configs", "setup.cfg", "pyproject.toml", "constraints.txt")
_PACKAGE = Path(__file__).parents[1]
_PACKAGES = (
    *("tvr-bench", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "transformers"),
    *("timm", "tokenizers", "numpy", "pandas", "av", "rapidocr", "onnxruntime", "easyocr"),
)


class GitState(NamedTuple):
    """A checkout's commit, and whether its sources differ from it; None where unknown."""

    commit: str | None
    dirty: bool | None


def checkpoint_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hex digits; UserError where it is not there."""
    try:
        return file_sha256(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"cannot read the checkpoint {path}: {reason}; give another path"
        ) from error


def git_state(root: Path) -> GitState:
    """Return the commit at `root` and whether its sources changed since.

    Both are None where `root` is not the top of a checkout.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return GitState(None, None)
    changes = _git(root, "status", "--porcelain", "--", *_SOURCES)
    return GitState(_git(root, "rev-parse", "HEAD"), None if changes is None else bool(changes))


def code_state(package: Path = _PACKAGE) -> GitState:
    """Return the commit of the code in the folder `package`, and whether it was changed since.

    It is that of the checkout whose files these are; of an installed package, which another
    project's checkout may lie around, the commit that it was installed from. Else both are None.
    """
    top = _git(package, "rev-parse", "--show-toplevel")
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py")
    return git_state(Path(top)) if top and tracked else GitState(*_installed_from(package))


def _installed_from(package: Path) -> tuple[str | None, bool | None]:
    """Return the commit in pip's note of where the distribution of `package` came from."""
    try:
        found = metadata.distribution("tvr-bench")
        note = json.loads(found.read_text("direct_url.json") or "{}")
        commit = note["vcs_info"]["commit_id"]
    except (metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        return None, None
    # another copy of the package may be the one that runs
    ours = Path(str(found.locate_file("tvr_bench"))).resolve() == package.resolve()
    return (str(commit), False) if ours else (None, None)


def collect_env() -> dict[str, str]:
    """Return versions and hardware that a number may depend on; no user, host or path."""
    import torch

    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "python": platform.python_version(),
        **{name: version for name, version in versions.items() if version is not None},
        "torch": torch.__version__,  # with its build, which the package's own version lacks
        "cuda": str(torch.version.cuda or "none"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": str(cores()),
        "threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _git(root: Path, *arguments: str) -> str | None:
    # GIT_DIR and its like would point at another checkout (a run that a git hook starts); without
    # optional locks a run never stands in the way of the user's own git
    outer = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env = {**outer, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
