"""A run's folder: its files, and a trained model back from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from tvr_bench.config import load
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
from tvr_bench.schema import ELSEWHERE, Config, numbers

LEDGER_FILE = "failures.jsonl"
_TRAINED = (
    *("seed", "track", "data", "video", "text", "ocr", "backbone", "optim", "loss", "trainer"),
)


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

    Raises UserError where that is no finished run, it was trained with other settings than the
    configuration's, or its files do not fit. The model's own keys and those of `eval` may differ,
    as far as the weights fit: they can be what is compared. So may folders that a published model
    leaves open.
    """
    assert cfg.run.weights is not None
    folder = find(cfg.run.weights)
    trained = read_config(folder)
    with towers.without_weights(folder, needed=False):
        model = build_model(cfg)
    for section in _TRAINED:
        was = _settings(trained, section)
        now = _left_open(_settings(cfg, section), was)
        if was != now:
            raise UserError(
                f"run {cfg.run.weights} was trained with other settings "
                f"({_first_change(section, was, now)}); repeat them, or train anew without "
                "run.weights"
            )
    fill(model, folder)
    return model


def _left_open(now: Any, was: Any) -> Any:
    """Return `now` without the texts, which are folders, in place of which `was` has nothing."""
    if isinstance(now, Mapping) and isinstance(was, Mapping):
        return {key: _left_open(one, was.get(key)) for key, one in now.items()}
    return was if isinstance(now, str) and was in (None, "") else now


def _settings(cfg: Config, section: str) -> Any:
    """Return a section's values that can change a number, wherever the test runs."""
    values: Any = OmegaConf.to_container(cast(Any, cfg), resolve=True)
    return numbers(values, ELSEWHERE)[section]


def _first_change(section: str, was: Any, now: Any) -> str:
    """Return the first key that differs, with both its values."""
    if not isinstance(was, Mapping):
        return f"{section} {was}, not {now}"
    key = next(key for key in sorted({*was, *now}) if was.get(key) != now.get(key))
    return f"{section}.{key} {was.get(key)}, not {now.get(key)}"


def evaluation_of(model: RetrievalModule, **keep: bool) -> RetrievalEvaluation:
    """Return the callback that evaluates a model as its configuration says.

    `keep` are its switches `keep_scores` and `keep_features`. Raises UserError where the model
    cannot be evaluated in that way.
    """
    how = model.cfg.eval
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
    model: RetrievalModule, data: str | VideoTextDataModule, split: str = "test"
) -> EvaluationResult:
    """Return both directions' metrics and ranks of a model on a split.

    `data` is a data set's name, which takes the model's own settings and tokenizer, or a
    datamodule.
    """
    from tvr_bench.training import build_tester

    if split not in ("val", "test"):
        raise UserError(f"split '{split}' is not evaluated; choose val or test")
    cfg = model.cfg
    if isinstance(data, str):
        cfg = _with_data(cfg, data)
        data = dataset_class(data)(cfg, scene_text=model.reads_text)
    data.tokenizer = data.tokenizer or model.tokenizer
    data.prepare([split])
    data.tell()
    evaluation = evaluation_of(model)
    tester = build_tester(cfg, [evaluation])
    run = tester.test if split == "test" else tester.validate
    run(model, data, verbose=False)
    return evaluation.results[split]


def _with_data(cfg: Config, name: str) -> Config:
    """Return `cfg` with another data set; how a clip is read stays what the model learned."""
    if name == cfg.data.name:
        return cfg
    changed: Any = OmegaConf.create(OmegaConf.to_container(cast(Any, cfg), resolve=True))
    changed.data = load([f"data={name}"]).data
    OmegaConf.set_readonly(changed, True)
    return cast(Config, changed)
