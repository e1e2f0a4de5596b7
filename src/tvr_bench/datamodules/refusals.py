"""What preparation refuses: missing sources, a shrunken gallery, too many unreadable videos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tvr_bench.datamodules.folder import why_missing
from tvr_bench.datamodules.types import Clip
from tvr_bench.errors import UserError
from tvr_bench.media.features import check_files, feature_spec
from tvr_bench.media.given_text import check_given
from tvr_bench.media.ocr import engine_version
from tvr_bench.settings import extracted, given_spec, split_frames

if TYPE_CHECKING:
    from tvr_bench.datamodules.base import VideoTextDataModule


def check_sources(data: VideoTextDataModule, splits: Sequence[str]) -> None:
    """Raise UserError for models and files that are missing, before minutes of other work."""
    cfg = data.cfg
    if extracted(cfg):
        for name in splits:
            check_files(feature_spec(cfg, split_frames(cfg, name)))
    if data.reads_text:
        if given := given_spec(cfg):
            check_given(given)
        else:
            engine_version(cfg.ocr.engine, cfg.ocr.weights)


def check_missing(data: VideoTextDataModule, splits: Sequence[str]) -> None:
    """Raise UserError for a gallery that would shrink, unless that is allowed."""
    if extracted(data.cfg) or data.cfg.data.allow_missing:
        return
    for name in splits:
        if gone := data.missing(name):
            raise UserError(
                f"{len(gone):,} of {len(data.split(name).clips):,} videos of split '{name}' "
                f"are not there, such as {_shown(gone)}; `tvr-bench data check` lists them "
                "all. Bring them, or set data.allow_missing=true to count them as misses"
            )


def _shown(gone: Sequence[Clip]) -> str:
    """Return a path that is not there, one of which more can be said where there is any."""
    reasons = ((clip.path, why_missing(clip.path).removeprefix("no such file")) for clip in gone)
    path, reason = next((pair for pair in reasons if pair[1]), (gone[0].path, ""))
    return f"{path} ({reason.strip('; :')})" if reason else str(path)


def check_bad_fraction(data: VideoTextDataModule) -> None:
    """Raise UserError where more training videos cannot be read than is allowed, or none can."""
    bad, total = data.failed("train"), len(data.split("train").clips)
    if len(bad) == total:
        raise UserError(
            "no training video can be read; bring some, or test the untrained model with "
            "trainer.epochs=0"
        )
    if data.cfg.data.allow_missing:
        bad -= {clip.id for clip in data.missing("train")}
    limit = data.cfg.trainer.max_bad_fraction
    if len(bad) > limit * total:
        where = data.ledger.path or "the ledger"
        raise UserError(
            f"{len(bad)} of {total} training videos cannot be read, such as "
            f"'{min(bad)}' (see {where}); mend them or set trainer.max_bad_fraction="
            f"{len(bad) / total:.3f} or more"
        )


def check_readable(data: VideoTextDataModule, name: str) -> None:
    """Raise UserError where no video of a split can be read: nothing could be ranked."""
    clips = data.split(name).clips
    if clips and len(data.failed(name)) == len(clips):
        where = data.ledger.path or "the ledger"
        raise UserError(
            f"none of the {len(clips)} videos of split '{name}' can be read, such as "
            f"'{clips[0].id}' (see {where}); mend them, or give others"
        )
