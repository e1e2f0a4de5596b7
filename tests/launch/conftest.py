"""What the tests of launching share."""

from __future__ import annotations

import copy
from functools import cache

import pytest

from tvr_bench import config


@pytest.fixture(autouse=True)
def _each_yaml_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare most of the time of loading a hundred configurations."""
    read = cache(config._read_yaml)
    monkeypatch.setattr(config, "_read_yaml", lambda path: copy.deepcopy(read(path)))
