"""From a finished test to what a person reads: the record, the picture, the tables.

N texts, M videos, F frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from tvr_bench import paper_track
from tvr_bench.datamodules.base import VideoTextDataModule, trained
from tvr_bench.datamodules.types import Split
from tvr_bench.evaluation import efficiency
from tvr_bench.evaluation.evaluate import EvaluationResult
from tvr_bench.evaluation.intervals import few_queries
from tvr_bench.identity import SOURCE
from tvr_bench.leaderboard.console import print_report
from tvr_bench.leaderboard.inputs import inputs_of
from tvr_bench.leaderboard.provenance import checkpoint_sha256, code_state, collect_env
from tvr_bench.leaderboard.record import (
    RECORD_FILE,
    DataInfo,
    Efficiency,
    Frozen,
    Input,
    ModelInfo,
    OcrInfo,
    Protocol,
    Record,
    RunInfo,
    TrainedOn,
    load_record,
)
from tvr_bench.leaderboard.result import metrics_of
from tvr_bench.leaderboard.run_settings import settings_of
from tvr_bench.leaderboard.table import LeaderboardPaths
from tvr_bench.models.base import RetrievalModule
from tvr_bench.published import find, read_config
from tvr_bench.schema import Config
from tvr_bench.settings import split_frames

SPLIT = "test"


def make_record(
    cfg: Config,
    *,
    run_id: str,
    command: str,
    model: RetrievalModule,
    data: VideoTextDataModule,
    result: EvaluationResult,
    precision: str,
    weights: Path,
    wall_s: float,
) -> Record:
    """Return the record of one run; `result` must hold the features of the test split."""
    code = code_state()
    about = _model_info(cfg, model, weights)
    pretrained = getattr(model.network, "pretrained", {})
    inputs = inputs_of(cfg, data, pretrained, about.checkpoint_sha256 or "")
    return Record(
        run=RunInfo(
            id=run_id,
            date=datetime.now(UTC),
            git=code.commit,
            dirty=code.dirty,
            source=SOURCE,
            command=command,
            seed=cfg.seed,
            weights_of=Path(cfg.run.weights).name if cfg.run.weights else None,
            notes=paper_track.notes(cfg),
            wall_s=wall_s,
        ),
        model=about,
        data=_data_info(cfg, data),
        protocol=protocol(cfg, data, inputs.get("backbone.weights")),
        metrics=metrics_of(result),
        efficiency=_efficiency(model, data, result, precision),
        phases=data.seconds,
        settings=settings_of(cfg),
        notes=[note for note in (few_queries(len(data.split(SPLIT).queries)),) if note],
        inputs=inputs,
        env=collect_env(),
    )


def protocol(cfg: Config, data: VideoTextDataModule, towers: Input | None = None) -> Protocol:
    """Return how the number is made: what a comparison must hold equal.

    `towers` are those that the tested weights began from.
    """
    split = data.split(SPLIT)
    ocr = OcrInfo(enabled=False)
    if data.reads_text:
        ocr = _ocr_info(cfg)
    return Protocol(
        split=SPLIT,
        captions=_captions(data, split),
        track="paper" if cfg.track == "paper" else "controlled",
        frames=split_frames(cfg, SPLIT),
        resolution=(cfg.video.size[0], cfg.video.size[1]),
        words=cfg.text.words,
        selection="last" if cfg.eval.selection == "last" else "best_val",
        two_stage=cfg.eval.two_stage,
        parity="eercf" if cfg.eval.parity == "eercf" else "none",
        v2t="group" if cfg.eval.v2t == "group" else "caption",
        ocr=ocr,
        towers=towers,
        frozen=cast(Frozen, cfg.backbone.frozen),
        trained_on=trained_on(cfg, data),
    )


def trained_on(cfg: Config, data: VideoTextDataModule) -> TrainedOn | None:
    """Return what the tested weights were trained on: here, or by the run that they come from."""
    if cfg.run.weights:
        return _of_weights(find(cfg.run.weights))
    if "train" not in data.prepared:
        return None
    return TrainedOn(
        data=_name_of(cfg.data.name, data.variant, data.title),
        annotations_sha256=data.annotations_hash("train"),
        clips=len(data.split("train").clips),
    )


def _of_weights(folder: Path) -> TrainedOn | None:
    """Return what a run's record says; of one without, the name of its data set."""
    if not (folder / RECORD_FILE).is_file():
        theirs = read_config(folder)
        name = theirs.data.name if trained(theirs) else None
        return TrainedOn(data=name, annotations_sha256=None, clips=None) if name else None
    record = load_record(folder)
    if record.protocol.trained_on is not None or record.data.train_clips is None:
        return record.protocol.trained_on
    return TrainedOn(
        data=_name_of(record.data.name, record.data.variant, record.data.title),
        annotations_sha256=None,
        clips=record.data.train_clips,
    )


