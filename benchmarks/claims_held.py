"""The claims of the four papers as comparisons of cells of the sweep `claims`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

AT_CHANCE = "Neither tells this apart after 21 epochs: both are where guessing is."
NO_ORDER = (
    "The region branch has no positions of frames, so it cannot see their order, however long it "
    "is trained."
)
ONE_SEED = (
    "It rests on one of three seeds, which learned much less with GEES (R@5 of 60); the two others "
    "are within 3 points of NCE."
)
NO_READING = (
    "Without reading only appearance is learned in these steps, and averaged frames have all of it."
)


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper as a comparison: `first` is to beat `second`, or to come within.

    `margin` None asks for a gain; else how many points `first` may lie below `second`, or with
    `both_ways` apart from it. `why` has a sentence for each verdict that has been seen.
    """

    text: str
    first: str
    second: str
    metric: str = "t2v_R@1"
    skill: str | None = None
    margin: float | None = None
    both_ways: bool = False
    why: Mapping[str, str] = field(default_factory=dict, hash=False)


CLAIMS = (
    Claim(
        "T-CARD: scene text finds what only reading can find",
        "T-CARD",
        "T-CARD, without scene text",
        "in_group_R@1",
        "scene_text",
        why={"holds": "The words on a sign are in the window captions and nowhere else."},
    ),
    Claim(
        "T-CARD: scene text helps overall",
        "T-CARD",
        "T-CARD, without scene text",
        why={"holds": "A quarter of the queries ask for words, and the others lose nothing."},
    ),
    *(
        Claim(
            f"T-CARD: scene text costs at most 5 points of {skill}",
            "T-CARD",
            "T-CARD, without scene text",
            "in_group_R@1",
            skill,
            margin=5.0,
            why={
                "holds": "The plain frames have a loss of their own, so sight is not starved.",
                "not shown": f"{AT_CHANCE} Three seeds leave an interval wider than the margin.",
            },
        )
        for skill in ("appearance", "temporal", "relation")
    ),
    Claim(
        "CRET: GEES beats NCE with the same frames",
        "CRET",
        "CRET, NCE",
        why={"not shown": "Among the first it is within what seeds differ by."},
    ),
    Claim(
        "CRET: GEES beats NCE in R@5 (Figure 5)",
        "CRET",
        "CRET, NCE",
        "t2v_R@5",
        why={"fails": ONE_SEED, "not shown": ONE_SEED},
    ),
    Claim(
        "CRET: shared CCM beats separate ones (Table 7)",
        "CRET",
        "CRET, separate CCM",
        why={"not shown": "It points the paper's way, and three seeds cannot tell it from chance."},
    ),
    *(
        Claim(
            f"BiC-Net: attention over the objects of all frames helps {skill}",
            "BiC-Net",
            "BiC-Net, official_intra_frame",
            "in_group_R@1",
            skill,
            why={"not shown": why},
        )
        for skill, why in (("temporal", NO_ORDER), ("relation", AT_CHANCE))
    ),
    Claim(
        "BiC-Net: the same with positions of frames helps temporal",
        "BiC-Net, positions of frames",
        "BiC-Net, official_intra_frame",
        "in_group_R@1",
        "temporal",
        why={"not shown": AT_CHANCE},
    ),
    Claim(
        "EERCF: the text-gated interaction block helps",
        "EERCF",
        "EERCF, no TIB",
        why={
            "not shown": "Only appearance is learned in these steps, and every frame shows it: "
            "there is nothing for a gate to choose."
        },
    ),
    Claim(
        "EERCF: two stages lose nothing (within 0.5 points)",
        "EERCF, two stages",
        "EERCF",
        margin=0.5,
        both_ways=True,
        why={"holds": "Every video that the fine scores put first was among the candidates."},
    ),
    *(
        Claim(f"{name}: above mean pooling", name, "mean pooling", why=why)
        for name, why in (
            ("T-CARD", {"holds": "It reads, and mean pooling does not; see the next line."}),
            ("CRET", {"not shown": NO_READING}),
            (
                "BiC-Net",
                {
                    "fails": "Its hinge is made for frozen features: with towers from scratch "
                    "every step is clipped. With model.loss=infonce two seeds have 22.3 and 23.4 "
                    "where one with the hinge has 17.6."
                },
            ),
            ("EERCF", {"not shown": NO_READING}),
        )
    ),
    Claim(
        "T-CARD: above mean pooling with the same window captions",
        "T-CARD",
        "mean pooling, window OCR",
        why={
            "not shown": "That T-CARD is above mean pooling shows that reading helps. What its own "
            "modules add to reading is not shown."
        },
    ),
)
