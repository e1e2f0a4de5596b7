"""Which results may be compared, and which runs are seeds of one system."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tvr_bench import config
from tvr_bench.leaderboard.grouping import group_hash, protocol_key, protocol_words
from tvr_bench.leaderboard.record import Record
from tvr_bench.leaderboard.run_settings import RunSettings, read_settings

RecordFactory = Callable[..., Record]
# each level holds the one before twice: a million leaves in a few hundred letters
_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{k: *a{i - 1}, l: *a{i - 1}}}\n" for i in range(1, 21)
)


def _settings(folder: Path, *overrides: str) -> RunSettings:
    folder.mkdir(parents=True, exist_ok=True)
    cfg = config.load(["model=meanpool", *overrides])
    (folder / "config.yaml").write_text(config.to_yaml(cfg), encoding="utf-8")
    return read_settings(folder)


def test_protocol_in_words(make_record: RecordFactory) -> None:
    assert protocol_key(make_record()) == "single|12f|224x224|32w|best_val"
    full = make_record(
        protocol__track="paper",
        protocol__resolution=(112, 80),
        protocol__postprocess="dsl",
        protocol__two_stage=50,
        protocol__parity="eercf",
        data__missing_ids=["a", "b"],
    )
    assert protocol_key(full) == (
        "paper track|single|12f|112x80|32w|best_val|dsl|top50|as eercf ranks|2missing"
    )
    words = ", ".join(protocol_words(full))
    for part in ("paper track", "112 x 80", "dsl", "top 50", "comparison only", "2 missing"):
        assert part in words
    best = make_record(protocol__selection="best_test")
    assert "only to repeat a paper's protocol" in ", ".join(protocol_words(best))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("data__name", "msrvtt"),
        ("data__variant", "base"),
        ("data__annotations_sha256", "c" * 64),
        ("data__clips", 207),
        ("data__missing_ids", ["a"]),
        ("protocol__split", "val"),
        ("protocol__track", "paper"),
        ("protocol__captions", "all"),
        ("protocol__frames", 8),
        ("protocol__resolution", (112, 112)),
        ("protocol__words", 20),
        ("protocol__selection", "best_test"),
        ("protocol__postprocess", "dsl"),
        ("protocol__two_stage", 10),
        ("protocol__parity", "eercf"),
        ("protocol__towers", {"name": "signvid", "sha256": "d" * 64}),
        ("protocol__frozen", "image"),
    ],
)
def test_another_protocol_is_another_group(
    make_record: RecordFactory, place: str, value: object
) -> None:
    assert group_hash(make_record(**{place: value})) != group_hash(make_record())


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("run__seed", 7),
        ("model__name", "meanpool"),
        ("protocol__ocr", {"enabled": False}),
        ("data__failed", ["a"]),
        ("efficiency__device", "gpu"),
    ],
)
def test_a_models_own_choices_share_a_group(
    make_record: RecordFactory, place: str, value: object
) -> None:
    assert group_hash(make_record(**{place: value})) == group_hash(make_record())


def test_towers_and_their_freezing_are_rules_of_the_controlled_track(
    make_record: RecordFactory,
) -> None:
    def record(name: str, digit: str, **more: object) -> Record:
        towers = {"name": name, "sha256": digit * 64}
        return make_record(protocol__towers=towers, protocol__frozen="image", **more)

    assert group_hash(record("signvid", "d")) == group_hash(record("copy", "d"))
    assert group_hash(record("signvid", "d")) != group_hash(record("signvid", "e"))
    assert protocol_key(record("signvid", "d")).endswith("|towers signvid #dddddd|frozen image")
    assert protocol_words(record("", "d"))[-2:] == [
        "pretrained towers tiny #dddddd",
        "image tower frozen",
    ]
    papers = [record(n, d, protocol__track="paper") for n, d in (("a", "d"), ("b", "e"))]
    assert group_hash(papers[0]) == group_hash(papers[1]), "each paper has its own"
    assert "towers" not in protocol_key(papers[0]) + "".join(protocol_words(papers[0]))


def test_what_may_differ_between_seeds(tmp_path: Path) -> None:
    plain = _settings(tmp_path / "a")
    for i, override in enumerate(
        (
            *("seed=3", "run.root=elsewhere", "paths.cache=/tmp/x", "log.csv=false"),
            *("trainer.workers=4", "trainer.threads=7", "trainer.prepare_workers=2"),
            *("video.timeout=7", "ocr.given=elsewhere"),
        )
    ):
        assert _settings(tmp_path / f"same{i}", override).digest == plain.digest
    for i, override in enumerate(
        (
            *("optim.lr=1e-5", "trainer.epochs=3", "trainer.batch_size=8", "data.seed=1"),
            *("ocr.xi=0.4", "eval.two_stage=5", "loss.scale=20"),
        )
    ):
        assert _settings(tmp_path / f"other{i}", override).digest != plain.digest


def test_a_second_stage_may_be_left_out(tmp_path: Path) -> None:
    plain = _settings(tmp_path / "a")
    staged = _settings(tmp_path / "b", "eval.two_stage=5")
    slower = _settings(tmp_path / "c", "eval.two_stage=5", "optim.lr=1e-5")
    assert staged.without_two_stages().digest == plain.without_two_stages().digest
    assert slower.without_two_stages().digest != plain.without_two_stages().digest


def test_changes_are_told_against_the_defaults_of_the_model(tmp_path: Path) -> None:
    assert _settings(tmp_path / "a").changes() == ()
    changed = ["trainer.epochs=3", "video.size=[32,48]", "ocr.xi=0.5", "seed=4", "data.preset=tiny"]
    assert _settings(tmp_path / "b", *changed).changes() == (
        *("data.preset=tiny", "ocr.xi=0.5", "trainer.epochs=3"),
    )
    edition = RunSettings(_settings(tmp_path / "b", *changed).values, variant="tiny")
    assert edition.changes() == ("ocr.xi=0.5", "trainer.epochs=3")
    assert _settings(tmp_path / "c", "trainer.steps=7").changes() == ("trainer.steps=7",)


def test_frozen_towers_are_told_by_the_protocol_and_in_the_paper_track_by_the_settings(
    tmp_path: Path,
) -> None:
    frozen = _settings(tmp_path / "a", "backbone.frozen=all")
    assert frozen.changes() == ()
    paper = _settings(tmp_path / "b", "track=paper", "backbone=tiny", "backbone.frozen=all")
    assert paper.changes() == ("backbone.frozen=all",)
    path = tmp_path / "a" / "config.yaml"
    path.write_text(path.read_text().replace("frozen: all", "frozen: true"), encoding="utf-8")
    assert "frozen: true" in path.read_text() and read_settings(tmp_path / "a") == frozen


def test_changes_from_scratch_are_told_against_a_plain_run_from_scratch(tmp_path: Path) -> None:
    values = _settings(tmp_path / "a", "data=signvid", "backbone.weights=none").values
    assert RunSettings(values, scratch=True).changes() == ()
    other = _settings(tmp_path / "b", "data=signvid", "backbone.weights=folder").values
    found = RunSettings(other, scratch=True).changes()
    assert {"trainer.shift=0", "trainer.mirror=false"} <= set(found)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: [unclosed",
        "[" * 5_000,
        "[" * 200_000,
        "- 1\n- 2\n",
        "model:\n  name: no_such_model\ndata:\n  name: signvid\nx: 1\n",
        _BOMB,
    ],
)
def test_a_foreign_configuration_says_nothing_and_breaks_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert read_settings(tmp_path).changes() == ()


def test_how_yaml_wraps_a_long_path_says_nothing(tmp_path: Path) -> None:
    plain = _settings(tmp_path / "a")
    place = " ".join(["a folder with a long name"] * 4)
    for key in ("data.root", "ocr.given", "run.root", "paths.cache"):
        override = f"{key}=/data/{place}" if key != "data.root" else f"data.root=/{place}/x"
        data = ["data=csv"] if key == "data.root" else []
        usual = _settings(tmp_path / f"usual {key}", *data) if data else plain
        assert _settings(tmp_path / key, *data, override).digest == usual.digest


def test_no_configuration_is_no_settings(tmp_path: Path) -> None:
    assert read_settings(tmp_path).digest == ""
    (tmp_path / "config.yaml").mkdir()
    assert read_settings(tmp_path).digest == ""
