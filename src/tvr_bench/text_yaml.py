"""YAML whose scalars stay the text that stands there; whoever reads it knows what a key means.

YAML's own types guess: `007` is 7, `on` is true, `1e5` a number or not, `12:30` 750. Here a scalar
is text, `Plain` where it has no quotes, and None where it is a plain `null`, `~` or nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tvr_bench.errors import UserError

_LARGEST = 1_000_000  # bytes; a larger file is not a configuration
_DEEPEST = 50  # a deeper text would end the parser's process
_MOST = 10_000  # values; aliases can make a short text a tree without end
_NULL = re.compile(r"~|null|Null|NULL|")


class Plain(str):
    """Text without quotes, of a YAML file or a command line: `null` may mean nothing at all."""

    __slots__ = ()


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Texts, lists and mappings; a key that stands twice is an error."""

    yaml_implicit_resolvers: Mapping[str, Any] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        """Return a mapping whose keys are texts."""
        content: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is a word", key.start_mark
                )
            if key.value in content:
                raise yaml.constructor.ConstructorError(
                    None, None, f"found duplicate key {key.value}", key.start_mark
                )
            content[key.value] = self.construct_object(value, deep=True)
        return content


def _scalar(loader: Any, node: yaml.ScalarNode) -> str | None:
    """Return a scalar as it stands."""
    value = str(node.value)
    if node.style:  # "" or None for a plain one
        return value
    return None if _NULL.fullmatch(value) else Plain(value)


for _tag in ("str", "int", "float", "bool", "null", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _scalar)


def check_depth(text: str) -> None:
    """Raise `yaml.YAMLError` where a text is no YAML, or so deep that it would end its reader."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise yaml.YAMLError(f"it is over the limit of {_DEEPEST} levels")


def parse(text: str) -> Any:
    """Return what a YAML text holds; raises `yaml.YAMLError` where it is none."""
    text = str(text)  # libyaml wants no other class
    check_depth(text)
    content = yaml.load(text, Loader=_Loader)
    rest, count = [content], 0
    while rest:
        one = rest.pop()
        count += 1
        if count > _MOST:
            raise yaml.YAMLError(f"it is over the limit of {_MOST} values")
        rest += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
    return content


def read(path: Path, what: str, example: str) -> dict[str, Any]:
    """Return the mapping in a file; `what` is what the file should be, such as "sweep file".

    Raises UserError, naming the file and `example`, where there is none.
    """
    if not path.is_file():
        raise UserError(f"{what} {path} does not exist; give the path of a YAML file")
    if path.stat().st_size > _LARGEST:
        raise UserError(f"{what} {path} is larger than 1 MB; is it a YAML file?")
    try:
        content = parse(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{what} {path} is not readable YAML: {reason}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{what} {path} must hold keys and values, such as '{example}'")
    return content


class _Dumper(yaml.SafeDumper):
    """Texts that another reader could take for a number or a truth value stand in quotes."""

    def text(self, value: str) -> yaml.Node:
        """Return the node of a text that reads back to the same, in this loader and in others."""
        style = "'" if _GUESSED.fullmatch(value) else None
        if not value.isprintable():  # a line break of Unicode's, too, is written as its number
            style = '"'
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_GUESSED = re.compile(
    r"[-+.]?\d[\d_.,:]*([eE][-+]?\d+)?|0[xob][\da-fA-F_]+|[-+]?\.?(inf|nan)|"
    r"y|n|yes|no|on|off|true|false",
    re.IGNORECASE,
)
_Dumper.add_representer(str, _Dumper.text)
_Dumper.add_representer(Plain, _Dumper.text)


def dump(content: Any) -> str:
    """Return plain data as YAML, each value on one line, in the order given."""
    return yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf")
    )


def dump_line(content: Any) -> str:
    """Return plain data as YAML on a single line, such as `[1, a, 'b, c']`."""
    text = yaml.dump(
        content,
        Dumper=_Dumper,
        default_flow_style=True,
        allow_unicode=True,
        width=float("inf"),
        sort_keys=False,
    )
    return text.removesuffix("\n").removesuffix("\n...")
