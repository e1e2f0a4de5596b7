"""One process of a distributed evaluation, started by the tests: `ddp_worker.py SPEC.json RANK`.

It sees every item that a padding sampler gives this rank, and writes what it found to a file.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tvr_bench.datamodules.types import Clip, Query, Split
from tvr_bench.evaluation.evaluate import EvaluationResult
from tvr_bench.evaluation.metric import RetrievalMetric


def features_of(kind: str, index: torch.Tensor) -> dict[str, torch.Tensor]:
    """Features of several types and shapes, made from the positions alone."""
    spread = torch.sin(index[:, None] * (1.0 + torch.arange(8)) + (kind == "video"))
    return {
        "half": spread[:, :3].bfloat16(),
        "flag": index % 2 == 0,
        "whole": torch.round(4 * spread).view(-1, 2, 4),
    }


def similarity(text: dict[str, torch.Tensor], video: dict[str, torch.Tensor]) -> torch.Tensor:
    """Scores with many ties, exact in float32."""
    scores = text["whole"].flatten(1) @ video["whole"].flatten(1).T
    return scores + (text["flag"][:, None] & video["flag"])


def split_of(texts: int, videos: int) -> Split:
    """Texts in turn over the videos, in groups of 3 clips."""
    clips = tuple(Clip(f"v{i}", Path(f"v{i}.mp4")) for i in range(videos))
    return Split(
        clips,
        tuple(
            Query(f"q{i}", "", f"v{i % videos}", f"skill{i % 2}", f"g{(i % videos) // 3}")
            for i in range(texts)
        ),
    )


def padded(items: int, rank: int, world: int) -> list[int]:
    """The positions that torch's DistributedSampler gives a rank: the first are repeated."""
    return [i % items for i in range(rank, -(-items // world) * world, world)]


def shares_of(texts: int, videos: int, mode: str, rank: int, world: int) -> dict[str, list[int]]:
    """The positions that one rank sees; with "one_rank_empty" rank 0 sees everything."""
    if mode == "padded":
        return {"text": padded(texts, rank, world), "video": padded(videos, rank, world)}
    if rank:
        return {"text": [], "video": []}
    return {"text": list(range(texts)), "video": list(range(videos))}


def evaluate(
    texts: int, videos: int, shares: dict[str, list[int]], **settings: Any
) -> EvaluationResult:
    """The result of one process that saw these positions of each kind, in batches of 5."""
    split = split_of(texts, videos)
    metric = RetrievalMetric(similarity, split, name="test", block=64, top=10, **settings)
    for kind, positions in shares.items():
        for part in torch.tensor(positions, dtype=torch.int64).split(5):
            metric.update(kind, part, features_of(kind, part))
    metric.compute()
    assert metric.result is not None
    return metric.result


def summary(result: EvaluationResult) -> dict[str, Any]:
    """Everything that must not depend on the number of processes."""
    ranks = {
        f"{name}.{field.name}": getattr(getattr(result, name), field.name).tolist()
        for name in ("t2v_ranks", "v2t_ranks", "in_group_ranks")
        for field in dataclasses.fields(getattr(result, name))
    }
    metrics = {name: getattr(result, name) for name in ("t2v", "v2t", "in_group", "by_skill")}
    assert result.best is not None
    return metrics | ranks | {"flat": result.flat(), "best": result.best.tolist()}


def main(spec_file: Path, rank: int) -> None:
    """Evaluate every case of the specification and write the summaries beside it."""
    spec = json.loads(spec_file.read_text())
    world = spec["world"]
    dist.init_process_group(
        "gloo",
        init_method=f"file://{spec_file}.sync",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=600),
    )
    try:
        found = [
            summary(evaluate(texts, videos, shares_of(texts, videos, mode, rank, world)))
            for texts, videos, mode in spec["cases"]
        ]
    finally:
        dist.destroy_process_group()
    Path(f"{spec_file}.{rank}").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
