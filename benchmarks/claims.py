"""What the four papers claim, held against SignVid `small`: which claims hold here, which do not.

Run: `.venv/bin/python benchmarks/claims.py [seeds=3] [key=value ...]`. It runs what is left of the
sweep `claims` (every cell and seed a process of its own; `--report` runs nothing), then writes
`benchmarks/claims.md` and `docs/skills.png`. A claim is two cells of the sweep that differ in one
thing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean

from claims_held import CLAIMS, Claim

from tvr_bench.evaluation.significance import Comparison, holm
from tvr_bench.launch.sweep import Plan, measured, plan, run_sweep, seeds_of
from tvr_bench.leaderboard.per_query import compare, estimate
from tvr_bench.leaderboard.record import Record
from tvr_bench.leaderboard.skills import draw_skills
from tvr_bench.leaderboard.sweep_report import Measured

HERE = Path(__file__).parent
ALPHA = 0.05
DRAWN = ("mean pooling", "BiC-Net", "CRET", "EERCF", "T-CARD", "T-CARD, long")
SKILLS = ("appearance", "temporal", "relation", "scene_text")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args()
    given = [s for s in options.settings if s.startswith("seeds=")]
    settings = [s for s in options.settings if s not in given]
    seeds = seeds_of(given[-1].split("=", 1)[1] if given else "3")
    code = 0
    if not options.report:
        code = run_sweep("claims", settings, seeds=seeds, jobs=options.jobs)
    planned = plan("claims", settings, seeds)
    text = page(planned)
    (HERE / "claims.md").write_text(text)
    draw(planned)
    print(text)
    return code


def page(planned: Plan) -> str:
    """Return the page of whatever has been run."""
    cells = {one.cell.label: one for one in measured(planned) if one.records}
    folders: dict[str, list[Path]] = {}
    for cell, seed, task in planned.tasks:
        if cell.label in cells and seed in cells[cell.label].records:
            folders.setdefault(cell.label, []).append(task.find())
    found = {
        claim: compare(folders[claim.first], folders[claim.second], claim.metric, claim.skill)
        for claim in CLAIMS
        if claim.first in folders and claim.second in folders
    }
    gains = [claim for claim in found if claim.margin is None]
    adjusted = dict(zip(gains, holm([found[claim].p for claim in gains]), strict=True))
    variants = {r.data.variant for one in cells.values() for r in one.records.values()}
    lines = [
        " ".join(
            ["# What the papers claim, on SignVid", *(f"`{name}`" for name in sorted(variants))]
        ),
        "",
        _conditions(cells),
        "",
        "A claim is two models that differ in one thing. It **holds** where its gain is "
        "significant (paired sign flips by group of hard negatives, seeds averaged first, p below "
        ".05 after Holm over all the gains) and larger than two standard errors over seeds or, "
        "where it says that little is lost, where both the 95 % interval of the difference over "
        "other videos and those two standard errors stay inside the margin. It **fails** where "
        "the opposite is shown in the same way, and is **not shown** in between. SignVid says what "
        "a model can tell apart; it never stands in for a paper's own numbers.",
        "",
        "| claim | first | second | difference | p (Holm) | verdict | why |",
        "|---|---|---|---|---|---|---|",
        *(_line(claim, one, adjusted.get(claim)) for claim, one in found.items()),
        *(f"| {claim.text} | | | | | **not run** | |" for claim in CLAIMS if claim not in found),
        "",
        "## The models",
        "",
        "Mean of the seeds +- standard deviation in percent, and the 95 % interval over videos.",
        "",
        "| model | seeds | T2V R@1 | V2T R@1 | " + " | ".join(SKILLS) + " | pairs scored |",
        "|---|---|---|---|" + "---|" * (len(SKILLS) + 1),
        *(_model(one, folders[label]) for label, one in cells.items()),
        "",
        "Skills are text to video inside the hard-negative groups, where guessing gets 25.",
        "",
    ]
    return "\n".join(lines)


def draw(planned: Plan) -> None:
    """Draw what the main models can tell apart, those that have been run."""
    bars = {
        one.cell.label: {
            skill: fmean(r.metrics.by_skill[skill].in_group["R@1"] for r in one.records.values())
            for skill in SKILLS
        }
        for one in measured(planned)
        if one.records and one.cell.label in DRAWN
    }
    if bars:
        draw_skills(HERE.parent / "docs" / "skills.png", bars, dict.fromkeys(SKILLS, 25.0))


def verdict(claim: Claim, found: Comparison, p: float | None) -> str:
    """Return `holds`, `fails` or `not shown`; `p` is that of a gain.

    What one training of each shows, or what lies within the spread of seeds, is not shown.
    """
    if found.seed_error is None:
        return "not shown"
    if p is not None:
        if p >= ALPHA or not found.beyond_seeds:
            return "not shown"
        return "holds" if found.difference > 0 else "fails"
    assert claim.margin is not None
    low = min(found.low, found.difference - 2 * found.seed_error)
    high = max(found.high, found.difference + 2 * found.seed_error)
    inside = low > -claim.margin and (not claim.both_ways or high < claim.margin)
    outside = high < -claim.margin or (claim.both_ways and low > claim.margin)
    return "holds" if inside else "fails" if outside else "not shown"


def _line(claim: Claim, found: Comparison, p: float | None) -> str:
    said = verdict(claim, found, p)
    shown = "-" if p is None else f"{p:.3f}" if p >= 0.001 else "< .001"
    cells = [
        claim.text,
        f"{found.first:.1f}",
        f"{found.second:.1f}",
        f"{found.difference:+.1f} ({found.low:+.1f}..{found.high:+.1f})",
        shown,
        f"**{said}**",
        claim.why.get(said, ""),
    ]
    return "| " + " | ".join(cells) + " |"


def _model(one: Measured, folders: list[Path]) -> str:
    pairs = {record.efficiency.pairs_scored or 0 for record in one.records.values()}
    cells = [one.cell.label, str(len(folders))]
    for metric, skill in (
        ("t2v_R@1", None),
        ("v2t_R@1", None),
        *(("in_group_R@1", s) for s in SKILLS),
    ):
        got = estimate(folders, metric, skill)
        deviation = "" if got.sd is None else f" +- {got.sd:.1f}"
        cells.append(f"{got.mean:.1f}{deviation} ({got.low:.0f}..{got.high:.0f})")
    low, high = min(pairs), max(pairs)
    cells.append(f"{low:,}" if low == high else f"{low:,}..{high:,}")
    return "| " + " | ".join(cells) + " |"


def _conditions(cells: dict[str, Measured]) -> str:
    records: list[Record] = [r for one in cells.values() for r in one.records.values()]
    if not records:
        return "Nothing has been run yet."
    first = records[0]
    cpu = ", ".join(sorted({f"{r.env['cpu']}, {r.env['cores']} cores" for r in records}))
    hours = sum((r.phases.get("train", 0)) * (r.efficiency.threads or 1) for r in records) / 3600
    return (
        f"{first.data.train_clips} training videos, gallery of {first.data.clips}, "
        f"{first.data.queries} queries, towers trained from scratch, controlled track; "
        f"{len(records)} runs, {hours:.1f} core-hours of training. {cpu}. "
        "Made by `benchmarks/claims.py`."
    )


if __name__ == "__main__":
    sys.exit(main())
