"""Sweep files: expansion, labels, what is refused, and the sweeps of the package themselves."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny import TINY_MODEL
from tvr_bench import config
from tvr_bench.errors import UserError
from tvr_bench.launch.grid import Cell, load_sweep, parse_sweep, setting, sweep_names
from tvr_bench.leaderboard.sweep_report import check_metrics
from tvr_bench.registry import build_model
from tvr_bench.text_yaml import Plain
from tvr_bench.values import Kind, convert

BASE: dict[str, Any] = {"title": "a sweep", "metrics": ["t2v_R@1"]}
keys = st.sampled_from(["model.tau", "video.frames", "optim.lr", "ocr.xi", "text.words"])
values = st.one_of(
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
    st.sampled_from(["split", "none", "1", "true", "1e3", "a b", "x=y", "#c", "null", "~", ""]),
)


def _parse(**content: Any) -> Any:
    return parse_sweep("own", {**BASE, **content}, Path("own.yaml"))


@settings(max_examples=50, deadline=None)
@given(
    grid=st.dictionaries(
        keys, st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True), max_size=3
    ),
    cells=st.dictionaries(st.sampled_from("abc"), st.just({"model.heads": 2})),
)
def test_every_named_cell_meets_every_combination_once(
    grid: dict[str, list[Any]], cells: dict[str, Any]
) -> None:
    if not grid and not cells:
        return
    sweep = _parse(grid=grid, cells=cells, base={"seed_free": 1})
    expected = Counter(
        (name, *combination)
        for name in (cells or [""])
        for combination in itertools.product(*(range(len(v)) for v in grid.values()))
    )
    found = Counter(
        (
            next((name for name in cells if cell.label.split(", ")[0] == name), ""),
            *(grid[key].index(cell.place[key]) for key in grid),
        )
        for cell in sweep.cells
    )
    assert found == expected
    for cell in sweep.cells:
        assert {**{"seed_free": 1}, **cell.place}.items() <= dict(cell.settings).items()
        assert ("model.heads" in cell.settings) == bool(cells)
    labels = [cell.label for cell in sweep.cells]
    assert len(set(labels)) == len(labels)


@settings(max_examples=50, deadline=None)
@given(values)
def test_a_setting_is_read_back_to_the_same_value(value: Any) -> None:
    kind = Kind(str if value is None else type(value), optional=value is None)
    if value == "null":
        with pytest.raises(UserError, match="means nothing"):
            setting("model.key", value)
        return
    key, _, text = setting("model.key", value).partition("=")
    read = convert(kind, Plain(text))
    assert (key, read, type(read)) == ("model.key", value, type(value))


@pytest.mark.parametrize(
    "value", [[80, 112], ["a", "b c"], [0.5, 1e-05], ["1", "2"], ["a, b", "[", "'", '"', "# 1"]]
)
def test_a_list_is_read_back_too(value: list[Any]) -> None:
    text = setting("key", value).removeprefix("key=")
    assert convert(Kind(type(value[0]), length=0), Plain(text)) == value


def test_plain_words_stay_plain() -> None:
    assert setting("model", "cret") == "model=cret"
    assert setting("ocr.enabled", False) == "ocr.enabled=false"
    assert setting("model.srt.residual", "1") == "model.srt.residual=1"
    assert setting("video.size", [80, 112]) == "video.size=[80,112]"


def test_what_a_cell_sets_reaches_the_command_line_as_it_stands(tmp_path: Path) -> None:
    """Its key alone says whether it is a text, a number or yes and no."""
    file = tmp_path / "own.yaml"
    file.write_text(
        "title: own\nmetrics: [t2v_R@1]\nbase: {data: csv, data.file: no}\n"
        "cells:\n  a: {data.root: 007, ocr.enabled: off}\n  b: {data.root: 1e5}\n"
        "  c: {data.root: 2026-11-30, paths.cache: '/d: e #1'}\n  d: {data.root: 12:30}\n"
        "grid: {optim.lr: [1.0e-3, 3e-4, 0.01]}\n"
    )
    sweep = load_sweep(str(file))
    roots = [config.load(cell.overrides).data.root for cell in sweep.cells[::3]]
    assert roots == ["007", "1e5", "2026-11-30", "12:30"]
    first: Any = config.load(sweep.cells[0].overrides)
    assert (first.data.file, first.ocr.enabled, first.optim.lr) == ("no", False, 1e-3)
    assert config.load(sweep.cells[6].overrides).paths.cache == "/d: e #1"
    assert sweep.x == "optim.lr"
    assert sweep.cells[1].label == "a, lr=3e-4"


def test_labels_name_the_axes() -> None:
    sweep = _parse(
        grid={"video.frames": [2, 4], "eval.frames": [None, 8], "model.tau": [0.5]},
        labels={"model.tau": "temperature", "eval.frames=none": "as trained"},
    )
    assert sweep.cells[0].label == "video.frames=2, eval.frames=as trained, temperature=0.5"
    assert sweep.cells[1].overrides == ["video.frames=2", "eval.frames=8", "model.tau=0.5"]


@pytest.mark.parametrize(
    ("content", "x"),
    [
        ({"grid": {"model.tau": [1, 2, 3]}}, "model.tau"),
        ({"grid": {"model.tau": [1, 2]}}, None),
        ({"grid": {"model.tau": [1, 2, 3], "ocr.xi": [1, 2, 3]}}, None),
        ({"grid": {"model.tau": [1, 2, 3], "ocr.xi": [1, 2, 3]}, "x": "ocr.xi"}, "ocr.xi"),
        ({"grid": {"model.tau": [True, False, None]}}, None),
        ({"cells": {"a": {}, "b": {"model.tau": 1}}}, None),
    ],
)
def test_a_line_needs_one_axis_of_numbers(content: Any, x: str | None) -> None:
    assert _parse(**content).x == x


PAPER = {"source": "Table 1", "data": "MSR-VTT", "columns": ["t2v_R@1"]}
GRID = {"model.tau": [1, 2, 3]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, ["no cells", "`grid:`"]),
        ({"grid": {}}, ["no cells"]),
        ({"grid": {"model.tau": []}}, ["model.tau is empty"]),
        ({"grid": GRID, "gird": {}}, ["'gird'", "'grid'"]),
        ({"grid": {"model.tau": 3}}, ["grid.model.tau", "list"]),
        ({"grid": {"model.tau": [{"a": 1}]}}, ["grid.model.tau.0"]),
        ({"grid": {"model.tau": [float("nan")]}}, ["grid.model.tau.0"]),
        ({"grid": {"model.tau": [1, 1]}}, ["'tau=1'", "two cells"]),
        ({"grid": {f"k{i}": list(range(10)) for i in range(4)}}, ["10000 cells"]),
        ({"cells": {"a": {"model.tau": 1}}, "grid": GRID}, ["'a'", "model.tau", "grid varies"]),
        ({"cells": {"a": ["model.tau=1"]}}, ["cells.a"]),
        ({"cells": {"a": {"seed": 1}}}, ["seed"]),
        ({"grid": GRID, "base": {"run.name": "x"}}, ["run.name"]),
        ({"grid": GRID, "metrics": []}, ["metrics"]),
        ({"grid": GRID, "title": 7}, ["title"]),
        ({"grid": GRID, "x": "model.nu"}, ["x: model.nu"]),
        ({"grid": GRID, "plot": ["v2t_R@1"]}, ["plot: v2t_R@1"]),
        ({"grid": GRID, "labels": {"model.nu": "n"}}, ["labels: model.nu"]),
        ({"grid": GRID, "paper": [{**PAPER, "rows": {"tau=4": [1]}}]}, ["'tau=4'", "Did you"]),
        ({"grid": GRID, "paper": [{**PAPER, "rows": {"tau=1": [1, 2]}}]}, ["2 of 1 numbers"]),
        ({"grid": GRID, "paper": [{**PAPER, "row": {}}]}, ["paper.0.row"]),
        ({"grid": GRID, "paper": [{**PAPER, "rows": {True: [1]}}]}, ["paper.0.rows"]),
    ],
)
def test_a_faulty_sweep_is_one_line(content: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(UserError) as error:
        _parse(**content)
    message = str(error.value)
    assert "own.yaml" in message and "\n" not in message
    for text in expected:
        assert text in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "title: Field required"),
        ("just words", "keys and values"),
        ("- a\n- b", "keys and values"),
        ("a: [1, 2", "not readable YAML"),
        ("a: !!python/object/apply:os.system ['true']", "not readable YAML"),
        ("\x00\x01", "not readable YAML"),
        ("a: ${b", ""),
        ("x: &a [1]\ny: [*a, *b]", "not readable YAML"),
        ("# " + "x" * 1_000_001, "larger than 1 MB"),
    ],
)
def test_a_file_that_is_no_sweep_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        load_sweep(str(file))
    assert expected in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tcard/tua", "'tcard/tau'"),
        ("tcard", "tcard/modules, tcard/ocr"),
        ("../model/tcard", "no sweep"),
        ("missing.yaml", "missing.yaml"),
    ],
)
def test_an_unknown_sweep_names_the_nearest(name: str, expected: str) -> None:
    with pytest.raises(UserError, match="sweep") as error:
        load_sweep(name)
    assert expected in str(error.value)


def test_a_file_of_ones_own_is_a_sweep(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("title: mine\nmetrics: [t2v_R@1]\ngrid: {model.tau: [1, 2]}\n")
    sweep = load_sweep(str(file))
    assert (sweep.name, [cell.label for cell in sweep.cells]) == ("mine", ["tau=1", "tau=2"])
    assert sweep.place == str(file)


def _cells(papers: str) -> list[Cell]:
    names = [name for name in sweep_names() if name.split("/")[0] in papers.split()]
    return [cell for name in names for cell in load_sweep(name).cells]


def test_every_setting_of_every_sweep_is_a_valid_one() -> None:
    values: dict[Any, dict[str, list[Any]]] = {}  # by model and key
    for cell in _cells("claims tcard cret bicnet eercf"):
        keys = values.setdefault(cell.settings["model"], {})
        for key, value in cell.settings.items():
            if value not in keys.setdefault(key, []):
                keys[key].append(value)
    assert set(values) == set(config.names("model"))
    for model, keys in values.items():
        # settings are checked one by one, so a load may hold one value of each key
        for i in range(max(map(len, keys.values()))):
            config.load([setting(key, found[i % len(found)]) for key, found in keys.items()])
        assert keys["model"] == [model]


@pytest.mark.slow
@pytest.mark.parametrize("papers", ["claims", "tcard", "cret", "bicnet", "eercf"])
def test_every_cell_of_every_sweep_is_a_model_that_can_be_built(papers: str) -> None:
    for cell in _cells(papers):
        if "backbone.name" not in cell.settings:  # those need their weights
            cfg = config.load([*TINY_MODEL, *cell.overrides])
            assert build_model(cfg)


def test_every_metric_of_every_sweep_is_one_of_a_record() -> None:
    for name in sweep_names():
        check_metrics(load_sweep(name))


def test_the_example_for_contributors_is_a_sweep() -> None:
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    example = text.split("## Add a sweep")[1].split("```yaml")[1].split("```")[0]
    sweep = parse_sweep("example", yaml.safe_load(example), Path("CONTRIBUTING.md"))
    assert (len(sweep.cells), sweep.x, sweep.plot) == (6, "model.tau", ["t2v_R@1"])
    check_metrics(sweep)
    config.load(sweep.cells[0].overrides)


def test_the_four_papers_have_sweeps() -> None:
    papers = {name.split("/")[0] for name in sweep_names() if "/" in name}
    assert papers == {"tcard", "cret", "bicnet", "eercf"}


@pytest.mark.parametrize(
    ("name", "row", "values"),
    [
        ("tcard/modules", "5 all", [59.7, 83.2, 89.3, 7.2, None, None, None, None]),
        ("cret/share", "shared queries=yes, shared weights=yes", [23.9, 50.8, 63.4, 5]),
    ],
)
def test_the_papers_numbers_stand_beside_the_cells(name: str, row: str, values: list[Any]) -> None:
    assert load_sweep(name).file.paper[0].rows[row] == values


def test_no_number_of_a_paper_is_plotted_at_a_guessed_place() -> None:
    (table,) = load_sweep("eercf/topk").file.paper
    assert list(table.rows) == ["k=1"] and "k unknown" in "".join(table.other_rows)
