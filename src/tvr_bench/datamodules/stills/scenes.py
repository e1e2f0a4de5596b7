"""The scenes of the stills and the moments at which they are drawn, from one seed.

All homes are those of SignVid's train: no colour and shape that val or test own in a place is drawn
there, and no pair of words that they own stands on a sign.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from tvr_bench.datamodules.signvid.groups import make_group
from tvr_bench.datamodules.signvid.lettering import Deck
from tvr_bench.datamodules.signvid.spec import GROUP, Scene
from tvr_bench.datamodules.stills.captions import describe

# relations and states are the hardest to learn; signs are never told, so no group is about them
_CYCLE = ("appearance", "temporal", "relation", "temporal", "relation")


@dataclass(frozen=True)
class Still:
    """One picture: frame `index` of a scene, its caption and its group of hard negatives."""

    id: str
    scene: Scene
    index: int
    caption: str
    group: str


def build_scenes(split: str, groups: int, seed: int) -> list[Scene]:
    """Return the scenes of a split, groups of four in a row, the same for the same input."""
    rng = Random(f"stills/{seed}/{split}")
    deck = Deck(rng, "train", groups)
    scenes: list[Scene] = []
    for number in range(groups):
        name = f"{split}-g{number:05d}"
        members = _whole_group(_CYCLE[number % len(_CYCLE)], rng, deck)
        scenes += [replace(one, id=f"{name}-{i}", group=name) for i, one in enumerate(members)]
    return scenes


def draw_times(scenes: list[Scene], stills: int, together: int, seed: int) -> Iterator[Still]:
    """Yield `stills` pictures of each scene, at random moments.

    Picture k of the four scenes of a group are hard negatives of each other, together with as many
    of the next as `together` says. Their captions have one wording, so that two of them differ
    where the pictures do, and are equal, which makes them no negatives, where they tell the same.
    """
    rng = Random(f"stills/{seed}/moments")
    for scene in scenes:
        for k, index in enumerate(rng.sample(range(scene.frames), stills)):
            group = f"{scene.group}-{k // together}"
            text = describe(scene, index / scene.fps, Random(f"stills/{seed}/{group}"))
            yield Still(f"{scene.id}-{k}", scene, index, text, group)


def unlike(stills: Iterator[Still]) -> Iterator[Still]:
    """Yield those whose caption none before has: of two pictures with one none is the right one."""
    told: set[str] = set()
    for still in stills:
        if still.caption not in told:
            told.add(still.caption)
            yield still


def _whole_group(skill: str, rng: Random, deck: Deck) -> list[Scene]:
    while True:
        members = make_group(skill, "train", rng, deck)
        if len(members) == GROUP:  # a factor may have fewer values that fit the place
            return members
