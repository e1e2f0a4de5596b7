"""The tables of the HTML page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tvr_bench.leaderboard.board import StageCurve
from tvr_bench.leaderboard.figures import names_of
from tvr_bench.leaderboard.markdown import p_value, skills_of
from tvr_bench.leaderboard.page_cells import (
    NONE,
    Cell,
    Column,
    Table,
    estimate,
    hardware,
    hardware_cell,
    number,
    shorten,
    signed,
    text_cell,
    with_sd,
)
from tvr_bench.leaderboard.record import STANDARD_METRICS
from tvr_bench.leaderboard.reported import CONFIDENCE, METRICS, Reported, as_printed
from tvr_bench.leaderboard.standing import ONE_SEED, SIGNIFICANT, Sample

Row = dict[str, Any]
_DIRECTIONS = {"t2v": "text → video", "v2t": "video → text"}


def quality_table(rows: Sequence[Row], styles: Mapping[str, int]) -> Table:
    """Return both directions' metrics with intervals, and each lead over the next."""
    columns = _identity(styles)
    columns.append(Column("seeds", number("seeds", 0), "", "runs with different seeds"))
    for direction, group in _DIRECTIONS.items():
        for metric in STANDARD_METRICS:
            name, falling = f"{direction}_{metric}", metric.startswith("R@")
            cell = estimate(name) if metric == "R@1" else number(name, 1)
            kind = "number main" if metric == "R@1" else "number"
            columns.append(Column(metric, cell, group, _HELP.get(metric, ""), falling, kind))
    columns.append(Column("RSum", with_sd("RSum"), "", _HELP["RSum"], True))
    columns.append(Column("lead over the next", _lead, "", _HELP["lead"], True, "lead"))
    table = _table("Quality", columns, rows)
    return replace(table, last=[column.cell(chance_row(rows[0])) for column in columns])


def chance_row(first: Row) -> Row:
    """Return what guessing reaches, text to video, and the other way where it is known there too.

    That is where every video has one text.
    """
    clips, queries = first["clips"], first["queries"]
    row: Row = {"rank": None, "model": "chance", "backbone": "", "ocr": "", "settings": ""}
    for direction in ("t2v", "v2t") if clips == queries else ("t2v",):
        recalls = {f"R@{k}": 100 * min(1.0, k / max(clips, 1)) for k in (1, 5, 10, 50)}
        values = {**recalls, "MdR": (clips + 1) / 2, "MnR": (clips + 1) / 2}
        row |= {f"{direction}_{name}": value for name, value in values.items()}
    return row


def skill_table(rows: Sequence[Row], styles: Mapping[str, int]) -> Table | None:
    """Return R@1 per skill inside the groups and over the gallery; None without skills."""
    skills = skills_of(rows)
    if not skills:
        return None
    columns = _identity(styles)
    for skill in skills:
        chance = next((r[f"chance:{skill}"] for r in rows if r.get(f"chance:{skill}")), None)
        name = shorten(skill, 40)
        group = f"{name} (chance {chance:.0f})" if chance is not None else name
        for head, key in (("in group", "in_group"), ("gallery", "t2v_R@1")):
            columns.append(Column(head, with_sd(key, f":{skill}"), group, _HELP[head], True))
    return _table("Skills, R@1 text to video", columns, rows)


def cost_table(rows: Sequence[Row], styles: Mapping[str, int]) -> Table:
    """Return what each system costs; operations first, for no machine has a part in them."""
    columns = _identity(styles)
    operations, search, training = "operations", "search", "memory and training"
    for head, name, digits, unit, group in (
        ("M params", "params", 2, 1e6, ""),
        ("GFLOPs text", "gflops_text", 3, 1.0, operations),
        ("GFLOPs video", "gflops_video", 3, 1.0, operations),
        ("MFLOPs pair", "gflops_pair", 3, 1e-3, operations),
        ("GFLOPs query", "gflops_query", 3, 1.0, operations),
        ("pairs scored", "pairs_scored", 0, 1.0, search),
        ("ms/query p50", "ms_per_query_p50", 2, 1.0, search),
        ("p95", "ms_per_query_p95", 2, 1.0, search),
        ("kB/video", "gallery_bytes_per_video", 1, 1e3, search),
        ("peak MB", "peak_mem_mb", 0, 1.0, training),
        ("train s", "train_s", 0, 1.0, training),
        ("videos/s", "videos_per_s", 0, 1.0, training),
    ):
        columns.append(Column(head, number(name, digits, unit), group, _HELP.get(name, "")))
    if len({hardware(row) for row in rows}) > 1:
        where = Column("hardware", hardware_cell, training, _HELP["hardware"], kind="text small")
        columns.append(where)
    columns.append(Column("missing", number("missing", 0), "videos", _HELP["missing"]))
    columns.append(Column("failed", number("failed", 0), "videos", _HELP["failed"]))
    return _table("Cost", columns, rows)