def _name_of(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _ocr_info(cfg: Config) -> OcrInfo:
    ocr = cfg.ocr
    given: Literal["kwai", "tracks"] = "kwai" if ocr.source == "kwai" else "tracks"
    if ocr.source != "engine":
        return OcrInfo(enabled=True, source=given, engine=given, windows=ocr.windows, xi=ocr.xi)
    return OcrInfo(enabled=True, engine=ocr.engine, windows=ocr.windows, xi=ocr.xi, reads=ocr.reads)


def _captions(
    data: VideoTextDataModule, split: Split
) -> Literal["single", "all", "random", "paragraph"]:
    if data.captions == "paragraph":
        return "paragraph"
    if data.cfg.eval.captions == "random":
        return "random"
    return "single" if len(split.queries) == len(split.clips) else "all"


def _model_info(cfg: Config, model: RetrievalModule, weights: Path) -> ModelInfo:
    count = efficiency.parameter_count(model)
    return ModelInfo(
        name=cfg.model.name,
        backbone=cfg.backbone.name,
        checkpoint_sha256=checkpoint_sha256(weights),
        params=count.total,
        trainable_params=count.trainable,
    )


def _data_info(cfg: Config, data: VideoTextDataModule) -> DataInfo:
    split = data.split(SPLIT)
    failed = data.failed(SPLIT)
    missing = {clip.id for clip in split.clips if clip.id in failed and not clip.path.exists()}
    with_text = sum(any(data.windows(clip.id)) for clip in split.clips)
    return DataInfo(
        name=cfg.data.name,
        variant=data.variant,
        title=data.title,
        annotations_sha256=data.annotations_hash(SPLIT),
        clips=len(split.clips),
        queries=len(split.queries),
        train_clips=len(data.split("train").clips) if "train" in data.prepared else None,
        missing_ids=sorted(missing),
        failed=sorted(failed - missing),
        clips_with_text=with_text if data.reads_text else None,
        captions_cut={
            name: data.items(name).cut["captions"][0]
            for name in data.prepared
            if data.items(name).cut
        },
        notes=data.remarks,
        failures=dict(Counter(entry.stage for entry in data.ledger.entries)),
    )


def _efficiency(
    model: RetrievalModule, data: VideoTextDataModule, result: EvaluationResult, precision: str
) -> Efficiency:
    memory = efficiency.peak_memory()
    text, video = as_scored(model, result.text), as_scored(model, result.video)
    latency, first = _latency(model, result, text, video)
    flops = count_costs(model, data, text, video)
    train_s = data.seconds.get("train")
    return Efficiency(
        device=torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
        dtype=precision,
        threads=torch.get_num_threads(),
        gflops_text=flops[0],
        gflops_video=flops[1],
        gflops_pair=flops[2],
        pairs_scored=result.pairs_scored,
        **first,
        ms_per_query_p50=latency.p50_ms,
        ms_per_query_p95=latency.p95_ms,
        gallery_bytes_per_video=efficiency.bytes_per_item(result.video),
        peak_mem_mb=memory.process,
        peak_mem_child_mb=memory.largest_child,
        train_s=train_s,
        videos_per_s=model.trained_clips / train_s if train_s and model.trained_clips else None,
    )


def _latency(
    model: RetrievalModule,
    result: EvaluationResult,
    text: dict[str, Tensor],
    video: dict[str, Tensor],
) -> tuple[efficiency.Latency, dict[str, Any]]:
    """Return the time of a search as it was tested, and what a record says of its first stage."""
    stages = result.stages
    if stages is None:
        return efficiency.query_latency(model.similarity, text, video), {}
    recall: Any = model.recall_embedding
    latency = efficiency.two_stage_latency(recall, model.rerank, text, video, stages.k)
    with torch.inference_mode():
        vector = recall({key: value[:1] for key, value in video.items()})
    return latency, {
        "pairs_t2v": stages.pairs_t2v,
        "pairs_v2t": stages.pairs_v2t,
        "recall_pairs": stages.recall_pairs,
        "gflops_recall_pair": 2 * vector.shape[1] / 1e9,
        "recall_ms_per_query_p50": latency.recall_p50_ms,
        "recall_bytes_per_video": efficiency.bytes_per_item({"vector": vector}),
    }


def as_scored(model: RetrievalModule, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the features where and in the precision in which the model makes scores."""
    return {
        key: value.to(model.device, model.log_scale.dtype if value.is_floating_point() else None)
        for key, value in features.items()
    }


def count_costs(
    model: RetrievalModule,
    data: VideoTextDataModule,
    text: dict[str, Tensor],
    video: dict[str, Tensor],
) -> tuple[float, float, float]:
    """Return 10^9 operations of encoding a text, encoding a video and scoring a pair.

    The pair's is the mean over a block of at most 32 x 32, in which what is cached per video is
    shared as it is in a real search.
    """
    items = data.items(SPLIT)
    one_text = _batch_of_one(items.text(0), model.device)
    one_video = _batch_of_one(items.video(items.readable[0], pixels=True), model.device)
    rows = {key: value[:32] for key, value in text.items()}
    columns = {key: value[:32] for key, value in video.items()}
    pairs = len(next(iter(rows.values()))) * len(next(iter(columns.values())))
    with torch.inference_mode():
        counts = (
            efficiency.count_flops(lambda: model.encode_text(one_text)),
            efficiency.count_flops(lambda: model.encode_video(one_video)),
            efficiency.count_flops(lambda: model.similarity(rows, columns)) / pairs,
        )
    return counts[0] / 1e9, counts[1] / 1e9, counts[2] / 1e9


def _batch_of_one(item: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {key: value[None].to(device) for key, value in item.items()}


def print_result(
    record: Record, run_dir: Path, board: LeaderboardPaths, picture: Path | None
) -> None:
    """Print the tables and where the files are."""
    files = {"run folder": run_dir, "leaderboard": board.html}
    if picture is not None:
        files["picture"] = picture
    print_report(record, files)
