"""What the README shows in Python works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

README = Path(__file__).parents[1] / "README.md"


def snippet(heading: str) -> str:
    """Return the first Python of a section."""
    section = README.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a reader brings: vectors and queries that resemble the first of them, in a folder."""
    monkeypatch.chdir(tmp_path)
    vectors = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    queries = vectors[:5]
    return {
        "vectors": vectors,
        "ids": [f"video{i}" for i in range(50)],
        "queries": queries,
        "scores": queries @ vectors.T,
        "gold": torch.arange(5),
    }


def test_a_gallery_is_written_opened_and_searched(names: dict[str, Any]) -> None:
    exec(snippet("Search a large gallery"), names)
    assert names["positions"].shape == (5, 10)
    assert names["positions"][:, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_matrix_of_ones_own_is_scored(names: dict[str, Any]) -> None:
    code = snippet("Score your own similarity matrix")
    exec(
        code.replace("tvr_bench.retrieval_metrics(", "found = tvr_bench.retrieval_metrics("), names
    )
    assert names["found"]["R@1"] == 100.0
