"""Files that ask a reader for too much, or that ask it to open something else."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from make_clips import make_clip

_UNITY = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)


@dataclass
class Place:
    """Where bombs are laid: `folder`; what they try to reach: `canary`, and `port` of this host."""

    folder: Path
    canary: Path
    port: int


def box(kind: bytes, *parts: bytes) -> bytes:
    """Return a box of an MP4 file."""
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def full(kind: bytes, *parts: bytes, flags: int = 0) -> bytes:
    """Return a box with version 0 and flags."""
    return box(kind, struct.pack(">I", flags), *parts)


def movie(
    samples: list[bytes],
    codec: bytes = b"png ",
    size: tuple[int, int] = (64, 48),
    count: int | None = None,
    reference: bytes = full(b"url ", flags=1),
    ticks: int = 1,
    extra: bytes = b"",
) -> bytes:
    """Return a MOV of `samples`, its tables as the other arguments have it.

    `count` samples of one byte are promised instead of the real ones; `reference` is where the data
    is; a sample lasts `ticks` of a tenth of a second.
    """
    many = len(samples) if count is None else count
    length = many * ticks % (1 << 31)
    width, height = size
    head = struct.pack(">IIIIIH10x", 0, 0, 10, length, 65536, 256) + _UNITY + bytes(24)
    head = full(b"mvhd", head, struct.pack(">I", 2))
    track = struct.pack(">IIIII8xHHHxx", 0, 0, 1, 0, length, 0, 0, 0)
    track += _UNITY + struct.pack(">II", width << 16, height << 16)
    media = full(b"mdhd", struct.pack(">IIIIHH", 0, 0, 10, length, 0x55C4, 0))
    media += full(b"hdlr", struct.pack(">I4s12x", 0, b"vide"), b"\0")
    entry = struct.pack(">6xH16xHHII4xH32xHh", 1, width, height, 0x480000, 0x480000, 1, 24, -1)
    sizes = struct.pack(f">II{len(samples)}I", 0, many, *map(len, samples))
    table = box(
        b"stbl",
        full(b"stsd", struct.pack(">I", 1), box(codec, entry)),
        full(b"stts", struct.pack(">III", 1, many, ticks)),
        full(b"stsc", struct.pack(">IIII", 1, 1, many, 1)),
        full(b"stsz", sizes if count is None else struct.pack(">II", 1, count)),
        full(b"stco", struct.pack(">II", 1, 28)),
    )
    source = box(b"dinf", full(b"dref", struct.pack(">I", 1), reference))
    info = box(b"minf", full(b"vmhd", bytes(8), flags=1), source, table)
    trak = box(b"trak", full(b"tkhd", track, flags=7), box(b"mdia", media, info))
    data = box(b"ftyp", b"qt  ", bytes(4), b"qt  ") + box(b"mdat", *samples)
    return data + box(b"moov", head, trak, extra)


def png(width: int, height: int) -> bytes:
    """Return a black picture; 67 million pixels pack into 65 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer, row = zlib.compressobj(9), bytes(width // 8 + 1)
    pixels = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def gif(width: int, height: int) -> bytes:
    """Return a picture that is large in its header alone."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    image = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + screen + image + b";"


def flat(path: Path, codec: str, size: tuple[int, int], pix_fmt: str = "gray") -> Path:
    """Write a video of two empty pictures."""
    with av.open(str(path), "w") as file:
        options = {"preset": "ultrafast"} if codec == "libx264" else {}
        stream = file.add_stream(codec, rate=10, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        for i in range(2):
            frame = av.VideoFrame(*size, pix_fmt)
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.pts, frame.time_base = i, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def many_streams(path: Path, count: int) -> Path:
    """Write a file of `count` videos of one picture."""
    with av.open(str(path), "w") as file:
        streams = []
        for _ in range(count):
            stream = file.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
            stream.codec_context.thread_count = 1
            streams.append(stream)
        for stream in streams:
            frame = av.VideoFrame(16, 16, "yuv420p")
            frame.pts, frame.time_base = 0, Fraction(1, 10)
            file.mux(stream.encode(frame))
            file.mux(stream.encode())
    return path


def fragments(path: Path) -> Path:
    """Write a fragment that promises 400 million frames in a few bytes."""
    source = make_clip(path.with_suffix(".tmp.mp4"), count=2, container={"movflags": "empty_moov"})
    run = full(b"trun", struct.pack(">I", 400_000_000))
    head = full(b"tfhd", struct.pack(">III", 1, 1, 1), flags=0x18)
    part = box(b"moof", full(b"mfhd", struct.pack(">I", 9)), box(b"traf", head, run))
    path.write_bytes(source.read_bytes() + part + box(b"mdat", bytes(100)))
    source.unlink()
    return path


def alias(target: Path) -> bytes:
    """Return a data reference of QuickTime to another file."""
    name = str(target).encode()
    body = bytearray(150)
    body[0:2] = struct.pack(">H", 0)
    body[50:51] = bytes([min(63, len(target.name))])
    body[51 : 51 + min(63, len(target.name))] = target.name.encode()[:63]
    body[130:134] = struct.pack(">hh", 0, 1)
    tail = struct.pack(">hH", 2, len(name)) + name + bytes(len(name) % 2)  # 2: absolute
    return full(b"alis", bytes(body) + tail + struct.pack(">hH", -1, 0))


def packed(data: bytes, kind: str) -> bytes:
    """Return `data` in an archive."""
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("video.mp4", data)
    else:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            entry = tarfile.TarInfo("video.mp4")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


MPD = """<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"
mediaPresentationDuration="PT4S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>
<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1" width="64" height="48">
<BaseURL>{url}</BaseURL><SegmentBase indexRange="0-9"/></Representation></AdaptationSet></Period>
</MPD>"""
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
SDP += "a=rtpmap:96 H264/90000\n"
HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{url}\n#EXT-X-ENDLIST\n"
VOBSUB = "# VobSub index file, v7 (do not modify this line!)\nsize: 64x48\nid: en, index: 0\n"


def _text(suffix: str, text: str) -> Callable[[Place], Path]:
    def write(place: Place) -> Path:
        path = place.folder / f"{suffix}.mp4"
        url = f"http://127.0.0.1:{place.port}/x.mp4"
        path.write_text(text.format(canary=place.canary, url=url, port=place.port))
        return path

    return write


def _bytes(name: str, data: Callable[[Place], bytes]) -> Callable[[Place], Path]:
    def write(place: Place) -> Path:
        (place.folder / name).write_bytes(data(place))
        return place.folder / name

    return write


def _link(name: str, target: str) -> Callable[[Place], Path]:
    def write(place: Place) -> Path:
        (place.folder / name).symlink_to(target)
        return place.folder / name

    return write


def _pattern(place: Place) -> Path:
    for i in range(3):
        (place.folder / f"{i}.png").write_bytes(png(64, 48))
    return place.folder / "%d.png"


def _folder(place: Place) -> Path:
    (place.folder / "folder.mp4").mkdir()
    return place.folder / "folder.mp4"


def _pipe(place: Place) -> Path:
    os.mkfifo(place.folder / "pipe.mp4")
    return place.folder / "pipe.mp4"


BOMBS: dict[str, Callable[[Place], Path]] = {
    "8192 x 8192 in the frame": _bytes("lie.mov", lambda _: movie([png(8192, 8192)])),
    "8192 x 8192 in the header": _bytes(
        "big.mov", lambda _: movie([png(8192, 8192)], size=(8192, 8192))
    ),
    "8192 x 8192 in the second frame": _bytes(
        "grow.mov", lambda _: movie([png(64, 48), png(8192, 8192)])
    ),
    "65535 x 65535": _bytes("big.gif", lambda _: gif(65535, 65535)),
    "65535 x 1": _bytes("wide.mov", lambda _: movie([png(65535, 1)], size=(65535, 1))),
    "1 x 65535": _bytes("high.mov", lambda _: movie([png(1, 65535)], size=(1, 65535))),
    "a million frames": _bytes("million.mov", lambda _: movie([bytes(64)], count=1_000_000)),
    "30 million frames": _bytes("more.mov", lambda _: movie([bytes(64)], count=30_000_000)),
    "4 billion frames": _bytes("most.mov", lambda _: movie([bytes(64)], count=4_000_000_000)),
    "400 million frames in a fragment": lambda p: fragments(p.folder / "fragment.mp4"),
    "a year": _bytes("year.mov", lambda _: movie([png(64, 48)] * 3, ticks=200_000_000)),
    "500 streams": lambda p: many_streams(p.folder / "streams.mp4", 500),
    "a packed header": _bytes(
        "packed.mov",
        lambda _: movie(
            [png(64, 48)], extra=box(b"cmov", box(b"cmvd", struct.pack(">I", 1 << 31)))
        ),
    ),
    "HLS of a file": _text("hls", HLS.replace("{url}", "file://{canary}")),
    "HLS of a host": _text("web", HLS),
    "HLS of HLS": _text("hls2", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{canary}\n"),
    "ffconcat": _text("concat", "ffconcat version 1.0\nfile '{canary}'\n"),
    "DASH": _text("dash", MPD),
    "SDP": _text("sdp", SDP),
    "ASX": _text("asx", "[Reference]\nRef1={url}\n"),
    "VobSub": _text("vobsub", VOBSUB),
    "subtitles": _text("srt", "1\n00:00:00,000 --> 00:00:04,000\n{canary}\n"),
    "a reference movie": _bytes(
        "alias.mov", lambda p: movie([png(64, 48)], reference=alias(p.canary))
    ),
    "a movie elsewhere": _bytes(
        "url.mov",
        lambda p: movie([png(64, 48)], reference=full(b"url ", f"file://{p.canary}\0".encode())),
    ),
    "a sequence of pictures": _pattern,
    "zip": _bytes("zip.mp4", lambda p: packed(p.canary.read_bytes(), "zip")),
    "tar": _bytes("tar.mp4", lambda p: packed(p.canary.read_bytes(), "tar")),
    "a folder": _folder,
    "a pipe": _pipe,
    "a device": _link("zero.mp4", "/dev/zero"),
    "a circle of links": _link("circle.mp4", "circle.mp4"),
    "a link to nothing": _link("nothing.mp4", "/nonexistent/video.mp4"),
}
NAMES = (  # of a file that is not there, as an id of a hostile annotation may have it
    "http://127.0.0.1:{port}/x.mp4",
    "concat:{canary}|{canary}",
    "file:{canary}",
    "subfile,,start,0,end,0,,:{canary}",
    "data:video/mp4;base64,AAAA",
    "pipe:0",
    "-i",
    "async:cache:{canary}",
)
