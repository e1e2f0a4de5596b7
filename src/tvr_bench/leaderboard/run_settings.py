"""What a run's configuration says of its system, as `section.key` -> value.

Settings are compared, never the text of a YAML file: how that is wrapped or quoted says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf

from tvr_bench import config, synonyms, text_yaml
from tvr_bench.errors import UserError
from tvr_bench.files import settings_hash
from tvr_bench.leaderboard.record import Record
from tvr_bench.schema import FILES, Config, numbers

CONFIG_FILE = "config.yaml"
_LARGEST_CONFIG = 1_000_000  # bytes
_MOST_KEYS = 2_000
# what columns of their own show, or the protocol
_SHOWN = frozenset(
    (
        *("track", "model.name", "backbone.name", "data.name"),
        *("ocr.enabled", "ocr.engine", "ocr.source"),
        *("video.frames", "video.size", "text.words", "eval.selection", "eval.frames"),
        *("eval.captions", "eval.two_stage", "eval.parity", "eval.v2t"),
    )
)


@dataclass(frozen=True)
class RunSettings:
    """All settings but seed, places and machine; `variant` is the edition of the data set.

    Empty where a run has left none. `scratch` says that its tiny towers were not pretrained.
    """

    values: Mapping[str, str] = field(default_factory=dict, hash=False)
    variant: str = ""
    scratch: bool = False

    @property
    def digest(self) -> str:
        """16 hex digits that depend on the settings alone; "" where a run has none."""
        return settings_hash(dict(self.values)) if self.values else ""

    def without_two_stages(self) -> RunSettings:
        """Return the settings but for those of a second stage."""
        kept = {
            key: value
            for key, value in self.values.items()
            if "two_stage" not in key and "top_k" not in key
        }
        return replace(self, values=kept)

    def changes(self) -> tuple[str, ...]:
        """Return `key=value` of what is not the default of the model, the data set and the track.

        What a column of its own shows is not repeated. Empty where there is nothing to compare.
        """
        usual = _usual(self.values, self.scratch)
        if usual is None:
            return ()
        return tuple(
            f"{key}={value}"
            for key, value in self.values.items()
            if usual.get(key) != value and not self._is_shown(key)
        )

    def _is_shown(self, key: str) -> bool:
        if key == "video.frames":  # of training; the protocol has the frames of the test
            return self.values.get("eval.frames", "null") in ("null", self.values[key])
        if key == "backbone.frozen":  # no rule of the paper track
            return self.values.get("track") != "paper"
        if key.startswith("data.") and self.values[key] == self.variant:
            return True
        return key in _SHOWN


def settings_of(cfg: Config) -> dict[str, str]:
    """Return the flat settings that a record keeps; files are left out, as it holds their hashes.

    Values stand as a person would type them.
    """
    return _kept(OmegaConf.to_container(cast(Any, cfg), resolve=True), FILES)


def settings_in(record: Record, run_dir: Path) -> RunSettings:
    """Return the settings of a record, or, of one that has none, those of its run's folder."""
    values = record.settings or read_settings(run_dir).values
    scratch = record.model.backbone == "tiny" and record.protocol.towers is None
    return RunSettings(values, record.data.variant, scratch)


def read_settings(run_dir: Path) -> RunSettings:
    """Return the settings in the configuration of a run's folder, empty where none can be read."""
    path = run_dir / CONFIG_FILE
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_CONFIG:
            return RunSettings()
        text = path.read_text(encoding="utf-8", errors="replace")
        text_yaml.check_depth(text)
        content = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return RunSettings(_kept(content))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return RunSettings()


def _kept(content: Any, without: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the flat settings that can change a number, without those keys of a section."""
    if not isinstance(content, dict):
        return {}
    sections = {str(name): part for name, part in numbers(content).items() if name != "seed"}
    # aliases can make a short text a tree without end
    flat = dict(islice(_leaves(sections, ""), _MOST_KEYS))
    kept = {k: v for k, v in flat.items() if k.rpartition(".")[2] not in (without or {})}
    return {k: synonyms.known_choice(k, v) or v for k, v in kept.items()}  # as it is called today


def _usual(own: Mapping[str, str], scratch: bool) -> Mapping[str, str] | None:
    """Return the flat settings of a plain run of the same model, data set, track and backbone.

    From `scratch` where the run itself is.
    """
    names = [f"{key}={own[key]}" for key in ("model.name", "data.name", "track") if own.get(key)]
    names += ["backbone.weights=none"] if scratch else []
    towers = own.get("backbone.name")
    with_towers = _defaults((*names, f"backbone.name={towers}")) if towers else None
    return with_towers or (_defaults(tuple(names)) if len(names) > 1 else None)


@cache
def _defaults(chosen: tuple[str, ...]) -> Mapping[str, str] | None:
    try:
        content = OmegaConf.to_container(cast(Any, config.load(chosen)), resolve=True)
    except UserError:
        return None
    return _kept(content)


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif prefix and isinstance(node, (list, tuple)):
        yield prefix, f"[{','.join(_scalar(v) for v in node if not isinstance(v, (dict, list)))}]"
    elif prefix:
        yield prefix, _scalar(node)


def _scalar(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
