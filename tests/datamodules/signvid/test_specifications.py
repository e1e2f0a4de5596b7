"""Scenes and captions: the same everywhere, honest groups, nothing of test told in train."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import asdict, replace
from itertools import chain

import pytest

from tvr_bench.datamodules.signvid.build import HASHES, build, preset_hashes
from tvr_bench.datamodules.signvid.captions import fits
from tvr_bench.datamodules.signvid.spec import (
    GROUP,
    PRESETS,
    SKILLS,
    Scene,
    Sizes,
    ground_truth_words,
    spec_hash,
    to_json,
)
from tvr_bench.datamodules.signvid.vocabulary import ADJECTIVES, NOUNS
from tvr_bench.errors import UserError

VARIES = {  # the only fields that may differ inside a group, besides id and texts
    "appearance": {"objects"},
    "temporal": {"script"},
    "relation": {"script"},
    "scene_text": {"signs"},
}


@pytest.fixture(scope="module")
def small() -> dict[str, list[Scene]]:
    return build(PRESETS["small"], 0)


def groups_of(scenes: list[Scene]) -> dict[str, list[Scene]]:
    groups = defaultdict(list)
    for scene in scenes:
        groups[scene.group].append(scene)
    return groups


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text)


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_specifications_are_those_of_the_repository(name: str) -> None:
    committed = json.loads(HASHES.read_text())
    assert preset_hashes([name]) == {name: committed[name]}, (
        "the data set changed; if that is meant: python -m tvr_bench.datamodules.signvid.build"
    )


@pytest.mark.slow
def test_base_specifications_are_those_of_the_repository() -> None:
    assert preset_hashes(["base"])["base"] == json.loads(HASHES.read_text())["base"]


def test_another_seed_gives_other_scenes() -> None:
    first, second = (build(PRESETS["tiny"], seed)["test"] for seed in (0, 1))
    assert spec_hash(first) != spec_hash(second)
    assert len({scene.caption for scene in first + second}) > len(first)


def test_sizes_are_kept(small: dict[str, list[Scene]]) -> None:
    sizes = PRESETS["small"]
    assert {name: len(scenes) for name, scenes in small.items()} == asdict(sizes)
    assert sizes.test >= 200
    for split, scenes in small.items():
        assert len({scene.id for scene in scenes}) == len(scenes)
        assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", scene.id) for scene in scenes)
        shares = Counter(scene.skill for scene in scenes)
        if split == "train":  # twice as much of what is hardest to learn
            shares["temporal"] //= 2
        assert set(shares) == set(SKILLS) and len(set(shares.values())) == 1


@pytest.mark.parametrize("sizes", [Sizes(10, 4, 4), Sizes(8, -4, 4)])
def test_impossible_sizes_are_refused(sizes: Sizes) -> None:
    with pytest.raises(UserError, match="multiple of 4"):
        build(sizes, 0)


def test_scenes_are_plain_data(small: dict[str, list[Scene]]) -> None:
    scene = small["train"][0]
    assert json.loads(json.dumps(to_json(scene)))["caption"] == scene.caption


def test_members_of_a_group_are_equal_in_all_but_the_factor(small: dict[str, list[Scene]]) -> None:
    for scenes in small.values():
        for members in groups_of(scenes).values():
            assert len(members) == GROUP
            same = []
            for member in members:
                fields = to_json(member)
                for name in ("id", "caption", "paraphrases", *VARIES[member.skill]):
                    fields.pop(name)
                same.append(fields)
            assert all(fields == same[0] for fields in same)


def test_scene_text_members_differ_in_the_quoted_words_alone(small: dict[str, list[Scene]]) -> None:
    for members in groups_of(small["test"]).values():
        if members[0].skill != "scene_text":
            continue
        blank = [
            [replace(sign, words=()) if sign.relevant else sign for sign in member.signs]
            for member in members
        ]
        assert all(signs == blank[0] for signs in blank)
        said = [next(s.words for s in member.signs if s.relevant) for member in members]
        # One word read right is enough to know the member.
        assert len({first for first, _ in said}) == len({last for _, last in said}) == GROUP


def test_order_groups_have_the_same_events_in_other_orders(small: dict[str, list[Scene]]) -> None:
    kinds = Counter()
    for split, scenes in small.items():
        for members in groups_of([s for s in scenes if s.skill == "temporal"]).values():
            told = [tuple(event.kind for event in member.script) for member in members]
            kinds[split, members[0].factor] += 1
            assert len(set(told)) == GROUP
            if members[0].factor == "order":
                assert len({tuple(sorted(order)) for order in told}) == 1
                assert len(set(told[0])) == 3
    assert kinds["val", "event"] == kinds["test", "event"] == 0
    assert kinds["train", "event"] == pytest.approx(kinds["train", "order"], rel=0.2)


def test_no_caption_is_true_of_two_videos_of_a_split(small: dict[str, list[Scene]]) -> None:
    for name, scenes in small.items():
        assert len({scene.caption for scene in scenes}) == len(scenes)
        step = 8 if name == "train" else 1
        for scene in scenes[::step]:
            assert [other.id for other in scenes if fits(scene, other)] == [scene.id]


def test_fits_reads_generously(small: dict[str, list[Scene]]) -> None:
    order = next(s for s in small["test"] if s.factor == "order")
    shorter = replace(order, script=order.script[::2])
    assert fits(shorter, order) and not fits(order, shorter)
    turned = replace(order, script=order.script[::-1])
    assert not fits(turned, order) and not fits(order, turned)
    elsewhere = replace(order, place="snow" if order.place != "snow" else "wall")
    assert not fits(order, elsewhere)


def test_train_never_shows_what_test_and_val_are_made_of(small: dict[str, list[Scene]]) -> None:
    def things(scene: Scene) -> set[tuple[str, str, str]]:
        return {(scene.place, thing.colour, thing.shape) for thing in scene.objects}

    def quotes(scenes: list[Scene]) -> set[tuple[str, ...]]:
        return {sign.words for scene in scenes for sign in scene.signs if sign.relevant}

    known = set().union(*(things(scene) for scene in small["train"]))
    for split in ("val", "test"):
        assert all(things(scene) - known for scene in small[split])
        assert not quotes(small[split]) & quotes(small["train"])
    assert not quotes(small["val"]) & quotes(small["test"])


def test_every_word_of_test_is_often_met_in_train(small: dict[str, list[Scene]]) -> None:
    met = Counter(word for scene in small["train"] for word in words_of(scene.caption))
    rare = {
        word: met[word]
        for split in ("val", "test")
        for scene in small[split]
        for word in words_of(scene.caption)
        if met[word] < 8
    }
    assert not rare


def test_captions_are_short_and_paraphrased_in_train_only(small: dict[str, list[Scene]]) -> None:
    for scenes in small.values():
        for scene in scenes:
            texts = [scene.caption, *scene.paraphrases]
            assert all(len(words_of(text)) <= 32 for text in texts)
            assert len(set(texts)) == len(texts)
            assert len(scene.paraphrases) in ((1, 2) if scene.split == "train" else (0,))
    lengths = sorted(len(words_of(scene.caption)) for scene in small["test"])
    assert lengths[len(lengths) * 9 // 10] <= 20


def test_paraphrases_say_the_same_things(small: dict[str, list[Scene]]) -> None:
    for scene in small["train"]:
        for text in scene.paraphrases:
            said = set(words_of(text))
            for thing in scene.objects:
                assert {thing.colour, thing.shape} <= said
            for sign in scene.signs:
                if sign.relevant:
                    assert set(sign.words) <= said


def test_words_of_signs_are_no_words_of_the_grammar(small: dict[str, list[Scene]]) -> None:
    told = Counter()
    for scene in small["train"]:
        told.update(words_of(re.sub(r'"[^"]*"', "", scene.caption)))
    assert not set(told) & set(ADJECTIVES + NOUNS)


def test_most_videos_have_text_and_a_stated_share_is_hard_to_read(
    small: dict[str, list[Scene]],
) -> None:
    scenes = small["train"]
    assert sum(bool(ground_truth_words(scene)) for scene in scenes) / len(scenes) > 0.6
    kinds = Counter(s.kind for scene in scenes for s in scene.signs if s.relevant)
    assert 0.5 < kinds["plain"] / kinds.total() < 0.7
    assert set(kinds) == {"plain", "small", "tilted", "low_contrast", "brief", "moving"}


def test_ground_truth_words_by_kind(small: dict[str, list[Scene]]) -> None:
    scene = next(s for s in small["test"] if len({sign.kind for sign in s.signs}) == 2)
    every = ground_truth_words(scene)
    parts = [ground_truth_words(scene, sign.kind) for sign in scene.signs]
    assert all(parts) and sorted(chain(*parts)) == sorted(every)
