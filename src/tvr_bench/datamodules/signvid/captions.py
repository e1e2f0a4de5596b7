"""Captions, their paraphrases, and which videos a caption is true of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import permutations
from random import Random

from tvr_bench.datamodules.signvid.spec import Event, Scene, Sign, Thing
from tvr_bench.datamodules.signvid.vocabulary import EVENTS, MEDIA, PLACES, RELATIONS


def caption(scene: Scene, place_first: bool = False) -> str:
    """The caption: names every object, what happens, the place and the relevant sign."""
    parts = [_action(scene)]
    parts.insert(0 if place_first else 1, PLACES[scene.place] + ("," if place_first else ""))
    sign = quoted_sign(scene)
    if sign:
        where = "above" if sign.medium == "subtitle" else "near"
        parts.append(f"{where} a {MEDIA[sign.medium]} saying {_quote(sign)}")
    return " ".join(parts)


def paraphrases(scene: Scene, rng: Random) -> tuple[str, ...]:
    """One or two other wordings of the caption."""
    sign = quoted_sign(scene)
    place = PLACES[scene.place]
    texts = []
    for action in _other_actions(scene):
        text = f"{action} {place}" if rng.random() < 0.5 else f"{place} {action}"
        if sign:
            reading = rng.choice(("with the words", "that reads", "with the text"))
            text += f", there is a {MEDIA[sign.medium]} {reading} {_quote(sign)}"
        texts.append(text)
    texts.append(caption(scene, place_first=not scene.caption.startswith(place)))
    kept = [text for text in dict.fromkeys(texts) if text != scene.caption]
    return tuple(rng.sample(kept, min(len(kept), rng.choice((1, 2)))))


def quoted_sign(scene: Scene) -> Sign | None:
    """The sign that the caption quotes, if there is one."""
    return next((sign for sign in scene.signs if sign.relevant), None)


def _quote(sign: Sign) -> str:
    return '"' + " ".join(sign.words) + '"'


def noun_phrase(thing: Thing, article: bool = True) -> str:
    """Such as `a big striped red ball`; `big red ball` without the article."""
    texture = "" if thing.texture == "plain" else thing.texture
    words = " ".join(filter(None, (thing.size, texture, thing.colour, thing.shape)))
    if not article:
        return words
    return ("an " if words[0] in "aeiou" else "a ") + words


def _listing(phrases: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))


def steps(scene: Scene) -> tuple[str, ...]:
    """Kinds of the events of object 0 in order, a repeated one once."""
    kinds: list[str] = []
    for event in scene.script:
        if event.kind in EVENTS and event.kind not in kinds[-1:]:
            kinds.append(event.kind)
    return tuple(kinds)


def _relation(scene: Scene) -> Event | None:
    return next((event for event in scene.script if event.target >= 0), None)


def _action(scene: Scene) -> str:
    things = [noun_phrase(thing) for thing in scene.objects]
    event = _relation(scene)
    if event:
        return _relation_clause(event, things[event.actor], things[event.target])
    return f"{_listing(things)} {_doings(steps(scene))}".rstrip()


def _doings(kinds: tuple[str, ...]) -> str:
    """What an object does, in order; the order is said beside each event, not by its place."""
    words = [EVENTS[kind] for kind in kinds]
    if len(words) < 3:
        return ", then ".join(words)
    return f"first {words[0]}, then {', then '.join(words[1:-1])}, finally {words[-1]}"


def _side(way: int) -> str:
    return "right" if way > 0 else "left"


def _turn(way: int) -> str:
    return "clockwise" if way > 0 else "counterclockwise"


def _relation_clause(event: Event, actor: str, target: str) -> str:
    if event.kind == "chase":
        return f"{actor} chases {target} to the {_side(event.way)}"
    if event.kind == "push":
        return f"{actor} pushes {target} to the {_side(event.way)}"
    if event.kind == "circle":
        return f"{actor} circles {target} {_turn(event.way)}"
    where = "in front of" if event.front else "behind"
    return f"{actor} moves {_side(event.way)} and passes {where} {target}"


def _other_actions(scene: Scene) -> list[str]:
    things = [noun_phrase(thing) for thing in scene.objects]
    event = _relation(scene)
    if event:
        clause = _relation_clause(event, f"{things[event.actor]} that", things[event.target])
        return [f"there is {clause}"]
    if steps(scene):
        return [f"there is {things[0]} that {_doings(steps(scene))}"]
    return [f"there are {_listing(things[::-1])}", _listing(things[::-1])]


def fits(caption_of: Scene, video: Scene) -> bool:
    """Whether the caption of one scene is true of the video of another.

    Read generously: an object may have a texture or size that the caption leaves out, there may
    be more objects, events or signs than it names, and a sequence may be told with gaps.
    """
    if caption_of.place != video.place or not _sign_fits(caption_of, video):
        return False
    count = len(caption_of.objects)
    for chosen in permutations(range(len(video.objects)), count):
        pairs = zip(caption_of.objects, (video.objects[i] for i in chosen), strict=True)
        if all(_thing_fits(said, seen) for said, seen in pairs) and _acts_fit(
            caption_of, video, chosen
        ):
            return True
    return False


def _sign_fits(caption_of: Scene, video: Scene) -> bool:
    said = quoted_sign(caption_of)
    return said is None or any(sign.words == said.words for sign in video.signs)


def _thing_fits(said: Thing, seen: Thing) -> bool:
    return (
        (said.shape, said.colour) == (seen.shape, seen.colour)
        and said.texture in ("plain", seen.texture)
        and said.size in ("", seen.size)
    )


def _acts_fit(caption_of: Scene, video: Scene, chosen: tuple[int, ...]) -> bool:
    said, seen = _relation(caption_of), _relation(video)
    if said:
        return seen is not None and (
            (said.kind, said.way, said.front) == (seen.kind, seen.way, seen.front)
            and (chosen[said.actor], chosen[said.target]) == (seen.actor, seen.target)
        )
    if not steps(caption_of):
        return True
    if seen:
        return False
    rest: Iterator[str] = iter(steps(video))
    return chosen[0] == 0 and all(kind in rest for kind in steps(caption_of))


class CaptionIndex:
    """Scenes of one split, indexed so that caption clashes are found without all pairs."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, ...], list[Scene]] = defaultdict(list)
        self._captions: set[str] = set()

    @staticmethod
    def _keys(scene: Scene) -> set[tuple[str, ...]]:
        """A caption can only fit videos that share an object in a place and the sort of action."""
        sort = scene.script[0].kind if _relation(scene) else "alone" if steps(scene) else ""
        return {(scene.place, thing.shape, thing.colour, sort) for thing in scene.objects}

    def _near(self, scene: Scene) -> list[Scene]:
        """Scenes with an object of `scene`, and its sort of action or, on either side, none."""
        found = []
        for *thing, sort in self._keys(scene):
            sorts = {"", sort} if sort else {"", "alone", *RELATIONS}
            found += [other for kind in sorts for other in self._seen[(*thing, kind)]]
        return found

    def add(self, scenes: list[Scene]) -> bool:
        """True and added when no caption, old or new, is true of two of the videos."""
        if len({scene.caption for scene in scenes}) < len(scenes):
            return False
        for scene in scenes:
            near = self._near(scene) + [other for other in scenes if other is not scene]
            if scene.caption in self._captions or any(
                fits(scene, other) or fits(other, scene) for other in near
            ):
                return False
        for scene in scenes:
            self._captions.add(scene.caption)
            for key in self._keys(scene):
                self._seen[key].append(scene)
        return True
