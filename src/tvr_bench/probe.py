"""What only importing can tell, found out in a process of its own: a broken library may end it.

`python -m tvr_bench.probe [SETTINGS]` prints a line of JSON per stage as soon as it is known.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tvr_bench import config

STAGES = ("av", "onnxruntime", "torch", "torchvision", "data")
_MARK = "tvr-bench-probe "  # libraries print, too
_LONGEST_S = 300.0  # a cold network disk takes a minute to import torch from
Facts = dict[str, Any]


class Probe:
    """A probe that runs while something else is done."""

    def __init__(self, settings: Sequence[str], *, data: bool) -> None:
        """Start it; `data` asks for the data set of the settings as well."""
        self.stages = STAGES if data else STAGES[:-1]
        command = [sys.executable, "-m", "tvr_bench.probe", "data" if data else "", *settings]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
            encoding="utf-8",
            errors="replace",
        )

    def facts(self, timeout: float = _LONGEST_S) -> dict[str, Facts]:
        """Return what was found by stage, an `error` where a stage failed or was not reached."""
        try:
            printed, _ = self._process.communicate(timeout=timeout)
            end = f"ended with code {self._process.returncode}"
        except subprocess.TimeoutExpired:
            self._process.kill()
            printed, _ = self._process.communicate()
            end = f"took more than {timeout:.0f} s"
        lines = [line[len(_MARK) :] for line in printed.splitlines() if line.startswith(_MARK)]
        found: dict[str, Facts] = {}
        for line in lines:
            found |= json.loads(line)
        lost = [stage for stage in self.stages if stage not in found]
        for stage in lost:
            why = f"Python {end}" if stage == lost[0] else f"not looked at, after {lost[0]}"
            found[stage] = {"error": why}
        return found


def main(arguments: Sequence[str]) -> int:
    """Print what each stage finds; return 0."""
    what, *settings = arguments
    looks: dict[str, Callable[[], Facts]] = {
        "av": _av,
        "onnxruntime": _onnxruntime,
        "torch": _torch,
        "torchvision": _torchvision,
    }
    if what == "data":
        looks["data"] = lambda: _data(settings)
    for stage, look in looks.items():
        try:
            facts = look()
        except Exception as error:  # an import can fail in any way, and that is the answer
            line = (str(error).splitlines() or [""])[0]
            facts = {"error": f"{type(error).__name__}: {line}" if line else type(error).__name__}
            if isinstance(error, ValueError):  # ours, and already a sentence
                facts = {"error": line}
        print(f"{_MARK}{json.dumps({stage: facts})}", flush=True)
    return 0


def _av() -> Facts:
    import av

    return {"version": av.__version__, "ffmpeg": getattr(av, "ffmpeg_version_info", "")}


def _onnxruntime() -> Facts:
    import onnxruntime

    return {"version": onnxruntime.__version__}


def _torch() -> Facts:
    import torch

    cuda = torch.cuda.is_available()
    names = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []
    )
    memory = [torch.cuda.get_device_properties(i).total_memory for i in range(len(names))]
    return {
        "version": torch.__version__,
        "built_for": torch.version.cuda or "",
        "gpus": names,
        "gpu_bytes": memory,
        "mps": torch.backends.mps.is_available(),
        "bf16": bool(cuda and torch.cuda.is_bf16_supported()),
        "threads": torch.get_num_threads(),
    }


def _torchvision() -> Facts:
    import torch
    import torchvision

    # the operator that a wheel made for another torch has not
    kept = torchvision.ops.nms(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([1.0]), 0.5)
    return {"version": torchvision.__version__, "nms": len(kept) == 1}


def _data(settings: Sequence[str]) -> Facts:
    from tvr_bench.datamodules.base import SPLITS
    from tvr_bench.registry import dataset_class

    cfg = config.load(settings)
    data = dataset_class(cfg.data.name)(cfg, scene_text=False)
    found: Facts = {"splits": {}}
    for name in SPLITS:
        split = data.split(name)
        gone = [clip.id for clip in split.clips if not clip.path.exists()]
        found["splits"][name] = {
            "clips": len(split.clips),
            "captions": len(split.queries),
            "missing": len(gone),
            "first_missing": gone[0] if gone else "",
        }
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
