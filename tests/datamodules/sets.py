"""What the tests of published data sets share: small files, settings, and one line of refusal."""

from __future__ import annotations

import codecs
import copy
import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tvr_bench import config
from tvr_bench.datamodules.base import VideoTextDataModule
from tvr_bench.errors import UserError
from tvr_bench.schema import Config

Files = Mapping[str, Any]  # bytes and text as they are, everything else as JSON, by place
MARK = b"\xef\xbb\xbf"  # the byte-order mark


def write(files: Files, folder: Path) -> None:
    """Write files below a folder, and nothing anywhere else."""
    for name, content in files.items():
        path = folder / name
        assert folder in path.parents, f"{path} is not below {folder}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, (bytes, str)):
            content = json.dumps(content, ensure_ascii=False)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


@functools.cache
def settings(*words: str) -> Config:
    """Return the settings of a data set; reading them takes a while, so they are shared."""
    return config.load(list(words))


def settings_at(root: Path, *words: str) -> Config:
    """Return settings of one's own, with `data.root`."""
    cfg = copy.deepcopy(settings(*words))
    OmegaConf.set_readonly(cfg, False)  # type: ignore[arg-type]
    cfg.data.root = str(root)
    return cfg


def texts_of(data: VideoTextDataModule, name: str) -> dict[str, list[str]]:
    """Return the captions of a split by clip, in their orders."""
    found: dict[str, list[str]] = {clip.id: [] for clip in data.split(name).clips}
    for query in data.split(name).queries:
        found[query.clip_id].append(query.text)
    return found


@contextmanager
def refused(expected: str, place: Path | None = None, longest: int = 600) -> Iterator[None]:
    """Hold what is done inside to a UserError of one line that matches, and names the place."""
    with pytest.raises(UserError, match=expected) as error:
        yield
    message = str(error.value)
    assert message.isprintable()
    assert place is None or str(place) in message
    assert len(message.replace(str(place), "")) < longest


def saved_by_others(value: Any) -> dict[str, bytes | str]:
    """Return the same JSON as other programs save it."""
    return {
        "byte-order mark": MARK + json.dumps(value, ensure_ascii=False).encode(),
        "CRLF": json.dumps(value, indent=1).replace("\n", "\r\n"),
        "CR": json.dumps(value, indent=1).replace("\n", "\r"),
        "UTF-16": json.dumps(value, ensure_ascii=False).encode("utf-16"),
        "UTF-16, the other order": codecs.BOM_UTF16_BE + json.dumps(value).encode("utf-16-be"),
    }


def broken_json(value: dict[str, Any] | list[Any]) -> dict[str, tuple[Any, str]]:
    """Return what is no such JSON, and what is to be said of it."""
    listed = isinstance(value, list)
    return {
        "empty file": ("", "not readable JSON"),
        "cut off": (json.dumps(value)[:-9], "not readable JSON"),
        "of another kind": (
            {"data": value} if listed else [value],
            "must hold a list" if listed else "must hold an object",
        ),
        "another encoding": ('{"v_a": "é"}'.encode("latin-1"), r"not UTF-8 \(byte 9\)"),
        "nested 100,000 deep": ("[" * 100_000, "not readable JSON"),
        "a number of 5,000 digits": ('{"v_a": ' + "1" * 5000 + "}", "not readable JSON"),
        "UTF-16 without a mark": (
            json.dumps(value).encode("utf-16-le"),
            "looks like UTF-16-LE without its byte-order mark",
        ),
        "a ZIP file": (b"PK\x03\x04....", "an Excel workbook or another ZIP file, not text"),
        "a zero byte": ('{"v_a":\n"\0"}', "has a NUL character in line 2"),
        "a zero byte, escaped": ('{"v_a":\n"a\\\\\\u0000"}', "has a NUL character in line 2"),
        "a key twice": ('{"v_a": 1, "v_a": 2}', "the key 'v_a' is there twice"),
        "half a character": ('["\\ud800"]', "not readable JSON"),
    }
