"""What a split holds, as hashes, and which of its clips share their luck."""

from __future__ import annotations

import re
from pathlib import Path

from tvr_bench.contents import Contents
from tvr_bench.datamodules.types import Split
from tvr_bench.files import settings_hash


def contents_hash(split: Split) -> str:
    """Return the SHA-256, as hex, of a split's clips with their spans and of its captions."""
    clips = sorted((clip.id, clip.start or 0.0, clip.end or -1.0) for clip in split.clips)
    return settings_hash([clips, sorted((q.text, q.clip_id) for q in split.queries)], 64)


def videos_hash(split: Split, contents: Contents) -> str:
    """Return the SHA-256, as hex, of what a split's video files hold, by clip id.

    A file that is missing or cannot be read counts as such.
    """
    found = contents.of(clip.path for clip in split.clips)
    digests = {path: None if isinstance(one, OSError) else one for path, one in found.items()}
    return settings_hash(sorted((clip.id, digests[clip.path]) for clip in split.clips), 64)


def same_file(split: Split) -> dict[str, str]:
    """Return by clip id the first clip that is cut from the same file: parts of it are alike."""
    first: dict[Path, str] = {}
    return {clip.id: first.setdefault(clip.path, clip.id) for clip in split.clips}


def same_source(split: Split, span: str = r"_[0-9]+_[0-9]+$") -> dict[str, str]:
    """Return by clip id what is left of the id without the `span` of its source."""
    return {clip.id: re.sub(span, "", clip.id) for clip in split.clips}
