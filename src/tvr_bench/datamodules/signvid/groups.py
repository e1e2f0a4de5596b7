"""Groups of four videos, equal in all but the one factor that their skill is about."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from random import Random

from tvr_bench.datamodules.signvid.lettering import (
    KINDS,
    Deck,
    home,
    irrelevant_sign,
    relevant_sign,
)
from tvr_bench.datamodules.signvid.spec import GROUP, HEIGHT, WIDTH, Event, Scene, Sign, Thing
from tvr_bench.datamodules.signvid.vocabulary import (
    CAMOUFLAGE,
    COLOURS,
    EVENTS,
    PLACES,
    RELATIONS,
    SHAPES,
    TEXTURES,
)

FPS = 8
# Shares of the factors. Half of train's temporal groups has one event per video: its name.
FACTORS = {"colour": 4, "shape": 4, "size": 2}
ORDERS = {"order": 1, "event": 1}
QUOTED_SHARE = 0.3  # of the groups of other skills whose caption quotes the sign
IRRELEVANT_SHARE = 0.5
# Seconds: whole frames, so that another order of events is the same bag of frames, and long enough
# that 6 or more frames spread evenly over 6 s see each event twice.
EVENT_S = 15 / FPS


def make_group(skill: str, split: str, rng: Random, deck: Deck) -> list[Scene]:
    """Four scenes without id and caption; the caller rejects a group whose captions clash."""
    maker = {
        "appearance": _appearance,
        "temporal": _temporal,
        "relation": _relation,
        "scene_text": _scene_text,
    }[skill]
    return maker(_context(skill, split, rng), rng, deck)


def home_of(place: str, thing: Thing) -> str:
    """The split that may show this colour and shape in this place."""
    return home("thing", place, thing.colour, thing.shape)


def _context(skill: str, split: str, rng: Random) -> Scene:
    """What the members share: place, one object at home in this split, camera, length."""
    place = rng.choice(list(PLACES))
    return Scene(
        id="",
        split=split,
        skill=skill,
        group="",
        factor="",
        caption="",
        paraphrases=(),
        place=place,
        objects=(_thing(rng, place, split),),
        script=(),
        signs=(),
        fps=FPS if skill == "temporal" else rng.choice((FPS, FPS, 10)),
        seconds=6.0 if skill in ("temporal", "relation") else rng.choice((4.5, 5.0, 6.0)),
        size=(WIDTH, HEIGHT),
        light=round(rng.uniform(0.85, 1.08), 3),
        pan=0,
        look=rng.randrange(4),
    )


def _thing(rng: Random, place: str, split: str, other: Thing | None = None) -> Thing:
    """An object that stands out in `place`. Without `other`, one at home in the split;

    beside `other`, of another colour and shape, and never one that another split owns in train.
    """
    while True:
        colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
        texture = rng.choices(TEXTURES, (0.7, 0.15, 0.15))[0]
        thing = Thing(shape, colour, texture, "", WIDTH // 2, 0)
        if (colour, place) in CAMOUFLAGE:
            continue
        if other and (colour == other.colour or shape == other.shape):
            continue
        if home_of(place, thing) == split or (other and split != "train"):
            return thing


def _dress(scenes: list[Scene], rng: Random, signs: list[tuple[Sign, ...]]) -> list[Scene]:
    """Give the members their signs, and stand the objects where they hide no sign."""
    low = any(sign.relevant and sign.y > HEIGHT // 2 for sign in signs[0])
    extra: tuple[Sign, ...] = ()
    if rng.random() < IRRELEVANT_SHARE:
        avoid = {word for member in signs for sign in member for word in sign.words}
        extra = (irrelevant_sign(rng, avoid, scenes[0].seconds, high=low),)
    ground = 78 if low else 106
    pan = 12 if any(sign.kind == "moving" for sign in signs[0]) else 0
    dressed = []
    for scene, own in zip(scenes, signs, strict=True):
        things = tuple(replace(thing, y=thing.y + ground) for thing in scene.objects)
        dressed.append(replace(scene, objects=things, signs=own + extra, pan=pan))
    return dressed


def _maybe_quoted(context: Scene, rng: Random, deck: Deck) -> tuple[Sign, ...]:
    """The sign all members of a group of another skill share, or none."""
    if rng.random() >= QUOTED_SHARE:
        return ()
    still = {kind: count for kind, count in KINDS.items() if kind != "moving"}
    kind = deck.pick("still sign", still)
    return (relevant_sign(rng, deck.deal(1)[0], kind, context.seconds),)


def _appearance(context: Scene, rng: Random, deck: Deck) -> list[Scene]:
    factor = deck.pick("appearance", FACTORS)
    left = rng.choice((56, 62))
    anchor = replace(context.objects[0], x=left, texture="plain")
    other = replace(_thing(rng, context.place, context.split, anchor), x=WIDTH - left)
    other = replace(other, texture="plain")
    pairs = _variants(factor, context, anchor, other, rng)
    script = tuple(Event("bob", index, 0.0, context.seconds) for index in range(2))
    scenes = [replace(context, factor=factor, objects=pair, script=script) for pair in pairs]
    return _dress(scenes, rng, [_maybe_quoted(context, rng, deck)] * len(scenes))


def _variants(
    factor: str, context: Scene, anchor: Thing, other: Thing, rng: Random
) -> list[tuple[Thing, Thing]]:
    """Both objects in both of two sizes or textures, or the other one in four colours or shapes."""
    if factor == "size":
        sizes = ("big", "small")
        return [(replace(anchor, size=a), replace(other, size=b)) for a in sizes for b in sizes]
    if factor == "texture":
        skins = TEXTURES[1:]
        return [
            (replace(anchor, texture=a), replace(other, texture=b)) for a in skins for b in skins
        ]
    if factor == "colour":
        options = [replace(other, colour=name) for name in COLOURS if name != anchor.colour]
    else:
        options = [replace(other, shape=name) for name in SHAPES if name != anchor.shape]
    fit = [
        thing
        for thing in options
        if (thing.colour, context.place) not in CAMOUFLAGE
        and (context.split != "train" or home_of(context.place, thing) == "train")
    ]
    return [(anchor, thing) for thing in rng.sample(fit, min(GROUP, len(fit)))]


def _temporal(context: Scene, rng: Random, deck: Deck) -> list[Scene]:
    thing = replace(context.objects[0], x=WIDTH // 2 + rng.randint(-12, 12))
    context = replace(context, objects=(thing,))
    factor = deck.pick("temporal", ORDERS) if context.split == "train" else "order"
    if factor == "event":
        told: list[tuple[str, ...]] = [(kind,) * 3 for kind in rng.sample(list(EVENTS), GROUP)]
    else:
        told = rng.sample(list(permutations(rng.sample(list(EVENTS), 3))), GROUP)
    begin = rng.randint(0, round((context.seconds - 3 * EVENT_S) * FPS)) / FPS
    scenes = [replace(context, factor=factor, script=_sequence(kinds, begin)) for kinds in told]
    return _dress(scenes, rng, [_maybe_quoted(context, rng, deck)] * len(scenes))


def _sequence(kinds: tuple[str, ...], begin: float) -> tuple[Event, ...]:
    times = [begin + EVENT_S * i for i in range(len(kinds) + 1)]
    return tuple(Event(kind, 0, times[i], times[i + 1]) for i, kind in enumerate(kinds))


def _relation(context: Scene, rng: Random, deck: Deck) -> list[Scene]:
    kind = deck.pick("relation", dict.fromkeys(RELATIONS, 1))
    pair = [context.objects[0], _thing(rng, context.place, context.split, context.objects[0])]
    rng.shuffle(pair)
    above, below = {"pass": (-5, 5), "circle": (-8, -8)}.get(kind, (0, 0))
    things = (replace(pair[0], y=above), replace(pair[1], y=below))
    end = round(context.seconds - 1 / context.fps, 3)  # the last frame: an exact time reversal
    script = [Event(kind, actor, 0.0, end, 1 - actor, way) for actor in (0, 1) for way in (-1, 1)]
    if kind == "pass":
        script = [
            Event(kind, 0, 0.0, end, 1, way, front) for front in (False, True) for way in (-1, 1)
        ]
    scenes = [replace(context, factor=kind, objects=things, script=(event,)) for event in script]
    return _dress(scenes, rng, [_maybe_quoted(context, rng, deck)] * len(scenes))


def _scene_text(context: Scene, rng: Random, deck: Deck) -> list[Scene]:
    kind = deck.pick("sign", KINDS)
    event = rng.choice(list(EVENTS))
    script = _sequence((event,) * 3, 0.0)
    scale = context.seconds / script[-1].end
    script = tuple(
        replace(e, start=round(e.start * scale, 2), end=round(e.end * scale, 2)) for e in script
    )
    pairs = deck.deal(GROUP)
    model = relevant_sign(rng, pairs[0], kind, context.seconds)
    signs: list[tuple[Sign, ...]] = [(replace(model, words=pair),) for pair in pairs]
    scenes = [replace(context, factor="words", script=script)] * GROUP
    return _dress(scenes, rng, signs)
