"""Tables of numbers in an HDF5 file that a stranger may have made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from tvr_bench.errors import UserError


class FeatureFile:
    """An HDF5 file that each process opens for itself, when it first reads."""

    def __init__(self, key: str, path: str | None) -> None:
        """Take the configuration's key of the file and its path.

        Raises UserError where there is no such file.
        """
        if not path:
            raise UserError(f"backbone=features needs {key}=FILE.h5; see `features` in base.yaml")
        if not Path(path).is_file():
            raise UserError(f"{key}={path} does not exist; give the path of an HDF5 file")
        self.key, self.path = key, path
        self._opened: tuple[int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}  # a handle belongs to its process

    def holds(self, name: str) -> bool:
        """Return whether the file itself has a data set or group of this name.

        What is only linked to does not count: a stranger's file may not lead to other files.
        """
        import h5py

        with self._reading() as file:
            for part in accumulate(name.split("/"), "{}/{}".format):
                if not isinstance(file.get(part, getlink=True), h5py.HardLink):
                    return False
        return True

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a data set; raises UserError where there is none of numbers."""
        with self._reading() as file:
            return tuple(int(n) for n in self._dataset(file, name).shape)

    def read(self, name: str, rows: int | slice = slice(None)) -> np.ndarray:
        """Return float32 rows of a data set; raises UserError where one is not a finite number."""
        with self._reading() as file, np.errstate(over="ignore"):
            values = np.asarray(self._dataset(file, name)[rows], np.float32)
        if not np.isfinite(values).all():
            where = f"row {rows} of '{name}'" if isinstance(rows, int) else f"'{name}'"
            raise UserError(f"{self.path} has NaN or infinite numbers in {where}; extract it again")
        return values

    def _dataset(self, file: Any, name: str) -> Any:
        import h5py

        found = file[name] if self.holds(name) else None
        if found is None:
            raise UserError(f"{self.path} has no '{name}'; give another {self.key}")
        inside = isinstance(found, h5py.Dataset) and not found.external and not found.is_virtual
        if not inside or found.dtype.kind != "f" or not found.shape:
            raise UserError(f"'{name}' of {self.path} is no table of numbers; extract it again")
        return found

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        """Yield the open file; raises UserError for whatever HDF5 cannot read of it."""
        import h5py

        try:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), h5py.File(self.path, "r"))
            yield self._opened[1]
        except UserError:
            raise
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(
                f"{self.path} is damaged or no HDF5 file ({reason}); give another {self.key}"
            ) from error
