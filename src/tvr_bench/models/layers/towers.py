"""What a pretrained tower looks like, kept as JSON beside weights that already hold it.

So a trained model is built again without the checkpoint that it once began from. Only sizes and
the name of an activation are kept, and nothing else is taken from such a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tvr_bench.errors import UserError
from tvr_bench.files import atomic_write
from tvr_bench.model_folder import TOWERS

FOLDER = TOWERS
_LARGEST = 100_000  # bytes; a tower's file has less than one thousand
_LARGEST_NUMBER, _MOST_LAYERS = 1_000_000, 1_000
_ACTIVATIONS = ("quick_gelu", "gelu", "gelu_new", "relu", "silu")
_place: ContextVar[tuple[Path, bool] | None] = ContextVar("place", default=None)

Shape = Mapping[str, Any]  # numbers, lists of numbers, sections of these; `hidden_act` is a name


@contextmanager
def without_weights(folder: Path, *, needed: bool) -> Iterator[None]:
    """Let the towers that are built inside be those kept in `folder`, with random weights.

    One that is not kept there is loaded as usual, or with `needed` a UserError.
    """
    token = _place.set((folder / FOLDER, needed))
    try:
        yield
    finally:
        _place.reset(token)


def are_filled() -> bool:
    """Return whether the towers get their weights later, from the model's own file."""
    return _place.get() is not None


def kept(part: str) -> dict[str, Any] | None:
    """Return the shape of a tower, None where its weights are to be loaded.

    Raises UserError for a file that says anything but sizes.
    """
    if (place := _place.get()) is None:
        return None
    path = place[0] / f"{part}.json"
    if not path.is_file():
        if place[1]:
            raise UserError(f"there is no {path}; export the model again")
        return None
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("it is larger than 100 kB")
        return _checked(json.loads(path.read_bytes()), depth=2)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path} is not the shape of a tower ({reason}); export the model again"
        ) from error


def save(shapes: Mapping[str, Shape], folder: Path) -> None:
    """Write the shapes of a model's towers, by part, below `folder`."""
    for part, shape in shapes.items():
        atomic_write(folder / FOLDER / f"{part}.json", json.dumps(shape, indent=1) + "\n")


def content(tower: nn.Module) -> str:
    """Return the SHA-256, as hex, of a tower's weights, whatever kind of file they came in."""
    return content_of(tower.state_dict())


def content_of(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256, as hex, of named weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def impossible(part: str, error: BaseException) -> UserError:
    """Return the one error for a kept shape that no tower can have."""
    return UserError(
        f"the tower {part} that is kept with the model cannot be built ({type(error).__name__}); "
        "export the model again"
    )


def select(config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return the items `names` of a configuration, as far as they are there."""
    return {name: config[name] for name in names if name in config}


def _checked(value: Any, depth: int) -> dict[str, Any]:
    if not isinstance(value, dict) or not depth:
        raise ValueError("it must hold names and sizes")
    for key, one in value.items():
        most = _MOST_LAYERS if "layers" in key or "depth" in key else _LARGEST_NUMBER
        numbers = one if isinstance(one, list) else [one]
        if isinstance(one, dict):
            _checked(one, depth - 1)
        elif not (key == "hidden_act" and one in _ACTIVATIONS) and not all(
            number is None or (isinstance(number, (int, float)) and 0 <= number <= most)
            for number in numbers
        ):
            raise ValueError(f"{ascii(key)[:60]} is no size")
    return value
