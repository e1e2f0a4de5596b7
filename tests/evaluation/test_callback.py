"""The callback in a real Trainer with a small model and a small data module."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tvr_bench.datamodules.types import Clip, Query, Split
from tvr_bench.errors import UserError
from tvr_bench.evaluation.callback import RetrievalEvaluation
from tvr_bench.evaluation.ranks import rank as rank_rows
from tvr_bench.evaluation.ranks import retrieval_metrics

CLIPS, QUERIES = 12, 20


class Vectors(Dataset):
    """Rows of a matrix with their positions."""

    def __init__(self, rows: Tensor, key: str, positions: list[int]) -> None:
        self.rows, self.key, self.positions = rows, key, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        position = self.positions[item]
        return {"x": self.rows[position], self.key: torch.tensor(position)}


class Data(pl.LightningDataModule):
    """Two loaders per split: texts, then videos; queries repeat the clips in turn."""

    def __init__(self, failed: tuple[str, ...] = (), lost: tuple[int, ...] = ()) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.texts = torch.randn(QUERIES, 8, generator=generator)
        self.videos = torch.randn(CLIPS, 8, generator=generator)
        self.broken, self.lost = set(failed), lost

    def split(self, name: str) -> Split:
        clips = tuple(Clip(f"{name}{i}", Path(f"{i}.mp4")) for i in range(CLIPS))
        queries = tuple(
            Query(f"q{i}", "", clips[i % CLIPS].id, ("order", "")[i % 2], f"g{i % CLIPS // 4}")
            for i in range(QUERIES)
        )
        return Split(clips, queries)

    def failed(self, name: str) -> set[str]:
        return {f"{name}{clip}" for clip in self.broken}

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Vectors(self.texts, "text_index", list(range(QUERIES))), 4)

    def val_dataloader(self) -> list[DataLoader]:
        there = [i for i in range(CLIPS) if i not in self.broken and i not in self.lost]
        return [
            DataLoader(Vectors(self.texts, "text_index", list(range(QUERIES))), 3),
            DataLoader(Vectors(self.videos, "video_index", there), 5),
        ]

    test_dataloader = val_dataloader


class Model(pl.LightningModule):
    """One linear map on both sides; dropout in the similarity shows a model left in training."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.map = nn.Linear(8, 8)
        self.dropout = nn.Dropout(0.9)
        self.dtypes: set[torch.dtype] = set()
        self.modes: set[tuple[bool, bool, bool]] = set()

    def similarity(self, text: dict[str, Tensor], video: dict[str, Tensor]) -> Tensor:
        self.modes.add(
            (self.training, torch.is_grad_enabled(), torch.is_autocast_enabled(self.device.type))
        )
        scores = self.dropout(text["x"]) @ video["x"].T
        self.dtypes.add(scores.dtype)
        return scores

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        return self.map(batch["x"]).square().mean()

    def validation_step(self, batch: dict[str, Tensor], index: int, dataloader_idx: int = 0):
        kind = "text" if dataloader_idx == 0 else "video"
        return {
            "kind": kind,
            "index": batch[f"{kind}_index"],
            "features": {"x": self.map(batch["x"])},
        }

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


