"""All scenes of a data set from its sizes and one seed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from random import Random

from tvr_bench.datamodules.signvid.captions import CaptionIndex, caption, paraphrases
from tvr_bench.datamodules.signvid.groups import QUOTED_SHARE, make_group
from tvr_bench.datamodules.signvid.lettering import Deck
from tvr_bench.datamodules.signvid.spec import GROUP, PRESETS, SKILLS, Scene, Sizes, spec_hash
from tvr_bench.errors import UserError
from tvr_bench.files import atomic_write

HASHES = Path(__file__).with_name("hashes.json")

_TRIES = 2000
# The order of events is the hardest to learn: train has twice as many groups of it.
_TRAIN_CYCLE = ("appearance", "temporal", "relation", "temporal", "scene_text")
_PLACE_FIRST = 0.25  # share of the groups whose captions begin with the place


def build(sizes: Sizes, seed: int = 0) -> dict[str, list[Scene]]:
    """Scenes by split (train, val, test), groups of four in a row, the same for the same input.

    Raises:
        UserError: a size is negative, no multiple of four, or more than there are combinations.
    """
    splits = {"train": sizes.train, "val": sizes.val, "test": sizes.test}
    for name, count in splits.items():
        if count < 0 or count % GROUP:
            raise UserError(
                f"SignVid has groups of {GROUP}: {name}={count} is no multiple of {GROUP}; "
                f"use {max(count, 0) // GROUP * GROUP + GROUP}"
            )
    # a scene_text group quotes a sign per video, of the other groups a share quotes one each
    others = len(_TRAIN_CYCLE) - 1
    quoted = round(sizes.train * (1 + others * QUOTED_SHARE / GROUP) / len(_TRAIN_CYCLE))
    return {name: _build_split(name, count, seed, quoted) for name, count in splits.items()}


def _build_split(split: str, count: int, seed: int, quoted: int) -> list[Scene]:
    rng = Random(f"signvid/{seed}/{split}")
    deck = Deck(rng, split, quoted)
    index = CaptionIndex()
    scenes: list[Scene] = []
    for number in range(count // GROUP):
        cycle = _TRAIN_CYCLE if split == "train" else SKILLS
        skill = cycle[number % len(cycle)]
        scenes += _new_group(skill, split, f"{split}-g{number:05d}", rng, deck, index)
    return scenes


def _new_group(
    skill: str, split: str, name: str, rng: Random, deck: Deck, index: CaptionIndex
) -> list[Scene]:
    for _ in range(_TRIES):
        place_first = rng.random() < _PLACE_FIRST
        members = make_group(skill, split, rng, deck)
        rng.shuffle(members)
        members = [
            replace(member, id=f"{name}-{i}", group=name, caption=caption(member, place_first))
            for i, member in enumerate(members)
        ]
        if len(members) == GROUP and index.add(members):
            if split != "train":
                return members
            return [replace(m, paraphrases=paraphrases(m, rng)) for m in members]
    raise UserError(f"SignVid has no more new combinations for {split}; ask for fewer videos")


def preset_hashes(names: Iterable[str] = tuple(PRESETS), seed: int = 0) -> dict[str, str]:
    """`spec_hash` over all splits of each preset, to compare with `hashes.json`."""
    built = ((name, build(PRESETS[name], seed)) for name in names)
    return {name: spec_hash(s for split in data.values() for s in split) for name, data in built}


if __name__ == "__main__":  # rewrites hashes.json after a meant change of the data set
    atomic_write(HASHES, json.dumps(preset_hashes(), indent=2) + "\n")
