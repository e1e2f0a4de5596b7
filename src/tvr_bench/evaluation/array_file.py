"""One array out of a file that NumPy or PyTorch wrote; nothing that such a file says is ever run.

Importing this, and looking at a file, needs no torch: a wrong file is answered at once.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvr_bench.errors import UserError

_WANTED = "give an array of numbers in a .npy or .npz file of NumPy, or a .pt file of PyTorch"
_NPY, _ZIP, _PICKLE = b"\x93NUMPY", b"PK\x03\x04", b"\x80"
_SHOWN = 4  # arrays of a file that are named


@dataclass(frozen=True)
class FileArray:
    """An array and the type that its file has it in, such as `bfloat16`, which NumPy has not."""

    values: NDArray[Any]
    dtype: str


def check_array_file(path: Path) -> None:
    """Raise UserError where there is no file, or none of a kind that is read here."""
    _reader(path)


def read_array(path: Path) -> FileArray:
    """Return the array in a file, mapped into memory where it is a .npy file.

    Of several arrays in a .npz or .pt file none is chosen: UserError then names them with their
    shapes. It is raised as well for a broken file, and for anything but real numbers.
    """
    reader = _reader(path)
    try:
        found = reader(path)
    except UserError:
        raise
    except Exception as error:  # a broken pickle raises nearly every kind that there is
        raise UserError(f"{path} is no plain .npy, .npz or .pt file; {_WANTED}") from error
    if found.values.dtype.kind not in "biuf":
        raise UserError(f"{path} holds {found.dtype}, not real numbers; convert it first")
    return found


def _reader(path: Path) -> Callable[[Path], FileArray]:
    """Return what reads a file, told by how it begins and not by its name."""
    if not path.is_file():
        raise UserError(f"there is no file {path}; {_WANTED}")
    with open(path, "rb") as file:
        head = file.read(8)
    if head.startswith(_NPY):
        return _npy
    if head.startswith(_PICKLE) and path.suffix in (".pt", ".pth"):
        return _torch
    if head.startswith(_ZIP) and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return _npz if names and all(name.endswith(".npy") for name in names) else _torch
    raise UserError(f"{path} is no plain .npy, .npz or .pt file; {_WANTED}")


def _npy(path: Path) -> FileArray:
    # copy on write: torch wants an array that may be written, and the file stays as it is
    array = np.load(path, mmap_mode="c", allow_pickle=False)
    return FileArray(array, str(array.dtype))


def _npz(path: Path) -> FileArray:
    with np.load(path, allow_pickle=False) as archive:
        if len(archive.files) > 1:
            raise _several(path, {name: archive[name].shape for name in archive.files})
        (array,) = (archive[name] for name in archive.files)
    return FileArray(array, str(array.dtype))


def _torch(path: Path) -> FileArray:
    import torch

    value = torch.load(path, map_location="cpu", weights_only=True)
    tensors = value if isinstance(value, Mapping) else {"": value}
    tensors = {key: one for key, one in tensors.items() if isinstance(one, torch.Tensor)}
    if len(tensors) != 1:
        if tensors:
            raise _several(path, {str(key): tuple(one.shape) for key, one in tensors.items()})
        raise UserError(f"{path} holds a {type(value).__name__} without a tensor; {_WANTED}")
    (tensor,) = tensors.values()
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()  # exact
    return FileArray(tensor.detach().to_dense().contiguous().numpy(), dtype)


def _several(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> UserError:
    shown = ", ".join(f"{name[:40]} {shape}" for name, shape in list(shapes.items())[:_SHOWN])
    more = ", ..." if len(shapes) > _SHOWN else ""
    return UserError(
        f"{path} holds several arrays: {shown}{more}; write the one that is meant to a file of its "
        "own"
    )
