"""The record: what it refuses, what comes back, and what is left when writing stops half way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tvr_bench.errors import UserError
from tvr_bench.leaderboard.record import (
    Record,
    load_ranks,
    load_record,
    metrics_json,
    save_record,
)

RecordFactory = Callable[..., Record]
Ranks = dict[str, np.ndarray]


def test_a_record_comes_back_as_it_was(
    make_record: RecordFactory, ranks: Ranks, tmp_path: Path
) -> None:
    record = make_record(run__dirty=None, data__missing_ids=["-4wsuPCjDBc_5_15", "ü\n|"])
    path = save_record(record, tmp_path / "run", ranks)
    assert load_record(path) == record
    assert load_record(tmp_path / "run") == record
    found = load_ranks(record, tmp_path / "run")
    assert found.keys() == ranks.keys()
    assert all(np.array_equal(found[name], ranks[name]) for name in ranks)
    assert {found[n].dtype.name for n in ("t2v_ahead", "v2t_ahead")} == {"int32"}


@pytest.mark.parametrize(("said", "meant"), [("true", "all"), ("false", "none")])
def test_a_record_that_says_whether_towers_were_frozen_says_which(
    said: str, meant: str, make_record: RecordFactory, ranks: Ranks, tmp_path: Path
) -> None:
    record = make_record(settings={"backbone.frozen": said})
    save_record(record, tmp_path, ranks)
    found = load_record(tmp_path)
    assert (found.protocol.frozen, found.settings["backbone.frozen"]) == (meant, meant)


def test_equal_results_give_equal_bytes(
    make_record: RecordFactory, ranks: Ranks, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        save_record(make_record(), tmp_path / name, dict(reversed(ranks.items())))
    for file in ("record.json", "ranks.npz"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_metrics_are_free_of_time_and_canonical(make_record: RecordFactory) -> None:
    values = make_record().metrics.t2v
    other = make_record(
        run__wall_s=1.0,
        phases={"train": 9.0},
        efficiency__ms_per_query_p50=99.0,
        metrics__t2v=dict(reversed(values.items())),
    )
    assert metrics_json(other) == metrics_json(make_record())
    third = make_record(metrics__t2v={**values, "R@1": values["R@1"] + 1e-14})
    assert metrics_json(third) != metrics_json(make_record())
    assert json.loads(metrics_json(third))["t2v"]["R@1"] == values["R@1"] + 1e-14


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("metrics__speed", 3.0),
        ("metrics__t2v", {"R@1": 1.0}),
        ("metrics__tied_queries", {"t2v": -1}),
        ("efficiency__ms_per_query_p50", float("nan")),
        ("protocol__selection", "best"),
        ("protocol__resolution", (224,)),
        ("model__checkpoint_sha256", "A" * 64),
        ("run__id", "../../etc"),
        ("run__id", "-rf"),
        ("ranks", "../ranks.npz"),
        ("run__wall_s", -1.0),
    ],
)
def test_impossible_values_are_refused(
    make_record: RecordFactory, place: str, value: object
) -> None:
    with pytest.raises(ValidationError):
        make_record(**{place: value})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_metric_is_a_finite_number(make_record: RecordFactory, bad: float) -> None:
    values = {**make_record().metrics.t2v, "MnR": bad}
    with pytest.raises(ValidationError, match="finite"):
        make_record(metrics__t2v=values)


def test_ranks_must_be_whole_and_small(
    make_record: RecordFactory, ranks: Ranks, tmp_path: Path
) -> None:
    for array in (np.array([1.5]), np.array([2**31]), np.array([np.nan])):
        with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="32 bits"):
            save_record(make_record(), tmp_path, {**ranks, "t2v_ahead": array})
    assert list(tmp_path.iterdir()) == []


def _edited(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        content = json.loads(data)
        change(content)
        return json.dumps(content).encode()

    return edit


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"\xff" + data,
        lambda data: b"[1, 2, 3]",
        lambda data: b"null",
        lambda data: b'{"accuracy": 0.9}',
        lambda data: b"[" * 100_000,
        lambda data: data.replace(b"48.1", b"NaN"),
        lambda data: data.replace(b"48.1", b'"48.1"'),
        _edited(lambda content: content.pop("env")),
        _edited(lambda content: content.update(schema_version=3)),
        _edited(lambda content: content["model"].update({"a\nb": 1})),
    ],
)
def test_a_broken_or_foreign_record_is_one_line(
    make_record: RecordFactory,
    ranks: Ranks,
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
) -> None:
    path = save_record(make_record(), tmp_path, ranks)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="repeat its run") as caught:
        load_record(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_no_record_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "record.json")  # reading it would wait for ever
    for path in (tmp_path, tmp_path / "record.json", tmp_path / "absent"):
        with pytest.raises(UserError, match="there is no record"):
            load_record(path)


def test_damaged_ranks_are_one_line(
    make_record: RecordFactory, ranks: Ranks, tmp_path: Path
) -> None:
    record = make_record()
    save_record(record, tmp_path, ranks)
    whole = (tmp_path / "ranks.npz").read_bytes()
    middle = bytearray(whole)
    middle[60:90] = bytes(30)
    for data in (b"", whole[:100], bytes(middle), b"not a zip"):
        (tmp_path / "ranks.npz").write_bytes(data)
        with pytest.raises(UserError, match="cannot read the ranks"):
            load_ranks(record, tmp_path)


def test_a_record_never_lies_without_its_ranks(
    make_record: RecordFactory, ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, done = os.replace, []

    def stop_after_one(source: str, target: str) -> None:
        if done:
            raise OSError(28, "No space left on device")
        replace(source, target)
        done.append(Path(target).name)

    monkeypatch.setattr(os, "replace", stop_after_one)
    with pytest.raises(UserError, match="No space"):
        save_record(make_record(), tmp_path, ranks)
    assert done == ["ranks.npz"]
    assert [path.name for path in tmp_path.iterdir()] == ["ranks.npz"]
