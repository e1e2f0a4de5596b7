"""Arrays of a run as the bytes of one file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

_TEXTS = ("ids", "skills", "texts", "units")  # endings of the names of arrays of texts


def pack(ranks: Mapping[str, np.ndarray]) -> bytes:
    """Return the bytes of an .npz, the same for the same arrays."""
    arrays: dict[str, Any] = {}
    for name in sorted(ranks):
        array = np.asarray(ranks[name])
        if name.endswith(_TEXTS):
            arrays[name] = array.astype(np.str_)
            continue
        stored = array.astype(np.int32)
        if not np.array_equal(stored, array):
            raise ValueError(f"ranks '{name}' are not whole numbers that fit in 32 bits")
        arrays[name] = stored
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