def origin_table(rows: Sequence[Row], styles: Mapping[str, int]) -> Table:
    """Return the runs behind each row."""
    columns = [
        *_identity(styles),
        Column("seed", lambda row: text_cell(row["seed_list"]), kind="text"),
        Column("left aside", number("repeats", 0), "", _HELP["repeats"]),
        Column("commit", _commit, kind="text"),
        Column("latest", lambda row: text_cell(row["date"][:10]), kind="text"),
        Column("runs", _runs, kind="text"),
    ]
    return _table("Runs behind the rows", columns, rows)


def stage_table(curves: Sequence[StageCurve], styles: Mapping[str, int]) -> Table:
    """Return what each k reaches and costs beside scoring everything (k: all)."""
    rows = []
    for curve in curves:
        whole = curve.whole and curve.whole["t2v_R@1"]
        for row in (*curve.rows, curve.whole):
            if row is not None:
                gap = None if whole is None else row["t2v_R@1"] - whole
                rows.append({**row, "gap": gap, "k": row["two_stage"] or row["clips"]})
    columns = [
        _identity(styles)[1],
        Column("k", _k, "", "videos per query that the model scores"),
        Column("seeds", number("seeds", 0), "", "runs with different seeds"),
        Column("R@1", with_sd("t2v_R@1"), "", _HELP["R@1"], True),
        Column("to all", signed("gap"), "", "R@1 less that of scoring every video", True),
        Column("V2T R@1", with_sd("v2t_R@1"), "", "video to text", True),
        Column("pairs scored", number("pairs_scored", 0), "", _HELP["pairs_scored"]),
        Column("GFLOPs query", number("gflops_query", 3), "", _HELP["gflops_query"]),
        Column("ms/query", number("ms_per_query_p50", 2), "", _HELP["ms_per_query_p50"]),
    ]
    return _table("R@1 and cost by k", columns, rows)


def sample_table(samples: Sequence[Sample], rows: Sequence[Row]) -> Table | None:
    """Return a few captions with the rank of the right video in each of the first systems."""
    if not samples:
        return None
    names = names_of(rows)[:8]
    columns = [
        Column("caption", lambda row: text_cell(row["text"], "text caption"), kind="text"),
        Column("skill", lambda row: text_cell(row["skill"]), kind="text"),
        *(
            Column(name, _rank(i), _HELP["found"], kind="number name")
            for i, name in enumerate(names)
        ),
    ]
    found = [
        {"text": s.text, "skill": s.skill, "ranks": s.ranks, "found": s.found} for s in samples
    ]
    return _table("A few queries", columns, found)


def reported_table(results: Sequence[Reported], caption: str) -> Table:
    """Return papers' numbers as printed, with source, confidence and red flags."""
    columns = [
        Column("data", lambda r: text_cell(r["data"]), kind="text"),
        Column("system", _reported_system, kind="text"),
    ]
    for direction, group in _DIRECTIONS.items():
        for metric in METRICS:
            falling = metric.startswith("R@")
            columns.append(Column(metric, _printed(direction, metric), group, falling=falling))
    columns.append(Column("source", _source, kind="text small"))
    columns.append(Column("red flags", _flags, kind="text small"))
    rows = [
        {"result": one.result, "data": f"{one.result.data} {one.result.split}"} for one in results
    ]
    return _table(caption, columns, rows)


def _table(caption: str, columns: list[Column], rows: Sequence[Row]) -> Table:
    return Table(caption, columns, [[column.cell(row) for column in columns] for row in rows])


