"""Tensors out of files that torch wrote, with nothing in them executed.

`torch.save` of a state dict goes through torch's own restricted unpickler. A TorchScript archive is
a zip of the tensors' bytes, of code, and of a pickle that says which tensor is which attribute of
which module; `torch.jit.load` would run the code. Here it is not even read, and the pickle is not
unpickled: its instructions are followed as far as they build plain data, and what they would call
or look up is only noted by its name.
"""

from __future__ import annotations

import math
import pickletools
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_LARGEST_PICKLE = 1_000_000  # bytes; that of ViT-B-32 has less than a tenth
_LONGEST_NAME = 200  # letters of a tensor's name
_SHARED = 2  # tensors may share their bytes, but not more than so often
_TENSOR = "torch._utils _rebuild_tensor_v2"
_STORAGES = {
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
}


def is_torchscript(path: Path) -> bool:
    """Return whether a file is an archive that `torch.jit.save` wrote."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict that `torch.save` wrote.

    Raises ValueError for a file that holds or is anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # files of before 2020 are bare pickles
            _check_stored(archive, archive.namelist())
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch says in many ways what it refuses
        raise ValueError(f"no plain state dict: {type(error).__name__}") from error
    if not isinstance(state, dict):
        raise ValueError(f"a {type(state).__name__} is no state dict")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor) or value.is_quantized:
            raise ValueError(f"a state dict holds tensors alone, not {ascii(key)[:60]}")
        if value.layout != torch.strided:
            raise ValueError(f"{key[:60]} is sparse")
    size = sum(value.numel() * value.element_size() for value in state.values())
    if size > _SHARED * path.stat().st_size:
        raise ValueError("its tensors are larger than the file")
    return {key: value.detach() for key, value in state.items()}


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Return every tensor of real numbers that is an attribute of a module, by its dotted name.

    Raises an error of one of many kinds for an archive that is broken or hostile.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (data,) = (name for name in names if re.fullmatch(r"[^/]+/data\.pkl", name))
        folder = data.removesuffix("data.pkl")
        order = f"{folder}byteorder"
        _check_stored(archive, [data, *(n for n in names if n.startswith(f"{folder}data/"))])
        if order in names:
            _check_stored(archive, [order])
            if archive.read(order) != b"little":
                raise ValueError("its bytes are in the other order")
        if archive.getinfo(data).file_size > _LARGEST_PICKLE:
            raise ValueError("its list of tensors is larger than 1 MB")
        try:
            made = tensors_of(plain_data(archive.read(data)))
            keys = {name: one.arguments[0].arguments[2] for name, one in made.items()}
            entries = {name: archive.getinfo(f"{folder}data/{key}") for name, key in keys.items()}
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError("its list of tensors is broken") from error
        if sum(entry.file_size for entry in entries.values()) > _SHARED * path.stat().st_size:
            raise ValueError("its tensors are larger than the file")
        return {name: _tensor(one, archive.read(entries[name])) for name, one in made.items()}


def module_names(path: Path) -> set[str]:
    """Return the dotted names of the classes of an archive's modules; errors: `read_torchscript`.

    What `torch.jit` puts between the parts of a name to make it unique is left out.
    """
    with zipfile.ZipFile(path) as archive:
        (data,) = (name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name))
        _check_stored(archive, [data])
        if archive.getinfo(data).file_size > _LARGEST_PICKLE:
            raise ValueError("its list of tensors is larger than 1 MB")
        root = plain_data(archive.read(data))
    found: dict[int, str] = {}
    modules = [_of_kind(root, Made)]
    while modules:
        module = modules.pop()
        if id(module) not in found:
            found[id(module)] = re.sub(r"___torch_mangle_\d+\.", "", module.name.replace(" ", "."))
            modules += [value for value in module.fields.values() if isinstance(value, Made)]
    return set(found.values())


def _check_stored(archive: zipfile.ZipFile, names: Sequence[str]) -> None:
    """Raise ValueError for an entry that is packed, which torch never does, or grows when read."""
    for name in names:
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError(f"its entry {ascii(name)[:60]} is packed")


@dataclass(eq=False)
class Made:
    """What the pickle would make of the class or function `name`; a module has `fields`."""

    name: str
    arguments: Any = ()
    fields: dict[str, Any] = field(default_factory=dict)


def plain_data(pickled: bytes) -> Any:
    """Return what a pickle of TorchScript says, with a `Made` for everything that is not plain.

    Raises ValueError, or an error of a list or dict, for what TorchScript does not write.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        found = stack[start:]
        del stack[start:]
        return found

    for opcode, argument, _ in pickletools.genops(pickled):
        match opcode.name:
            case "PROTO":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list}.get(opcode.name, dict)())
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND" | "APPENDS":
                values = [stack.pop()] if opcode.name == "APPEND" else since_mark()
                _of_kind(stack[-1], list).extend(values)
            case "SETITEM" | "SETITEMS":
                values = [stack.pop(-2), stack.pop()] if opcode.name == "SETITEM" else since_mark()
                for key, value in zip(values[::2], values[1::2], strict=True):
                    _of_kind(stack[-1], dict)[_of_kind(key, str)] = value
            case "GLOBAL":
                stack.append(Made(str(argument)))
            case "REDUCE" | "NEWOBJ":
                arguments = _of_kind(stack.pop(), tuple)
                stack.append(Made(_of_kind(stack.pop(), Made).name, arguments))
            case "BUILD":
                fields = _of_kind(stack.pop(), dict)
                _of_kind(stack[-1], Made).fields = fields
            case "BINPERSID":
                stack.append(Made("storage", _of_kind(stack.pop(), tuple)))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "STOP":
                return stack.pop()
            case other:
                raise ValueError(f"its pickle has the instruction {other}")
    raise ValueError("its pickle has no end")


def _of_kind(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"its pickle has a {type(value).__name__} in place of a {kind.__name__}")
    return value


def tensors_of(root: Any) -> dict[str, Made]:
    """Return what would make each tensor of real numbers, by its dotted name below `root`."""
    found: dict[str, Made] = {}
    seen: set[int] = set()
    modules = [("", _of_kind(root, Made))]
    while modules:
        prefix, module = modules.pop()
        for key, value in module.fields.items():
            name = f"{prefix}{key}"
            if not isinstance(value, Made):
                continue
            if len(name) > _LONGEST_NAME:
                raise ValueError("its modules lie too deep in each other")
            if value.name == _TENSOR:
                if value.arguments[0].arguments[1].name in _STORAGES:
                    found[name] = value
            elif id(value) not in seen:
                seen.add(id(value))
                modules.append((f"{name}.", value))
    return found


def _tensor(made: Made, content: bytes) -> Tensor:
    """Return a tensor whose numbers stand in `content`, somewhere."""
    storage, offset, shape, stride, *_ = made.arguments
    numbers = torch.frombuffer(bytearray(content), dtype=_STORAGES[storage.arguments[1].name])
    if min((offset, *shape, *stride)) < 0 or math.prod(shape) > len(numbers):
        raise ValueError("a tensor is larger than its bytes")
    return numbers.as_strided(shape, stride, offset)
