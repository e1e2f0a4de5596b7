"""Configuration: base < data set < model < user's file < key=value, held to a schema.

The schema's types stand in `schema.py`, the values and their units in `configs/base.yaml`. `rules:`
in any of these files names the allowed values of a key. Nothing here imports torch, so a typing
mistake is answered at once.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tvr_bench.errors import UserError, nearest
from tvr_bench.schema import Config

CONFIG_ROOT = Path(__file__).parent / "configs"
_LARGEST_YAML = 1_000_000  # bytes; a larger file is not a configuration
_NAMED = ("data", "model", "backbone")  # `model=NAME` stands for `model.name=NAME`


def names(kind: str) -> list[str]:
    """Return the sorted names of all models (`kind="model"`) or data sets (`kind="data"`)."""
    return sorted(path.stem for path in (CONFIG_ROOT / kind).glob("*.yaml"))


def canonical(kind: str, name: str) -> str:
    """Return the name that a model or data set is filed under; raises UserError if there is none.

    A YAML file may list further names as `aliases:`.
    """
    known = names(kind)
    if name in known:
        return name
    for one in known:
        if name in (_read_yaml(CONFIG_ROOT / kind / f"{one}.yaml").get("aliases") or []):
            return one
    what = "data set" if kind == "data" else kind
    raise UserError(f"there is no {what} '{name}'.{nearest(name, known)} Known: {', '.join(known)}")


def load(overrides: Sequence[str] = (), file: Path | None = None) -> Config:
    """Return the resolved configuration of a run.

    `overrides` are `key=value` strings; `model=NAME` and `data=NAME` choose the files of a model
    and a data set; `file` is a user's YAML. Raises UserError with the nearest valid name for an
    unknown key, and with the allowed values for an impossible one.
    """
    user = _read_yaml(file) if file else {}
    given = _nested(overrides)
    for kind in _NAMED:
        _name_as_section(user, kind)
        _name_as_section(given, kind)
    base = _read_yaml(CONFIG_ROOT / "base.yaml")
    chosen = {k: _choose(k, given, user, base) for k in ("data", "model")}
    layers = [base, *(_read_yaml(CONFIG_ROOT / k / f"{chosen[k]}.yaml") for k in chosen)]
    for layer in layers:
        layer.pop("aliases", None)
    paper = layers[-1].pop("paper", None) or {}
    rules: dict[str, Any] = {}
    for layer in layers:
        rules.update(layer.pop("rules", None) or {})
    own = [{k: layer.get(k, {}) for k in chosen} for layer in layers[1:]]
    known = [key for layer in (base, *own) for key in _keys(layer)]
    merged = _schema(layers)
    layers += _paper_layers(paper, chosen, user, given, base)
    for layer in [*layers, user, given]:
        _check_keys(layer, known)
        _merge(merged, layer)
    _resolve(merged)
    _check_rules(merged, rules)
    OmegaConf.set_readonly(merged, True)
    return cast(Config, merged)


def to_yaml(config: Config, without: Sequence[str] = ()) -> str:
    """Return the configuration as YAML that `load(file=...)` reads back to the same values.

    The keys of `without` are null in it.
    """
    copy: Any = OmegaConf.create(OmegaConf.to_container(cast(Any, config), resolve=True))
    for key in without:
        OmegaConf.update(copy, key, None)
    return OmegaConf.to_yaml(copy)


def _resolve(config: Any) -> None:
    try:
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise UserError(f"configuration: {key}{_first_line(error)}") from error
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{missing[0]} has no value; give it one")


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"configuration file {path} does not exist; give the path of a YAML file")
    if path.stat().st_size > _LARGEST_YAML:
        raise UserError(f"configuration file {path} is larger than 1 MB; is it a YAML file?")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError) as error:
        raise UserError(
            f"configuration file {path} is not readable YAML: {_line(error)}"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"configuration file {path} must hold keys and values, such as 'seed: 1'")
    return cast(dict[str, Any], content)


def _nested(overrides: Sequence[str]) -> dict[str, Any]:
    for text in overrides:
        if not re.match(r"[A-Za-z_][\w.]*=", text):
            raise UserError(f"'{text}' is not a setting; write key=value, such as optim.lr=3e-4")
    try:
        # `a=` is an empty string to OmegaConf and `model=x` must not swallow `model.tau=1`
        ordered = sorted(overrides, key=lambda text: "." in text.split("=", 1)[0])
        merged: dict[str, Any] = {}
        for text in ordered:
            key, _ = text.split("=", 1)
            value = OmegaConf.to_container(OmegaConf.from_dotlist([text]))
            assert isinstance(value, dict)
            if key in _NAMED:
                value = {key: {"name": value[key]}}
            _update(merged, cast(dict[str, Any], value), text)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"cannot read the settings: {_line(error)}") from error
    return merged


def _update(into: dict[str, Any], new: Mapping[str, Any], text: str) -> None:
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _update(into[key], value, text)
        elif isinstance(into.get(key), dict) or (isinstance(value, Mapping) and key in into):
            raise UserError(f"'{text}' sets '{key}' as a value and as a section; keep one of them")
        else:
            into[key] = value


def _name_as_section(layer: dict[str, Any], kind: str) -> None:
    if isinstance(layer.get(kind), str):
        layer[kind] = {"name": layer[kind]}


def _choose(kind: str, *layers: Mapping[str, Any]) -> str:
    """Return the canonical name that the first of the layers gives, and put it there."""
    for layer in layers:
        section = layer.get(kind)
        if isinstance(section, dict) and section.get("name"):
            section["name"] = canonical(kind, str(section["name"]))
            return cast(str, section["name"])
    raise AssertionError(f"base.yaml names no {kind}")


def _paper_layers(
    paper: Mapping[str, Any],
    chosen: Mapping[str, str],
    user: dict[str, Any],
    given: dict[str, Any],
    base: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return what a model's `paper:` section adds: its towers, its schedule, that of a data set.

    The towers where `backbone=paper` or `track=paper` asks for them, the rest for the latter.
    """
    track = given.get("track", user.get("track", base["track"]))
    named = [s for s in (given.get("backbone"), user.get("backbone")) if isinstance(s, dict)]
    towers = next((section["name"] for section in named if "name" in section), None)
    wanted = towers == "paper" or (towers is None and track == "paper")
    for section in named:
        if section.get("name") == "paper":
            del section["name"]
    layers = [paper.get("towers")] if wanted else []
    if wanted and not layers[0]:
        raise UserError(f"{chosen['model']} has no backbone of its own; choose another backbone")
    if track == "paper":
        layers += [paper.get("all"), paper.get(chosen["data"])]
    return [layer for layer in layers if layer]


