"""Find the videos of a data set in whatever layout they lie, and never outside their folder.

A name from an annotation file is only ever looked up among the files that were found under the
root, so it can name nothing else. Links in the root are the user's own, made to other disks or by
the hub's cache, and are followed to videos; a link out of the root to anything else is refused, for
it may have come with somebody's archive.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tvr_bench.datamodules.text_files import invisible, named
from tvr_bench.errors import UserError
from tvr_bench.files import links_top

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

        Raises UserError where `root` is no folder, or where a link leads out of it and to no video.
        """
        if not root.is_dir():
            raise UserError(f"{root} is no folder; set data.videos to the folder of the videos")
        self.root = root
        self._by_path: dict[str, list[Path]] = {}
        self._by_name: dict[str, list[Path]] = {}
        self._by_key: dict[str, list[Path]] = {}
        self.outward: list[Path] = []  # videos that links out of the root lead to
        top = links_top(root)
        for path, linked in sorted(_files(root, top, _DEPTH)):
            if linked and leads_out(path, top):
                self.outward.append(path)
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
    folders = {os.path.realpath(path.parent) for path in paths}  # links may lead to one folder
    if len(folders) > 1:
        first, second = sorted(paths)[:2]
        raise UserError(
            f"video {name} is there twice, {first} and {second}; keep one, or set data.videos to "
            "the folder that holds one of each"
        )
    return min(paths, key=lambda path: ((*VIDEO_SUFFIXES, *_ODD).index(_suffix(path.name)), path))


def leads_out(path: Path, top: Path) -> bool:
    """Return whether a path leads, by links, out of `top`, which is a real path.

    Raises UserError where it leads to something that is not named as a video is.
    """
    real = os.path.realpath(path)  # unlike `resolve`, this ends where links lead to one another
    if Path(real).is_relative_to(top):
        return False
    if not os.path.isdir(real) and _suffix(os.path.basename(real)) not in (*VIDEO_SUFFIXES, *_ODD):
        raise UserError(
            f"{path} is a link that leads out of {top} to {real}, which is not named as a video; "
            "put the video itself there"
        )
    return True


def on_links(paths: Sequence[Path], total: int, root: Path) -> str:
    """Return a line that says how many of `total` videos links out of `root` lead to."""
    return (
        f"{len(paths):,} of {total:,} videos lie outside of {root}, where links lead to them, such "
        f"as {paths[0]} to {os.path.realpath(paths[0])}"
    )


def why_missing(path: Path) -> str:
    """Return what may be wrong with the name of a video that is not there."""
    if path.is_symlink():
        return f"no such file: a link to {os.readlink(path)}, where nothing is"
    if signs := invisible(str(path)):
        return f"no such file; its name has {', '.join(map(named, signs[:3]))}, which nobody sees"
    try:
        alike = [one for one in os.listdir(path.parent) if one.casefold() == path.name.casefold()]
    except OSError:
        return "no such file"
    return f"no such file; there is {alike[0]!a}" if alike else "no such file"


class Names:
    """The files below a root by names that others wrote down, who may spell them otherwise."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> str:
        """Return the path below the root where the file of a name is, `name` where none is.

        Slashes for backslashes and the same letters in another form of Unicode (composed or not, as
        macOS has them) are looked for where there is nothing as it is written.
        """
        if found := self._spelt(name):
            return found
        turned = os.path.normpath(name.replace("\\", "/"))
        return (self._spelt(turned) if "\\" in name else None) or name

    def _spelt(self, name: str) -> str | None:
        if os.path.lexists(self.root / name):
            return name
        parts = name.split("/")
        if ".." in parts or not parts[0]:
            return None
        folder, found = self.root, []
        for part in parts:
            same = [part] if os.path.lexists(folder / part) else self._alike(folder, part)
            if len(same) != 1:
                return None
            found.append(same[0])
            folder /= same[0]
        return "/".join(found)

    def _alike(self, folder: Path, part: str) -> list[str]:
        if folder not in self._listed:
            listed: dict[str, list[str]] = {}
            for one in os.listdir(folder) if folder.is_dir() else ():
                listed.setdefault(unicodedata.normalize("NFC", one), []).append(one)
            self._listed[folder] = listed
        return self._listed[folder].get(unicodedata.normalize("NFC", part), [])


def _suffix(name: str) -> str:
    """Return what a file name ends with, from its last dot on, in lower case."""
    return f".{name.rpartition('.')[2].lower()}" if "." in name else ""


def _files(
    folder: Path, top: Path, depth: int, linked: bool = False
) -> Iterator[tuple[Path, bool]]:
    """Yield the video files below `folder`, links that lead nowhere among them.

    With each comes whether a link leads to it. A link to a folder that holds `top` is left out.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = Path(entry.path)
            is_folder = path.is_dir() if entry.is_symlink() else entry.is_dir()
            if not is_folder and _suffix(path.name) not in (*VIDEO_SUFFIXES, *_ODD):
                continue
            if not is_folder:
                yield path, linked or entry.is_symlink()
            elif depth and not (entry.is_symlink() and top.is_relative_to(os.path.realpath(path))):
                yield from _files(path, top, depth - 1, linked or entry.is_symlink())
