"""Pretraining of the tiny towers: a run like any other, and a folder of what it has learned."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any, cast

import torch

from tvr_bench import identity
from tvr_bench.bench import bench
from tvr_bench.errors import UserError
from tvr_bench.leaderboard.grouping import data_name
from tvr_bench.leaderboard.record import RECORD_FILE, Record, load_record
from tvr_bench.models.base import RetrievalModule
from tvr_bench.models.layers import pretrained, tower_files
from tvr_bench.models.layers.tiny import TinyBackbone
from tvr_bench.recipe import check_new, recipe_of
from tvr_bench.registry import dataset_class
from tvr_bench.runs import CONFIG_FILE, TOKENIZER_FILE, load_run
from tvr_bench.schema import Config
from tvr_bench.signals import Interrupted

_SPREAD = 10 / 512**0.5  # per dimension: CLIP's features have a length of 10 in 512 of them
_DATA = tuple(
    f"{split}.{what}" for split in ("train", "val", "test") for what in ("captions", "videos")
)


def pretrain(cfg: Config, folder: Path, command: str = "") -> dict[str, Any] | None:
    """Train the tiny towers, leave them in a new folder and return their card.

    A run of `recipe.settings` that was killed goes on, and a finished one is not repeated. It is
    None on all ranks but the first and of a smoke run. Raises UserError as `bench` does, and where
    the folder cannot be written.
    """
    check_new(folder)
    assert cfg.run.name is not None
    run_dir = Path(cfg.run.root) / cfg.run.name
    if (run_dir / RECORD_FILE).exists():
        identity.check_settings(run_dir / CONFIG_FILE, cfg)
        _check_data(run_dir, cfg)
    elif _bench(cfg, command) is None:
        return None
    return export_towers(run_dir, folder)


def _bench(cfg: Config, command: str) -> Record | None:
    try:
        return bench(cfg, command)
    except Interrupted as stop:  # what bench says goes on with the run alone, and leaves no towers
        raise Interrupted("", stop.code) from stop


def _check_data(run_dir: Path, cfg: Config) -> None:
    """Raise UserError where a finished run saw other data than it would see now."""
    data = dataset_class(cfg.data.name)(cfg, scene_text=False)
    seen = load_record(run_dir).inputs
    now = {"val.captions": data.contents_hash("val"), "val.videos": data.videos_hash("val")}
    if any(name not in seen or seen[name].sha256 != sha256 for name, sha256 in now.items()):
        raise UserError(
            f"run {run_dir} is finished, and {data_name(load_record(run_dir))} was drawn or told "
            "otherwise then; remove its folder to train anew, or choose another run.name"
        )


def export_towers(run_dir: Path, folder: Path) -> dict[str, Any]:
    """Write the tiny towers of a finished run, whole or not at all; return their card."""
    model, record = load_run(run_dir), load_record(run_dir)
    spread_as_clip(model)
    card = {
        "towers": tower_files.sizes_of(model.cfg),
        "logit_scale": round(model.logit_scale.item(), 4),
        "recipe": recipe_of(model.cfg),
        "data": data_name(record),
        "hashes": {name: record.inputs[name].sha256 for name in _DATA if name in record.inputs},
        "figures": _figures(model.cfg, record),
        "tvr-bench": record.env.get("tvr-bench"),
        "commit": record.run.git,
        "date": record.run.date.date().isoformat(),
    }
    tokenizer = (run_dir / TOKENIZER_FILE).read_text(encoding="utf-8")
    temporary = folder.parent / f".{uuid.uuid4().hex[:12]}.tmp"
    try:
        pretrained.save(model.network, tokenizer, card, temporary)
        os.replace(temporary, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; choose another place") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return tower_files.read_card(folder)


@torch.no_grad()
def spread_as_clip(model: RetrievalModule) -> None:
    """Scale the towers so that features have CLIP's spread over the stills of validation.

    A cosine knows no size, so training leaves them of any. What the papers' models do with plain
    features (temperatures on their dot products, positions added to them) is made for CLIP's.
    """
    cfg, tokenizer = model.cfg, model.tokenizer
    data = dataset_class(cfg.data.name)(cfg, tokenizer=tokenizer, scene_text=False)
    data.prepare(("val",), trains=False)
    items, network = data.items("val"), cast(TinyBackbone, model.network)
    frames = torch.stack([items.video(i)["frames"] for i in items.readable])
    texts = (torch.from_numpy(items.text_ids), torch.from_numpy(items.text_mask))
    found = network.encode_frames(frames)[0], network.encode_text(*texts)[0]
    network.scale_features(*(_SPREAD / one.square().mean().sqrt().item() for one in found))


def _figures(cfg: Config, record: Record) -> dict[str, Any]:
    """Return what the run came to: percent, seconds."""
    batches = (record.data.train_clips or 0) // cfg.trainer.batch_size
    metrics, cost = record.metrics, record.efficiency
    return {
        "stills": record.data.clips,
        "t2v_R@1": round(metrics.t2v["R@1"], 2),
        "v2t_R@1": round(metrics.v2t["R@1"], 2),
        "in_group_R@1": round(metrics.in_group.get("R@1", 0.0), 2),
        "steps": cfg.trainer.steps or cfg.trainer.epochs * batches,
        "train_s": None if cost.train_s is None else round(cost.train_s),
        "processor": record.env.get("gpu") if cost.device != "cpu" else record.env.get("cpu"),
        "threads": cost.threads,
    }
