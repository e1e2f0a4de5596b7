"""Whatever changes a number shows in a row: every key of every configuration is tried in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from tvr_bench import config, report, schema
from tvr_bench.datamodules.types import Clip, Query, Split
from tvr_bench.errors import UserError
from tvr_bench.leaderboard.aggregate import Run, identity
from tvr_bench.leaderboard.record import Record
from tvr_bench.leaderboard.run_settings import RunSettings, settings_of
from tvr_bench.registry import dataset_class

RecordFactory = Callable[..., Record]
SEEN = ("data", "variant", "split", "protocol", "model", "backbone", "ocr", "settings")
CASES = [
    *(("model", name) for name in config.names("model")),
    *(("data", name) for name in config.names("data")),
    ("all", ""),
]
TRIES: tuple[Any, ...] = (True, False, 3, 1, 0.5, 0.25, 30.0, 7, 9, 400, "bf16", "another")


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _rules(*names: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in (config.CONFIG_ROOT / "base.yaml", *names):
        found |= yaml.safe_load(path.read_text()).get("rules") or {}
    return found


def _others(key: str, value: Any, rules: dict[str, Any]) -> list[Any]:
    """Return values of a key that may be valid and are not its own."""
    if isinstance(rules.get(key), list):
        tries = rules[key]
    elif isinstance(value, (list, tuple)):
        tries = [[one, *value[1:]] for one in (value[0] * 2, value[0] / 2, 0.5, "another")]
    elif isinstance(value, bool):
        tries = [not value]
    elif isinstance(value, (int, float)):
        tries = [value * 2, value + 1, value / 2, *TRIES]
    else:
        tries = list(TRIES)
    return [one for one in tries if one != value]


def _changed(cfg: Any, key: str, value: Any) -> Any:
    """Return the configuration with another value of a key; None where that is not valid."""
    names = [("model", cfg.model.name), ("data", cfg.data.name)]
    try:
        changed = config.load([*names, (key, value)])
    except UserError:
        return None
    return None if OmegaConf.select(changed, key) == OmegaConf.select(cfg, key) else changed


def _row(cfg: Any, make_record: RecordFactory) -> dict[str, Any]:
    data = dataset_class(cfg.data.name)(cfg)
    clips = tuple(Clip(f"v{i}", Path(f"v{i}.mp4")) for i in range(4))
    queries = tuple(Query(f"q{i}", "a red ball", f"v{i % 4}") for i in range(8))
    data._splits["test"] = Split(clips, queries)
    record = make_record(
        protocol=report.protocol(cfg, data).model_dump(),
        model__name=cfg.model.name,
        model__backbone=cfg.backbone.name,
        data__name=cfg.data.name,
        data__variant=data.variant,
    )
    record = record.model_copy(update={"settings": settings_of(cfg)})
    run = Run(Path("none"), "none", record, RunSettings(record.settings, data.variant))
    return {name: identity(run)[name] for name in SEEN}


def _changes_no_number(key: str) -> bool:
    section, _, _ = key.partition(".")
    last = key.rpartition(".")[2]
    return section in schema.PLACES or last in schema.FILES or last in schema.MACHINE


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_changed_key_shows_in_the_row_or_changes_no_number(
    kind: str, name: str, make_record: RecordFactory
) -> None:
    cfg: Any = config.load([f"{kind}={name}"] if name else [])
    own = [config.CONFIG_ROOT / k / f"{cfg[k].name}.yaml" for k in ("model", "data")]
    before, rules = _row(cfg, make_record), _rules(*own)
    for key, value in _leaves(OmegaConf.to_container(cfg, resolve=True)):
        section = key.partition(".")[0]
        mine = section == kind if name else section not in ("model", "data")
        if not mine or key in (f"{kind}.name", "seed") or _changes_no_number(key):
            continue
        changed = (_changed(cfg, key, other) for other in _others(key, value, rules))
        after = next((one for one in changed if one is not None), None)
        assert after is not None, f"no other value of {key} than {value} was found"
        assert _row(after, make_record) != before, f"a row does not show {key}"
