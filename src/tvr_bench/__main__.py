"""`python -m tvr_bench` is `tvr-bench`."""

from __future__ import annotations

import sys

from tvr_bench.cli import main

sys.exit(main())
