"""Windows of a clip: how they are laid and what one says (T-CARD, tcard.md 2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvr_bench.errors import UserError
from tvr_bench.media.demux import MAX_PIXELS
from tvr_bench.media.video import segment_centres

Span = tuple[float, float]


@dataclass(frozen=True)
class WindowSpec:
    """How the windows of a clip are laid, read and written.

    `windows` W; `xi` window length in segments (the paper: 0.2 to 1); `reads` frames read per
    window; `stride`: the detector sees every n-th of them, in the others known text is followed;
    `votes` readings of a doubtful text; words below `min_score` or shorter than `min_chars`
    (unless they hold a digit) are dropped; `max_words` per window; `engine` and the longest `side`
    in pixels that its detector sees; `weights` folder of its models, None for its own place;
    `half`: easyocr's detector computes in bfloat16 on a CPU;
    `timeout` seconds that a worker process may take to decode a clip, and for each picture that the
    engine sees, None: any time; `max_pixels` of a frame that is read. Raises UserError for an
    impossible value.
    """

    windows: int = 12
    xi: float = 1.0
    reads: int = 2
    stride: int = 1
    votes: int = 2
    min_score: float = 0.5
    min_chars: int = 2
    max_words: int = 32
    engine: str = "rapidocr"
    side: int = 960
    weights: str | None = None
    half: bool = False
    timeout: float | None = None
    max_pixels: int = MAX_PIXELS

    @property
    def engine_options(self) -> dict[str, Any]:
        """What of these `create_engine` takes."""
        return {"side": self.side, "weights": self.weights, "half": self.half}

    def __post_init__(self) -> None:
        for name in ("windows", "reads", "stride", "votes", "min_chars", "max_words"):
            if getattr(self, name) < 1:
                raise UserError(f"ocr.{name}={getattr(self, name)} is too small; use 1 or more")
        if self.xi <= 0:
            raise UserError(f"ocr.xi={self.xi} leaves no window; use a number above 0, such as 1")


@dataclass(frozen=True)
class Window:
    """From `start` to `end` (seconds of the file): the words that stand there, in order.

    `caption` is those words joined by a space; "" is a masked slot.
    """

    start: float
    end: float
    caption: str
    words: tuple[str, ...]


def window_spans(
    duration: float, spec: WindowSpec, start: float | None = None, end: float | None = None
) -> list[Span]:
    """Return the W windows of a clip as (start, end) in seconds, in order and inside the clip.

    Window i is centred on the i-th of W equal segments and `xi` segments long. Raises UserError
    where nothing of the clip lies in the video.
    """
    centres = segment_centres(duration, spec.windows, start, end)
    first = max(0.0, start or 0.0)
    last = duration if end is None else min(end, duration)
    half = spec.xi * (last - first) / spec.windows / 2
    return [(max(first, centre - half), min(last, centre + half)) for centre in centres]


def read_times(spans: Sequence[Span], reads: int) -> list[float]:
    """Return the times to read, rising: the centres of `reads` equal parts of each window."""
    parts = range(reads)
    return sorted({low + (k + 0.5) * (high - low) / reads for low, high in spans for k in parts})
