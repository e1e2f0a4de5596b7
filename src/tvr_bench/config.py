"""Configuration: base < data set < model < user's file < key=value, held to a schema.

The schema's types stand in `schema.py`, the values and their units in `configs/base.yaml`. `rules:`
in any of these files names the allowed values of a key, `types:` the type of one whose default is
null, `pretrained:` what holds where the tiny towers do not start from scratch. A text is made a
value by the type of its key alone (`values.py`). Nothing here imports torch, so a typing mistake is
answered at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf

from tvr_bench import synonyms, text_yaml
from tvr_bench.errors import UserError, nearest
from tvr_bench.files import check_utf8
from tvr_bench.schema import Config, schema_kinds
from tvr_bench.text_yaml import Plain
from tvr_bench.values import Kind, allowed, kind_of_default, kind_of_name

CONFIG_ROOT = Path(__file__).parent / "configs"
_NAMED = ("data", "model", "backbone")  # `model=NAME` stands for `model.name=NAME`
_SCRATCH = ("none", "null", "")  # `backbone.weights` of towers that nothing was taught
_OWN = ("data", "model")  # sections whose keys stand in the YAML of a data set and of a model
Setting = str | tuple[str, Any]  # `key=text`, or a key and a value of Python's
Layer = dict[str, Any]  # `section.key` -> a text, or a value of Python's


def names(kind: str) -> list[str]:
    """Return the sorted names of all models (`kind="model"`) or data sets (`kind="data"`)."""
    return sorted(path.stem for path in (CONFIG_ROOT / kind).glob("*.yaml"))


def canonical(kind: str, name: str) -> str:
    """Return the name that a model or data set is filed under; raises UserError if there is none.

    A YAML file may list further names as `aliases:`. Case and punctuation make no other name.
    """
    known = names(kind)
    if name in known:
        return name
    filed = {one: one for one in known}
    for one in known:
        filed |= dict.fromkeys(_read_yaml(path_of(kind, one)).get("aliases") or [], one)
    if (found := name if name in filed else synonyms.same(name, filed)) is not None:
        return filed[found]
    what = "data set" if kind == "data" else kind
    raise UserError(
        f"there is no {what} '{name}'.{nearest(name, known)} Known: {', '.join(known)}; "
        f"choose one with {kind}.name"
    )


def path_of(kind: str, name: str) -> Path:
    """Return the YAML file of a model or a data set."""
    return CONFIG_ROOT / kind / f"{name}.yaml"


def load(overrides: Iterable[Setting] = (), file: Path | None = None) -> Config:
    """Return the resolved configuration of a run.

    `overrides` are `key=value` strings, whose text means what the type of the key says, or pairs of
    a key and a value; of two for one key the last one counts. `model=NAME` and `data=NAME` choose
    the files of a model and a data set; `file` is a user's YAML. Raises UserError with the nearest
    valid name for an unknown key, and with the allowed values for an impossible one.
    """
    user = _with_names(flat(_read_yaml(file))) if file else {}
    given = _with_names(_given(overrides))
    base = flat(_read_yaml(CONFIG_ROOT / "base.yaml"))
    chosen = {kind: _choose(kind, given, user, base) for kind in _OWN}
    ours = _package(**chosen)
    papers = _paper_layers(ours.paper, chosen, user, given, base)
    asked = _merged((user, given), ours.kinds)
    merged = _merged((*ours.layers, *papers), ours.kinds) | asked
    if merged["backbone.name"] != "tiny" and "backbone.weights" not in asked:
        merged["backbone.weights"] = None  # what a data set names is for the tiny towers
    if merged["backbone.name"] == "tiny" and merged["backbone.weights"] not in (None, *_SCRATCH):
        merged = _merged((*ours.layers, *ours.pretrained, *papers), ours.kinds) | asked
    values = {
        key: allowed(key, ours.kinds[key], raw, ours.rules.get(key)) for key, raw in merged.items()
    }
    if "backbone.cache" not in asked and not _can_cache(values):
        values["backbone.cache"] = False
    return _frozen(ours.kinds, values)


def _can_cache(values: Layer) -> bool:
    """Return whether an image tower makes the same of a clip in every step."""
    changed = values["trainer.shift"] or values["trainer.mirror"]
    return values["backbone.frozen"] != "none" and not changed


def given(overrides: Iterable[Setting] = (), file: Path | None = None) -> Layer:
    """Return what a command says itself, by key: its file, and above that its words."""
    user = flat(_read_yaml(file)) if file else {}
    return _expanded(_with_names({**user, **_given(overrides)}), Config.__dataclass_fields__)


def keys_of_data(name: str) -> set[str]:
    """Return the keys of section `data` that a data set has."""
    layers = (flat(_read_yaml(path)) for path in (CONFIG_ROOT / "base.yaml", path_of("data", name)))
    return {key for layer in layers for key in layer if key.startswith("data.")}


def kinds(model: str, data: str) -> dict[str, Kind]:
    """Return what every key takes of a run of a model on a data set."""
    return _package(model, data).kinds


def needs(data: str) -> dict[str, str]:
    """Return the keys that a data set cannot be without, each with what to give."""
    return dict(_read_yaml(path_of("data", data)).get("needs") or {})


@dataclass(frozen=True)
class _Package:
    """What the files of the package say of a model and a data set.

    `pretrained` stands above `layers` where the tiny towers do not start from scratch.
    """

    layers: list[Layer]
    pretrained: list[Layer]
    kinds: dict[str, Kind]
    rules: dict[str, Any]
    paper: Mapping[str, Any]


def _package(model: str, data: str) -> _Package:
    layers: list[Layer] = []
    pretrained: list[Layer] = []
    rules: dict[str, Any] = {}
    types: dict[str, Any] = {}
    paper: Mapping[str, Any] = {}
    for path in (CONFIG_ROOT / "base.yaml", path_of("data", data), path_of("model", model)):
        content = _read_yaml(path)
        rules |= content.pop("rules", None) or {}
        types |= content.pop("types", None) or {}
        paper = content.pop("paper", None) or {}
        for key in ("aliases", "needs"):
            content.pop(key, None)
        pretrained.append(flat(content.pop("pretrained", None) or {}))
        layers.append(flat(content))
    return _Package(layers, pretrained, _kinds(layers, types), rules, paper)


def paper_section(model: str) -> dict[str, Any]:
    """Return what a model's file says of its paper, {} where it says nothing.

    By name: the settings of `towers`, of `all` data sets and of single ones, and the `choices`.
    """
    section: dict[str, Any] | None = _read_yaml(CONFIG_ROOT / "model" / f"{model}.yaml").get(
        "paper"
    )
    return section or {}


def to_yaml(config: Config, without: Sequence[str] = ()) -> str:
    """Return the configuration as YAML that `load(file=...)` reads back to the same values.

    The keys of `without` are null in it.
    """
    content: Any = OmegaConf.to_container(cast(Any, config))
    for key in without:
        *sections, last = key.split(".")
        part = content
        for name in sections:
            part = part[name]
        part[last] = None
    return text_yaml.dump(content)


def _read_yaml(path: Path) -> dict[str, Any]:
    check_utf8("--config ", str(path))
    return text_yaml.read(path, "configuration file", "seed: 1")


def _given(overrides: Iterable[Setting]) -> Layer:
    """Return the settings of a command line or of a call by key, the last of each."""
    given: Layer = {}
    for one in overrides:
        if isinstance(one, str):
            if not re.match(r"[A-Za-z_][\w.]*=", one):
                raise UserError(f"'{one}' is not a setting; write key=value, such as optim.lr=3e-4")
            key, _, text = one.partition("=")
            one = (key, Plain(text))
        given |= _with_names(flat({one[0]: one[1]}))
    return given


def flat(node: Mapping[str, Any], prefix: str = "") -> Layer:
    """Return nested settings as `section.key` -> value."""
    return dict(_leaves(node, prefix))


def _leaves(layer: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in layer.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _with_names(layer: Layer) -> Layer:
    """Return a layer with `model.name` where `model` was, and so on."""
    found: Layer = {}
    for key, raw in _expanded(layer, _NAMED).items():
        found[f"{key}.name" if key in _NAMED and isinstance(raw, str) else key] = raw
    return found


def _expanded(layer: Layer, sections: Iterable[str]) -> Layer:
    """Return a layer with the keys of a section that was given whole, as `optim={lr: 1}`."""
    found: Layer = {}
    for key, raw in layer.items():
        if key in sections and isinstance(raw, Plain) and raw.startswith("{"):
            try:
                found |= flat({key: text_yaml.parse(raw)})
            except yaml.YAMLError as error:
                reason = " ".join(str(error).split())
                raise UserError(f"cannot read {key}={raw}: {reason}") from error
        else:
            found[key] = raw
    return found


def _choose(kind: str, *layers: Layer) -> str:
    """Return the canonical name that the first of the layers gives, and put it there."""
    key = f"{kind}.name"
    for layer in layers:
        if key in layer:
            layer[key] = canonical(kind, "" if layer[key] is None else str(layer[key]))
            return cast(str, layer[key])
    raise AssertionError(f"base.yaml names no {kind}")


def _paper_layers(
    paper: Mapping[str, Any], chosen: Mapping[str, str], user: Layer, given: Layer, base: Layer
) -> list[Layer]:
    """Return what a model's `paper:` section adds: its towers, its schedule, that of a data set.

    The towers where `backbone=paper` or `track=paper` asks for them, the rest for the latter.
    """
    track = given.get("track", user.get("track", base["track"]))
    key = "backbone.name"
    towers = given.get(key, user.get(key))
    for layer in (given, user):
        if layer.get(key) == "paper":
            del layer[key]
    wanted = towers == "paper" or (towers is None and track == "paper")
    if wanted and not paper.get("towers"):
        raise UserError(f"{chosen['model']} has no backbone of its own; choose another backbone")
    parts = [paper["towers"]] if wanted else []
    if track == "paper":
        parts += [paper.get("all"), paper.get(chosen["data"])]
    return [flat(part) for part in parts if part]


def _kinds(layers: Sequence[Layer], types: Mapping[str, Any]) -> dict[str, Kind]:
    """Return the kind of every key: of the schema, or of the YAML of a model and a data set."""
    found = schema_kinds()
    for layer in layers:
        for key, default in layer.items():
            if key.partition(".")[0] in _OWN and key not in found:
                kind = kind_of_name(types[key]) if key in types else kind_of_default(default)
                if kind is None:
                    raise UserError(
                        f"the default of {key} tells no type; write `types: {{{key}: int}}` into "
                        "its file, or float, text, bool"
                    )
                found[key] = kind
    return found


def _merged(layers: Iterable[Layer], kinds: Mapping[str, Kind]) -> Layer:
    merged: Layer = {}
    for layer in layers:
        expanded = _expanded(layer, _sections(kinds))
        _check_keys(expanded, list(kinds))
        merged |= expanded
    return merged


def _sections(keys: Iterable[str]) -> set[str]:
    parts = [key.split(".") for key in keys]
    return {".".join(part[:end]) for part in parts for end in range(1, len(part))}


def _check_keys(layer: Layer, known: Sequence[str]) -> None:
    for key in layer:
        if inside := [k for k in known if k.startswith(f"{key}.")]:
            raise UserError(f"'{key}' is a section; set the keys in it, such as {inside[0]}")
        if key not in known:
            raise UserError(
                f"unknown key '{key}'.{_meant(key, known)} All keys: `tvr-bench config`"
            )


def _meant(key: str, known: Sequence[str]) -> str:
    """Return the question whether another key was meant: `lr` is most likely `optim.lr`."""
    last = key.rpartition(".")[2]
    elsewhere = synonyms.KEYS.get(last.lower(), "")
    if elsewhere in known:
        return nearest(elsewhere, [elsewhere])
    namesakes = [k for k in known if k.rpartition(".")[2] == last]
    if namesakes:
        return nearest(key, namesakes, cutoff=0.0)
    return nearest(key, known)


def _frozen(kinds: Mapping[str, Kind], values: Mapping[str, Any]) -> Config:
    """Return the configuration that nobody can change any more, its keys in the schema's order."""
    content: dict[str, Any] = {name: {} for name in Config.__dataclass_fields__}
    for key in kinds:
        *sections, last = key.split(".")
        part = content
        for name in sections:
            part = part.setdefault(name, {})
        part[last] = values[key]
    made = OmegaConf.create(content, flags={"struct": True, "readonly": True})
    return cast(Config, made)
