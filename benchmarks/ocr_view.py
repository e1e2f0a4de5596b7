"""The tables of benchmarks/ocr.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
_READ = 24  # frames of a clip, two in each of twelve windows


def markdown(figures: Row) -> str:
    """Return the page of all parts that were measured."""
    parts = {"images": _images, "frames": _frames, "clips": _clips}
    lines = ["# Reading real images and clips", "", "`python benchmarks/ocr.py`."]
    for name, show in parts.items():
        if name in figures:
            lines += ["", *show(figures), "", f"Measured on {figures[name]['machine']}."]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_line(head), "|" + "---|" * len(head), *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _share(count: Row, key: str = "recall") -> str:
    return f"{count[key]:.3f}"


def _images(all_figures: Row) -> list[str]:
    figures, rows = all_figures["images"], []
    for row in figures["rows"]:
        photos, crops = row["photographs"], row["crops"]
        cells = [row["engine"], row["setting"], _share(photos), _share(photos, "precision")]
        cells += [_share(crops), _share(crops, "precision"), f"{row['seconds']:.2f}"]
        rows.append(cells)
    rows.append(["easyocr", "its weights are not at hand", *["-"] * 5])
    first = figures["rows"][0]
    head = ["engine", "setting", "recall", "precision", "crops: recall", "precision", "s per photo"]
    return [
        "## Images",
        "",
        f"{figures['photographs']} photographs with {first['photographs']['wanted']} distinct "
        f"words, detected and recognised, and {first['crops']['wanted']} crops of one word each, "
        "recognised alone. A word is right where it is the same in lower case, accents and outer "
        "punctuation aside. Recall and precision cannot reach 1: the truth leaves out unreadable "
        "words of two photographs and the small text of one, for one it is what another engine "
        "read, slips included (three of its words stand nowhere), one word of it is misspelt, and "
        "one crop is mirrored.",
        "",
        *_table(head, rows),
    ]


def _frames(all_figures: Row) -> list[str]:
    figures = all_figures["frames"]
    names = list(figures["rows"][0]["seconds"])
    rows = [
        [str(row["side"]), *(f"{row['seconds'][name]:.3f}" for name in names)]
        for row in figures["rows"]
    ]
    last = figures["rows"][-1]["seconds"]
    gain = last["easyocr"] / last["easyocr, half"]
    return [
        "## Seconds per frame",
        "",
        "Detecting in one frame of 1280 x 720, reduced to the longest side named. EasyOCR has "
        "random weights here, which cost what the real ones cost and say nothing about accuracy; "
        "`half` is bfloat16 with channels last.",
        "",
        *_table(["side", *names], rows),
        "",
        f"At the largest, half precision gains {gain:.1f} times.",
        "",
        f"Recognising one of {figures['lines']} lines of that frame, EasyOCR without its second "
        "look at doubtful lines:",
        "",
        *_table(["reader", "s per line"], [[k, f"{v:.4f}"] for k, v in figures["line"].items()]),
    ]


def _clips(all_figures: Row) -> list[str]:
    figures, rows = all_figures["clips"], []
    for row in figures["rows"]:
        cells = [row["setting"], _total(row, "window"), _total(row, "clip")]
        cells += [f"{row['frames']:.1f}", f"{row['lines']:.1f}", f"{row['seconds']:.2f}"]
        rows.append(cells)
    first, cache = figures["rows"][0], figures["cache"]
    per_clip = [
        [name, _recall(counts["window"]), _recall(counts["clip"])]
        for name, counts in first["clips"].items()
    ]
    head = ["setting", "window", "clip", "frames detected", "lines read", "s per clip"]
    return [
        "## Window captions of real clips",
        "",
        f"{len(per_clip)} clips of TextVR at 1920 x 1080, whose large text a person noted at nine "
        "moments. `window`: recall of those words in the captions of the windows at that moment; "
        "`clip`: of the distinct words in any caption of the clip. 12 windows; seconds are of "
        "reading, without decoding, which is the same for all.",
        "",
        *_table(head, rows),
        "",
        "By clip, with the default:",
        "",
        *_table(["clip", "window", "clip"], per_clip),
        "",
        f"Captioning one clip takes {cache['first']:.1f} s with its decoding; asking again takes "
        f"{cache['second'] * 1000:.1f} ms, {cache['first'] / cache['second']:,.0f} times less.",
        *_against_easyocr(first, all_figures.get("frames")),
    ]


def _against_easyocr(default: Row, frames: Row | None) -> list[str]:
    if frames is None:
        return []
    alone = frames["rows"][-1]["seconds"]["easyocr"] * _READ
    gain = alone / default["seconds"]
    return [
        "",
        f"EasyOCR as it comes reduces no frame of this size: detecting in the {_READ} frames of a "
        f"clip one by one would take it {alone:.0f} s, {gain:.0f} times what the default needs "
        "for all.",
    ]


def _total(row: Row, kind: str) -> str:
    counts = [clip[kind] for clip in row["clips"].values()]
    return _recall({key: sum(count[key] for count in counts) for key in ("found", "wanted")})


def _recall(count: Row) -> str:
    return f"{count['found'] / count['wanted']:.3f} ({count['found']} of {count['wanted']})"
