"""A run's folder: its files, and a trained model back from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file

from tvr_bench.config import load
from tvr_bench.datamodules.base import VideoTextDataModule
from tvr_bench.datamodules.tokens import load_tokenizer
from tvr_bench.errors import UserError
from tvr_bench.evaluation.callback import RetrievalEvaluation
from tvr_bench.evaluation.evaluate import EvaluationResult
from tvr_bench.models.base import RetrievalModule
from tvr_bench.registry import build_model, dataset_class
from tvr_bench.schema import MACHINE, Config

CONFIG_FILE = "config.yaml"
TOKENIZER_FILE = "tokenizer.json"
WEIGHTS_FILE = "model.safetensors"
LEDGER_FILE = "failures.jsonl"
_ELSEWHERE = (*MACHINE, "accelerator", "devices", "smoke")  # a test may run on another machine
_TRAINED = (
    *("seed", "track", "data", "video", "text", "ocr", "backbone", "optim", "loss", "trainer"),
)


def load_run(run_dir: str | Path) -> RetrievalModule:
    """Return the tested model of a run, in evaluation mode, with its tokenizer.

    Raises UserError where the folder is no finished run or its files do not fit each other.
    """
    cfg = _config_of(run_dir := Path(run_dir))
    model = build_model(cfg)
    load_weights(model, run_dir)
    return model.eval()


def load_weights(model: RetrievalModule, run_dir: Path) -> None:
    """Put the weights and the tokenizer of a finished run into a model.

    Raises UserError where the folder is no finished run, it was trained with other settings than
    the model's own, or its files do not fit. The model's own keys and those of `eval` may differ,
    as far as the weights fit: they can be what is compared.
    """
    trained, cfg = _config_of(run_dir), model.cfg
    for section in _TRAINED:
        was, now = (_settings(one, section) for one in (trained, cfg))
        if was != now:
            raise UserError(
                f"run {run_dir} was trained with other settings ({_first_change(section, was, now)}"
                "); repeat them, or train anew without run.weights"
            )
    model.tokenizer = load_tokenizer(run_dir / TOKENIZER_FILE, cfg.text.words)
    try:
        model.load_state_dict(load_file(run_dir / WEIGHTS_FILE))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{run_dir / WEIGHTS_FILE} does not fit the model ({reason}); repeat the run"
        ) from error


def _config_of(run_dir: Path) -> Config:
    for name in (CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE):
        if not (run_dir / name).is_file():
            raise UserError(f"{run_dir} is no finished run: it has no {name}; give a run's folder")
    return load(file=run_dir / CONFIG_FILE)


def _settings(cfg: Config, section: str) -> Any:
    """Return a section's values, of `trainer` those that do not depend on the machine."""
    values: Any = OmegaConf.to_container(cast(Any, cfg), resolve=True)
    kept = values[section]
    if section == "trainer":
        return {key: value for key, value in kept.items() if key not in _ELSEWHERE}
    return kept


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
