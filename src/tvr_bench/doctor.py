"""`tvr-bench doctor`: what is installed, what is found, and what is missing for which model.

Heavy imports are left to a `Probe`, so that a broken library is a finding and not the end. Nothing
is downloaded and nothing asked of the network.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from tvr_bench import config
from tvr_bench.errors import UserError
from tvr_bench.found import Finding, State, find_engine, find_towers
from tvr_bench.installed import examine_versions
from tvr_bench.probe import Facts, Probe
from tvr_bench.schema import Config
from tvr_bench.shards import cores

_STYLES = {"ok": "green", "note": "cyan", "missing": "yellow", "broken": "red"}
_LITTLE_MEMORY = 4e9  # bytes; a process with torch has 1 GB, each that decodes 0.3 GB
_LITTLE_DISK = 5e9  # bytes; the frames of MSR-VTT take ten times as much


def doctor(settings: Sequence[str], *, as_json: bool = False) -> int:
    """Print what is here; return 0 if the run of `settings` works, else 1.

    Raises UserError for settings that are none.
    """
    cfg = config.load(settings)
    findings = examine(cfg, settings)
    good = not any(finding.blocks for finding in findings)
    if as_json:
        print(json.dumps({"ok": good, "findings": [asdict(f) for f in findings]}, indent=2))
    else:
        _print(findings, _verdict(findings, settings))
    return 0 if good else 1


def examine(cfg: Config, settings: Sequence[str]) -> list[Finding]:
    """Return everything that was found out, section by section."""
    asked = cfg.data.name != "signvid"
    probe = Probe(settings, data=asked)
    looks: dict[str, Callable[[], Iterable[Finding]]] = {
        "weights": lambda: _weights(cfg),
        "models": lambda: _models(cfg),
        "machine": lambda: _disks(cfg),
    }
    found: dict[str, list[Finding]] = {key: _safely(key, look) for key, look in looks.items()}
    facts = probe.facts()
    found["versions"] = _safely("versions", lambda: examine_versions(facts))
    found["machine"] = _safely("machine", lambda: _machine(cfg, facts["torch"])) + found["machine"]
    found["data sets"] = _safely("data sets", lambda: _data(cfg, facts.get("data")))
    order = ("versions", "machine", "weights", "data sets", "models")
    return [finding for section in order for finding in found[section]]


def _safely(section: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    try:
        return list(look())
    except Exception as error:  # a doctor must not be the one who falls over
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return [Finding(section, "this section", "broken", text, "please report this", needed=True)]


def _machine(cfg: Config, torch: Facts) -> Iterable[Finding]:
    gpus = [
        f"{name} ({size / 1e9:.0f} GB)"
        for name, size in zip(torch.get("gpus", []), torch.get("gpu_bytes", []), strict=True)
    ]
    wanted = cfg.trainer.accelerator == "gpu"
    built = torch.get("built_for")
    if gpus:
        bf16 = "with bf16" if torch["bf16"] else "without bf16"
        text = f"CUDA {built}: {', '.join(gpus)}, {bf16}"
        few = wanted and cfg.trainer.devices > len(gpus)
        todo = f"set trainer.devices={len(gpus)} or less" if few else ""
        yield Finding("machine", "accelerator", "missing" if few else "ok", text, todo, few)
    elif torch.get("mps"):
        yield Finding("machine", "accelerator", "ok", "MPS")
    else:
        why = f"torch is built for CUDA {built} and sees no GPU" if built else "a CPU-only torch"
        text = "none; towers from scratch train on a CPU, pretrained ones want a GPU"
        text += "" if "error" in torch else f" ({why})"
        todo = "set trainer.accelerator=auto" if wanted else ""
        yield Finding("machine", "accelerator", "missing" if wanted else "note", text, todo, wanted)
    yield Finding("machine", "cores", "ok", str(cores()))
    memory = _memory()
    enough: State = "ok" if memory > _LITTLE_MEMORY else "note"
    yield Finding("machine", "memory", enough, f"{memory / 1e9:.1f} GB")


def _memory() -> float:
    """Return the bytes of memory that this process may use."""
    whole = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        return min(whole, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no limit, or none that is said here
        return whole


def _disks(cfg: Config) -> Iterable[Finding]:
    for key, place in (("paths.cache", cfg.paths.cache), ("run.root", cfg.run.root)):
        folder = Path(place).absolute()
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        text = f"{place}: {free / 1e9:.1f} GB free"
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            text = f"{there} cannot be written to"
            yield Finding("machine", key, "broken", text, f"set {key}=FOLDER", needed=True)
        elif free < _LITTLE_DISK:
            todo = f"make room, or set {key}=FOLDER on a larger disk"
            yield Finding("machine", key, "note", text, todo)
        else:
            yield Finding("machine", key, "ok", text)


def _weights(cfg: Config) -> Iterable[Finding]:
    for tower in find_towers(cfg):
        wanted = tower.backbone == cfg.backbone.name
        yield Finding("weights", tower.name, tower.state, tower.text, tower.todo, needed=wanted)
    reads = cfg.ocr.enabled and getattr(cfg.ocr, "source", "engine") == "engine"
    for name in ("rapidocr", "easyocr"):
        engine = find_engine(name, cfg.ocr.weights if cfg.ocr.engine == name else None)
        wanted = reads and cfg.ocr.engine == name
        yield Finding("weights", name, engine.state, engine.text, engine.todo, needed=wanted)


def _data(cfg: Config, facts: Facts | None) -> Iterable[Finding]:
    section, name = "data sets", cfg.data.name
    if cfg.backbone.name == "features":
        yield from _features(cfg)
    yield Finding(section, "signvid", "ok", "rendered here, nothing to bring")
    if facts is not None:
        yield from _asked(section, name, facts, cfg.data.allow_missing)
    others = [one for one in config.names("data") if config.needs(one) and one != name]
    if others:
        todo = "`tvr-bench doctor data=NAME data.root=FOLDER` looks for one"
        yield Finding(section, ", ".join(others), "note", "not looked for", todo)


def _features(cfg: Config) -> Iterable[Finding]:
    for key in ("region_file", "global_file", "text_file"):
        path, name = getattr(cfg.features, key), f"features.{key}"
        if path and Path(path).is_file():
            yield Finding("data sets", name, "ok", path, needed=True)
        else:
            text = f"there is no {path}" if path else "not named"
            yield Finding("data sets", name, "missing", text, f"set {name}=FILE", needed=True)


def _asked(section: str, name: str, facts: Facts, allowed: bool) -> Iterable[Finding]:
    if "error" in facts:
        todo = f"`tvr-bench config data={name}` and configs/data/{name}.yaml say what is needed"
        yield Finding(section, name, "broken", str(facts["error"]), todo, needed=True)
        return
    for split, found in facts["splits"].items():
        text = f"{found['clips']:,} videos, {found['captions']:,} captions"
        if found["missing"]:
            text += f"; {found['missing']:,} videos are missing, such as {found['first_missing']}"
            todo = (
                "`tvr-bench data check` lists them; data.allow_missing=true counts them as misses"
            )
            yield Finding(section, f"{name} {split}", "missing", text, todo, needed=not allowed)
        else:
            yield Finding(section, f"{name} {split}", "ok", text)


def _models(cfg: Config) -> Iterable[Finding]:
    towers = {tower.name: tower for tower in find_towers(cfg)}
    for name in config.names("model"):
        papers = _papers(name)
        parts = [one for one in towers.values() if one.backbone == papers]
        lacks = [one.name for one in parts if one.state != "ok"]
        if papers == "features":
            text = "towers from scratch; the paper's reads features that others extracted"
            todo = f"for those: backbone=paper features.region_file=... (configs/model/{name}.yaml)"
            yield Finding("models", name, "ok", text, todo)
        elif lacks:
            text = f"towers from scratch; the paper's ({papers}) lack {' and '.join(lacks)}"
            yield Finding("models", name, "ok", text, "see weights above")
        else:
            both = "" if papers == "tiny" else f", and the paper's ({papers}) with backbone=paper"
            yield Finding("models", name, "ok", f"towers from scratch{both}")


@cache
def _papers(model: str) -> str:
    """Return the backbone of a model's paper, tiny for a model that has none."""
    try:
        return config.load([f"model={model}", "backbone=paper"]).backbone.name
    except UserError:
        return "tiny"


def _verdict(findings: Sequence[Finding], settings: Sequence[str]) -> str:
    command = shlex.join(["tvr-bench", "bench", *settings])
    blocking = [finding.name for finding in findings if finding.blocks]
    if not blocking:
        return f"`{command}` works here"
    return f"`{command}` does not work here yet; in its way: {', '.join(blocking)}"


def _print(findings: Sequence[Finding], verdict: str) -> None:
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(f.name) for f in findings if len(f.name) < 24)
    section = ""
    for one in findings:
        if one.section != section:
            section = one.section
            console.print(f"[bold]{section}[/bold]")
        style = _STYLES[one.state]
        mark = f"[{style}]{one.state:<7}[/{style}]"
        console.print(f"  {mark}  {escape(_line(one.name)):<{width}}  {escape(_line(one.text))}")
        if one.todo:
            console.print(f"  {'':<7}  {'':<{width}}  -> {escape(_line(one.todo))}")
    console.print(f"[bold]{escape(_line(verdict))}[/bold]")


def _line(text: str) -> str:
    # a name from a file must not move the cursor or colour the terminal
    return "".join(char if char.isprintable() else " " for char in text)
