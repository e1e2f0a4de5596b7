"""One run, readable top to bottom: config, data, model, training, test, record."""

from __future__ import annotations

import time
from pathlib import Path

import pytorch_lightning as pl
from rich.console import Console
from safetensors.torch import save_file

from tvr_bench import devices, early, encoded, identity, paper_track, resume, strategies, training
from tvr_bench.datamodules.base import SPLITS, VideoTextDataModule, trained
from tvr_bench.errors import UserError
from tvr_bench.evaluation.evaluate import EvaluationResult
from tvr_bench.files import Ledger, atomic_path
from tvr_bench.leaderboard.record import Record, save_record
from tvr_bench.leaderboard.result import ranks_of
from tvr_bench.leaderboard.table import build_leaderboard
from tvr_bench.models.base import RetrievalModule
from tvr_bench.models.layers import towers
from tvr_bench.picture import draw_picture
from tvr_bench.registry import build_model, dataset_class
from tvr_bench.report import SPLIT, make_record, print_result
from tvr_bench.run_folder import how_to_go_on, keep_settings, open_run, remove_checkpoints
from tvr_bench.runs import LEDGER_FILE, WEIGHTS_FILE, evaluation_of, trained_model
from tvr_bench.schema import Config
from tvr_bench.signals import Stop


def bench(cfg: Config, command: str = "") -> Record | None:
    """Train and test one model; return its record, on the first rank, else None.

    Everything goes to the run's folder. A run of the same `run.name` that was killed goes on from
    its last checkpoint; raises UserError where that run is finished. Ctrl-C and SIGTERM end it
    with `Interrupted`, which says how to go on.
    """
    with Stop() as stop, devices.together(cfg) as team:
        devices.check(cfg)
        return _bench(cfg, command, team, stop)


def _bench(cfg: Config, command: str, team: devices.Team, stop: Stop) -> Record | None:
    started = time.perf_counter()
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    early.check_cache(cfg)
    training.seed(cfg)
    # what it lacks is said before minutes of work
    model = trained_model(cfg) if cfg.run.weights else build_model(cfg)
    evaluation = evaluation_of(model, keep_features=True)
    with open_run(cfg, team, stop) as run_dir:
        data = _prepare(model, run_dir, team)
        trains = "train" in data.prepared
        training.seed(cfg)  # again: whether the caches were full must not change a number
        if team.first:
            assert model.tokenizer is not None
            keep_settings(cfg, run_dir, model.tokenizer)
            console.print(f"{cfg.model.name} on {cfg.data.name}, seed {cfg.seed}: {run_dir}")
            for note in paper_track.notes(cfg):
                console.print(note)
        if trains:
            stop.how = how_to_go_on(run_dir)
            team.advise(stop.how)
        who = identity.identity(cfg, data) if trains else {}
        trainer = training.build_trainer(cfg, run_dir, [evaluation], identity=who, stop=stop)
        if trains:
            data.seconds["train"] = fit(trainer, model, data, run_dir)
        test_start = time.perf_counter()
        with resume.said():
            trainer.test(model, data, verbose=False)
        model = strategies.whole(model)
        if not team.first:
            return None

        if SPLIT not in evaluation.results:  # a smoke run sees one batch, which is no result
            console.print("smoke run: everything connects; no record is written")
            return None
        data.seconds["test"] = time.perf_counter() - test_start
        model.eval()  # Lightning has put it back to training
        return conclude(model, data, evaluation.results[SPLIT], run_dir, command, started)


def _prepare(model: RetrievalModule, run_dir: Path, team: devices.Team) -> VideoTextDataModule:
    """Return the data with its caches filled, as far as the run needs them."""
    cfg = model.cfg
    ledger = Ledger(run_dir / LEDGER_FILE if team.first else None)
    data = dataset_class(cfg.data.name)(
        cfg, tokenizer=model.tokenizer, ledger=ledger, scene_text=model.reads_text
    )
    trains = trained(cfg) and not cfg.run.weights
    splits = SPLITS if trains else (SPLIT,)
    with team.in_turn("prepared"):
        data.prepare(splits, trains=trains)
        if cfg.backbone.cache:
            encoded.encode_frames(model, data, splits)
    if team.first:
        data.tell()
    model.tokenizer = data.tokenizer
    return data


def conclude(
    model: RetrievalModule,
    data: VideoTextDataModule,
    result: EvaluationResult,
    run_dir: Path,
    command: str,
    started: float,
) -> Record:
    """Write all that a finished run leaves and print it; return its record.

    `started` is when the run began, on the clock of `time.perf_counter`.
    """
    cfg = model.cfg
    save_weights(model, run_dir)
    record = make_record(
        cfg,
        run_id=run_dir.name,
        command=command,
        model=model,
        data=data,
        result=result,
        precision=training.precision(cfg),
        weights=run_dir / WEIGHTS_FILE,
        wall_s=time.perf_counter() - started,
    )
    split = data.split(SPLIT)
    save_record(record, run_dir, ranks_of(result, split, data.units(split)))
    if not cfg.trainer.keep_checkpoints:
        remove_checkpoints(run_dir)  # the record and the weights are on the disk
    picture = draw_picture(model, data, result, run_dir) if cfg.run.picture else None
    board = build_leaderboard(Path(cfg.run.root), Path(cfg.run.leaderboard))
    print_result(record, run_dir, board, picture)
    return record


def fit(
    trainer: pl.Trainer, model: RetrievalModule, data: VideoTextDataModule, run_dir: Path
) -> float:
    """Train, from the last checkpoint if there is one; return the seconds, earlier ones included.

    The model is left with the weights that `eval.selection` names. Raises UserError where that
    checkpoint belongs to another training, and where the disk is full or a loader has died.
    """
    folder, force = training.checkpoints(run_dir), bool(model.cfg.run.force)
    start = resume.start(trainer, data, folder, force=force)
    with resume.said():
        # a checkpoint of our own, yet read as strictly as a stranger's
        trainer.fit(model, data, ckpt_path=start, weights_only=True)
    if (state := training.best_or_last(trainer, model.cfg.eval.selection)) is not None:
        strategies.load_weights(model, state)
    return training.seconds(trainer)


def save_weights(model: RetrievalModule, run_dir: Path) -> None:
    """Write the tested weights as safetensors, which no reader can be made to execute.

    The shapes of pretrained towers go beside them, so that their own files are not needed again.
    Raises UserError where a weight is not finite.
    """
    if name := resume.not_finite(model, []):
        raise UserError(f"weight {name} is not finite, and was not saved; lower optim.lr")
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_path(run_dir / WEIGHTS_FILE) as path:
        save_file(state, path)
    towers.save(getattr(model.network, "shapes", {}), run_dir)
