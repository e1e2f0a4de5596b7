"""Where real annotation files and clips lie; tests that need them skip where they are not."""

from __future__ import annotations

import os
from pathlib import Path

_NEAR = Path(__file__).parents[2] / "shared" / "data"
DATA = Path(os.environ.get("TVR_BENCH_REALDATA", _NEAR))