def _identity(styles: Mapping[str, int]) -> list[Column]:
    def model(row: Row) -> Cell:
        ocr = {"none": "no OCR", "": ""}.get(row["ocr"], f"OCR {row['ocr']}")
        parts = [shorten(part) for part in (row["backbone"], ocr, row["settings"]) if part]
        name = shorten(row["model"], 80)
        return Cell(name, name, "", " · ".join(parts), "text model", styles.get(row["model"]))

    what = "the model, its backbone, who reads the scene text, and settings that are not the usual"
    return [
        Column("#", number("rank", 0), "", "rank inside this group, by R@1 text to video"),
        Column("model", model, "", what, kind="text"),
    ]


def _lead(row: Row) -> Cell:
    value, verdict, p = row.get("lead"), row.get("lead_verdict"), row.get("lead_p_holm")
    if value is None or verdict is None:
        return Cell(NONE, kind="lead")
    beneath = verdict if p is None else f"{verdict}, p {p_value(p)}"
    kind = "lead strong" if verdict in (SIGNIFICANT, ONE_SEED) else "lead weak"
    return Cell(f"+{value:.1f}", repr(float(value)), "", beneath, kind)


def _k(row: Row) -> Cell:
    text = str(row["two_stage"]) if row["two_stage"] else f"all {row['clips']}"
    return Cell(text, repr(float(row["k"])))


def _commit(row: Row) -> Cell:
    commits = str(row["git"] or "").split(" / ")
    text = " ".join(commit[:9] for commit in commits) or "unknown"
    return text_cell(f"{text}, changed" if row["dirty"] else text)


def _runs(row: Row) -> Cell:
    links = row.get("links") or ()
    return Cell("" if links else row["run_ids"], row["run_ids"], kind="text small", links=links)


def _rank(place: int) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        rank = row["ranks"][place]
        if rank is None:
            return Cell(NONE)
        best = shorten(row["found"][place], 90) if rank > 1 else ""
        return Cell(f"{rank:g}", repr(float(rank)), "", best and f"found: {best}", "found")

    return cell


def _printed(direction: str, metric: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        value = getattr(row["result"], direction).get(metric)
        return Cell(NONE) if value is None else Cell(as_printed(metric, value), repr(value))

    return cell


def _reported_system(row: Row) -> Cell:
    result = row["result"]
    return Cell(shorten(result.system), result.system, "", shorten(result.backbone), "text model")


def _source(row: Row) -> Cell:
    result = row["result"]
    found = [CONFIDENCE[result.confidence], result.cost]
    beneath = " · ".join(shorten(part, 300) for part in found if part)
    return Cell(shorten(result.source, 300), result.source, "", beneath, "text small")


def _flags(row: Row) -> Cell:
    flags = "; ".join(row["result"].flags)
    return Cell(flags, flags, kind="text small flag") if flags else Cell(NONE, kind="text small")


_HELP = {
    "found": "rank of the right video (median over seeds), and what came first instead",
    "R@1": "recall at 1 in percent, ± standard deviation over seeds; below: 95 % interval",
    "R@5": "recall at 5 in percent",
    "R@10": "recall at 10 in percent",
    "R@50": "recall at 50 in percent",
    "MdR": "median rank of the right item",
    "MnR": "mean rank of the right item",
    "RSum": "R@1 + R@5 + R@10 of both directions, at most 600",
    "lead": "R@1 text to video less that of the next row, and whether it means anything",
    "in group": "R@1 among the query's hard negatives, ± standard deviation over seeds",
    "gallery": "R@1 over the whole gallery, ± standard deviation over seeds",
    "gflops_text": "10^9 operations of encoding a text",
    "gflops_video": "10^9 operations of encoding a video",
    "gflops_pair": "10^6 operations of scoring a pair",
    "gflops_query": "10^9 operations of answering a query, the gallery being encoded",
    "pairs_scored": "distinct pairs that the model scored in the whole test",
    "ms_per_query_p50": "median time of searching the gallery for one query",
    "ms_per_query_p95": "95th percentile of it",
    "gallery_bytes_per_video": "what is kept of a video",
    "videos_per_s": "videos that training encoded per second, each as often as it did",
    "hardware": "where time and memory were measured",
    "missing": "videos without a file; each is a miss",
    "failed": "videos that could not be read; each is a miss",
    "repeats": "further runs of the same seed; the latest counts",
}
