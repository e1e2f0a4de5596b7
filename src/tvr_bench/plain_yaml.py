"""What the YAML of a published model never has, looked for before anything is made of it."""

from __future__ import annotations

import yaml

_MOST_EVENTS, _DEEPEST = 5_000, 8


def unusual(text: str) -> str:
    """Return what is in a YAML text that a configuration never has, "" where it is a plain one.

    Tags, aliases (a few of which make a tree without end) and endless depth. Raises
    `yaml.YAMLError` for a text that is no YAML.
    """
    depth = 0
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for number, event in enumerate(yaml.parse(text, Loader=loader)):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if number > _MOST_EVENTS or depth > _DEEPEST:
            return "it is too long or too deep"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            return "it has aliases"
        if getattr(event, "tag", None):
            return "it has tags"
    return ""
