"""What the four papers claim, held against SignVid `small`: which claims hold here, which do not.

Run: `.venv/bin/python benchmarks/claims.py [--jobs 2] [seeds=5] [key=value ...]`. It runs what is
left of the sweep `claims` (every cell and seed a process of its own), then writes
`benchmarks/claims.md`, `docs/skills.png` and `docs/learning.png`. With `--scratch` it runs the
cells of the page's second table instead, whose towers are trained from random weights; `--only`
runs a part, and `--report` nothing: the page says what was not run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from claims_held import MODELS, SCRATCH, SKILLS
from claims_page import Table, page, table

from tvr_bench.errors import UserError, nearest
from tvr_bench.evaluation.significance import mean_sd
from tvr_bench.files import atomic_write
from tvr_bench.launch.local import make_folder, run_tasks
from tvr_bench.launch.sweep import (
    ROOT,
    Plan,
    bench_command,
    plan,
    print_failures,
    print_plan,
    seeds_of,
)
from tvr_bench.leaderboard.learning import draw_learning, read_curves
from tvr_bench.leaderboard.skills import draw_skills
from tvr_bench.leaderboard.sweep_report import Measured

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
MAIN = "main"  # of --only: the models of the leaderboard
CHANCE = dict.fromkeys(SKILLS, 25.0)


def main() -> int:
    options = _parser().parse_intermixed_args()
    given = [s for s in options.settings if s.startswith("seeds=")]
    settings = [s for s in options.settings if s not in given]
    try:
        seeds = seeds_of(given[-1].split("=", 1)[1] if given else "5")
        plans = plans_of(settings, seeds)
        chosen = part(plans[1 if options.scratch else 0], options.only)
    except UserError as error:
        print(f"claims.py: {error}", file=sys.stderr)
        return 2
    if options.dry_run:
        print_plan(chosen)
        return 0
    code = 0
    if not options.report:
        make_folder(chosen.folder)
        tasks = [task for _, _, task in chosen.tasks]
        try:
            outcomes = run_tasks("claims", tasks, bench_command, jobs=options.jobs)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            return 130
        code = print_failures(outcomes)
    tables = [
        table("pretrained", "Pretrained towers", plans[0]),
        table("scratch", "From scratch", plans[1]),
    ]
    text = page(tables)
    atomic_write(HERE / "claims.md", text)
    draw(tables[0], DOCS)
    print(text)
    return code


def plans_of(settings: Sequence[str], seeds: Sequence[int]) -> tuple[Plan, Plan]:
    """Return the plans of the two tables; the runs of the second are in a folder of their own."""
    if not any(s.startswith("trainer.threads=") for s in settings):
        settings = [*settings, "trainer.threads=1"]  # they order sums; --jobs must change no number
    roots = [s.split("=", 1)[1] for s in settings if s.startswith("run.root=")]
    root = Path(roots[-1] if roots else ROOT) / "scratch"
    scratch = [*settings, *SCRATCH, f"run.root={root}"]
    return plan("claims", settings, seeds), plan("claims", scratch, seeds)


def part(planned: Plan, labels: Sequence[str]) -> Plan:
    """Return the runs of the cells `labels`, all without one; raises UserError for no cell's."""
    if not labels:
        return planned
    known = list(dict.fromkeys(cell.label for cell, _, _ in planned.tasks))
    wanted = {one for label in labels for one in (MODELS if label == MAIN else (label,))}
    for label in sorted(wanted - set(known)):
        raise UserError(f"--only '{label}' is no cell.{nearest(label, known, cutoff=0.0)}")
    return replace(planned, tasks=tuple(t for t in planned.tasks if t[0].label in wanted))


def draw(one: Table, folder: Path) -> None:
    """Draw what the five models can tell apart, and how they learn it; those that were run."""
    models = {label: one.cells[label] for label in MODELS if one.cells[label].records}
    if models:
        bars, seeds = ({m: _per_skill(cell)[i] for m, cell in models.items()} for i in (0, 1))
        draw_skills(folder / "skills.png", bars, CHANCE, seeds)
    curves = {
        label: [read_curves(run, SKILLS) for run in one.runs[label].values()] for label in models
    }
    if any(run for runs in curves.values() for run in runs):
        draw_learning(folder / "learning.png", curves, CHANCE)


def _per_skill(cell: Measured) -> tuple[dict[str, float], dict[str, float]]:
    """Return the mean over seeds of each skill, and the standard deviation; 0 for one seed."""
    means, spread = {}, {}
    for skill in SKILLS:
        values = [r.metrics.by_skill[skill].in_group["R@1"] for r in cell.records.values()]
        means[skill], sd = mean_sd(values)
        spread[skill] = sd or 0.0
    return means, spread


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at the same time")
    parser.add_argument(
        *("--only", "-o"),
        action="append",
        default=[],
        metavar="CELL",
        help=f"run this cell alone, may be repeated; {MAIN}: the five models",
    )
    parser.add_argument("--scratch", action="store_true", help="run cells of the second table")
    parser.add_argument("--dry-run", action="store_true", help="print the runs and their state")
    parser.add_argument("--report", action="store_true", help="run nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
