"""What a frozen image tower makes of every clip, computed once and kept instead of the pixels.

One shard per shard of frames: safetensors, `features` [n, F, T, D] in the precision that the tower
computes in, where T is the frame's own feature and, for models that look at them, its P patches. A
model that needs no patches reads past them, where another one has left them.
The header holds the ids, a hash of everything that decides the numbers (the image tower's weights,
its settings and the precision) and a SHA-256 over all of these. A shard of another hash is refused,
one that is not what was written is made again.

n clips, F frames, P patches, D width.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tvr_bench import training
from tvr_bench.datamodules.base import VideoTextDataModule
from tvr_bench.errors import UserError
from tvr_bench.files import atomic_path, settings_hash
from tvr_bench.media.cache import FrameStore
from tvr_bench.models.base import RetrievalModule
from tvr_bench.models.layers import towers
from tvr_bench.models.layers.backbone import image_parts
from tvr_bench.shards import Shard, run_shards

_VERSION = 3  # of this file's format
_CLIPS = 16  # encoded at once
_log = logging.getLogger(__name__)
_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class EncodedStore:
    """Reads encoded frames by clip id; memory-mapped, and cheap to send to a worker process."""

    def __init__(self, shards: Sequence[Path], settings: str, *, patches: bool) -> None:
        """Open the shards, to read also the `patches` in them or frames alone.

        Raises UserError for a shard of other settings, or one that is broken.
        """
        self._shards = tuple(shards)
        self._kept = slice(None if patches else 1)  # of a frame's T tokens
        self._rows: dict[str, tuple[int, int]] = {}
        for place, path in enumerate(shards):
            self._rows |= {name: (place, row) for row, name in enumerate(_ids(path, settings))}
        self._maps: dict[int, Tensor] = {}

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # a worker maps the files itself

    def get(self, clip_ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return features [B, F, T, D] of clips, and which frames are real, bool [B, F]: all."""
        features = torch.stack([self._view(name) for name in clip_ids])
        return features, torch.ones(features.shape[:2], dtype=torch.bool)

    def _view(self, clip_id: str) -> Tensor:
        """Return a clip's features [F, T, D] where they lie."""
        shard, row = self._rows[clip_id]
        if shard not in self._maps:
            with safe_open(self._shards[shard], framework="pt") as file:
                self._maps[shard] = file.get_tensor("features")  # mapped, and not read
        return self._maps[shard][row, :, self._kept]


def encode_frames(model: RetrievalModule, data: VideoTextDataModule, splits: Sequence[str]) -> None:
    """Encode what is not cached yet of the prepared `splits`, and let their items read it.

    The configuration is one that `early.check_cache` has nothing against.
    """
    settings, patches = settings_of(model), model.looks_at_patches
    with _evaluating(model.network):
        for name in splits:
            store = data.items(name).frames
            assert isinstance(store, FrameStore)
            shards = _shards(store, data.cache / "encoded", settings, patches)
            tower = _Tower(model, store, settings)
            run_shards("encode frames", shards, tower.encode, workers=0)
            files = [shard.output for shard in shards]
            data.use_encoded(name, EncodedStore(files, settings, patches=patches))
    model.network.cpu()


def settings_of(model: RetrievalModule) -> str:
    """Return the hash of all that decides what the image tower makes of given frames."""
    network: Any = model.network
    weights = [towers.content(part) for part in image_parts(network)]
    own = model.cfg.backbone
    rest = [own.name, own.heads, own.activation, getattr(network, "shapes", {})]  # no weight has it
    return settings_hash([_VERSION, weights, rest, training.precision(model.cfg)])


def _shards(store: FrameStore, root: Path, settings: str, patches: bool) -> list[Shard]:
    """Return the shards to read: with patches where they are wanted, or there anyway."""
    shards = []
    for name, ids in store.shards():
        if ids:
            full, lean = (
                root / f"encoded-{settings_hash([settings, name, kept])}.safetensors"
                for kept in ("patches", "frames")
            )
            _remove_damaged([full, lean])
            shards.append(Shard(full if patches or full.exists() else lean, tuple(ids)))
    return shards


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation for a while; after it every part is in the mode that it was."""
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


class _Tower:
    """The work of one shard, on the model's device."""

    def __init__(self, model: RetrievalModule, store: FrameStore, settings: str) -> None:
        on_gpu = torch.cuda.is_available() and model.cfg.trainer.accelerator != "cpu"
        self.model, self.store, self.settings = model, store, settings
        self.device = torch.device("cuda" if on_gpu else "cpu")

    def encode(self, shard: Shard, tick: Any) -> None:
        """Write the features of a shard's clips."""
        backbone = self.model.network.to(self.device)
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


def _remove_damaged(paths: Sequence[Path]) -> None:
    """Remove the files that are not what was written, and say so, for them to be made again."""
    for path in paths:
        if path.exists() and not _is_whole(path):
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
