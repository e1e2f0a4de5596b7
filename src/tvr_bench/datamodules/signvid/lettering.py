"""Signs: which words, how hard to read, and where on the screen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from random import Random

from tvr_bench.datamodules.signvid.spec import HEIGHT, WIDTH, Sign
from tvr_bench.datamodules.signvid.vocabulary import ADJECTIVES, NOISE, NOUNS

# Of 20 signs that captions quote: how many of each kind.
KINDS = {"plain": 12, "small": 2, "tilted": 2, "low_contrast": 2, "brief": 1, "moving": 1}
Colour = tuple[int, int, int]
# Font sizes at which the longest pair of words just fits the board: no pair is shrunk, so the size
# of the letters tells nothing of the words.
FONTS = {"sans": 20, "sans_bold": 18, "serif_bold": 17, "mono_bold": 22}
_BOARD = (212, 34)  # pixels
_DIAGONALS = 12  # of the table of word pairs: 1 for val, 2 for test, 9 for train
_PAINT = {  # ink and board; what tells the media apart besides their outline
    "shop": (
        ((250, 250, 245), (150, 24, 30)),
        ((250, 250, 245), (20, 50, 110)),
        ((250, 250, 245), (16, 84, 52)),
        ((255, 226, 90), (38, 38, 42)),
    ),
    "poster": (
        ((28, 26, 30), (246, 244, 236)),
        ((110, 16, 24), (250, 244, 226)),
        ((24, 40, 96), (236, 242, 248)),
    ),
    "banner": (
        ((90, 30, 10), (250, 214, 120)),
        ((20, 50, 40), (168, 222, 190)),
        ((60, 16, 70), (232, 190, 226)),
    ),
    "subtitle": (((252, 252, 252), (24, 24, 28)),),
}


def home(*key: str) -> str:
    """The one split where a combination may occur: train 72 %, val 8 %, test 20 %."""
    digest = hashlib.sha256("|".join(key).encode()).digest()
    place = int.from_bytes(digest[:4], "big") / 2**32
    return "train" if place < 0.72 else "val" if place < 0.80 else "test"


def home_of_words(first: str, second: str) -> str:
    """The one split whose signs may say this adjective and noun.

    Diagonals of the table of pairs, so that every word has partners in every split.
    """
    diagonal = (ADJECTIVES.index(first) + NOUNS.index(second)) % _DIAGONALS
    return "val" if diagonal == 0 else "test" if diagonal <= 2 else "train"


class Deck:
    """Deals sign words, kinds and factors so that each split, even a small one, has its share."""

    def __init__(self, rng: Random, split: str, signs: int) -> None:
        # Fewer words in a smaller train split: each has to be met often enough to be learned.
        count = min(max(signs // 10, _DIAGONALS), len(NOUNS))
        self._rng, self._split = rng, split
        self._sources = (ADJECTIVES[:count], NOUNS[:count])
        self._decks: tuple[list[str], list[str]] = ([], [])
        self._cards: dict[str, list[str]] = {}

    def pick(self, name: str, shares: Mapping[str, int]) -> str:
        """The next of the shuffled cards `name`, of which a full deck has `shares` of each kind."""
        cards = self._cards.setdefault(name, [])
        if not cards:
            cards += [card for card, count in shares.items() for _ in range(count)]
            self._rng.shuffle(cards)
        return cards.pop()

    def deal(self, count: int) -> list[tuple[str, str]]:
        """`count` pairs at home in this split, all words different."""
        pairs: list[tuple[str, str]] = []
        while len(pairs) < count:
            first = self._draw(0, {pair[0] for pair in pairs})
            pair = self._partner(first, {pair[1] for pair in pairs})
            if pair:
                pairs.append(pair)
        return pairs

    def _refill(self, side: int) -> None:
        fresh = list(self._sources[side])
        self._rng.shuffle(fresh)
        self._decks[side].extend(fresh)

    def _draw(self, side: int, taken: set[str]) -> str:
        deck = self._decks[side]
        while not any(word not in taken for word in deck):
            self._refill(side)
        at = next(i for i, word in enumerate(deck) if word not in taken)
        return deck.pop(at)

    def _partner(self, first: str, taken: set[str]) -> tuple[str, str] | None:
        deck = self._decks[1]
        for _ in range(2):
            for at, word in enumerate(deck):
                if word not in taken and home_of_words(first, word) == self._split:
                    return first, deck.pop(at)
            self._refill(1)
        return None


def relevant_sign(rng: Random, words: tuple[str, ...], kind: str, seconds: float) -> Sign:
    """A board a caption may quote; its shape does not depend on the words."""
    high = rng.random() < 0.7
    medium = rng.choice(("shop", "poster", "banner")) if high else "subtitle"
    ink, board = rng.choice(_PAINT[medium])
    font = rng.choice(list(FONTS))
    sign = Sign(
        words=words,
        kind=kind,
        medium=medium,
        relevant=True,
        start=0.0,
        end=seconds,
        x=WIDTH // 2 + rng.randint(-3, 3),
        y=22 if high else HEIGHT - 23,
        width=_BOARD[0],
        height=_BOARD[1],
        font=font,
        px=FONTS[font],
        ink=ink,
        board=board,
    )
    return _harden(rng, sign)


def _harden(rng: Random, sign: Sign) -> Sign:
    if sign.kind == "small":
        small = _scaled(sign, rng.uniform(0.5, 0.66))
        return replace(small, x=sign.x + rng.randint(-30, 30))
    if sign.kind == "tilted":
        angle = rng.choice((-1, 1)) * rng.uniform(9, 16)
        y = 36 if sign.y < HEIGHT // 2 else HEIGHT - 37
        return replace(_scaled(sign, 0.78), angle=round(angle, 1), y=y)
    if sign.kind == "low_contrast":
        ink, board = _faint(rng)
        return replace(sign, ink=ink, board=board)
    if sign.kind == "brief":
        length = sign.end * rng.uniform(0.35, 0.45)
        start = rng.uniform(0, sign.end - length)
        return replace(sign, start=round(start, 2), end=round(start + length, 2))
    if sign.kind == "moving":
        return _scaled(sign, 0.88)  # so that the swinging camera never cuts it
    return sign


def _scaled(sign: Sign, factor: float) -> Sign:
    return replace(
        sign,
        px=round(sign.px * factor),
        width=round(sign.width * factor) + 2,
        height=round(sign.height * factor) + 2,
    )


def _faint(rng: Random) -> tuple[Colour, Colour]:
    """Ink and board that differ by 16 to 36 of 255 levels."""
    step, grey = rng.randint(16, 36), rng.randint(70, 190)
    red, green, blue = (grey + rng.randint(-10, 10) for _ in range(3))
    return (red + step, green + step, blue + step), (red, green, blue)


def irrelevant_sign(rng: Random, avoid: set[str], seconds: float, high: bool) -> Sign:
    """A ticker or a watermark: words that no caption quotes, some from the quotable ones."""
    pool = [word for word in NOISE + (NOUNS if rng.random() < 0.3 else ()) if word not in avoid]
    words = tuple(rng.sample(pool, 2))
    ticker = rng.random() < 0.4
    sign = Sign(
        words=words if ticker else words[:1],
        kind="ticker" if ticker else "watermark",
        medium="",
        relevant=False,
        start=0.0,
        end=seconds,
        x=WIDTH // 2,
        y=10 if high else HEIGHT - 11,
        width=WIDTH,
        height=20,
        font="sans_bold",
        px=15,
        ink=(250, 250, 250),
        board=(12, 60, 140),
    )
    if ticker:
        return replace(sign, speed=float(rng.choice((-1, 1)) * rng.randint(6, 12)))
    side = rng.choice((52, WIDTH - 52))
    return replace(sign, x=side, y=sign.y + (2 if high else -2), width=96, board=(0, 0, 0))
