"""What tells one system from another on sight: no two that were made differently look alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from tvr_bench.leaderboard.record import Record
from tvr_bench.leaderboard.run_settings import RunSettings

_SEEN = ("model", "backbone", "ocr", "settings")
_MOST = 3  # differences that are shown
_DIGITS = 6  # of a hash


def said(record: Record, settings: RunSettings) -> str:
    """Return `key=value` of settings that are not the usual, and the names of what was given."""
    inputs, protocol = record.inputs, record.protocol
    told = protocol.towers if protocol.track == "controlled" else None  # by the protocol
    named = {
        key: one.name
        for key, one in inputs.items()
        if key.startswith(("features.", "backbone.", "run.")) and one.name and one != told
    }
    text = inputs.get("test.text") or inputs.get("train.text")
    if text is not None:
        named["ocr.given"] = text.name
    train, test = inputs.get("train.captions"), inputs.get("test.captions")
    if train is not None and test is not None and train.name != test.name:
        named["trained_on"] = train.name
    parts = [f"{key}={value.replace(' ', '_')}" for key, value in named.items()]
    return " ".join((*settings.changes(), *parts))


def made_of(record: Record, settings: RunSettings) -> dict[str, str]:
    """Return all that makes two runs two systems, by a short name: settings, and hashes of inputs.

    `precision` is what `trainer.precision=auto` came to.
    """
    return {
        **settings.values,
        **{key: one.sha256 for key, one in record.inputs.items()},
        "params": str(record.model.params),
        "precision": record.efficiency.dtype,
        "windows": record.protocol.ocr.model_dump_json(),
    }


def tell_apart(rows: Sequence[dict[str, object]], parts: Sequence[Mapping[str, str]]) -> None:
    """Add to the settings of rows that would look alike what sets them apart; `parts` by row."""
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        alike[tuple(row[name] for name in _SEEN)].append(i)
    for places in alike.values():
        if len(places) < 2:
            continue
        keys = sorted({key for i in places for key in parts[i]})
        apart = [key for key in keys if len({parts[i].get(key) for i in places}) > 1]
        for i in places:
            marks = [f"{key}={_short(parts[i].get(key))}" for key in apart[:_MOST]]
            rows[i]["settings"] = " ".join(filter(None, (str(rows[i]["settings"]), *marks)))


def _short(value: str | None) -> str:
    if value is None:
        return "unknown"
    is_hash = len(value) == 64 and all(letter in "0123456789abcdef" for letter in value)
    return f"#{value[:_DIGITS]}" if is_hash else value
