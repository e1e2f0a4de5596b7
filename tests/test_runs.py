"""A finished run as a model again: `load_run` and `evaluate`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import tvr_bench
from tiny import TINY_MODEL, TINY_RUN, TINY_SIGNVID
from tvr_bench import config
from tvr_bench.bench import bench
from tvr_bench.datamodules.tokens import encode
from tvr_bench.errors import UserError
from tvr_bench.leaderboard.record import load_record
from tvr_bench.leaderboard.result import metrics_of
from tvr_bench.registry import dataset_class
from tvr_bench.runs import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, evaluate, load_run

SETTINGS = [*TINY_MODEL, *TINY_RUN, *TINY_SIGNVID]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Path:
    """The folder of a finished run."""
    root = tmp_path_factory.mktemp("runs")
    places = [f"run.root={root}", f"run.leaderboard={root}", f"paths.cache={shared_cache}"]
    bench(config.load([*SETTINGS, *places, "model=tcard", "model.heads=2", "run.name=one"]))
    return root / "one"


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of the run's folder that a test may damage."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


def test_a_loaded_run_has_the_metrics_of_its_record(run: Path) -> None:
    model = tvr_bench.load_run(str(run))
    assert not model.training
    result = tvr_bench.evaluate(model, "signvid")
    assert metrics_of(result) == load_record(run).metrics
    assert result.t2v["R@1"] == load_record(run).metrics.t2v["R@1"]


def test_it_evaluates_a_datamodule_with_the_tokens_it_has_learnt(run: Path) -> None:
    model = load_run(run)
    cfg = config.load(file=run / CONFIG_FILE)
    fresh = dataset_class("signvid")(cfg)
    assert metrics_of(evaluate(model, fresh)) == load_record(run).metrics
    assert fresh.tokenizer is model.tokenizer
    assert metrics_of(evaluate(model, fresh)) == load_record(run).metrics


def test_it_evaluates_the_validation_split_and_no_other(run: Path) -> None:
    model = load_run(run)
    result = evaluate(model, "signvid", split="val")
    assert result.split == "val" and len(result.query_ids) == 16
    with pytest.raises(UserError, match="'train' is not evaluated; choose val or test"):
        evaluate(model, "signvid", split="train")


def test_evaluation_leaves_the_model_as_it_was(run: Path) -> None:
    model = load_run(run)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, "signvid")
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not model.training


def test_a_run_may_be_moved(copy: Path) -> None:
    assert metrics_of(evaluate(load_run(copy), "signvid")) == load_record(copy).metrics


def test_the_tokenizer_comes_with_the_model(run: Path) -> None:
    model = load_run(run)
    assert model.tokenizer is not None
    ids, mask = encode(model.tokenizer, ["a red square moves left"])
    assert ids.shape == (1, model.cfg.text.words)
    features = model.encode_text(
        {"text_ids": torch.from_numpy(ids), "text_mask": torch.from_numpy(mask)}
    )
    assert features["text"].isfinite().all()


def test_a_model_that_never_trained_can_be_evaluated(run: Path, shared_cache: Path) -> None:
    pairs = [setting.split("=", 1) for setting in SETTINGS]
    keys = {key: value for key, value in pairs} | {"paths.cache": str(shared_cache)}
    result = evaluate(tvr_bench.create_model("meanpool", **keys), "signvid")
    assert 0 <= result.t2v["R@1"] <= 100 and result.t2v["queries"] == 16


def test_another_data_set_is_asked_for_by_name(run: Path) -> None:
    with pytest.raises(UserError, match=r"data\.file"):
        evaluate(load_run(run), "csv")
    with pytest.raises(UserError, match="no data set 'signvd'"):
        evaluate(load_run(run), "signvd")


@pytest.mark.parametrize("name", [CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE])
def test_a_folder_without_one_of_the_files_is_no_finished_run(name: str, copy: Path) -> None:
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"no finished run: it has no {name}"):
        load_run(copy)


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises(UserError, match="no finished run"):
        load_run("no/such/run")


@pytest.mark.parametrize(
    ("name", "content"),
    [(WEIGHTS_FILE, b"\x08" * 100), (WEIGHTS_FILE, None), (TOKENIZER_FILE, b"{}")],
)
def test_damaged_files_are_named(name: str, content: bytes | None, copy: Path) -> None:
    path = copy / name
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(UserError, match=name) as error:
        load_run(copy)
    assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_the_configuration_are_refused(copy: Path) -> None:
    path = copy / CONFIG_FILE
    path.write_text(path.read_text().replace("width: 16", "width: 32"))
    with pytest.raises(UserError, match=rf"{WEIGHTS_FILE} does not fit the model"):
        load_run(copy)


def test_texts_and_files_become_the_vectors_that_are_tested(run: Path) -> None:
    model = load_run(run)
    data = dataset_class("signvid")(model.cfg, tokenizer=model.tokenizer)
    data.prepare(["test"])
    split, items = data.split("test"), data.items("test")
    captions = [query.text for query in split.queries[:3]]
    texts = model.embed_texts(captions)
    videos = model.embed_videos([split.clips[i].path for i in range(3)])
    for found, encoder, item in (
        (texts, model.encode_text, items.text),
        (videos, model.encode_video, items.video),
    ):
        batch = [item(i) for i in range(3)]
        with torch.no_grad():
            made = model.recall_embedding(
                encoder({key: torch.stack([one[key] for one in batch]) for key in batch[0]})
            )
        assert torch.equal(found, torch.nn.functional.normalize(made, dim=-1))
        assert found.dtype == torch.float32 and not found.is_inference()
    assert model.embed_texts(tuple(captions[:1])).shape == (1, texts.shape[1])
    assert not model.training


def test_what_cannot_be_embedded_is_said(run: Path, tmp_path: Path) -> None:
    model, broken = load_run(run), tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    for wrong, said in (
        (lambda: model.encode_text("a red ball"), r"embed_texts\(\[\.\.\.\]\)"),
        (lambda: model.encode_video([broken]), r"batch of tensors, not a list; embed_videos"),
        (lambda: model.embed_texts("a red ball"), "give a list of texts"),
        (lambda: model.embed_videos("a.mp4"), "give a list of video files"),
        (lambda: model.embed_videos([tmp_path / "no.mp4"]), "there is no file"),
        (lambda: model.embed_videos([broken]), "cannot be read.*broken"),
        (lambda: tvr_bench.create_model("meanpool").embed_texts(["a"]), "has no tokenizer"),
    ):
        with pytest.raises(UserError, match=said):
            wrong()
