"""Models out of a run and back again, bit for bit, and what the folder holds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tvr_bench
from export.made import places
from tiny import TINY_MODEL, TINY_RUN
from tvr_bench import config
from tvr_bench.bench import bench
from tvr_bench.cli import main
from tvr_bench.errors import UserError
from tvr_bench.export import CARD_FILE, export_model
from tvr_bench.leaderboard.record import RECORD_FILE, load_record
from tvr_bench.leaderboard.result import metrics_of
from tvr_bench.published import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, load_model
from tvr_bench.runs import evaluate, load_run


def test_the_metrics_are_those_of_the_record(run: Path, exported: Path, shared_cache: Path) -> None:
    model = tvr_bench.load_model(exported, **places(shared_cache))
    assert not model.training
    assert metrics_of(evaluate(model, "signvid")) == load_record(run).metrics
    before, after = load_run(run).state_dict(), model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_every_score_is_the_same_to_the_last_bit(
    run: Path, exported: Path, shared_cache: Path
) -> None:
    models = load_run(run), load_model(exported, **places(shared_cache))
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (3, 3, 3, 32, 48), generator=generator).byte()
    ids = torch.randint(3, 300, (3, 32), generator=generator)
    batch = {"frames": frames, "frame_mask": torch.ones(3, 3).bool()}
    batch |= {"text_ids": ids, "text_mask": torch.ones(3, 32).bool()}
    batch |= {"ocr_ids": ids[:, None].expand(-1, 4, -1), "ocr_mask": torch.ones(3, 4, 32).bool()}
    with torch.no_grad():
        first, second = (m.similarity(m.encode_text(batch), m.encode_video(batch)) for m in models)
    assert torch.equal(first, second) and first.std() > 0


@pytest.mark.slow
def test_a_run_is_repeated_from_an_export(
    exported: Path, run: Path, tmp_path: Path, shared_cache: Path
) -> None:
    words = ["bench", "--config", str(exported / CONFIG_FILE), f"run.weights={exported}"]
    here = [f"run.root={tmp_path}", f"run.leaderboard={tmp_path}", f"paths.cache={shared_cache}"]
    assert main([*words, *here, "run.name=again", "trainer.accelerator=cpu"]) == 0
    record = load_record(tmp_path / "again")
    assert record.metrics == load_record(run).metrics
    assert record.run.weights_of == "exported"


@pytest.mark.slow
def test_a_published_model_leaves_the_place_of_the_data_open(
    root: Path, shared_cache: Path, tiny_video: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [f"{tiny_video(f'{i}.mp4')},a caption {i},{s}" for i, s in enumerate(["train"] * 8)]
    rows += [f"{tiny_video(f'{s}{i}.mp4')},one {i},{s}" for s in ("val", "test") for i in range(3)]
    (tmp_path / "my.csv").write_text("\n".join(["video,caption,split", *rows]))
    own = [f"data.file={tmp_path / 'my.csv'}", f"data.root={tmp_path}"]
    here = [f"run.root={tmp_path / 'r'}", f"run.leaderboard={tmp_path}", "run.name=a"]
    small = [*TINY_MODEL, *TINY_RUN, *here, f"paths.cache={shared_cache}", "model=meanpool"]
    first = bench(config.load([*small, "data=csv", *own]))
    folder = tmp_path / "published"
    export_model(tmp_path / "r" / "a", folder)
    assert str(tmp_path) not in (folder / CONFIG_FILE).read_text()
    model = load_model(folder, **places(shared_cache), **dict(s.split("=", 1) for s in own))
    assert metrics_of(evaluate(model, "csv")) == first.metrics
    again = [s for s in small if s != "run.name=a"]
    second = bench(config.load([*again, "run.name=b", "data=csv", *own, f"run.weights={folder}"]))
    assert second.metrics == first.metrics


def test_the_folder_has_what_a_reader_needs_and_nothing_of_the_machine(
    exported: Path, run: Path, root: Path, shared_cache: Path
) -> None:
    files = {path.name for path in exported.iterdir()}
    assert files == {CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, RECORD_FILE, CARD_FILE}
    for name in (CONFIG_FILE, RECORD_FILE, CARD_FILE):
        text = (exported / name).read_text()
        for own in (str(root), str(shared_cache), "secret"):
            assert own not in text
    assert (exported / WEIGHTS_FILE).read_bytes() == (run / WEIGHTS_FILE).read_bytes()
    assert load_record(exported).metrics == load_record(run).metrics
    assert config.load(file=exported / CONFIG_FILE).backbone.width == 16


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda run: (run / RECORD_FILE).unlink(), "no record"),
        (lambda run: (run / WEIGHTS_FILE).unlink(), "no finished run"),
        (lambda run: (run / "ranks.npz").write_bytes(b"PK"), "ranks"),
        (lambda run: _double(run / WEIGHTS_FILE), "measured with"),
    ],
)
def test_a_run_that_is_not_whole_is_not_exported(
    break_it: Callable[[Path], Any], said: str, run: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    break_it(copy)
    with pytest.raises(UserError, match=said) as error:
        export_model(copy, tmp_path / "new")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"], "nothing is left behind"


def _double(path: Path) -> None:
    save_file({key: 2 * value for key, value in load_file(path).items()}, path)


@pytest.mark.parametrize("license", ["", "my own", "x\n---", "a" * 65, "<b>"])
def test_a_licence_that_is_no_identifier_is_refused(
    license: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no identifier"):
        export_model(run, tmp_path / "new", license)


def test_nothing_is_overwritten(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "file").touch()
    for name in ("full", "file"):
        assert main(["export", str(run), str(tmp_path / name)]) == 2
        assert "is there already" in capsys.readouterr().err
    assert main(["export", str(run), str(tmp_path / "file" / "below")]) == 2
    assert "cannot write" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["export", str(run), str(tmp_path / "empty")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'empty'}\n"
