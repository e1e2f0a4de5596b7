"""Find the videos of a data set in whatever layout they lie, and never outside their folder.

A name from an annotation file is only ever looked up among the files that were found under the
root, so it can name nothing else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tvr_bench.errors import UserError

# in the order in which one of several files of the same name is chosen
VIDEO_SUFFIXES = (
    *(".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".3gp", ".3gpp", ".3g2"),
    *(".wmv", ".mts", ".m2ts", ".ts", ".asf", ".divx", ".qt", ".flv", ".ogv", ".gif", ".vob"),
)
_ODD = (".null", ".")  # as some of Flickr's files end; part of their names
_DEPTH = 4  # folders below the root, enough for root/split/recipe/file
_NAME = re.compile(r"[A-Za-z0-9_.@+-]{1,128}")


class VideoFolder:
    """The video files under a root, by name; made once, by listing the folders."""

    def __init__(self, root: Path, key: Callable[[str], str] | None = None) -> None:
        """List `root`. `key(stem)` is one more name for a file, such as the id inside its name.

        Raises UserError where `root` is no folder, or where a link leads out of it.
        """
        if not root.is_dir():
            raise UserError(f"{root} is no folder; set data.videos to the folder of the videos")
        self.root = root
        self._by_path: dict[str, list[Path]] = {}
        self._by_name: dict[str, list[Path]] = {}
        self._by_key: dict[str, list[Path]] = {}
        for path in sorted(_files(root, root.resolve(), _DEPTH)):
            relative = path.relative_to(root).as_posix()
            for name in {relative, without_suffix(relative)}:
                self._by_path.setdefault(name, []).append(path)
            stem = without_suffix(path.name)
            for name in {path.name, stem}:
                self._by_name.setdefault(name, []).append(path)
            if key is not None:
                self._by_key.setdefault(key(stem), []).append(path)

    def __len__(self) -> int:
        """Return the number of video files."""
        return len({path for paths in self._by_name.values() for path in paths})

    def find(self, *names: str, key: str | None = None, under: Sequence[str] = ()) -> Path | None:
        """Return the file of the first of `names` that there is, else that of `key`, else None.

        A name is a file's, with or without its suffix, or a path below the root or below one of the
        folders `under`. Raises UserError where files of one name lie in several folders.
        """
        for name in names:
            for relative in (name, *(f"{folder}/{name}" for folder in under)):
                for spelt in (relative, without_suffix(relative)):
                    if spelt in self._by_path:
                        return _one(spelt, self._by_path[spelt])
        for name in names:
            for spelt in (name, without_suffix(name)):
                if spelt in self._by_name:
                    return _one(spelt, self._by_name[spelt])
        return _one(key, self._by_key[key]) if key is not None and key in self._by_key else None


def without_suffix(name: str) -> str:
    """Return a file name without its suffix, if that is one of a video; ids may hold dots."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and stem and f".{suffix.lower()}" in VIDEO_SUFFIXES else name


def seconds_in(name: str) -> float | None:
    """Return how long a clip `NAME_START_END` is, of whole seconds; None for other names."""
    found = re.search(r"_([0-9]+)_([0-9]+)$", name)
    return float(int(found[2]) - int(found[1])) if found else None


def checked_name(name: str, where: str) -> str:
    """Return a name from an annotation file that can be an id and part of a path.

    Slashes part folders. Raises UserError, naming the file `where` it stands, for anything else:
    other signs, more than 128 of them, or a part that is empty, `.` or `..`.
    """
    parts = name.split("/")
    if not all(_NAME.fullmatch(part) and part.strip(".") for part in parts):
        shown = ascii(name if len(name) < 60 else f"{name[:60]}...")
        raise UserError(
            f"{where} names a video {shown}, which is no safe name; use letters, digits and "
            "'_', '-', '.', '@', '+', at most 128"
        )
    return name


def _one(name: str, paths: list[Path]) -> Path:
    folders = {path.parent for path in paths}
    if len(folders) > 1:
        first, second = sorted(paths)[:2]
        raise UserError(
            f"video {name} is there twice, {first} and {second}; keep one, or set data.videos to "
            "the folder that holds one of each"
        )
    return min(paths, key=lambda path: ((*VIDEO_SUFFIXES, *_ODD).index(_suffix(path.name)), path))


def _suffix(name: str) -> str:
    """Return what a file name ends with, from its last dot on, in lower case."""
    return f".{name.rpartition('.')[2].lower()}" if "." in name else ""


def _files(folder: Path, top: Path, depth: int) -> Iterator[Path]:
    """Yield the video files below `folder`; raises UserError for a link that leads out of `top`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = Path(entry.path)
            is_folder = path.is_dir() if entry.is_symlink() else entry.is_dir()
            if not is_folder and _suffix(path.name) not in (*VIDEO_SUFFIXES, *_ODD):
                continue
            # unlike `resolve`, this ends where links lead to one another
            if entry.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(top):
                raise UserError(
                    f"{path} is a link that leads out of {top}; set data.videos to the folder "
                    "that it leads to"
                )
            if not is_folder:
                yield path
            elif depth:
                yield from _files(path, top, depth - 1)
