"""The schema of a configuration: the type of every key; its values and units: `configs/base.yaml`.

A model's and a data set's own keys take their types from their YAML. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from omegaconf import MISSING

from tvr_bench.values import Kind, kind_of_hint

# What changes no number, and why. Whatever is in none of these tells two systems apart, which
# tests/leaderboard/test_row_tells_all.py holds every key to.
PLACES = {  # sections
    "run": "where results go; of `run.weights` a record says what those were trained on",
    "paths": "where caches lie; they are keyed by content",
    "log": "what is written beside the record",
}
FOLDERS = {  # keys of any section
    "root": "a place; the captions and clips found there are in the record by hash",
    "annotations": "a place, as root",
    "videos": "a place, as root",
    "given": "a place; the text found there is in the record by hash",
}
FILES = {  # a place too, which the record has by the name and the hash of what is in it
    **FOLDERS,
    "file": "the captions and clips in it are in the record by hash",
    "statements": "the captions in it are in the record by hash",
    "weights": "towers are in the record by hash; easyocr's files are held to known ones",
    "region_file": "in the record by hash",
    "global_file": "in the record by hash",
    "text_file": "in the record by hash",
    "lens_file": "in the record by hash",
}
MACHINE = {
    "cache": "what is kept is what the tower makes, to rounding",
    "workers": "who loads a batch; its items are drawn by seed and epoch alone",
    "prepare_workers": "who fills the caches; what is in them follows from the inputs",
    "threads": "order of summation, within rounding; the record's environment has it",
    "log_every": "lines of a log",
    "timeout": "when a run or a clip is given up; clips that were are in the record",
    "max_pixels": "when a clip is given up; clips that were are in the record",
    "checkpoint_every": "a resumed run equals an uninterrupted one",
    "keep_checkpoints": "what is removed when the record is written",
    "max_skipped": "when a run is given up; one that ends skipped what it would have skipped",
}
# a test may run on another machine
ELSEWHERE = (*MACHINE, "accelerator", "devices", "nodes", "strategy", "smoke")


def numbers(settings: Mapping[str, Any], machine: Iterable[str] = MACHINE) -> dict[str, Any]:
    """Return those of resolved settings that can change a number, by section.

    Left out are sections of `PLACES`, and keys of a section that are in `FOLDERS` or `machine`.
    """
    out = {*FOLDERS, *machine}
    return {
        name: {k: v for k, v in part.items() if k not in out} if isinstance(part, Mapping) else part
        for name, part in settings.items()
        if name not in PLACES
    }


@dataclass
class RunConfig:
    """Where a run leaves its files."""

    root: str = MISSING
    name: str | None = MISSING
    leaderboard: str = MISSING
    picture: bool = MISSING
    weights: str | None = MISSING
    force: bool | None = MISSING  # null: false


@dataclass
class PathsConfig:
    """Folders that several runs share."""

    cache: str = MISSING


@dataclass
class VideoConfig:
    """What is read of a video's picture."""

    frames: int = MISSING
    size: tuple[int, int] = MISSING
    resize: str = MISSING
    crop: str = MISSING
    codec: str = MISSING
    timeout: float = MISSING
    max_pixels: int = MISSING


@dataclass
class TextConfig:
    """How captions become tokens."""

    words: int = MISSING
    normalise: str = MISSING
    vocab: int = MISSING


@dataclass
class OcrConfig:
    """How scene text is read."""

    enabled: bool = MISSING
    source: str = MISSING
    given: str | None = MISSING
    given_fps: float | None = MISSING
    engine: str = MISSING
    add: float = MISSING
    windows: int = MISSING
    xi: float = MISSING
    reads: int = MISSING
    stride: int = MISSING
    votes: int = MISSING
    min_score: float = MISSING
    min_chars: int = MISSING
    max_words: int = MISSING
    half: bool = MISSING
    side: int = MISSING
    weights: str | None = MISSING


