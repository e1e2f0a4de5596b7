"""Two stages in whole runs: what is refused, what the record says, how it compares."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
from torch import Tensor

from tvr_bench import config
from tvr_bench.bench import bench
from tvr_bench.cli import main
from tvr_bench.errors import UserError
from tvr_bench.evaluation.callback import RetrievalEvaluation
from tvr_bench.leaderboard.record import load_record
from tvr_bench.models.meanpool import MeanPool
from tvr_bench.runs import evaluate, load_run


def test_a_parity_without_two_stages_and_a_model_without_a_first_stage_are_refused() -> None:
    with pytest.raises(UserError, match=r"eval\.parity=eercf.*set eval\.two_stage"):
        RetrievalEvaluation(parity="eercf")
    evaluation = RetrievalEvaluation(two_stage=5)
    with pytest.raises(UserError, match="LightningModule has no recall_embedding and no rerank"):
        evaluation.check(pl.LightningModule())
    RetrievalEvaluation().check(pl.LightningModule())


@pytest.fixture
def no_recall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(MeanPool, "recall_embedding")


def test_a_run_is_refused_in_one_line_before_any_work(
    tiny_settings: list[str], no_recall: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", *tiny_settings, "model=meanpool", "eval.two_stage=5"]
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert "MeanPool has no recall_embedding" in printed and printed.count("\n") == 1
    for bad in ("eval.two_stage=0", "eval.parity=xpool", "eval.parity=eercf"):
        name = f"run.name={bad.replace('=', '-')}"
        assert main(["bench", *tiny_settings, "model=meanpool", bad, name]) == 2
        assert bad.split("=")[0] in capsys.readouterr().err


def test_a_run_in_two_stages_says_so_in_its_record(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[tuple[int, bool]] = []
    real = MeanPool.rerank

    def rerank(self: MeanPool, text: dict[str, Tensor], video: dict[str, Tensor]) -> Tensor:
        met.append((len(text["text"]), self.training))
        return real(self, text, video)

    monkeypatch.setattr(MeanPool, "rerank", rerank)
    cfg = config.load(
        [*tiny_settings, "model=meanpool", "eval.two_stage=5", "run.picture=true", "run.name=two"]
    )
    record = bench(cfg)
    assert record is not None and record == load_record(tmp_path / "runs" / "two")
    assert (record.protocol.two_stage, record.protocol.parity) == (5, "none")
    cost = record.efficiency
    assert (cost.pairs_t2v, cost.pairs_v2t, cost.recall_pairs) == (80, 80, 256)
    assert cost.pairs_scored is not None and 80 <= cost.pairs_scored <= 160
    tested = sum(texts for texts, training in met) - cost.pairs_scored
    assert tested > 0, "validation is done in two stages too"
    assert not any(training for _, training in met)
    assert cost.recall_bytes_per_video == 4 * cfg.backbone.width
    assert cost.gflops_recall_pair == pytest.approx(2e-9 * cfg.backbone.width)
    assert cost.recall_ms_per_query_p50 is not None and cost.ms_per_query_p50 is not None
    assert (tmp_path / "runs" / "two" / "retrieval.png").exists()
    with open(tmp_path / "runs.csv") as file:
        (row,) = csv.DictReader(file)
    assert "top5" in row["protocol"] and "eercf" not in row["protocol"]
    assert (row["pairs_t2v"], row["recall_pairs"]) == ("80", "256")

    model = load_run(tmp_path / "runs" / "two")
    again = evaluate(model, "signvid")
    assert again.stages is not None and again.pairs_scored == cost.pairs_scored
    assert again.t2v["R@1"] == record.metrics.t2v["R@1"]


def test_a_run_in_parity_warns_once_and_stands_in_a_group_of_its_own(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    words = [*tiny_settings, "model=meanpool", "eval.two_stage=5", "trainer.steps=1"]
    with pytest.warns(UserWarning, match="not those of a V2T retrieval"):
        parity = bench(config.load([*words, "eval.parity=eercf", "run.name=parity"]))
    plain = bench(config.load([*words, "run.name=plain"]))
    assert parity is not None and plain is not None
    assert parity.protocol.parity == "eercf"
    assert parity.metrics.t2v == plain.metrics.t2v
    with open(tmp_path / "runs.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["group"] for row in rows}) == 2
    assert sum("eercf" in row["protocol"] for row in rows) == 1


def test_a_record_without_the_new_fields_still_loads(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    record = bench(
        config.load([*tiny_settings, "model=meanpool", "trainer.steps=1", "run.name=old"])
    )
    assert record is not None and record.protocol.two_stage is None
    path = tmp_path / "runs" / "old" / "record.json"
    content = json.loads(path.read_text())
    assert content["protocol"].pop("parity") == "none"
    for name in [*content["efficiency"]]:
        if name.startswith(("pairs_t2v", "pairs_v2t", "recall_", "gflops_recall")):
            assert content["efficiency"].pop(name) is None, name
    path.write_text(json.dumps(content))
    assert load_record(path) == record
