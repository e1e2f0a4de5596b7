"""What the index needs of each packet of a video stream, read in one pass over the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from tvr_bench.media.demux import unreadable
from tvr_bench.media.h264 import Fields
from tvr_bench.media.mpeg4 import is_coded, time_bits
from tvr_bench.media.vp9 import is_hidden

_MAX_PACKETS = 1_000_000  # nine hours at 30 frames per second
_KEEP_BYTES = 256 << 20  # a larger stream is read from disk a second time, not held in memory
_MAX_NVOP = 19  # bytes; an MPEG-4 packet this small may say "not coded" and show no new frame

Packets: TypeAlias = "list[Packet[VideoStream]]"
Look: TypeAlias = "Callable[[Packet[VideoStream]], bool]"


class Mark(NamedTuple):
    """What the index needs of a packet."""

    pts: int | None
    dts: int | None
    duration: int
    key: bool
    corrupt: bool
    shown: bool  # its frame comes out of the decoder
    still: bool  # "not coded": it says that the last picture stays


def scan(
    path: Path, container: InputContainer, stream: VideoStream
) -> tuple[list[Mark], Packets | None]:
    """Return a mark for every packet, and the packets unless they are too large to hold."""
    codec = stream.codec_context
    is_empty: Look | None = None
    marks: list[Mark] = []
    kept: Packets | None = []
    size = 0
    for packet in container.demux(stream):
        if not packet.size:  # in AVI: "the last frame stays"; at the end: "flush"
            continue
        if not marks:
            is_empty = _look(codec, bytes(packet))
        empty = is_empty is not None and is_empty(packet)
        marks.append(
            Mark(
                packet.pts,
                packet.dts,
                packet.duration or 0,
                packet.is_keyframe,
                packet.is_corrupt,
                not (empty or packet.is_discard),
                empty and codec.name == "mpeg4",
            )
        )
        size += packet.size
        if size > _KEEP_BYTES:
            kept = None
        elif kept is not None:
            kept.append(packet)
        if len(marks) > _MAX_PACKETS:
            raise unreadable(path, f"more than {_MAX_PACKETS} frames")
    return marks, kept


def _look(codec: VideoCodecContext, first: bytes) -> Look | None:
    """Return what tells the packets that no frame comes out for, None where all show one."""
    extradata = codec.extradata or b""
    match codec.name:
        case "vp8":  # an alternative reference has a time stamp but is never shown
            return lambda packet: not memoryview(packet)[0] >> 4 & 1
        case "vp9":
            return lambda packet: is_hidden(bytes(packet))
        case "mpeg4":
            bits = time_bits(extradata + first)
            return lambda packet: (
                packet.size <= _MAX_NVOP and not (bits and is_coded(bytes(packet), bits))
            )
        case "h264":
            fields = Fields(extradata, first)
            return (lambda p: fields.completes(bytes(p))) if fields.possible else None
        case _:
            return None
