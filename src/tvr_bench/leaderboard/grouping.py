"""Which results may be compared, and which of them are one system trained with several seeds."""

from __future__ import annotations

from tvr_bench.files import settings_hash
from tvr_bench.leaderboard.record import Record

_CAPTIONS = {
    "single": "one caption per video",
    "all": "every caption is a query",
    "random": "one caption per video, drawn at random",
    "paragraph": "a video's captions joined to one",
}
_SELECTION = {
    "best_val": "best on validation",
    "last": "after the last step",
    "best_test": "best on test (only to repeat a paper's protocol)",
}

_FROZEN = {
    "none": "all towers learn",
    "image": "image tower frozen",
    "all": "both towers frozen",
}


def data_name(record: Record) -> str:
    """Return the data set with its edition and what its user calls it, e.g. `csv clips.csv`."""
    data = record.data
    return " ".join(part for part in (data.name, data.variant, data.title) if part)


def trained_elsewhere(record: Record) -> str:
    """Return the data set that the weights were trained on where it is not the tested one."""
    there = record.protocol.trained_on
    return there.data if there is not None and there.data != data_name(record) else ""


def protocol_key(record: Record) -> str:
    """Return the protocol in words that fit a column, e.g. `single|12f|224x224|32w|best_val`.

    Frames, height x width in pixels, words and the choice of weights are always there; the rest
    only where it is not the usual.
    """
    p = record.protocol
    height, width = p.resolution
    track = ["paper track"] if p.track == "paper" else []
    parts = [*track, p.captions, f"{p.frames}f", f"{height}x{width}", f"{p.words}w", p.selection]
    if p.postprocess != "none":
        parts.append(p.postprocess)
    if p.two_stage is not None:
        parts.append(f"top{p.two_stage}")
    if p.parity != "none":
        parts.append(f"as {p.parity} ranks")
    if p.v2t != "caption":
        parts.append("captions grouped")
    if record.data.missing_ids:
        parts.append(f"{len(record.data.missing_ids)}missing")
    if there := trained_elsewhere(record):
        parts.append(f"trained on {there}")
    if towers := _towers(record):
        parts.append(towers)
    if _rules_towers(record) and p.frozen != "none":
        parts.append(f"frozen {p.frozen}")
    return "|".join(parts)


def protocol_words(record: Record) -> list[str]:
    """Return the protocol as phrases for people, the unusual ones last."""
    p, missing = record.protocol, len(record.data.missing_ids)
    height, width = p.resolution
    unusual = {
        f"scores post-processed ({p.postprocess})": p.postprocess != "none",
        f"two stages, the model scores the top {p.two_stage}": p.two_stage is not None,
        f"ranked as the released code of {p.parity}, for comparison only": p.parity != "none",
        "video to text, a video's captions compete as one": p.v2t == "group",
        f"{missing} missing videos count as misses": missing > 0,
        f"weights trained on {trained_elsewhere(record)}": bool(trained_elsewhere(record)),
        f"pretrained {_towers(record)}": bool(_towers(record)),
        _FROZEN[p.frozen]: _rules_towers(record) and p.frozen != "none",
    }
    return [
        f"{p.track} track",
        _CAPTIONS[p.captions],
        f"{p.frames} frames of {height} x {width} pixels (height x width)",
        f"{p.words} words",
        f"weights {_SELECTION[p.selection]}",
        *(phrase for phrase, here in unusual.items() if here),
    ]


def _rules_towers(record: Record) -> bool:
    """Return whether towers and their freezing are a rule: each paper has its own."""
    return record.protocol.track == "controlled"


def _towers(record: Record) -> str:
    """Return such as `towers signvid #1f2e3d`, "" for those from scratch and in the paper track."""
    towers = record.protocol.towers
    if towers is None or not _rules_towers(record):
        return ""
    name = towers.name or record.model.backbone
    return f"towers {name} #{towers.sha256[:6]}"


def group_hash(record: Record, *, without: frozenset[str] = frozenset()) -> str:
    """Return 16 hex digits that two records share only where their numbers may be compared.

    Protocol fields in `without` may differ all the same.
    """
    data, there = record.data, record.protocol.trained_on
    elsewhere = {}
    if there is not None and trained_elsewhere(record):
        elsewhere = {"trained_on": [there.data, there.annotations_sha256]}
    if _rules_towers(record):
        towers = record.protocol.towers
        begun = {"towers": towers and towers.sha256, "frozen": record.protocol.frozen}
    else:
        begun = {}
    return settings_hash(
        {
            "data": [data.name, data.variant, data.annotations_sha256, data.clips, data.queries],
            "missing": sorted(data.missing_ids),
            "protocol": record.protocol.model_dump(
                mode="json", exclude={"ocr", "trained_on", "towers", "frozen", *without}
            ),
            **begun,
            **elsewhere,
        }
    )
