"""What a frozen image tower makes of every clip, computed once and kept instead of the pixels.

One shard per shard of frames: safetensors, `features` [n, F, T, D] in the precision that the tower
computes in, where T is the frame's own feature and, for models that look at them, its P patches.
The header holds the ids, a hash of everything that decides the numbers (the tower's weights, its
settings and the precision) and a SHA-256 over all of these. A shard of another hash is refused, one
that is not what was written is made again.

n clips, F frames, P patches, D width.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tvr_bench import training
from tvr_bench.datamodules.base import VideoTextDataModule
from tvr_bench.errors import UserError
from tvr_bench.files import atomic_path, settings_hash
from tvr_bench.media.cache import FrameStore
from tvr_bench.models.base import RetrievalModule
from tvr_bench.shards import Shard, run_shards

_VERSION = 2  # of this file's format
_CLIPS = 16  # encoded at once
_log = logging.getLogger(__name__)
_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class EncodedStore:
    """Reads encoded frames by clip id; cheap to send to a worker process."""

    def __init__(self, shards: Sequence[Path], settings: str) -> None:
        """Open the shards; raises UserError for one of other settings, or one that is broken."""
        self._rows: dict[str, tuple[Path, int]] = {}
        for path in shards:
            self._rows |= {name: (path, row) for row, name in enumerate(_ids(path, settings))}
        self._open: dict[Path, Any] = {}

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a worker opens the files itself

    def get(self, clip_id: str) -> tuple[Tensor, Tensor]:
        """Return a clip's features [F, T, D] and which frames are real, bool [F]: all of them."""
        path, row = self._rows[clip_id]
        if path not in self._open:
            self._open[path] = safe_open(path, framework="pt").__enter__().get_slice("features")
        features: Tensor = self._open[path][row]
        return features, torch.ones(len(features), dtype=torch.bool)


def encode_frames(model: RetrievalModule, data: VideoTextDataModule, splits: Sequence[str]) -> None:
    """Encode what is not cached yet of the prepared `splits`, and let their items read it.

    Raises UserError where the tower is not frozen or clips are to be changed in training.
    """
    check(model)
    settings, training_mode = settings_of(model), model.network.training
    for name in splits:
        store = data.items(name).frames
        assert isinstance(store, FrameStore)
        shards = _shards(store, data.cache / "encoded", settings)
        _remove_damaged(shards)
        tower = _Tower(model, store, settings)
        run_shards("encode frames", shards, tower.encode, workers=0)
        data.use_encoded(name, EncodedStore([shard.output for shard in shards], settings))
    model.network.cpu().train(training_mode)


def check(model: RetrievalModule) -> None:
    """Raise UserError where encoded frames cannot stand for the pixels."""
    cfg = model.cfg
    if cfg.backbone.name == "features":
        raise UserError("backbone=features has no tower to encode with; set backbone.cache=false")
    if not cfg.backbone.frozen:
        raise UserError(
            "backbone.cache keeps what a frozen tower makes of the frames; set "
            "backbone.frozen=true, or backbone.cache=false"
        )
    if cfg.trainer.shift or cfg.trainer.mirror:
        raise UserError(
            "backbone.cache keeps every clip as it is; set trainer.shift=0 and "
            "trainer.mirror=false, or backbone.cache=false"
        )


def settings_of(model: RetrievalModule) -> str:
    """Return the hash of all that decides what the tower makes of given frames."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    precision = training.precision(model.cfg)
    return settings_hash([_VERSION, digest.hexdigest(), precision, model.looks_at_patches])


def _shards(store: FrameStore, root: Path, settings: str) -> list[Shard]:
    return [
        Shard(root / f"encoded-{settings_hash([settings, name])}.safetensors", tuple(ids))
        for name, ids in store.shards()
        if ids
    ]


class _Tower:
    """The work of one shard, on the model's device."""

    def __init__(self, model: RetrievalModule, store: FrameStore, settings: str) -> None:
        on_gpu = torch.cuda.is_available() and model.cfg.trainer.accelerator != "cpu"
        self.model, self.store, self.settings = model, store, settings
        self.device = torch.device("cuda" if on_gpu else "cpu")

    def encode(self, shard: Shard, tick: Any) -> None:
        """Write the features of a shard's clips."""
        backbone = self.model.network.to(self.device).eval()
        found = []
        for ids in _batches(shard.items, _CLIPS):
            frames = torch.stack([torch.from_numpy(self.store.get(name)[0]) for name in ids])
            with torch.no_grad(), self._precision():
                images, patches = backbone.encode_frames(  # type: ignore[operator]
                    frames.permute(0, 1, 4, 2, 3).to(self.device)
                )
            tokens = images[:, :, None]
            if self.model.looks_at_patches:
                tokens = torch.cat([tokens, patches], dim=2)
            found.append(tokens.cpu())
            for _ in ids:
                tick()
        header = {"settings": self.settings, "ids": json.dumps(list(shard.items))}
        features = torch.cat(found).contiguous()
        header["sha256"] = _digest(header, features)
        with atomic_path(shard.output) as path:
            save_file({"features": features}, path, header)

    def _precision(self) -> AbstractContextManager[Any]:
        dtype = _DTYPES.get(training.precision(self.model.cfg))
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()


def _remove_damaged(shards: Sequence[Shard]) -> None:
    """Remove the shards that are not what was written, and say so, for them to be made again."""
    for path in (shard.output for shard in shards if shard.output.exists()):
        if not _is_whole(path):
            _log.warning("kept features are damaged, making them again: %s", path)
            path.unlink(missing_ok=True)


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            return header.pop("sha256") == _digest(header, file.get_tensor("features"))
    except (SafetensorError, OSError, KeyError, ValueError):
        return False


def _digest(header: Mapping[str, str], features: Tensor) -> str:
    """Return the SHA-256 of a header's other entries and of the features' type, shape and bytes."""
    said = [sorted(header.items()), str(features.dtype), list(features.shape)]
    digest = hashlib.sha256(json.dumps(said).encode())
    digest.update(features.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _ids(path: Path, settings: str) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            rows = file.get_slice("features").get_shape()[0]
        ids = json.loads(header["ids"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and repeat the command") from error
    if header.get("settings") != settings or len(ids) != rows:
        raise UserError(
            f"{path} was encoded with another tower or other settings; remove it and repeat the "
            "command"
        )
    return [str(name) for name in ids]


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for low in range(0, len(items), size):
        yield items[low : low + size]
