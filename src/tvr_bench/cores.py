"""How many cores and how much memory there are to use, and how many threads were told to."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_TOLD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # what people and job schedulers set


def cores() -> int:
    """Return the number of cores that this process may use, at least 1.

    A job has fewer than the machine by its affinity, a container by its share of the time.
    """
    allowed = len(os.sched_getaffinity(0))
    try:
        entries = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        entries = []
    own = next((line[3:] for line in entries if line.startswith("0::")), "/")
    return max(1, math.floor(min(allowed, _quota(_CGROUPS, own))))


def _quota(root: Path, group: str) -> float:
    """Return the cores that the control group, and those above it, leave it; else infinity."""
    path, found = root / group.lstrip("/"), math.inf
    for place in (path, *path.parents):
        if not place.is_relative_to(root):
            break
        try:
            quota, period = (place / "cpu.max").read_text().split()
            found = min(found, math.inf if quota == "max" else int(quota) / int(period))
        except (OSError, ValueError):  # the top has none, and other kinds of groups neither
            continue
    return found


def free_gb() -> float:
    """Return the memory that programs can still have, in 10^9 bytes; infinity where it is unknown.

    What the system keeps of files counts as free.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 / 1e9 if found else math.inf


def told_threads(environment: Mapping[str, str] | None = None) -> int | None:
    """Return the threads that the environment asks for, None where it asks for none."""
    env = os.environ if environment is None else environment
    for name in _TOLD:
        first = env.get(name, "").split(",")[0].strip()  # a list is by level of nesting
        if first.isdecimal() and int(first) > 0:
            return int(first)
    return None