def _schema(layers: Sequence[Mapping[str, Any]]) -> Any:
    """Return the structured configuration whose `data` and `model` have their YAML's keys."""
    schema = OmegaConf.structured(Config)
    OmegaConf.set_struct(schema, False)
    for kind in ("data", "model"):
        values: dict[str, Any] = {}
        for layer in layers:
            values.update(layer.get(kind) or {})
        schema[kind] = OmegaConf.structured(_typed(kind, values))
    OmegaConf.set_struct(schema, True)
    return schema


def _typed(name: str, values: Mapping[str, Any]) -> Any:
    spec: list[tuple[str, Any, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            section = _typed(key, value)
            spec.append((key, section, field(default_factory=section)))
        else:
            spec.append((key, _type_of(value), MISSING))
    return make_dataclass(name, spec)


def _type_of(value: Any) -> Any:
    if isinstance(value, (bool, int, float, str)):
        return type(value)
    if isinstance(value, list) and value and not isinstance(value[0], (list, dict)):
        return list[type(value[0])]  # type: ignore[misc]
    return Any


def _check_keys(layer: Mapping[str, Any], known: Sequence[str]) -> None:
    for key, _ in _leaves(layer):
        if key not in known:
            same = _namesakes(key, known)
            hint = nearest(key, same, cutoff=0.0) if same else nearest(key, known)
            raise UserError(f"unknown key '{key}'.{hint} All keys: `tvr-bench config`")
        if inside := [k for k in known if k.startswith(f"{key}.")]:
            raise UserError(f"'{key}' is a section; set the keys in it, such as {inside[0]}")


def _namesakes(key: str, known: Sequence[str]) -> list[str]:
    """Return the keys of the same last name: `lr` is most likely `optim.lr`."""
    last = key.rpartition(".")[2]
    return [k for k in known if k.rpartition(".")[2] == last]


def _keys(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")


def _merge(schema: Any, layer: Mapping[str, Any]) -> None:
    for key, value in _leaves(layer):
        try:
            OmegaConf.update(schema, key, value, merge=False)
        except (OmegaConfBaseException, TypeError, ValueError) as error:
            raise UserError(f"{key}={value!r} is impossible: {_first_line(error)}") from error


def _leaves(layer: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in layer.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


_COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


def _check_rules(config: Any, rules: Mapping[str, Any]) -> None:
    for key, rule in rules.items():
        value = OmegaConf.select(config, key)
        if value is None:
            continue
        if isinstance(rule, list):
            if value not in rule:
                choices = ", ".join(str(r) for r in rule)
                hint = nearest(str(value), [str(r) for r in rule])
                raise UserError(f"{key}={value} is impossible.{hint} Choose one of: {choices}")
        elif not _holds(value, str(rule)):
            raise UserError(f"{key}={value} is impossible; it must be {rule}")


def _holds(value: Any, rule: str) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(_holds(one, rule) for one in value)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return False
    if ".." in rule:
        low, high = (float(part) for part in rule.split(".."))
        return low <= value <= high
    sign, bound = rule.split()
    return bool(_COMPARE[sign](value, float(bound)))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
