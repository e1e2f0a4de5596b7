"""What the models can tell apart on SignVid: three seeds each, with and without scene text.

Run: `.venv/bin/python benchmarks/signvid.py [--runs FOLDER] [--seeds 0 1 2]`. Every cell is a
process of its own; a cell whose record exists is not run again. Writes `benchmarks/signvid.md` and
`docs/skills.png`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from tvr_bench.leaderboard.record import RECORD_FILE, Record, load_ranks, load_record
from tvr_bench.leaderboard.skills import draw_skills

CELLS = {
    "T-CARD": ["model=tcard"],
    "T-CARD without OCR": ["model=tcard", "ocr.enabled=false"],
    "mean pooling": ["model=meanpool"],
}
SKILLS = ("appearance", "temporal", "relation", "scene_text")
DRAWS = 2000
HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/signvid-bench"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value")
    options = parser.parse_args()
    found = {
        name: [run(name, seed, options.runs, [*settings, *options.set]) for seed in options.seeds]
        for name, settings in CELLS.items()
    }
    done = {name: [d for d in dirs if d is not None] for name, dirs in found.items()}
    text = report({name: dirs for name, dirs in done.items() if dirs})
    (HERE / "signvid.md").write_text(text)
    print(text)
    return 0 if all(len(dirs) == len(options.seeds) for dirs in done.values()) else 1


def run(name: str, seed: int, root: Path, settings: list[str]) -> Path | None:
    """Train and test one cell unless its record exists; return its folder, None if it failed."""
    folder = name.lower().replace(" ", "-") + f"-s{seed}"
    if not (root / folder / RECORD_FILE).exists():
        command = [sys.executable, "-m", "tvr_bench", "bench", f"seed={seed}", *settings]
        command += [f"run.root={root}", f"run.name={folder}", f"run.leaderboard={root}"]
        print(" ".join(command[3:]), file=sys.stderr)
        if subprocess.run(command, check=False).returncode:
            print(f"{folder} failed; the others go on", file=sys.stderr)
            return None
    return root / folder


def report(found: dict[str, list[Path]]) -> str:
    """Return the Markdown page and draw the figure."""
    records = {name: [load_record(d) for d in dirs] for name, dirs in found.items()}
    first = next(iter(records.values()))[0]
    lines = [
        "# SignVid `small`: what each model can tell apart",
        "",
        f"{first.data.train_clips} training videos, gallery of {first.data.clips}, "
        f"{first.data.queries} queries; mean of {max(map(len, records.values()))} seeds +- "
        "standard deviation, in percent; in brackets a 95 % bootstrap interval over groups of "
        "videos. "
        f"{first.env['cpu']}, {first.env['cores']} cores. Made by `benchmarks/signvid.py`.",
        "",
        "| model | T2V R@1 | R@5 | R@10 | V2T R@1 | training, core-seconds | peak GB |",
        "|---|---|---|---|---|---|---|",
        *(_overall(name, found[name], rs) for name, rs in records.items()),
        "",
        "Text to video inside the hard-negative groups (chance 25):",
        "",
        "| model | " + " | ".join(SKILLS) + " |",
        "|---|" + "---|" * len(SKILLS),
        *(_skills(name, found[name], rs) for name, rs in records.items()),
        "",
    ]
    bars = {n: {s: float(np.mean(in_group(rs, s))) for s in SKILLS} for n, rs in records.items()}
    draw_skills(HERE.parent / "docs" / "skills.png", bars, dict.fromkeys(SKILLS, 25.0))
    return "\n".join(lines)


def _overall(name: str, dirs: list[Path], records: list[Record]) -> str:
    cells = [
        _spread([r.metrics.t2v["R@1"] for r in records]) + _interval(dirs, records, "t2v", ""),
        _spread([r.metrics.t2v["R@5"] for r in records]),
        _spread([r.metrics.t2v["R@10"] for r in records]),
        _spread([r.metrics.v2t["R@1"] for r in records]),
        f"{np.mean([r.phases['train'] * (r.efficiency.threads or 1) for r in records]):.0f}",
        f"{np.max([r.efficiency.peak_mem_mb or 0 for r in records]) / 1000:.1f}",
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def _skills(name: str, dirs: list[Path], records: list[Record]) -> str:
    cells = [
        _spread(in_group(records, skill)) + _interval(dirs, records, "in_group", skill)
        for skill in SKILLS
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def in_group(records: list[Record], skill: str) -> list[float]:
    return [r.metrics.by_skill[skill].in_group["R@1"] for r in records]


def _spread(values: list[float]) -> str:
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.1f} +- {deviation:.1f}"


def _interval(dirs: list[Path], records: list[Record], kind: str, skill: str) -> str:
    """Return a bootstrap interval of R@1: groups are drawn, with all seeds of their queries."""
    hits: dict[str, list[float]] = {}
    for folder, record in zip(dirs, records, strict=True):
        ranks = load_ranks(record, folder)
        ids = ranks["query_ids" if kind == "t2v" else "in_group_ids"]
        share = (1 - ranks[f"{kind}_ahead"]) / (ranks[f"{kind}_tied"] + 1)
        for query, hit in zip(ids.tolist(), np.clip(share, 0, 1).tolist(), strict=True):
            group = query.split("#")[0].rsplit("-", 1)[0]
            if not skill or _skill_of(group) == skill:
                hits.setdefault(group, []).append(hit)
    groups = np.array([np.mean(values) for values in hits.values()])
    draws = np.random.default_rng(0).integers(len(groups), size=(DRAWS, len(groups)))
    low, high = np.percentile(100 * groups[draws].mean(1), [2.5, 97.5])
    return f" ({low:.0f}..{high:.0f})"


def _skill_of(group: str) -> str:
    """Return the skill of a test group: they take turns in a fixed order."""
    return SKILLS[int(group.rsplit("g", 1)[1]) % len(SKILLS)]


if __name__ == "__main__":
    sys.exit(main())
