"""How far the memory of one call rises in a process of its own: what `harness.peak_mb` starts.

    python benchmarks/peak.py MODULE:FUNCTION '[JSON, values]'

Prints MB (10^6 bytes) above the process after its imports. Where the function returns another one,
that one is called too and the rise is counted from there.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def rise(target: str, values: Sequence[Any]) -> float:
    """Return the rise in MB of calling `module:function` with these values."""
    module, _, function = target.partition(":")
    call = getattr(importlib.import_module(module), function)
    before = _from_here()
    work = call(*values)
    if callable(work):
        before = _from_here()
        work()
    return _peak_mb() - before


def _from_here() -> float:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    return _peak_mb()


def _peak_mb() -> float:
    # not ru_maxrss: that one starts at the peak of the process which started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(kib) * 1.024e-3


if __name__ == "__main__":
    print(rise(sys.argv[1], json.loads(sys.argv[2])))
