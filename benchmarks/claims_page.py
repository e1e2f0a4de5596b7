"""The page of the claims: what holds at a glance, then why, then the models, then from scratch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from claims_held import CLAIMS, PAPERS, SKILLS, WHY, Claim
from claims_judged import Judged, Runs, judge

from tvr_bench.launch.sweep import Plan, measured
from tvr_bench.leaderboard.grouping import data_name
from tvr_bench.leaderboard.per_query import estimate
from tvr_bench.leaderboard.record import Record
from tvr_bench.leaderboard.sweep_report import Measured

NOT_RUN = "not run"
HOW = (
    "A claim is two models that differ in one thing, and the difference between them with its 95 % "
    "interval over other videos. SignVid makes its videos in groups of four, which are drawn "
    "together.",
    "- **holds**: a gain has p below .05 (sign flips by group, seeds averaged first, Holm over all "
    "gains of the table) and exceeds two standard errors over seeds. Where it says that little is "
    "lost, the interval and those two standard errors stay inside the margin. Where two stages "
    "test the weights of one, no seed leaves the margin. Where it says chance, the interval "
    "contains what guessing reaches.",
    "- **fails**: the opposite is shown in the same way. **not shown**: neither is; a gain within "
    "the spread of seeds is never more than that.",
    "SignVid says what a model can tell apart; it never stands in for a paper's own numbers.",
)


@dataclass(frozen=True)
class Table:
    """All that was run of the sweep with one kind of towers; `key` is what `WHY` calls it."""

    key: str
    title: str
    cells: Mapping[str, Measured]
    runs: Runs
    judged: Mapping[Claim, Judged]


def table(key: str, title: str, planned: Plan) -> Table:
    """Return what has been run of a plan, with its claims judged."""
    cells = {one.cell.label: one for one in measured(planned)}
    runs = {
        label: {
            seed: task.find()
            for cell, seed, task in planned.tasks
            if cell.label == label and seed in one.records
        }
        for label, one in cells.items()
    }
    return Table(key, title, cells, runs, judge(CLAIMS, runs))


def page(tables: Sequence[Table]) -> str:
    """Return the page of the tables, the first of which is the main one."""
    data = sorted({data_name(r) for one in tables for r in _records(one)})
    name = f", on {' and '.join(f'`{one}`' for one in data)}" if data else ""
    lines = [f"# What the papers claim{name}", "", "Made by `benchmarks/claims.py`.", ""]
    lines += [*_overview(tables), "", *[line for text in HOW for line in (text, "")]]
    for one in tables:
        lines += [f"## {one.title}", "", _conditions(one), ""]
        if not _records(one):
            continue
        for paper in PAPERS:
            lines += [*_claims(one, paper), ""]
        lines += [f"### {one.title}: the models", "", *_models(one), ""]
        if one is tables[0]:
            lines += ["![In-group accuracy per skill](../docs/skills.png)", ""]
            lines += ["![The same in validation, over training](../docs/learning.png)", ""]
    return "\n".join(lines).rstrip() + "\n"


def _overview(tables: Sequence[Table]) -> list[str]:
    lines = [
        _row("", "claims", *(one.title.lower() for one in tables)),
        _row("---", "--:", *("---" for _ in tables)),
    ]
    for paper in PAPERS:
        claims = [claim for claim in CLAIMS if claim.paper == paper]
        lines.append(_row(paper, str(len(claims)), *(_count(one, claims) for one in tables)))
    return lines


def _count(one: Table, claims: Sequence[Claim]) -> str:
    said = Counter(one.judged[c].verdict if c in one.judged else NOT_RUN for c in claims)
    words = {"holds": "**{} hold**", "fails": "**{} fail**"}
    if said["holds"] == 1:
        words["holds"] = "**{} holds**"
    if said["fails"] == 1:
        words["fails"] = "**{} fails**"
    order = ("holds", "fails", "not shown", NOT_RUN)
    return ", ".join(words.get(v, f"{{}} {v}").format(said[v]) for v in order if said[v])


def _claims(one: Table, paper: str) -> list[str]:
    claims = [claim for claim in CLAIMS if claim.paper == paper]
    left = [claim.text for claim in claims if claim not in one.judged]
    lines = [f"### {one.title}: {paper}", ""]
    if len(left) < len(claims):
        lines += [
            _row("claim", "verdict", "first", "second", "difference", "p (Holm)", "why"),
            _row("---", "---", "--:", "--:", "--:", "--:", "---"),
            *(_claim(one, one.judged[claim]) for claim in claims if claim in one.judged),
        ]
    if left and len(left) < len(claims):
        lines.append("")
    if left:
        lines.append(f"{NOT_RUN.capitalize()}: {'; '.join(left)}.")
    return lines


def _claim(one: Table, judged: Judged) -> str:
    said, found, p = judged.verdict, judged.found, judged.p
    written = WHY.get(one.key, {}).get(judged.claim.name, {}).get(said, "")
    return _row(
        judged.claim.text,
        said if said == "not shown" else f"**{said}**",
        f"{found.first:.1f}",
        f"{found.second:.1f}",
        f"{found.difference:+.1f} ({found.low:+.1f}..{found.high:+.1f})",
        "-" if p is None else "< .001" if p < 0.001 else f"{p:.3f}",
        " ".join(part for part in (written, judged.reason) if part),
    )


def _models(one: Table) -> list[str]:
    there = {label: cell for label, cell in one.cells.items() if cell.records}
    left = [label for label in one.cells if label not in there]
    lines = []
    if there:
        lines = [
            "Mean over seeds +- standard deviation in percent, and the 95 % interval over other "
            "videos. Skills are text to video inside the groups of hard negatives.",
            "",
            _row("model", "seeds", "T2V R@1", "V2T R@1", *SKILLS, "core-minutes", "pairs scored"),
            _row("---", *("--:" for _ in range(len(SKILLS) + 5))),
            *(_model(cell, one.runs[label]) for label, cell in there.items()),
            "",
            f"Guessing reaches {_chance(one)} inside a group.",
        ]
    if left:
        lines += ["", f"{NOT_RUN.capitalize()}: {'; '.join(left)}."]
    return lines


def _model(cell: Measured, runs: Mapping[int, object]) -> str:
    folders = [str(folder) for folder in runs.values()]
    columns = [("t2v_R@1", None), ("v2t_R@1", None), *(("in_group_R@1", s) for s in SKILLS)]
    values = []
    for metric, skill in columns:
        got = estimate(folders, metric, skill)
        deviation = "" if got.sd is None else f" +- {got.sd:.1f}"
        values.append(f"{got.mean:.1f}{deviation} ({got.low:.0f}..{got.high:.0f})")
    records = list(cell.records.values())
    pairs = sorted(record.efficiency.pairs_scored or 0 for record in records)
    shown = [f"{n:,}" for n in dict.fromkeys((pairs[0], pairs[-1]))]
    return _row(cell.cell.label, str(len(records)), *values, _minutes(records), "..".join(shown))


def _minutes(records: Sequence[Record]) -> str:
    trained = [core_minutes(record) for record in records if record.phases.get("train")]
    return f"{fmean(trained):.1f}" if trained else "-"


def core_minutes(record: Record) -> float:
    """Return what the training of a run cost, in minutes of one core."""
    return record.phases.get("train", 0.0) * (record.efficiency.threads or 1) / 60


def _chance(one: Table) -> str:
    levels = {
        found.in_group["chance_R@1"]
        for record in _records(one)
        for found in record.metrics.by_skill.values()
        if "chance_R@1" in found.in_group
    }
    return " or ".join(f"{level:g} %" for level in sorted(levels)) or "nothing known"


def _conditions(one: Table) -> str:
    records = _records(one)
    if not records:
        return f"{NOT_RUN.capitalize()}."
    first = records[0]
    cpu = ", ".join(sorted({f"{r.env.get('cpu', 'CPU')}" for r in records}))
    seeds = sorted({len(cell.records) for cell in one.cells.values() if cell.records})
    towers = sorted({_towers(r) for r in records})
    hours = sum(map(core_minutes, records)) / 60
    number = "-".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1])))
    return (
        f"{number} seed{'' if number == '1' else 's'}; {first.data.train_clips} training videos, "
        f"gallery of {first.data.clips}, {first.data.queries} queries; {' and '.join(towers)}; "
        f"{len(records)} runs, {hours:.1f} core-hours of training. {cpu}."
    )


def _towers(record: Record) -> str:
    towers, frozen = record.protocol.towers, record.protocol.frozen
    begun = "towers from random weights"
    if towers is not None:
        begun = f"towers pretrained (`{towers.name or record.model.backbone}`)"
    return f"{begun}, frozen: {frozen}"


def _records(one: Table) -> list[Record]:
    """Return the records of all runs; two cells may share one, where a variant is the default."""
    cells = one.cells.values()
    return list({r.run.id: r for cell in cells for r in cell.records.values()}.values())


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