@pytest.fixture(autouse=True)
def quiet():
    """Keep the Trainer's own remarks out of the tests' warnings."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
        yield


def trainer(evaluation: RetrievalEvaluation, **settings) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        devices=settings.pop("devices", 1),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[evaluation],
        **settings,
    )


def known_metrics(model: Model, data: Data) -> tuple[dict[str, float], dict[str, float]]:
    with torch.no_grad():
        scores = (model.map(data.texts) @ model.map(data.videos).T).clone()
    scores[:, sorted(data.broken)] = torch.nan
    gold = torch.arange(QUERIES) % CLIPS
    mask = gold[None, :] == torch.arange(CLIPS)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return retrieval_metrics(scores, gold), retrieval_metrics(scores.T, mask)


def known_ranks(model: Model, data: Data) -> np.ndarray:
    with torch.no_grad():
        scores = model.map(data.texts) @ model.map(data.videos).T
    return rank_rows(scores, torch.arange(QUERIES) % CLIPS).ahead


@pytest.mark.parametrize("failed", [(), (2, 7)])
def test_test_run_gives_both_directions_and_logs_them(failed):
    evaluation, model, data = RetrievalEvaluation(block=5, keep_scores=True), Model(), Data(failed)
    logged = trainer(evaluation).test(model, data, verbose=False)[0]
    result = evaluation.results["test"]
    t2v, v2t = known_metrics(model, data)
    assert (result.t2v, result.v2t) == (t2v, v2t)
    assert logged["test/t2v_R@1"] == pytest.approx(t2v["R@1"])
    assert logged["test/v2t_MnR"] == pytest.approx(v2t["MnR"])
    assert logged["test/R@1_mean"] == pytest.approx((t2v["R@1"] + v2t["R@1"]) / 2)
    assert {"test/RSum", "test/order/t2v_R@1", "test/order/in_group_R@1"} <= logged.keys()
    assert list(result.by_skill) == ["order"]
    assert result.scores is not None and result.scores.shape == (QUERIES, CLIPS)
    assert result.failed == tuple(f"test{clip}" for clip in failed)
    assert model.modes == {(False, False, False)}


def test_fit_validates_each_epoch_and_skips_the_sanity_check():
    evaluation, model, data = RetrievalEvaluation(), Model(), Data()
    seen = []

    class Watch(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            seen.append((trainer.sanity_checking, "val" in evaluation.results))

    run = trainer(evaluation, max_epochs=2, num_sanity_val_steps=1)
    run.callbacks.append(Watch())
    run.fit(model, data)
    assert seen == [(True, False), (False, True), (False, True)]
    assert evaluation.results["val"].t2v == known_metrics(model, data)[0]
    assert float(run.callback_metrics["val/t2v_R@5"]) == pytest.approx(
        evaluation.results["val"].t2v["R@5"]
    )


def test_complete_sanity_check_gives_no_metrics_either():
    evaluation = RetrievalEvaluation()
    trainer(evaluation, max_epochs=0, num_sanity_val_steps=-1).fit(Model(), Data())
    assert evaluation.results == {}


@pytest.mark.parametrize("settings", [{"limit_test_batches": 2}, {"fast_dev_run": True}])
def test_limited_run_warns_and_gives_no_metrics(settings):
    evaluation = RetrievalEvaluation()
    with pytest.warns(UserWarning, match="only part of split 'test'"):
        trainer(evaluation, **settings).test(Model(), Data(), verbose=False)
    assert evaluation.results == {}


def test_missing_items_of_a_complete_run_are_an_error():
    with pytest.raises(UserError, match=r"2 of 12 clips of split 'test'.*'test4'"):
        trainer(RetrievalEvaluation()).test(Model(), Data(lost=(4, 9)), verbose=False)


def test_step_without_features_is_an_error():
    class Silent(Model):
        def test_step(self, batch: dict[str, Tensor], index: int, dataloader_idx: int = 0):
            return None

    with pytest.raises(UserError, match="returned no features"):
        trainer(RetrievalEvaluation()).test(Silent(), Data(), verbose=False)


def test_loaders_without_a_data_module_are_an_error():
    with pytest.raises(UserError, match="datamodule"):
        trainer(RetrievalEvaluation()).test(Model(), Data().test_dataloader(), verbose=False)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("32-true", torch.float32), ("bf16-mixed", torch.float32), ("bf16-true", torch.bfloat16)],
)
def test_scores_keep_the_precision_of_the_weights(precision, dtype):
    evaluation, model = RetrievalEvaluation(keep_scores=True), Model()
    trainer(evaluation, precision=precision).test(model, Data(), verbose=False)
    assert model.dtypes == {dtype}
    scores = evaluation.results["test"].scores
    assert scores is not None and scores.dtype == torch.float32
    rounded = torch.equal(scores, scores.bfloat16().float())
    assert rounded == (dtype == torch.bfloat16)


def test_streamed_run_equals_the_one_with_a_matrix():
    model, data = Model(), Data(failed=(3,))
    kept, streamed = RetrievalEvaluation(4), RetrievalEvaluation(4, max_matrix_gb=0)
    for evaluation in (kept, streamed):
        trainer(evaluation).test(model, data, verbose=False)
    assert kept.results["test"].flat() == streamed.results["test"].flat()
    assert kept.results["test"].v2t == streamed.results["test"].v2t


def test_nan_scores_warn():
    class Broken(Model):
        def similarity(self, text: dict[str, Tensor], video: dict[str, Tensor]) -> Tensor:
            return super().similarity(text, video) * torch.nan

    evaluation = RetrievalEvaluation()
    with pytest.warns(UserWarning, match="240 scores of split 'test' are NaN"):
        trainer(evaluation).test(Broken(), Data(), verbose=False)
    assert evaluation.results["test"].t2v["R@10"] == 0
    assert evaluation.results["test"].t2v["nan_queries"] == QUERIES


class ByVectors(Model):
    """A model whose score is a dot product, and which must not be asked for it block by block."""

    def score_vectors(self, features: dict[str, Tensor]) -> Tensor:
        assert not torch.is_autocast_enabled(self.device.type)
        return features["x"]


def test_vectors_that_a_model_offers_are_ranked_instead_of_its_similarity():
    evaluation, model, data = RetrievalEvaluation(keep_scores=True), ByVectors(), Data((2,))
    trainer(evaluation, precision="bf16-mixed").test(model, data, verbose=False)
    plain = RetrievalEvaluation(keep_scores=True)
    trainer(plain, precision="bf16-mixed").test(Model(), data, verbose=False)
    ours, theirs = evaluation.results["test"], plain.results["test"]
    assert not model.modes
    assert (ours.t2v, ours.v2t, ours.in_group) == (theirs.t2v, theirs.v2t, theirs.in_group)
    assert ours.scores is not None and theirs.scores is not None
    torch.testing.assert_close(ours.scores, theirs.scores, equal_nan=True)


def test_a_subclass_with_another_similarity_is_not_ranked_by_the_vectors_it_inherits():
    class Reversed(ByVectors):
        def similarity(self, text: dict[str, Tensor], video: dict[str, Tensor]) -> Tensor:
            return -super().similarity(text, video)

    evaluation, model, data = RetrievalEvaluation(), Reversed(), Data()
    trainer(evaluation).test(model, data, verbose=False)
    assert model.modes
    best = evaluation.results["test"].t2v_ranks.ahead
    worst = known_ranks(model, data)
    assert (best == CLIPS - 1 - worst).all()


@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(tmp_path):
    paths = os.pathsep.join([str(Path(__file__).parents[2] / "src"), *sys.path])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(tmp_path / "found")]
    subprocess.run(command, env=environment, check=True, timeout=900)
    evaluation, model, data = RetrievalEvaluation(), Model(), Data(failed=(2,))
    trainer(evaluation, max_epochs=1).validate(model, data, verbose=False)
    expected = json.loads(json.dumps(evaluation.results["val"].flat()))
    for rank in range(2):
        found = json.loads((tmp_path / f"found.{rank}").read_text())
        assert found["result"] == expected
        assert found["logged"] == pytest.approx(
            {f"val/{name}": value for name, value in expected.items()}
        )


def validate_on_two_processes(out: str) -> None:
    """Write what each of two processes found; the Trainer starts the second by itself."""
    evaluation = RetrievalEvaluation()
    run = trainer(evaluation, devices=2, strategy="ddp")
    logged = run.validate(Model(), Data(failed=(2,)), verbose=False)[0]
    found = {"result": evaluation.results["val"].flat(), "logged": logged}
    Path(f"{out}.{run.global_rank}").write_text(json.dumps(found))


if __name__ == "__main__":
    validate_on_two_processes(sys.argv[1])
