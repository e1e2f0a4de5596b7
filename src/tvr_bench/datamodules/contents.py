"""What a split holds, as a hash, and which of its clips share their luck."""

from __future__ import annotations

from tvr_bench.datamodules.types import Clip, Split
from tvr_bench.files import settings_hash


def contents_hash(split: Split) -> str:
    """Return the SHA-256, as hex, of a split's clips with their spans and of its captions."""
    clips = sorted((clip.id, clip.start or 0.0, clip.end or -1.0) for clip in split.clips)
    return settings_hash([clips, sorted((q.text, q.clip_id) for q in split.queries)], 64)


def same_file(clips: tuple[Clip, ...]) -> dict[str, str]:
    """Return by clip id the first clip that is cut from the same file: parts of it are alike."""
    first: dict[object, str] = {}
    return {clip.id: first.setdefault(clip.path, clip.id) for clip in clips}
