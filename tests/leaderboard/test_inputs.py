"""What a run was given is in its record by content, so two sources are two systems."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leaderboard.fake_runs import write_run
from tvr_bench import config
from tvr_bench.datamodules.types import Clip, Query, Split
from tvr_bench.leaderboard import inputs
from tvr_bench.leaderboard.aggregate import Run, rank_groups, systems_of
from tvr_bench.leaderboard.inputs import inputs_of
from tvr_bench.leaderboard.record import Input, Record
from tvr_bench.leaderboard.run_settings import RunSettings, settings_of
from tvr_bench.leaderboard.table import read_runs
from tvr_bench.models.layers.towers import content
from tvr_bench.registry import dataset_class

RecordFactory = Callable[..., Record]
A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def _split(texts: tuple[str, ...], end: float | None = None) -> Split:
    clips = tuple(Clip(f"v{i}", Path(f"v{i}.mp4"), None, end) for i in range(len(texts)))
    return Split(clips, tuple(Query(f"q{i}", text, f"v{i}") for i, text in enumerate(texts)))


def _inputs(
    *words: str, train: Split | None = None, said: str = "sale", **more: Any
) -> dict[str, Input]:
    cfg = config.load(["data=csv", "data.file=/data/clips.csv", "model=tcard", *words])
    data = dataset_class("csv")(cfg)
    data._splits = {"train": train or _split(("red", "blue")), "test": _split(("green",))}
    data._items = dict.fromkeys(data._splits)  # type: ignore[arg-type]
    data._windows = {f"v{i}": [said] for i in range(2)}
    return inputs_of(cfg, data, more.get("pretrained", {}), C)


def test_the_training_set_is_there_by_its_captions_clips_and_spans() -> None:
    plain = _inputs()["train.captions"]
    assert plain.name == "csv clips.csv"
    assert _inputs("data.file=/elsewhere/clips.csv")["train.captions"] == plain
    others = (_split(("red",)), _split(("red", "green")), _split(("red", "blue"), end=3.0))
    assert len({plain.sha256, *(_inputs(train=t)["train.captions"].sha256 for t in others)}) == 4


def test_scene_text_is_there_by_what_it_says_and_where_it_lay() -> None:
    given = ("ocr.source=tracks", "ocr.given=/x/a")
    first = _inputs(*given)["test.text"]
    assert first.name == "a"
    assert _inputs("ocr.source=tracks", "ocr.given=/y/a")["test.text"] == first
    assert _inputs(*given, said="open")["test.text"].sha256 != first.sha256
    assert "test.text" not in _inputs("ocr.given=/x/a"), "our engine's text follows from settings"


def test_the_models_of_the_engine_are_there_by_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "engine_version", lambda name, weights: f"1.0-{weights}")
    plain = _inputs()["ocr.weights"]
    assert plain.name == "rapidocr"
    assert _inputs("ocr.weights=/x/mine")["ocr.weights"].sha256 != plain.sha256
    assert "ocr.weights" not in _inputs("ocr.enabled=false")
    assert "ocr.weights" not in _inputs("ocr.source=tracks", "ocr.given=/x/a")


def _videos(root: Path, *words: str, of: dict[str, bytes]) -> str | None:
    root.mkdir(exist_ok=True)
    for name, held in of.items():
        (root / f"{name}.mp4").write_bytes(held)
    clips = tuple(Clip(f"v{i}", root / f"v{i}.mp4") for i in range(2))
    queries = tuple(Query(f"q{i}", "red", f"v{i}") for i in range(2))
    found = _inputs(f"paths.cache={root}", *words, train=Split(clips, queries))
    return found["train.videos"].sha256 if "train.videos" in found else None


def test_videos_are_there_by_what_their_files_hold(tmp_path: Path) -> None:
    plain = _videos(tmp_path / "a", of={"v0": b"0", "v1": b"1"})
    assert _videos(tmp_path / "copy", of={"v0": b"0", "v1": b"1"}) == plain
    recoded = _videos(tmp_path / "b", of={"v0": b"0", "v1": b"recoded"})
    swapped = _videos(tmp_path / "c", of={"v0": b"1", "v1": b"0"})
    missing = _videos(tmp_path / "d", of={"v0": b"0"})
    assert len({plain, recoded, swapped, missing}) == 4


def test_videos_are_there_only_where_somebody_looks_into_them(tmp_path: Path) -> None:
    features = ("backbone.name=features", "ocr.given=/x", "ocr.source=tracks")
    files = {"v0": b"0", "v1": b"1"}
    assert _videos(tmp_path, *features, "ocr.enabled=false", of=files) is None
    assert _videos(tmp_path, *features, of=files) == _videos(tmp_path, of=files)


def test_rendered_videos_are_there_by_their_script_whatever_the_encoder_made() -> None:
    words = ["data=signvid", "data.preset=tiny", "model=meanpool"]
    hashes = [
        dataset_class("signvid")(config.load([*words, *more])).videos_hash("test")
        for more in ([], ["paths.cache=/elsewhere"], ["data.seed=1"])
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_files_of_features_are_there_by_content(tmp_path: Path) -> None:
    words = ["backbone.name=features", "ocr.enabled=false"]
    for name, text in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(text)
    found = [_inputs(*words, f"features.region_file={tmp_path / n}") for n in "abc"]
    same, copy, other = (one["features.region_file"].sha256 for one in found)
    assert same == copy != other


def test_pretrained_towers_are_there_by_their_weights() -> None:
    import torch

    tower = torch.nn.Linear(2, 2)
    before = content(tower)
    assert content(tower) == before
    with torch.no_grad():
        tower.weight += 1
    assert content(tower) != before
    pretrained = {"pretrained": {"clip": before}}
    one = _inputs(**pretrained)["backbone.weights"]
    other = _inputs(pretrained={"clip": content(tower)})["backbone.weights"]
    assert one.sha256 != other.sha256


def test_tested_weights_bring_what_they_were_made_of(tmp_path: Path) -> None:
    given = {"name": "msrvtt 1ka", "sha256": A}
    made = {"train.captions": given, "train.videos": given, "val.videos": given}
    write_run(tmp_path, "source")
    text = (tmp_path / "source" / "record.json").read_text()
    (tmp_path / "source" / "record.json").write_text(
        text.replace('"inputs": {}', f'"inputs": {made}'.replace("'", '"'))
    )
    found = _inputs(f"run.weights={tmp_path / 'source'}")
    assert all(found[key].sha256 == A for key in made)
    bare = _inputs(f"run.weights={tmp_path / 'no record'}")["run.weights"]
    assert (bare.name, bare.sha256) == ("no record", C)


@pytest.mark.parametrize(
    "key", ["train.captions", "train.videos", "test.text", "backbone.weights", "test.captions"]
)
def test_two_inputs_are_two_systems_that_do_not_look_alike(
    key: str, make_record: RecordFactory
) -> None:
    runs = [
        Run(
            Path("none"),
            f"r{i}",
            make_record(run__id=f"r{i}", run__seed=i).model_copy(
                update={"inputs": {key: Input(name="same", sha256=sha256)}}
            ),
            RunSettings(),
        )
        for i, sha256 in enumerate((A, B, B))
    ]
    systems = systems_of(runs)
    assert [len(system.runs) for system in systems] == [1, 2]
    rows = rank_groups(systems)[0][0].rows
    assert len({row["settings"] for row in rows}) == 2
    assert all(f"{key}=#" in row["settings"] for row in rows)


def test_what_weights_were_trained_on_is_said_where_it_is_other_data(
    make_record: RecordFactory,
) -> None:
    inputs = {
        "train.captions": Input(name="msrvtt 1ka", sha256=A),
        "test.captions": Input(name="csv clips.csv", sha256=B),
    }
    record = make_record().model_copy(update={"inputs": inputs})
    rows = rank_groups(systems_of([Run(Path(), "r", record, RunSettings())]))[0][0].rows
    assert rows[0]["settings"] == "trained_on=msrvtt_1ka"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["data=msrvtt", "data.train=7k"], "data.train=7k"),
        (["data=msrvtt", "data.holdout=0"], "data.holdout=0"),
        (["video.frames=2", "eval.frames=8"], "video.frames=2"),
    ],
)
def test_how_a_row_was_trained_shows(words: list[str], shown: str) -> None:
    settings = RunSettings(settings_of(config.load(["model=cret", *words])))
    assert shown in settings.changes()


def test_a_record_of_version_1_is_read_and_grouped_by_its_configuration(tmp_path: Path) -> None:
    config_text = config.to_yaml(config.load(["model=meanpool", "optim.lr=0.5"]))
    body = config_text.partition("paths:")[2]
    for seed in (0, 1):
        folder = write_run(
            tmp_path, f"old{seed}", model="meanpool", seed=seed, config=f"paths:{body}"
        )
        path = folder / "record.json"
        path.write_text(path.read_text().replace('"schema_version": 2', '"schema_version": 1'))
    runs, warnings = read_runs(tmp_path)
    assert not warnings
    assert [len(system.runs) for system in systems_of(runs)] == [2]
    assert "optim.lr=0.5" in runs[0].settings.changes()
