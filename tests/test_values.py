"""A text key takes its text as it stands, in every way in; a number is what all read alike."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tiny import TINY_MODEL
from tvr_bench import config, create_model
from tvr_bench.errors import UserError
from tvr_bench.launch.grid import parse_sweep
from tvr_bench.text_yaml import Plain
from tvr_bench.values import Kind, convert, whole

DATA = ("csv", "msrvtt", "signvid", "m4vitevqa")  # the first and all that has texts of its own
ODD = (
    *("/data/MSR #2", "007", "010", "1e5", "12:30", "on", "no", "True", "/d: e", "#", " #a", " a "),
    *("2026_11_30", "2026-11-30", "1_000", ".5", "0x10", "-", "- a", "[1,2]", "{a: 1}", "[", "}"),
    *('"a"', "'a'", "'", "a\\b", "\\n", "a\tb", "a, b", "!x", "&a", "*a", "<<", "%", "@", "`", "|"),
    *(
        ">",
        "?",
        ": ",
        "a=b",
        "=",
        "nan",
        "Null",
        "~",
        "None",
        "é",
        "e\u0301",
        "日本",
        "🎬",
        "\xa0a",
    ),
    *(
        "a\u2028b",
        "\x85",
        "\x7f",
        "\ufeffa",
        "\r",
        "x" * 300,
        "a b " * 60,
        "y",
        "$HOME",
    ),
)
texts = st.sampled_from(ODD) | st.text(
    st.characters(exclude_characters="\0\n", exclude_categories=("Cs",)), max_size=20
)


def _text_keys() -> list[tuple[str, str]]:
    """Return every key that takes a free text, each with a data set that has it."""
    found: dict[str, str] = {}
    for data in DATA:
        cfg: Any = config.load([f"data={data}"])
        kinds = config.kinds("tcard", data)
        for key, kind in kinds.items():
            if key in found:
                continue
            free = kind.type is str and key.rpartition(".")[2] != "name"
            if free or key in ("run.name", "backbone.weights"):
                try:
                    config.load([f"data={data}", (key, "x y")])
                except UserError as error:
                    assert "Choose one of" in str(error)
                    continue
                assert OmegaConf.select(cfg, key) in (None, "") or key.startswith(
                    ("run.", "paths.", "features.")
                )
                found.setdefault(key, data)
    return list(found.items())


KEYS = _text_keys()


def test_the_keys_of_free_texts_are_found() -> None:
    assert {"run.root", "run.name", "data.root", "data.file", "ocr.given"} <= set(dict(KEYS))
    assert len(KEYS) > 15


def _value(cfg: Any, key: str) -> Any:
    return OmegaConf.select(cfg, key)


@settings(max_examples=60, deadline=None)
@given(key=st.sampled_from(KEYS), text=texts)
def test_any_text_survives_every_way_in_and_the_written_yaml(
    key: tuple[str, str], text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    name, data = key
    assume("${" not in text and text != "???")
    optional = config.kinds("tcard", data)[name].optional
    file = tmp_path_factory.mktemp("t") / "config.yaml"

    typed = config.load([f"data={data}", f"{name}={text}"])
    nothing = optional and text in ("", "null")
    assert _value(typed, name) == (None if nothing else text)
    called = config.load([f"data={data}", (name, text)])
    assert _value(called, name) == text

    section, _, last = name.partition(".")
    quoted = {"data": {"name": data}}
    quoted[section] = quoted.get(section, {}) | {last: text}
    file.write_text(yaml.safe_dump(quoted))
    assert _value(config.load(file=file), name) == text

    file.write_text(config.to_yaml(called), encoding="utf-8")
    again = config.load(file=file)
    assert _value(again, name) == text
    assert config.to_yaml(again) == file.read_text(encoding="utf-8")

    if text != "null":
        cells = {"a": {name: text, "data.name": data}}
        if name in ("run.root", "run.name", "run.weights"):
            return
        content = {"title": "t", "metrics": ["t2v_R@1"], "cells": cells}
        (cell,) = parse_sweep("own", content, file).cells
        assert _value(config.load(cell.overrides), name) == (None if nothing else text)


@pytest.mark.parametrize("text", ODD)
def test_a_models_text_survives_create_model(text: str) -> None:
    tiny = dict(setting.split("=") for setting in TINY_MODEL)
    model = create_model("meanpool", **tiny, **{"run.name": text, "paths.cache": text})
    assert (model.cfg.run.name, model.cfg.paths.cache) == (text, text)


@pytest.mark.parametrize(
    "text",
    [
        "007",
        "on",
        "no",
        "y",
        "2026-11-30",
        "2026_11_30",
        "1e5",
        "12:30",
        "0x1F",
        "1_000",
        ".5",
        "a b",
    ],
)
def test_an_unquoted_text_of_a_yaml_file_is_the_text_that_stands_there(
    text: str, tmp_path: Path
) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(f"data: csv\nrun:\n  name: {text}\n  root: {text} # a comment\n")
    cfg = config.load(["run.leaderboard=" + text], file)
    assert (cfg.run.name, cfg.run.root, cfg.run.leaderboard) == (text, text, text)


def test_null_is_nothing_where_nothing_is_allowed(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("ocr: {given: null, weights: ~}\nbackbone:\n  weights:\n")
    cfg = config.load(["run.name=null", ("run.weights", None), "trainer.steps=null"], file)
    assert [cfg.ocr.given, cfg.ocr.weights, cfg.backbone.weights, cfg.run.name] == [None] * 4
    assert (cfg.run.weights, cfg.trainer.steps) == (None, None)
    file.write_text('run: {name: "null"}\n')
    assert config.load(file=file).run.name == "null"
    file.write_text("data: {name: csv, root: null}\n")
    with pytest.raises(UserError, match=r"data\.root=null is impossible; it takes a text"):
        config.load(file=file)


@pytest.mark.parametrize("value", [Path("/a #b"), "/a #b"])
def test_a_path_is_a_text(value: Any) -> None:
    assert config.load(["data=csv", ("data.root", value)]).data.root == "/a #b"


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        (Kind(int), "10", 10),
        (Kind(int), "+3", 3),
        (Kind(int), 7, 7),
        (Kind(float), "1e5", 1e5),
        (Kind(float), ".5", 0.5),
        (Kind(float), 3, 3.0),
        (Kind(bool), "off", False),
        (Kind(bool), "True", True),
        (Kind(bool), True, True),
        (Kind(int, length=2), "224", (224, 224)),
        (Kind(int, length=2), 224, (224, 224)),
        (Kind(int, length=2), "[3, 4]", (3, 4)),
        (Kind(float, length=2), (0.5, 1), (0.5, 1.0)),
        (Kind(str, length=0), "[007, on]", ["007", "on"]),
        (Kind(int, optional=True), Plain("null"), None),
        (Kind(str, optional=True), "null", "null"),
        (Kind(str), Plain("null"), "null"),
    ],
)
def test_a_value_of_each_kind(kind: Kind, raw: Any, value: Any) -> None:
    read = convert(kind, raw)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        *((Kind(int), raw) for raw in ("010", "1_0", "0x1", "12:30", "1.0", "1e3", "", "٣", 1.5)),
        *((Kind(int), raw) for raw in (1.0, True, None, "true", "- 1")),
        *(
            (Kind(float), raw)
            for raw in ("01", "1_0.5", "12:30", "1,5", "", True, None, "1e", "\uff10")
        ),
        *((Kind(bool), raw) for raw in ("maybe", "", None, 2, 1.5)),
        *((Kind(str), raw) for raw in (None, 1.5, True, ["a"], "a\0b")),
        *((Kind(int, length=2), raw) for raw in ("[1]", "[1", "a", [1, 2, 3], {"a": 1}, "[01,2]")),
        (Kind(float, length=2), "0.9"),
    ],
)
def test_what_is_no_value_of_its_kind(kind: Kind, raw: Any) -> None:
    with pytest.raises(ValueError):
        convert(kind, raw)


@pytest.mark.parametrize("text", ["1_0", "08", "\uff11", "1.0", " "])
def test_a_whole_number_has_plain_digits(text: str) -> None:
    assert whole("12") == 12
    with pytest.raises(ValueError):
        whole(text)


def test_a_command_that_is_printed_can_be_pasted(tmp_path: Path) -> None:
    from tvr_bench.run_folder import how_to_go_on

    folder = tmp_path / "my runs #2" / "a"
    words = shlex.split(how_to_go_on(folder).split("`")[1])
    assert words == ["tvr-bench", "bench", "--config", str(folder / "config.yaml"), "run.name=a"]
