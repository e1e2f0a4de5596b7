"""Where each object is at each moment: scripts of events turned into poses."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvr_bench.datamodules.signvid.spec import Event, Scene

REACH = 64  # pixels an object moves to a side
LEAP = 40  # pixels it jumps up
GROWN, SHRUNK, FADED = 1.7, 0.45, 0.12
RAMP = 0.12  # share of an event spent on leaving, and again on coming back


@dataclass(frozen=True)
class Pose:
    """Centre (pixels), scale, opacity and depth (a greater `z` hides a smaller one)."""

    x: float
    y: float
    scale: float = 1.0
    alpha: float = 1.0
    z: float = 0.0


def poses(scene: Scene, time: float) -> list[Pose]:
    """One pose per object at `time` (seconds)."""
    relation = next((event for event in scene.script if event.target >= 0), None)
    if relation:
        return _relation_poses(scene, relation, time)
    return [_solo_pose(scene, index, time) for index in range(len(scene.objects))]


def _solo_pose(scene: Scene, index: int, time: float) -> Pose:
    thing = scene.objects[index]
    x, y, scale, alpha = float(thing.x), float(thing.y), 1.0, 1.0
    for event in scene.script:
        if event.actor != index or not event.start <= time < event.end:
            continue
        phase = (time - event.start) / (event.end - event.start)
        much = _plateau(phase)
        if event.kind in ("left", "right"):
            x += (REACH if event.kind == "right" else -REACH) * much
        elif event.kind == "jump":
            y -= LEAP * abs(math.sin(2 * math.pi * phase)) ** 0.5
        elif event.kind == "grow":
            scale += (GROWN - 1) * much
        elif event.kind == "shrink":
            scale += (SHRUNK - 1) * much
        elif event.kind == "fade":
            alpha += (FADED - 1) * much
        elif event.kind == "bob":
            y += 3 * math.sin(2 * math.pi * phase)
    return Pose(x, y, scale, alpha, float(index))


def _plateau(phase: float) -> float:
    """0 at both ends, 1 in between: whatever an event changes, it takes back."""
    edge = min(phase, 1 - phase) / RAMP
    return 1.0 if edge >= 1 else edge * edge * (3 - 2 * edge)


def _relation_poses(scene: Scene, event: Event, time: float) -> list[Pose]:
    """Two actors. A way and its opposite with roles swapped are each other's time reversal,

    so the set of frames never tells who chases or pushes whom: only their order does.
    """
    phase = min(max((time - event.start) / (event.end - event.start), 0.0), 1.0)
    first, second = event.actor, event.target
    moves = {"chase": _chase, "pass": _pass, "push": _push, "circle": _circle}[event.kind]
    actor, target = moves(event, phase)
    found = {first: actor, second: target}
    result = []
    for index, thing in enumerate(scene.objects):
        dx, dy, z = found[index]
        result.append(Pose(scene.size[0] / 2 + dx, thing.y + dy, z=z))
    return result


Offset = tuple[float, float, float]


def _chase(event: Event, phase: float) -> tuple[Offset, Offset]:
    middle = event.way * 92 * (phase - 0.5)
    return (middle - event.way * 34, 0, 0), (middle + event.way * 34, 0, 1)


def _pass(event: Event, phase: float) -> tuple[Offset, Offset]:
    u = 2 * phase - 1
    # Slow in the middle, so that the overlap, the only evidence, fills half of the clip.
    x = event.way * 72 * math.copysign(abs(u) ** 1.7, u)
    return (x, 0, 2 if event.front else 0), (-x, 0, 1)


def _push(event: Event, phase: float) -> tuple[Offset, Offset]:
    before, after = min(phase * 2, 1.0), max(phase * 2 - 1, 0.0)
    actor = -28 - 52 * (1 - before)
    target = 28 + 52 * after
    return (event.way * actor, 0, 0), (event.way * target, 0, 1)


def _circle(event: Event, phase: float) -> tuple[Offset, Offset]:
    angle = event.way * 2 * math.pi * phase
    dy = 28 * math.sin(angle)
    return (66 * math.cos(angle), dy, dy), (0, 0, 0)
