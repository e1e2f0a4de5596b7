"""The claims of the four papers as comparisons of cells of the sweep `claims`, and what to say.

The one place to edit after the runs is `WHY`, at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

SUITE = "This suite"
PAPERS = ("T-CARD", "CRET", "BiC-Net", "EERCF", SUITE)
FLOOR = "mean pooling"
MODELS = (FLOOR, "BiC-Net", "CRET", "EERCF", "T-CARD")  # as `make bench` trains them
SKILLS = ("appearance", "temporal", "relation", "scene_text")
SCRATCH = (  # towers from random weights, which then have to learn and may be augmented
    *("backbone.weights=none", "backbone.frozen=none", "backbone.cache=false"),
    *("trainer.shift=6", "trainer.mirror=true"),
)
Kind = Literal["gain", "cost", "same", "chance"]


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper as a comparison of the cells `first` and `second`.

    gain: the first is above the second. cost: it lies at most `margin` points below it. same: it
    tests the weights of the second in another way, and no seed lies more than `margin` points
    apart. chance: nothing parts the first from guessing inside its groups, and it has no second.
    """

    paper: str
    text: str
    first: str
    second: str = ""
    metric: str = "t2v_R@1"
    skill: str | None = None
    kind: Kind = "gain"
    margin: float = 0.0

    @property
    def name(self) -> str:
        """What `WHY` calls it."""
        return f"{self.paper}: {self.text}"


def _in_group(
    paper: str, text: str, first: str, second: str, skill: str, kind: Kind = "gain", **more: float
) -> Claim:
    return Claim(paper, text, first, second, "in_group_R@1", skill, kind, **more)


def _above_the_floor(model: str) -> tuple[Claim, ...]:
    return (
        Claim(model, "above mean pooling", model, FLOOR),
        *(
            _in_group(model, f"above mean pooling in {skill}", model, FLOOR, skill)
            for skill in ("temporal", "relation")
        ),
    )


def _without(what: str, where: str = "") -> Claim:
    text = f"{what} helps{where}"
    return Claim("T-CARD", text, "T-CARD", f"T-CARD, no {what}")


CLAIMS: tuple[Claim, ...] = (
    *_above_the_floor("T-CARD"),
    _in_group(
        *("T-CARD", "scene text finds what only reading can find"),
        *("T-CARD", "T-CARD, no scene text", "scene_text"),
    ),
    _without("scene text"),
    *(
        _in_group(
            *("T-CARD", f"scene text costs at most 5 points of {skill}"),
            *("T-CARD", "T-CARD, no scene text", skill, "cost"),
            margin=5.0,
        )
        for skill in ("appearance", "temporal", "relation")
    ),
    *(
        Claim("T-CARD", f"more than its words: above {name} with the same", "T-CARD", cell)
        for name in (FLOOR, "BiC-Net", "CRET", "EERCF")
        for cell in (f"{name}, window OCR",)
    ),
    _without("text-condition", " (Table A5)"),
    _without("co-attention", " (Table A4)"),
    _without("CTCD"),
    _in_group("T-CARD", "CTCD tells the order of events", "T-CARD", "T-CARD, no CTCD", "temporal"),
    Claim(
        *("T-CARD", "CTCD beats cross-attention (Table A4)"),
        *("T-CARD", "T-CARD, cross-attention"),
    ),
    _without("HSC", " (Table A4)"),
    *_above_the_floor("CRET"),
    Claim("CRET", "GEES beats NCE with the same frames", "CRET", "CRET, NCE"),
    Claim("CRET", "GEES beats NCE in R@5 (Figure 5)", "CRET", "CRET, NCE", "t2v_R@5"),
    Claim("CRET", "shared CCM beats separate ones (Table 7)", "CRET", "CRET, separate CCM"),
    *_above_the_floor("BiC-Net"),
    *(
        _in_group(
            *("BiC-Net", f"attention over the objects of all frames helps {skill}{where}"),
            *(f"BiC-Net, {cell}", f"BiC-Net, {cell}, intra-frame", skill),
        )
        for cell, where in (
            ("positions", ", with positions of frames"),
            ("no positions", ", without positions, as in the paper"),
        )
        for skill in ("temporal", "relation")
    ),
    *_above_the_floor("EERCF"),
    Claim("EERCF", "the text-gated interaction block helps", "EERCF", "EERCF, no TIB"),
    Claim(
        *("EERCF", "two stages lose nothing (within 0.5 points)"),
        *("EERCF, two stages", "EERCF"),
        kind="same",
        margin=0.5,
    ),
    Claim(
        *(SUITE, "mean pooling cannot tell the order of events", FLOOR),
        metric="in_group_R@1",
        skill="temporal",
        kind="chance",
    ),
    _in_group(
        *(SUITE, "T-CARD: our losses on frames and matchings help appearance"),
        *("T-CARD, all losses", "T-CARD, one loss", "appearance"),
    ),
    _in_group(
        *(SUITE, "BiC-Net: InfoNCE learns order sooner than the release's hinge"),
        *("BiC-Net, InfoNCE", "BiC-Net, hinge", "temporal"),
    ),
    Claim(
        *(SUITE, "T-CARD: two stages lose nothing (within 0.5 points)"),
        *("T-CARD, two stages", "T-CARD"),
        kind="same",
        margin=0.5,
    ),
)

Sentences = Mapping[str, Mapping[str, str]]  # by name of the claim, then by verdict

# One sentence of why for a verdict that has been seen, by table. It is shown with that verdict and
# with no other, and has no figure in it: figures come from the records. What the figures
# themselves say of a verdict (within the seeds' spread, at chance) is written without it.
WHY: Mapping[str, Sentences] = {
    "pretrained": {
        "T-CARD: scene text finds what only reading can find": {
            "holds": "The words on a sign are in the window captions and nowhere else.",
        },
        "This suite: mean pooling cannot tell the order of events": {
            "holds": "An average has no order; the groups differ in nothing else.",
        },
    },
    "scratch": {
        "T-CARD: scene text finds what only reading can find": {
            "holds": "The words on a sign are in the window captions and nowhere else.",
        },
    },
}
