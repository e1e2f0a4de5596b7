"""One file of cached frames: safetensors, with what it holds and a checksum in its header.

Tensors: `frames` uint8 [n, F, H, W, 3] (codec raw), or `bytes` uint8 [total] with `offsets` int64
[n * F + 1] (codec jpeg), where n counts the clips that could be read. The header's metadata has one
entry, `manifest`: the settings, the ids in row order, the failures, and `sha256` over all of these
and the tensors.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from tvr_bench.files import atomic_path

_QUALITY = 90  # of the jpeg codec: about 1/20 of the raw size
_DTYPES: dict[str, type[np.uint8] | type[np.int64]] = {"U8": np.uint8, "I64": np.int64}


class DamagedShard(Exception):
    """A shard file that is not what was written; rebuild it."""


@dataclass(frozen=True)
class ShardFile:
    """A shard on disk: its manifest and where its tensors lie."""

    path: Path
    manifest: dict[str, Any]
    tensors: dict[str, tuple[str, tuple[int, ...], int]]  # name -> dtype, shape, byte offset

    @property
    def ids(self) -> list[str]:
        """The clips in row order."""
        return list(self.manifest["ids"])

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The clips that could not be read: id, message, and `limit` for one that took a worker
        with it: the seconds that it was allowed.
        """
        return list(self.manifest["failures"])

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor as a read-only memory map."""
        dtype, shape, offset = self.tensors[name]
        if 0 in shape:  # an empty file region cannot be mapped
            return np.zeros(shape, _DTYPES[dtype])
        return np.memmap(self.path, _DTYPES[dtype], "r", offset, shape)

    def verify(self) -> None:
        """Read everything and raise `DamagedShard` unless it is what was written."""
        try:
            tensors = {name: self.tensor(name) for name in self.tensors}
            digest = _digest(self.manifest, tensors)
        except (ValueError, LookupError, TypeError) as error:
            raise DamagedShard(f"{self.path}: header") from error
        if digest != self.manifest["sha256"]:
            raise DamagedShard(f"{self.path}: checksum")


def write_shard(
    path: Path,
    settings: dict[str, Any],
    rows: dict[str, np.ndarray],
    failures: Sequence[dict[str, Any]],
) -> None:
    """Write the frames of `rows` (clip id -> uint8 [F, H, W, 3]) as a whole file or none."""
    manifest: dict[str, Any] = {
        "settings": settings,
        "ids": list(rows),
        "failures": list(failures),
    }
    frames = list(rows.values())
    if settings["codec"] == "jpeg":
        tensors = _jpegs([image for clip in frames for image in clip])
    else:
        shape = (0, settings["frames"], *settings["size"], 3)
        tensors = {"frames": np.stack(frames) if frames else np.zeros(shape, np.uint8)}
    manifest["sha256"] = _digest(manifest, tensors)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"manifest": json.dumps(manifest)})


def open_shard(path: Path) -> ShardFile:
    """Read the header of a shard; raises `DamagedShard` where the file is not whole."""
    try:
        with open(path, "rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            size = file.seek(0, io.SEEK_END)
            if not 8 < start <= size:
                raise DamagedShard(f"{path}: header")
            file.seek(8)
            header = json.loads(file.read(start - 8))
        manifest = json.loads(header.pop("__metadata__")["manifest"])
        end = start + max(entry["data_offsets"][1] for entry in header.values())
        tensors = {
            name: (e["dtype"], tuple(e["shape"]), start + e["data_offsets"][0])
            for name, e in header.items()
        }
        whole = end == size and {"settings", "ids", "failures", "sha256"} <= manifest.keys()
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedShard(f"{path}: header") from error
    if not whole:
        raise DamagedShard(f"{path}: size")
    return ShardFile(path, manifest, tensors)


def is_whole(path: Path) -> bool:
    """Read a shard to its last byte and say whether it is what was written."""
    try:
        open_shard(path).verify()
    except DamagedShard:
        return False
    return True


def decode_jpegs(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return uint8 [F, H, W, 3] from the F files that `offsets` [F + 1] cut out of `data`."""
    # OpenCV's pixels are PIL's (both have libjpeg-turbo), in two thirds of the time
    images = []
    for start, end in pairwise(offsets):
        image = cv2.imdecode(data[start:end], cv2.IMREAD_COLOR)
        assert image is not None  # the bytes are whole: their checksum was right
        images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    return np.stack(images)


def _jpegs(images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    files = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=_QUALITY)
        files.append(buffer.getvalue())
    offsets = np.cumsum([0, *map(len, files)], dtype=np.int64)
    return {"bytes": np.frombuffer(b"".join(files), np.uint8), "offsets": offsets}


def _digest(manifest: dict[str, Any], tensors: dict[str, np.ndarray]) -> str:
    said = {k: v for k, v in manifest.items() if k != "sha256"}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()
