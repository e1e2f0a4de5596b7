"""What the comments in the configuration files say of keys, models and data sets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf

from tvr_bench import config, text_yaml
from tvr_bench.schema import Config

_COLUMN = 26  # where comments begin, if the value leaves room


def title(kind: str, name: str) -> str:
    """Return the first sentence of the file of a model or a data set, "" where it has none."""
    lines = config.path_of(kind, name).read_text(encoding="utf-8").splitlines()
    head = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    text = " ".join(line.lstrip("# ") for line in lines[:head])
    found = re.match(r"(.*?)\.(\s|$)", text)
    return found[1] if found else text


def commented(cfg: Config) -> str:
    """Return the configuration as YAML with what every key means, which `--config` reads again."""
    docs = comments(config.CONFIG_ROOT / "base.yaml")
    for kind, name in (("data", cfg.data.name), ("model", cfg.model.name)):
        found = comments(config.path_of(kind, name))
        docs |= {key: lines for key, lines in found.items() if key.startswith(f"{kind}.")}
    content: Any = OmegaConf.to_container(cast(Any, cfg))
    return "\n".join(_lines(content, docs, "", "")) + "\n"


def comments(path: Path) -> dict[str, list[str]]:
    """Return the comment of every key in a YAML file, line by line, where it has one."""
    text = path.read_text(encoding="utf-8")
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode), path
    return dict(_comments(node, text.splitlines(), ""))


def _comments(
    node: yaml.MappingNode, lines: Sequence[str], prefix: str
) -> Iterator[tuple[str, list[str]]]:
    for key, value in node.value:
        inside = isinstance(value, yaml.MappingNode)
        end = key.end_mark if inside else value.end_mark
        first = lines[end.line][end.column :].lstrip(" :") if end.line < len(lines) else ""
        name = f"{prefix}{key.value}"
        if first.startswith("#"):
            found = [first]
            for line in lines[end.line + 1 :]:
                more = line.strip()
                if not more.startswith("#") or line.index("#") <= key.start_mark.column:
                    break
                found.append(more)
            yield name, [line.lstrip("#").strip() for line in found]
        if inside:
            yield from _comments(value, lines, f"{name}.")


def _lines(
    node: Mapping[str, Any], docs: Mapping[str, list[str]], prefix: str, indent: str
) -> Iterator[str]:
    for key, value in node.items():
        name = f"{prefix}{key}"
        nested = isinstance(value, Mapping)
        shown = "" if nested else " " + text_yaml.dump_line(_listed(value))
        start = f"{indent}{key}:{shown}"
        doc = docs.get(name, [])
        column = max(_COLUMN, len(start) + 2)
        yield f"{start:<{column}}# {doc[0]}" if doc else start
        yield from (f"{'':<{column}}# {line}" for line in doc[1:])
        if nested:
            yield from _lines(value, docs, f"{name}.", f"{indent}  ")


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
