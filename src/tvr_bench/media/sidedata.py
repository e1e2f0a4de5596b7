"""What travels beside the pixels of a frame."""

from __future__ import annotations

from typing import Any

from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame


def _unknown(cls: Any, value: object) -> Any:
    """Return a nameless member of the library's list of kinds, as `enum` lets a class do."""
    member = object.__new__(cls)
    member._name_, member._value_ = f"UNKNOWN_{value}", value
    return member


# PyAV has names for the kinds of an older FFmpeg than its own, and whoever touches one thing beside
# a frame makes it name all of them: without this, a frame with Apple's spatial video or EXIF beside
# it could not be asked how it is turned.
Type._missing_ = classmethod(_unknown)  # type: ignore[method-assign, assignment]


def display_matrix(frame: VideoFrame) -> bytes | None:
    """Return the nine numbers of the display matrix of `frame`, None where it has none."""
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    return None if matrix is None else bytes(matrix)
