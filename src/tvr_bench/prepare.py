"""Fill the caches that a run needs, in one go or part by part on many machines."""

from __future__ import annotations

import re

from rich.console import Console

from tvr_bench import early, encoded, training
from tvr_bench.datamodules.base import SPLITS, trained
from tvr_bench.errors import UserError
from tvr_bench.files import Ledger
from tvr_bench.parts import WHOLE, Part
from tvr_bench.registry import build_model, dataset_class
from tvr_bench.runs import trained_model
from tvr_bench.schema import Config


def part_of(text: str | None) -> Part:
    """Return the part that `I/N` names, counted from 0; None is the whole."""
    if text is None:
        return WHOLE
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise UserError(f"--shard {text} is no part; write I/N, I from 0 to N - 1, such as 3/16")
    return Part(int(match[1]), int(match[2]))


def prepare_data(cfg: Config, part: Part) -> None:
    """Decode frames, read scene text and encode frozen features, as far as the model needs them.

    Frozen features are made from the frames of the same part. With `trainer.epochs=0`, and with
    `run.weights`, only what a test needs is made.
    """
    early.check_cache(cfg)
    training.seed(cfg)
    model = trained_model(cfg) if cfg.run.weights else build_model(cfg)
    ledger = Ledger()
    data = dataset_class(cfg.data.name)(
        cfg, tokenizer=model.tokenizer, ledger=ledger, scene_text=model.reads_text
    )
    splits = SPLITS if trained(cfg) and not cfg.run.weights else ("test",)
    data.prepare(splits, part, trains=False)
    data.tell()
    if cfg.backbone.cache:
        encoded.encode_frames(model, data, splits)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    done = f"part {part.index} of {part.count}" if not part.whole else "everything"
    console.print(f"prepared {done} of {cfg.data.name} for {cfg.model.name} under {data.cache}")
    if ledger.entries:
        first = ledger.entries[0]
        console.print(
            f"{len(ledger.entries)} failures, such as {first.id} ({first.stage}): {first.message}"
        )
