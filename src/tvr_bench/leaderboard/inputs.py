"""What a run was given beside its settings, by content: two runs that differ in it are two systems.

Keys are `SPLIT.captions`, `SPLIT.videos` and `SPLIT.text` for what was read of a split, and a
configuration's own keys for files, such as `backbone.weights`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tvr_bench.errors import UserError
from tvr_bench.files import settings_hash
from tvr_bench.leaderboard.record import RECORD_FILE, Input, load_record
from tvr_bench.media.ocr import engine_version
from tvr_bench.schema import Config
from tvr_bench.settings import extracted

if TYPE_CHECKING:
    from tvr_bench.datamodules.base import VideoTextDataModule

TRAINED = ("train.", "val.", "backbone.", "run.")  # what weights carry from their own run
_FEATURES = ("region_file", "global_file", "text_file", "lens_file")


def inputs_of(
    cfg: Config, data: VideoTextDataModule, pretrained: Mapping[str, str], weights_sha256: str
) -> dict[str, Input]:
    """Return the inputs of a run, all of whose splits are prepared.

    `pretrained` has the hashes of the towers that it began with. Where the run only tested weights,
    it has what those were made of, or, where their own record is not at hand, the weights' hash.
    """
    inputs = dict(_of_splits(cfg, data))
    if cfg.backbone.name == "features":
        inputs |= dict(_feature_files(cfg))
    if pretrained:
        name = Path(cfg.backbone.weights).name if cfg.backbone.weights else ""
        inputs["backbone.weights"] = Input(name=name, sha256=settings_hash(dict(pretrained), 64))
    if data.reads_text and cfg.ocr.source == "engine":
        name = Path(cfg.ocr.weights).name if cfg.ocr.weights else cfg.ocr.engine
        version = engine_version(cfg.ocr.engine, cfg.ocr.weights)
        inputs["ocr.weights"] = Input(name=name, sha256=settings_hash(version, 64))
    if cfg.run.weights:
        inputs |= _of_weights(cfg.run.weights, weights_sha256)
    return inputs


def _of_splits(cfg: Config, data: VideoTextDataModule) -> Iterator[tuple[str, Input]]:
    name = " ".join(part for part in (cfg.data.name, data.variant, data.title) if part)
    for split in data.prepared:
        yield f"{split}.captions", Input(name=name, sha256=data.contents_hash(split))
        if data.reads_text or not extracted(cfg):  # else nobody looks into the videos
            yield f"{split}.videos", Input(name=name, sha256=data.videos_hash(split))
        if data.reads_text and cfg.ocr.given and cfg.ocr.source != "engine":
            clips = sorted(clip.id for clip in data.split(split).clips)
            text = settings_hash([(clip, data.windows(clip)) for clip in clips], 64)
            yield f"{split}.text", Input(name=Path(cfg.ocr.given).name, sha256=text)


def _feature_files(cfg: Config) -> Iterator[tuple[str, Input]]:
    for key in _FEATURES:
        place: str | None = getattr(cfg.features, key)
        if place is not None:
            try:
                with open(place, "rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise UserError(f"cannot read features.{key}={place}: {error.strerror}") from error
            yield f"features.{key}", Input(name=Path(place).name, sha256=found)


def _of_weights(where: str, sha256: str) -> dict[str, Input]:
    if (Path(where) / RECORD_FILE).is_file():
        theirs = load_record(Path(where)).inputs
        if kept := {key: one for key, one in theirs.items() if key.startswith(TRAINED)}:
            return kept
    return {"run.weights": Input(name=Path(where).name, sha256=sha256)}
