"""Which versions are installed, and whether they go together."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from tvr_bench.found import Finding
from tvr_bench.probe import Facts

_SHOWN = (
    *("torch", "torchvision", "pytorch-lightning", "transformers", "timm", "easyocr", "rapidocr"),
    *("av", "onnxruntime"),
)
_MALICIOUS = {"pytorch-lightning": ("2.6.2", "2.6.3")}  # GHSA-w37p-236h-pfx3
_PAIR = (
    "install torch and torchvision together and from one index, such as `pip install --upgrade "
    "torch torchvision`; a CPU-only torch needs the torchvision of the CPU-only index"
)


def examine_versions(facts: dict[str, Facts]) -> Iterable[Finding]:
    """Yield python and every library that tvr-bench asks for, as far as it is worth a line.

    `facts` is what importing some of them said, by name.
    """
    section = "versions"
    yield Finding(section, "python", "ok", f"{platform.python_version()} ({sys.executable})")
    for wanted in _requirements():
        name = wanted.name
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            todo = f'pip install "{wanted}"'
            yield Finding(section, name, "missing", "not installed", todo, needed=True)
            continue
        if version in _MALICIOUS.get(name, ()):
            yield Finding(
                section,
                name,
                "broken",
                f"{version} is a malicious upload (GHSA-w37p-236h-pfx3), which steals credentials",
                f'pip install "{wanted}", and change every key and password on this machine',
                needed=True,
            )
        elif not wanted.specifier.contains(version, prereleases=True):
            text = f"{version} does not fit tvr-bench, which needs {wanted.specifier}"
            yield Finding(section, name, "broken", text, f'pip install "{wanted}"', needed=True)
        elif name in facts:
            yield _imported(name, version, facts[name], facts)
        elif name in _SHOWN:
            yield Finding(section, name, "ok", version)


def _imported(name: str, version: str, found: Facts, facts: dict[str, Facts]) -> Finding:
    """Return what importing a library said of it."""
    section, error = "versions", str(found.get("error", ""))
    if name == "torchvision":
        torch = str(facts["torch"].get("version", "?"))
        if "torchvision::nms does not exist" in error or not found.get("nms", error):
            text = f"{version} is made for another torch than {torch} (operator torchvision::nms "
            text += "does not exist), and timm, easyocr and transformers fail with it"
            return Finding(section, name, "broken", text, _PAIR, needed=True)
        if torch != "?" and not _fits(torch):
            text = f"{version} is made for another torch than {torch}"
            return Finding(section, name, "broken", text, _PAIR, needed=True)
    if error:
        todo = f"pip install --force-reinstall {name}"
        return Finding(section, name, "broken", f"{version} ({error})", todo, needed=True)
    detail = f", FFmpeg {found['ffmpeg']}" if found.get("ffmpeg") else ""
    return Finding(section, name, "ok", f"{found.get('version') or version}{detail}")


def _fits(torch: str) -> bool:
    """Return whether the installed torchvision names this torch among what it can do with."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    named = map(Requirement, metadata.requires("torchvision") or [])
    return all(
        one.specifier.contains(Version(torch).public, prereleases=True)
        for one in named
        if one.name == "torch"
    )


def _requirements() -> list[Any]:
    """Return what tvr-bench itself asks for, what is shown first."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in metadata.requires("tvr-bench") or []]
    own = {one.name: one for one in wanted if one.marker is None or one.marker.evaluate()}
    first = [own.pop(name) for name in _SHOWN if name in own]
    return [*first, *own.values()]
