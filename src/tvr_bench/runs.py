"""A run's folder: its files, and a trained model back from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tvr_bench import transfer
from tvr_bench.datamodules.base import VideoTextDataModule
from tvr_bench.errors import UserError
from tvr_bench.evaluation.callback import RetrievalEvaluation
from tvr_bench.evaluation.evaluate import EvaluationResult
from tvr_bench.models.base import RetrievalModule
from tvr_bench.models.layers import towers
from tvr_bench.published import CONFIG_FILE as CONFIG_FILE
from tvr_bench.published import TOKENIZER_FILE as TOKENIZER_FILE
from tvr_bench.published import WEIGHTS_FILE as WEIGHTS_FILE
from tvr_bench.published import fill, find, read_config
from tvr_bench.registry import build_model, dataset_class
from tvr_bench.schema import Config

LEDGER_FILE = "failures.jsonl"


def load_run(run_dir: str | Path) -> RetrievalModule:
    """Return the tested model of a run, in evaluation mode, with its tokenizer.

    It keeps the run's folders of data and caches; `load_model` is for models from elsewhere.
    Raises UserError where the folder is no finished run or its files do not fit each other.
    """
    folder = find(run_dir)
    with towers.without_weights(folder, needed=False):
        model = build_model(read_config(folder))
    fill(model, folder)
    return model.eval()


def trained_model(cfg: Config) -> RetrievalModule:
    """Return the model of a configuration with the weights and the tokenizer of `run.weights`.

    Raises UserError where that is no finished run, the configuration contradicts what it was
    trained with (see `transfer.check`), or its files do not fit.
    """
    assert cfg.run.weights is not None
    folder = find(cfg.run.weights)
    trained = read_config(folder)
    with towers.without_weights(folder, needed=False):
        model = build_model(cfg)
    transfer.check(trained, cfg, f"run {cfg.run.weights}")
    fill(model, folder)
    return model


def evaluation_of(
    model: RetrievalModule, cfg: Config | None = None, **keep: bool
) -> RetrievalEvaluation:
    """Return the callback that evaluates a model as a configuration says, by default its own.

    `keep` are its switches `keep_scores` and `keep_features`. Raises UserError where the model
    cannot be evaluated in that way.
    """
    how = (cfg or model.cfg).eval
    evaluation = RetrievalEvaluation(
        (how.block[0], how.block[1]),
        how.max_matrix_gb,
        two_stage=how.two_stage,
        parity=how.parity,
        v2t=how.v2t,
        **keep,
    )
    evaluation.check(model)
    return evaluation


def evaluate(
    model: RetrievalModule,
    data: str | VideoTextDataModule,
    split: str = "test",
    **settings: Any,
) -> EvaluationResult:
    """Return both directions' metrics and ranks of a model on a split.

    `data` is a data set's name, which takes the model's own settings and tokenizer, or a
    datamodule. `settings` are keys of the configuration, such as `**{"data.file": "my.csv"}`.
    Raises UserError for those that contradict what the model was trained with.
    """
    from tvr_bench.training import build_tester

    if split not in ("val", "test"):
        raise UserError(f"split '{split}' is not evaluated; choose val or test")
    cfg = model.cfg
    if isinstance(data, str):
        cfg = transfer.on_data(transfer.flat(cfg), [("data.name", data), *settings.items()])
        transfer.check(model.cfg, cfg, "the model", transfer.READING)
        data = dataset_class(cfg.data.name)(cfg, scene_text=model.reads_text)
    elif settings:
        raise UserError(f"a datamodule has its settings already; leave out {next(iter(settings))}")
    data.tokenizer = data.tokenizer or model.tokenizer
    data.prepare([split])
    data.tell()
    evaluation = evaluation_of(model, cfg)
    tester = build_tester(cfg, [evaluation])
    run = tester.test if split == "test" else tester.validate
    run(model, data, verbose=False)
    return evaluation.results[split]
