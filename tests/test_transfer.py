"""A trained model tested on other data: what comes from where, and what the record says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import tvr_bench
from tiny import TINY_MODEL, TINY_RUN, TINY_SIGNVID
from tvr_bench import config
from tvr_bench.bench import bench
from tvr_bench.cli import main
from tvr_bench.errors import UserError
from tvr_bench.export import export_model
from tvr_bench.leaderboard.grouping import group_hash, protocol_key
from tvr_bench.leaderboard.record import Record, load_record
from tvr_bench.leaderboard.result import metrics_of
from tvr_bench.transfer import settings_of_command


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transfer")


@pytest.fixture(scope="module")
def run(root: Path, shared_cache: Path) -> Path:
    """A finished run on SignVid."""
    places = [f"run.root={root}", f"run.leaderboard={root}", f"paths.cache={shared_cache}"]
    own = ["model=tcard", "model.heads=2", "eval.selection=last", "run.name=one"]
    bench(config.load([*TINY_MODEL, *TINY_RUN, *TINY_SIGNVID, *places, *own]))
    return root / "one"


@pytest.fixture(scope="module")
def exported(run: Path, root: Path) -> Path:
    export_model(run, root / "exported")
    return root / "exported"


@pytest.fixture
def here(tmp_path: Path, shared_cache: Path) -> list[str]:
    """Where a test's own runs go, on this machine."""
    places = [f"run.root={tmp_path}", f"run.leaderboard={tmp_path}", f"paths.cache={shared_cache}"]
    return [*places, "trainer.accelerator=cpu", "trainer.prepare_workers=0", "run.picture=false"]


@pytest.fixture
def test_rows(tiny_video: Callable[..., Path], tmp_path: Path) -> Path:
    """A CSV of three videos that are all to be tested."""
    rows = [f"{tiny_video(f'{i}.mp4', seconds=1).name},number {i},test" for i in range(3)]
    path = tmp_path / "own.csv"
    path.write_text("\n".join(["video,caption,split", *rows]))
    return path


@pytest.mark.parametrize("kind", ["run", "exported"])
def test_weights_are_tested_on_other_data_and_the_record_says_on_what_they_were_trained(
    kind: str, test_rows: Path, here: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    weights, first = request.getfixturevalue(kind), load_record(request.getfixturevalue("run"))
    words = [f"run.weights={weights}", "data=csv", f"data.file={test_rows}", "run.name=moved"]
    assert main(["bench", *words, *here]) == 0
    record = load_record(tmp_path / "moved")
    assert (record.data.name, record.data.queries, record.data.train_clips) == ("csv", 3, None)
    assert record.model.checkpoint_sha256 == first.model.checkpoint_sha256
    was, now = first.protocol, record.protocol
    assert (now.frames, now.resolution, now.words) == (was.frames, was.resolution, was.words)
    assert now.selection == was.selection == "last"
    assert was.trained_on is not None and now.trained_on == was.trained_on
    assert (was.trained_on.data, was.trained_on.split, was.trained_on.clips) == (
        "signvid tiny",
        "train",
        16,
    )
    assert was.trained_on.annotations_sha256 is not None
    assert protocol_key(record).endswith("trained on signvid tiny")
    assert "trained on" not in protocol_key(first)
    tokens = [folder / "tokenizer.json" for folder in (weights, tmp_path / "moved")]
    assert tokens[0].read_bytes() == tokens[1].read_bytes()
    model = tvr_bench.load_run(weights) if kind == "run" else tvr_bench.load_model(weights)
    own = {"data.file": test_rows, **dict(word.split("=", 1) for word in here[2:5])}
    assert metrics_of(tvr_bench.evaluate(model, "csv", **own)) == record.metrics


def test_a_transferred_result_is_ranked_with_none_that_was_trained_there(
    test_rows: Path, here: list[str], run: Path
) -> None:
    words = [f"run.weights={run}", f"data.file={test_rows}", *here]
    moved = bench(settings_of_command([*words, "run.name=a"]))
    assert moved is not None and moved.protocol.trained_on is not None
    there = moved.protocol.trained_on

    def of(data: str | None) -> Record:
        other = None if data is None else there.model_copy(update={"data": data})
        return moved.model_copy(
            update={"protocol": moved.protocol.model_copy(update={"trained_on": other})}
        )

    groups = [group_hash(record) for record in (moved, of("vatex"), of("csv own.csv"), of(None))]
    assert len({*groups[:3]}) == 3
    assert groups[2] == groups[3], "of the same data set it is no rule of the test"


def test_weights_alone_repeat_the_test_of_their_run(
    run: Path, here: list[str], tmp_path: Path
) -> None:
    assert main(["bench", f"run.weights={run}", *here, "run.name=again"]) == 0
    assert load_record(tmp_path / "again").metrics == load_record(run).metrics
    assert load_record(tmp_path / "again").protocol == load_record(run).protocol


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["video.frames=5"], "video.frames 3, not 5"),
        (["text.words=20"], "text.words 32, not 20"),
        (["backbone=tiny", "backbone.width=32"], "backbone.width 16, not 32"),
        (["model=cret"], "of model tcard, not cret"),
        (["model.no=1"], "unknown key 'model.no'"),
    ],
    ids=lambda value: str(value),
)
def test_settings_that_contradict_the_training_are_refused_by_name(
    words: list[str],
    expected: str,
    run: Path,
    here: list[str],
    test_rows: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = ["data=csv", f"data.file={test_rows}", "run.name=refused"]
    assert main(["bench", f"run.weights={run}", *own, *here, *words]) == 2
    assert expected in capsys.readouterr().err
    assert not (test_rows.parent / "refused").exists()


def test_the_data_set_of_a_key_that_no_other_has_need_not_be_named(
    run: Path, test_rows: Path
) -> None:
    cfg = settings_of_command([f"run.weights={run}", f"data.file={test_rows}"])
    assert (cfg.data.name, cfg.video.frames, cfg.model.name) == ("csv", 3, "tcard")


def test_a_model_is_loaded_for_other_data(exported: Path, test_rows: Path) -> None:
    model = tvr_bench.load_model(exported, **{"data.file": str(test_rows)})
    assert (model.cfg.data.name, model.cfg.data.file) == ("csv", str(test_rows))
    assert model.cfg.backbone.width == 16
    with pytest.raises(UserError, match=r"video\.frames 3, not 4"):
        tvr_bench.load_model(exported, **{"video.frames": 4})


def test_what_is_prepared_for_weights_is_their_test(
    run: Path, test_rows: Path, here: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"run.weights={run}", "data=csv", f"data.file={test_rows}"]
    assert main(["data", "prepare", *words, *here]) == 0
    assert "prepared everything of csv" in capsys.readouterr().err