@dataclass
class BackboneConfig:
    """The towers of image and text."""

    name: str = MISSING
    weights: str | None = MISSING
    activation: str | None = MISSING
    frozen: str = MISSING
    checkpointing: bool = MISSING
    cache: bool = MISSING
    width: int = MISSING
    layers: int = MISSING
    text_layers: int = MISSING
    heads: int = MISSING
    mlp: int = MISSING
    patch: int = MISSING
    motion: bool = MISSING
    grid: int = MISSING
    dropout: float = MISSING


@dataclass
class FeaturesConfig:
    """The files of backbone `features`."""

    region_file: str | None = MISSING
    region_key: str = MISSING
    global_file: str | None = MISSING
    global_key: str = MISSING
    text_file: str | None = MISSING
    lens_file: str | None = MISSING
    regions: int = MISSING
    region_dim: int = MISSING
    global_dim: int = MISSING
    text_dim: int = MISSING


@dataclass
class OptimConfig:
    """The optimiser and its schedule."""

    name: str = MISSING
    lr: float = MISSING
    backbone_lr: float | None = MISSING
    weight_decay: float = MISSING
    betas: tuple[float, float] = MISSING
    warmup: float = MISSING
    schedule: str = MISSING
    patience: int = MISSING
    clip: float = MISSING


@dataclass
class LossConfig:
    """What every contrastive loss shares."""

    scale: float | None = MISSING
    learn_scale: bool = MISSING
    mask_duplicates: bool = MISSING
    tile: int = MISSING


@dataclass
class TrainerConfig:
    """How long, on what and how many at a time."""

    epochs: int = MISSING
    steps: int | None = MISSING
    batch_size: int = MISSING
    micro_batch: int | None = MISSING
    captions: str = MISSING
    groups: bool = MISSING
    shift: int = MISSING
    mirror: bool = MISSING
    max_bad_fraction: float = MISSING
    accelerator: str = MISSING
    devices: int = MISSING
    nodes: int = MISSING
    strategy: str = MISSING
    timeout: float = MISSING
    precision: str = MISSING
    compile: bool = MISSING
    workers: int = MISSING
    prepare_workers: int | None = MISSING
    threads: int | None = MISSING
    log_every: int = MISSING
    checkpoint_every: float = MISSING
    keep_checkpoints: bool = MISSING
    max_skipped: int = MISSING
    deterministic: bool = MISSING
    smoke: bool = MISSING


@dataclass
class EvalConfig:
    """What is tested and how it is scored."""

    selection: str = MISSING
    best_by: str = MISSING
    every: float = MISSING
    frames: int | None = MISSING
    captions: str = MISSING
    v2t: str = MISSING
    batch_size: int = MISSING
    block: tuple[int, int] = MISSING
    max_matrix_gb: float = MISSING
    two_stage: int | None = MISSING
    parity: str = MISSING


@dataclass
class LogConfig:
    """Which logs are written beside the record."""

    tensorboard: bool = MISSING
    csv: bool = MISSING


@dataclass
class Config:
    """The whole configuration of a run; `model` and `data` have the keys of their own YAML."""

    seed: int = MISSING
    track: str = MISSING
    run: RunConfig = field(default_factory=RunConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    data: Any = MISSING
    model: Any = MISSING
    video: VideoConfig = field(default_factory=VideoConfig)
    text: TextConfig = field(default_factory=TextConfig)
    ocr: OcrConfig = field(default_factory=OcrConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    log: LogConfig = field(default_factory=LogConfig)


def schema_kinds() -> dict[str, Kind]:
    """Return what each key takes, but for those of a model and of a data set."""
    return dict(_schema_kinds())


@cache
def _schema_kinds() -> dict[str, Kind]:
    return dict(_fields(Config, ""))


def _fields(schema: Any, prefix: str) -> Iterator[tuple[str, Kind]]:
    hints = get_type_hints(schema)
    for one in fields(schema):
        hint = hints[one.name]
        if is_dataclass(hint):
            yield from _fields(hint, f"{prefix}{one.name}.")
        elif hint is not Any:
            yield f"{prefix}{one.name}", kind_of_hint(hint)
