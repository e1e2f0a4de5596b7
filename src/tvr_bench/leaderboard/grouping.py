"""Which results may be compared, and which of them are one system trained with several seeds."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from tvr_bench import config
from tvr_bench.errors import UserError
from tvr_bench.files import settings_hash
from tvr_bench.leaderboard.record import Record
from tvr_bench.schema import FOLDERS, MACHINE, PLACES

CONFIG_FILE = "config.yaml"
_LARGEST_CONFIG = 1_000_000  # bytes
_MOST_KEYS = 2_000
# A run's settings without its seed, its folders and what only the machine has to do with. Matched
# in the text, which `to_yaml` always writes alike: parsing a thousand of them takes seconds.
_OF_THE_RUN = re.compile(
    rf"^(?:seed|{'|'.join(PLACES)}):.*\n(?:[ -].*\n)*|^  (?:{'|'.join((*FOLDERS, *MACHINE))}):.*\n",
    re.MULTILINE,
)
_OF_TWO_STAGES = re.compile(r"^ +\w*(?:two_stage|top_k)\w*:.*\n", re.MULTILINE)
# settings that columns of their own show, or the protocol
_SHOWN = (
    *("track", "model.name", "backbone.name", "ocr.enabled", "ocr.engine", "ocr.source"),
    *("video.frames", "video.size", "text.words", "eval.selection", "eval.frames"),
    *("eval.captions", "eval.two_stage", "eval.parity", "eval.v2t"),
)

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
    }
    return [
        f"{p.track} track",
        _CAPTIONS[p.captions],
        f"{p.frames} frames of {height} x {width} pixels (height x width)",
        f"{p.words} words",
        f"weights {_SELECTION[p.selection]}",
        *(phrase for phrase, here in unusual.items() if here),
    ]


def group_hash(record: Record, *, without: frozenset[str] = frozenset()) -> str:
    """Return 16 hex digits that two records share only where their numbers may be compared.

    Protocol fields in `without` may differ all the same.
    """
    data = record.data
    return settings_hash(
        {
            "data": [data.name, data.variant, data.annotations_sha256, data.clips, data.queries],
            "missing": sorted(data.missing_ids),
            "protocol": record.protocol.model_dump(mode="json", exclude={"ocr", *without}),
        }
    )


@dataclass(frozen=True)
class RunSettings:
    """What a run's configuration says of its system: all of it but seed, folders and machine."""

    text: str

    @property
    def digest(self) -> str:
        """16 hex digits that depend on the settings alone; "" where a run has none."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16] if self.text else ""

    def without_two_stages(self) -> RunSettings:
        """Return the settings but for those of a second stage."""
        return RunSettings(_OF_TWO_STAGES.sub("", self.text))

    def changes(self) -> str:
        """Return `key=value` of what is not the default of the model, the data set and the track.

        What a column of its own shows is not repeated. Empty where there is nothing to compare.
        """
        return _changes(self.text)


def read_settings(run_dir: Path) -> RunSettings:
    """Return the settings of a run's folder, empty where it holds none that can be read."""
    path = run_dir / CONFIG_FILE
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_CONFIG:
            return RunSettings("")
        return _of_text(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return RunSettings("")


@cache
def _changes(text: str) -> str:
    own = _flat(text)
    usual = _usual(own)
    if usual is None:
        return ""
    return " ".join(
        f"{key}={value}"
        for key, value in own.items()
        if usual.get(key) != value and key not in _SHOWN and not key.startswith("data.")
    )


def _of_text(text: str) -> RunSettings:
    return RunSettings(_OF_THE_RUN.sub("", text))


def _usual(own: Mapping[str, str]) -> Mapping[str, str] | None:
    """Return the flat settings of a plain run of the same model, data set, track and backbone."""
    names = [f"{key}={own[key]}" for key in ("model.name", "data.name", "track") if own.get(key)]
    towers = own.get("backbone.name")
    with_towers = _defaults((*names, f"backbone.name={towers}")) if towers else None
    return with_towers or (_defaults(tuple(names)) if len(names) > 1 else None)


@cache
def _defaults(chosen: tuple[str, ...]) -> Mapping[str, str] | None:
    try:
        return _flat(_of_text(config.to_yaml(config.load(chosen))).text)
    except UserError:
        return None


def _flat(text: str) -> dict[str, str]:
    """Return `section.key` -> value as a person would type it; empty for what is no mapping."""
    try:
        content = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        # aliases can make a short text a tree without end
        return dict(islice(_leaves(content, ""), _MOST_KEYS))
    except (yaml.YAMLError, RecursionError):
        return {}


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif prefix and isinstance(node, list):
        yield prefix, f"[{','.join(_scalar(v) for v in node if not isinstance(v, (dict, list)))}]"
    elif prefix:
        yield prefix, _scalar(node)


def _scalar(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
