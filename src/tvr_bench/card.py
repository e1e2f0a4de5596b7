"""The card of a published model, made from its run's record: nothing in it is typed by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from tvr_bench.leaderboard.grouping import data_name, protocol_words
from tvr_bench.leaderboard.markdown import plain
from tvr_bench.leaderboard.per_query import estimate
from tvr_bench.leaderboard.record import STANDARD_METRICS, Record
from tvr_bench.leaderboard.run_settings import settings_in
from tvr_bench.published import CONFIG_FILE

_DIRECTIONS = {"t2v": "text to video", "v2t": "video to text"}
_TOWERS = {  # of whom, under what licence
    "clip_vit_b32": "OpenAI's CLIP ViT-B/32 (MIT)",
    "clip_vit_b16": "OpenAI's CLIP ViT-B/16 (MIT)",
    "cait_bert": "CaiT-S/24 of timm and BERT-base of Google (both Apache-2.0)",
}
_LOAD = """```python
import tvr_bench

model = tvr_bench.load_model("FOLDER")  # or USER/NAME on the Hugging Face hub
result = tvr_bench.evaluate(model, "{data}")
print(result.t2v["R@1"], result.v2t["R@1"])
```

`load_model("FOLDER", **{{"data.root": "/data"}})` says where a data set lies. The same test as a
recorded run: `tvr-bench bench --config FOLDER/config.yaml run.weights=FOLDER`. Weights are
safetensors, all else is JSON and YAML; loading executes nothing.
"""


def write_card(record: Record, run_dir: Path, folder: Path, license: str | None) -> str:
    """Return the card in Markdown; `run_dir` has the ranks, `folder` the published settings.

    Raises UserError where the ranks cannot be read.
    """
    settings: Any = OmegaConf.load(folder / CONFIG_FILE)
    data = plain(data_name(record))
    parts = [
        _front(record, license),
        f"# {plain(record.model.name)} on {data}",
        "A text-video retrieval model, trained and tested with tvr-bench "
        f"{plain(record.env.get('tvr-bench') or version('tvr-bench'))}. Everything here is made "
        "from its run's record, `record.json`.",
        f"## Results\n\n{_results(record, run_dir)}",
        f"## Data\n\n{_data(record, settings)}",
        f"## Protocol\n\n{_protocol(record)}",
        f"## Settings\n\n{_settings(record, folder)}",
        f"## Licence\n\n{_licence(record, license)}",
        "## How to load it\n\n" + _LOAD.format(data=settings.data.name),
    ]
    return "\n\n".join(parts)


def _front(record: Record, license: str | None) -> str:
    """Return the card's YAML head, which the hub reads."""
    named = {"license": license} if license else {"license": "other", "license_name": "not-chosen"}
    names = [" ".join(name.split()) for name in (record.model.name, record.data.name)]
    tags = ["text-video-retrieval", "tvr-bench", *names]
    head = {**named, "library_name": "tvr-bench", "tags": tags, "metrics": ["recall"]}
    return f"---\n{yaml.safe_dump(head, sort_keys=False, width=100)}---"


def _results(record: Record, run_dir: Path) -> str:
    rows = []
    for direction, title in _DIRECTIONS.items():
        values = getattr(record.metrics, direction)
        rows.append(
            [title, *(_cell(values, direction, name, run_dir) for name in STANDARD_METRICS)]
        )
    same = record.data.queries == record.data.clips
    lines = [
        *_table(["direction", *STANDARD_METRICS], rows),
        "",
        f"{record.data.queries:,} texts and {record.data.clips:,} videos of the split "
        f"'{plain(record.protocol.split)}', one run of seed {record.run.seed}. Recalls in percent; "
        "in brackets 95 % intervals over other test videos, which say nothing of "
        "another training." + ("" if same else " Several texts belong to one video."),
    ]
    lines += [line for note in record.notes for line in ("", f"**{plain(note)}.**")]
    lost = len(record.data.missing_ids) + len(record.data.failed)
    if lost:
        lines += ["", f"**{lost:,} test videos were missing or unreadable and count as misses.**"]
    if skills := record.metrics.by_skill:
        body = [
            [
                plain(name),
                *(_number(found.t2v.get(metric)) for metric in ("R@1", "R@5", "R@10")),
                _number(found.in_group.get("R@1")),
                _number(found.in_group.get("chance_R@1")),
            ]
            for name, found in skills.items()
        ]
        head = ["skill, text to video", "R@1", "R@5", "R@10", "R@1 in group", "chance"]
        lines += ["", *_table(head, body)]
    return "\n".join(lines)


def _cell(values: dict[str, float], direction: str, metric: str, run_dir: Path) -> str:
    text = _number(values[metric])
    found = estimate([run_dir], f"{direction}_{metric}")
    if math.isnan(found.low):  # nothing to tell it from
        return text
    return rf"{text} \[{found.low:.1f}, {found.high:.1f}\]"


def _data(record: Record, settings: Any) -> str:
    own = ", ".join(
        f"{key}={value}" for key, value in settings.data.items() if value and key != "name"
    )
    data = record.data
    train = "" if data.train_clips is None else f"{data.train_clips:,} training videos"
    lines = [
        plain(data_name(record)) + (f" ({plain(own)})" if own else ""),
        train,
        f"test annotations: SHA-256 `{data.annotations_sha256}`",
        f"missing {len(data.missing_ids):,}, unreadable {len(data.failed):,} test videos",
    ]
    return _list(lines)


def _protocol(record: Record) -> str:
    ocr = record.protocol.ocr
    text = f"scene text in {ocr.windows} windows per video, read by {plain(ocr.engine)}"
    scene = text if ocr.enabled else "no scene text"
    return _list([*(plain(phrase) for phrase in protocol_words(record)), scene])


def _settings(record: Record, folder: Path) -> str:
    changes = settings_in(record, folder).changes()
    cost = record.efficiency
    time = "" if not cost.train_s else f"trained for {cost.train_s / 60:.1f} minutes"
    lines = [
        f"backbone {plain(record.model.backbone)}, {record.model.params:,} parameters",
        f"{time} on {plain(cost.device)}" if time else "",
        f"commit {plain(record.run.git or 'unknown')}"
        + (", changed" if record.run.dirty else "")
        + (f", source {plain(record.run.source)}" if record.run.source else ""),
        "other than the defaults: " + (plain(", ".join(changes)) if changes else "nothing"),
        "all of them: `config.yaml`",
        f"weights: SHA-256 `{record.model.checkpoint_sha256}`",
    ]
    return _list(lines)


def _licence(record: Record, license: str | None) -> str:
    chosen = plain(license) if license else "not chosen yet; set `license` at the head of this file"
    towers = _TOWERS.get(record.model.backbone)
    return _list(
        [
            f"these weights: {chosen}",
            f"they began from {towers}" if towers else "",
            f"the videos and captions of {plain(record.data.name)} are not part of this folder and "
            "have terms of their own",
        ]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = [":--", *("--:" for _ in head[1:])]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines if line)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
