"""The windows of a video as a table for people and as JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tvr_bench.cores import cores
from tvr_bench.errors import UserError
from tvr_bench.files import check_file, json_text
from tvr_bench.media.captioner import read_windows
from tvr_bench.media.ocr import create_engine
from tvr_bench.media.windows import Window, WindowSpec


def show_windows(videos: Sequence[Path], spec: WindowSpec, *, as_json: bool = False) -> int:
    """Read and print the windows of each video; return 0, or 2 where a video could not be read.

    A video that cannot be read is named on stderr and the others are still read. Raises UserError
    where the engine or its models are missing.
    """
    threads = cores()
    engine = create_engine(spec.engine, threads=threads, **spec.engine_options)
    read = []
    for path in videos:
        try:
            check_file(path, "the path of a video")
            read.append((path, read_windows(path, spec, engine)))
        except UserError as error:
            print(error, file=sys.stderr)
            continue
        if not as_json:
            Console().print(windows_table(*read[-1]))
    if as_json:
        print(windows_json(read))
    return 0 if len(read) == len(videos) else 2


def windows_table(path: Path, windows: Sequence[Window]) -> Table:
    """Return one row per window: its number, its seconds, its caption."""
    table = Table(title=Text(path.name), title_justify="left")
    table.add_column("window", justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("caption", overflow="fold")
    for number, window in enumerate(windows, start=1):
        caption = Text(window.caption) if window.caption else Text("no text", style="dim")
        table.add_row(str(number), f"{window.start:.2f} - {window.end:.2f}", caption)
    return table


def windows_dict(path: Path, windows: Sequence[Window]) -> dict[str, Any]:
    """Return plain data: the video's path and, per window, start, end, caption and words."""
    rows = [
        {
            "start": round(window.start, 3),
            "end": round(window.end, 3),
            "caption": window.caption,
            "words": list(window.words),
        }
        for window in windows
    ]
    return {"video": str(path), "windows": rows}


def windows_json(videos: Sequence[tuple[Path, Sequence[Window]]]) -> str:
    """Return a JSON array with one object per video, as of `windows_dict`."""
    return json_text([windows_dict(*video) for video in videos], indent=2)
