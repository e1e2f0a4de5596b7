"""The settings of a test of weights that are there: the model's are its run's, the data's your own.

How a clip is read and what the towers are is what the weights know, so it comes from their run.
What a command says itself stands above that, and may not contradict it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from tvr_bench import config
from tvr_bench.config import Setting
from tvr_bench.errors import UserError
from tvr_bench.model_folder import find, read_config
from tvr_bench.schema import ELSEWHERE, FILES, PLACES, Config, numbers

READING = ("video", "text", "ocr", "backbone")  # sections that say how a model sees its input
TRAINING = ("seed", "track", *READING, "optim", "loss", "trainer")
_CHANGE_NOTHING = {"backbone": ("checkpointing",)}  # by section, keys of the machine
_PLACES_OF_DATA = tuple(key for key in FILES if key != "weights")  # files that are of other data
_RULES_OF_DATA = ("captions", "v2t", "two_stage", "parity")  # keys of `eval`: how a set is tested
_SOURCES = ("source", "given_fps", "engine", "weights")  # keys of `ocr`: who reads, not what


def settings_of_command(overrides: Iterable[Setting] = (), file: Path | None = None) -> Config:
    """Return the configuration of a command; with `run.weights`, what it leaves open is theirs.

    Raises UserError as `config.load` does, and where there are no such weights.
    """
    asked = list(overrides)
    where = config.given(asked, file).get("run.weights")
    if where in (None, "", "null", "~"):
        return config.load(asked, file)
    return on_data(anywhere(read_config(find(where))), asked, file)


def anywhere(cfg: Config) -> dict[str, Any]:
    """Return `section.key` -> value of what holds on every machine."""
    return {
        key: value
        for key, value in flat(cfg).items()
        if key.partition(".")[0] not in PLACES and key.rpartition(".")[2] not in ELSEWHERE
    }


def on_data(
    theirs: Mapping[str, Any], overrides: Iterable[Setting] = (), file: Path | None = None
) -> Config:
    """Return `theirs`, flat settings of a model, with those that are given; these may be of data.

    Of another data set, its own keys and rules come from its YAML. Raises UserError for another
    model than theirs.
    """
    asked = list(overrides)
    given = config.given(asked, file)
    model = config.canonical("model", str(given.get("model.name", theirs["model.name"])))
    if model != theirs["model.name"]:
        raise UserError(f"the weights are of model {theirs['model.name']}, not {model}; leave it")
    data = _data_of(given, str(theirs["data.name"]))
    kept = {
        key: value
        for key, value in theirs.items()
        if key not in given and not (data != theirs["data.name"] and _is_of_data(key))
    }
    kept["data.name"] = data
    return config.load([*kept.items(), *asked], file)


def check(trained: Config, now: Config, where: object, sections: Iterable[str] = TRAINING) -> None:
    """Raise UserError, naming the key, where `now` contradicts the settings of a training.

    The model's own keys and those of `eval` may differ, as far as the weights fit: they can be what
    is compared. So may the data, and folders that a published model leaves open.
    """
    other = trained.data.name != now.data.name
    for section in sections:
        was, want = _settings(trained, section), _settings(now, section)
        free = _SOURCES if section == "ocr" and other else _CHANGE_NOTHING.get(section, ())
        if free:
            was, want = ({**part, **dict.fromkeys(free)} for part in (was, want))
        want = _left_open(want, was)
        if was != want:
            raise UserError(
                f"{where} was trained with other settings "
                f"({_first_change(section, was, want)}); leave them out, or train anew"
            )


def _data_of(given: Mapping[str, Any], theirs: str) -> str:
    """Return the data set that is named or, as the only one with such a key, meant."""
    if "data.name" in given:
        return config.canonical("data", str(given["data.name"]))
    own = {key for key in given if key.startswith("data.")}
    if own <= config.keys_of_data(theirs):
        return theirs
    meant = [name for name in config.names("data") if own <= config.keys_of_data(name)]
    return meant[0] if len(meant) == 1 else theirs


def _is_of_data(key: str) -> bool:
    section, _, last = key.rpartition(".")
    return (
        section.split(".")[0] == "data"
        or last in _PLACES_OF_DATA
        or (section == "eval" and last in _RULES_OF_DATA)
    )


def _left_open(now: Any, was: Any) -> Any:
    """Return `now` without the texts, which are folders, in place of which `was` has nothing."""
    if isinstance(now, Mapping) and isinstance(was, Mapping):
        return {key: _left_open(one, was.get(key)) for key, one in now.items()}
    return was if isinstance(now, str) and was in (None, "") else now


def _settings(cfg: Config, section: str) -> Any:
    """Return a section's values that can change a number, wherever the test runs."""
    return numbers(plain(cfg), ELSEWHERE)[section]


def _first_change(section: str, was: Any, now: Any) -> str:
    """Return the first key that differs, with both its values."""
    if not isinstance(was, Mapping):
        return f"{section} {was}, not {now}"
    key = next(key for key in sorted({*was, *now}) if was.get(key) != now.get(key))
    return f"{section}.{key} {was.get(key)}, not {now.get(key)}"


def flat(cfg: Config) -> dict[str, Any]:
    """Return `section.key` -> value of a whole configuration."""
    return dict(leaves(plain(cfg)))


def plain(cfg: Config) -> dict[str, Any]:
    """Return a whole configuration as nested dicts."""
    return cast(dict[str, Any], OmegaConf.to_container(cast(Any, cfg), resolve=True))


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `section.key` and value of nested dicts."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
