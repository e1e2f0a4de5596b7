"""Every word and every drawable kind SignVid knows; each is shared by all splits."""

from __future__ import annotations

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 32, 36),
    "orange": (255, 138, 0),
    "yellow": (250, 226, 40),
    "green": (28, 172, 62),
    "blue": (36, 84, 232),
    "purple": (136, 40, 176),
    "pink": (255, 128, 196),
    "white": (248, 248, 248),
}
SHAPES = ("ball", "box", "triangle", "star", "heart", "ring", "cross", "moon")
TEXTURES = ("plain", "striped", "dotted")
# Diameter in pixels on the 224 x 160 canvas; "" is the size that no caption names.
OBJECT_SIZES = {"small": 34, "": 54, "big": 78}

PLACES = {
    "beach": "on a beach",
    "forest": "in a forest",
    "wall": "by a brick wall",
    "night": "at night",
    "snow": "in the snow",
    "meadow": "on a meadow",
    "kitchen": "in a kitchen",
    "desert": "in a desert",
}
# An object this close to the colour of its surroundings would be a guess for any viewer.
CAMOUFLAGE = frozenset(
    {
        ("white", "snow"),
        ("white", "kitchen"),
        ("green", "forest"),
        ("green", "meadow"),
        ("orange", "desert"),
        ("yellow", "desert"),
        ("red", "wall"),
        ("blue", "night"),
        ("purple", "night"),
        ("yellow", "beach"),
    }
)

EVENTS = {
    "left": "moves left",
    "right": "moves right",
    "jump": "jumps",
    "grow": "grows",
    "shrink": "shrinks",
    "fade": "fades",
}
RELATIONS = ("chase", "pass", "push", "circle")

MEDIA = {"shop": "shop sign", "poster": "poster", "banner": "banner", "subtitle": "subtitle"}


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Capitals of at most six letters, two to a board, chosen apart so that one misread letter of an
# OCR engine seldom turns one word into another.
ADJECTIVES = _words(
    """amber bitter bold brave bright broken busy calm clever cosmic daily dusty early eager fancy
    fresh frozen gentle giant global golden grand happy hidden honest humble jolly juicy kind
    lively local lonely lucky lunar magic marble mellow mighty modern narrow noble north polar
    polite proud public quick quiet rapid royal rustic sacred savage secret shiny silent silver
    simple smooth solar spicy steady sturdy sunny super swift tender tidy tiny urban velvet vital
    vivid wild winter wooden young"""
)
NOUNS = _words(
    """anchor apple arcade artist bakery bank barber basket bazaar bridge butler cabin camera
    candle canyon carpet castle cinema circus clinic coffee copper diner doctor dragon engine
    falcon farmer ferry flower forge garage garden guitar hammer harbor hotel jacket jungle ladder
    lemon lion magnet market mirror monkey museum ocean office orchid oyster palace panda parade
    pepper pirate planet pocket police potato rocket saddle salmon school shadow shoes spider
    studio tailor temple ticket tiger tower train tunnel turtle violin wagon window yacht"""
)
# Words of tickers and watermarks that no caption ever quotes.
NOISE = _words(
    """live news today weather sports channel replay update report traffic stream headline music
    preview tonight bulletin"""
)
