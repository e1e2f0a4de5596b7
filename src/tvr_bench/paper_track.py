"""What of a run in the paper's track is not the paper's: read from `paper:` in the model's file.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from omegaconf import OmegaConf

from tvr_bench import config
from tvr_bench.schema import Config

_NO_DATA_SET = ("towers", "all", "choices")  # of the parts of `paper:`
_SEEN = ("video.frames", "text.words")  # how much of a clip and of a text a model is given


def data_sets(model: str) -> list[str]:
    """Return the data sets that a model's paper reports, sorted."""
    return sorted(set(config.paper_section(model)) - set(_NO_DATA_SET))


def stated(model: str, data: str) -> list[str]:
    """Return every key that the paper's track sets for a data set, sorted."""
    paper = config.paper_section(model)
    parts = (paper.get(part) or {} for part in ("towers", "all", data))
    return sorted({key for part in parts for key in _keys(part)})


def choices(model: str, data: str) -> dict[str, list[str]]:
    """Return what no paper and no release gives: by key or section, the keys that it stands for.

    Of a data set that the paper does not report, those of all its data sets.
    """
    ours: Mapping[str, list[str]] = config.paper_section(model).get("choices") or {}
    listed = sorted({*ours.get("all", ()), *ours.get(data, ())})
    inside = {one for one in listed for section in listed if one.startswith(f"{section}.")}
    keys = stated(model, data)
    return {
        one: [key for key in keys if key.startswith(f"{one}.")] or [one]
        for one in listed
        if one not in inside
    }


def notes(cfg: Config) -> list[str]:
    """Return lines for whoever reads the run's numbers; none outside of `track=paper`.

    One says which settings are our choice, before it another that the paper does not report the
    data set, where it does not. A setting that was changed by hand is no choice of ours.
    """
    if cfg.track != "paper":
        return []
    model, data = cfg.model.name, cfg.data.name
    plain = config.load([f"model={model}", f"data={data}", "track=paper"])
    ours: list[str] = []
    for one, keys in choices(model, data).items():
        kept = [key for key in keys if _at(cfg, key) == _at(plain, key)]
        ours += [one] if kept == keys else kept
    lines = [] if data in data_sets(model) else [_unreported(cfg)]
    if ours:
        lines.append(f"track=paper: our choice and not that of {model}'s paper: {', '.join(ours)}")
    return lines


def _unreported(cfg: Config) -> str:
    """Return that the paper has no such data set, and how much less of it is read than could be."""
    model, data = cfg.model.name, cfg.data.name
    own = config.load([f"model={model}", f"data={data}"])
    changed = [
        f"{key}={_at(cfg, key)} where {data} itself has {_at(own, key)}"
        for key in _SEEN
        if _at(cfg, key) != _at(own, key)
    ]
    return "; ".join(
        [
            f"track=paper: {model}'s paper does not report {data}, so the settings are those for "
            f"{', '.join(data_sets(model))}",
            *changed,
        ]
    )


def _at(cfg: Config, key: str) -> Any:
    return OmegaConf.select(cast(Any, cfg), key)


def _keys(section: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
