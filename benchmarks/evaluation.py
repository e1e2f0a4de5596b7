"""The evaluation engine against open_clip, CLIP4Clip and torchmetrics: table E.

Run: `.venv/bin/python benchmarks/evaluation.py [--small] [--only E1 E4] [--msrvtt DIR]`, with
`TVR_PEERS=DIR` for peers that are repositories (`evaluation_peers.py`).

Vectors are unit, D = 512, of a fixed seed; of pairs R@1 is 80 to 95 %. E1 to E3 have one text per
video, E4 a ragged number, E5 20 as MSR-VTT (with `--msrvtt DIR` those of its full test
split in their order). Ours returns all metrics of both directions from the vectors. It is compared
with the peer, and where the matrix fits with a count over all scores in float64; of E6 200 queries
of each direction are.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial

import evaluation_cases as cases
import evaluation_peers as peers
import numpy as np
import torch
from harness import Duel, Row, Times, alone, arguments, duel, peak_mb, roofs, save
from torch import Tensor

from tvr_bench.evaluation.ranks import Ranks, retrieval_metrics
from tvr_bench.evaluation.vector_scores import rank_vectors

MSVD, MSRVTT = (27_763, 670), (59_800, 2_990)


def ours(case: cases.Case) -> tuple[Ranks, Ranks]:
    """Return the ranks of both directions, after their metrics were made."""
    t2v, v2t = rank_vectors(*case)
    t2v.metrics()
    v2t.metrics()
    return t2v, v2t


def memory(make: str, sizes: list[int | str | None], side: str) -> Callable[[], object]:
    """Return the call whose memory counts, with its vectors made before."""
    case = getattr(cases, make)(*sizes)
    if side == "ours":
        return partial(ours, case)
    peer = peers.open_clip()
    assert peer is not None
    return partial(peer.metrics, case[1], case[0], 100.0)


def memory_of_pairs(count: int) -> tuple[float, float]:
    """Return the MB of open_clip and of ours above the vectors."""
    peer, mine = (peak_mb("evaluation:memory", "paired", [count], s) for s in ("peer", "ours"))
    return peer, mine


def gemm_ms(case: cases.Case, repeats: int) -> float:
    """Return the median time of the bare fp32 products, in blocks as ours has them."""
    text, video, _ = case
    buffer = torch.empty(512 * 1024)

    def run() -> None:
        for right in video.split(1024):
            for left in text.split(512):
                size = len(left), len(right)
                torch.mm(left, right.T, out=buffer[: size[0] * size[1]].view(size))

    return alone(run, repeats).median_ms


def against_open_clip(id: str, count: int, goal: float, options: argparse.Namespace) -> Row | None:
    """Return the row of N pairs against open_clip."""
    peer = peers.open_clip()
    if peer is None or (peer.sorts and count > 5_000):
        print(
            f"{id} skipped: needs open_clip's metrics.py; set TVR_PEERS to a folder with open_clip"
        )
        return None
    case = cases.paired(count)
    found = ours(case)
    peers.agree(peer.metrics(case[1], case[0], 100.0), peers.as_open_clip(*found))
    print(f"{id}: all metrics equal, R@1 {found[0].metrics()['R@1']:.1f}")
    times = duel(lambda: peer.metrics(case[1], case[0], 100.0), lambda: ours(case), options.repeats)
    gemm = gemm_ms(case, options.repeats)
    return Row(
        id=id,
        what=f"{count:,} x {count:,}, both directions",
        peer=f"{peer.name} get_clip_metrics",
        agreement="all metrics equal",
        duel=times,
        goal=goal,
        roof=gemm / times.ours.median_ms,
        at_most={"x bare fp32 GEMM": (times.ours.median_ms / gemm, 1.3)},
        memory_mb=memory_of_pairs(count) if not options.small else None,
        figures={"gemm_ms": gemm, "R@1": found[0].metrics()["R@1"]},
    )


def against_clip4clip_paired(id: str, count: int, options: argparse.Namespace) -> Row | None:
    """Return the row of N pairs against CLIP4Clip, whose matrix is made inside of its time."""
    module = peers.clip4clip()
    if module is None:
        return None
    case = cases.paired(count)

    def theirs() -> tuple[dict[str, float], dict[str, float]]:
        scores = (case[0] @ case[1].T).numpy()
        return module.compute_metrics(scores), module.compute_metrics(scores.T)

    for found, ranks in zip(theirs(), ours(case), strict=True):
        peers.agree(found, peers.as_clip4clip(ranks))
    print(f"{id} CLIP4Clip: all metrics equal")
    return Row(
        id=f"{id} CLIP4Clip",
        what=f"{count:,} x {count:,}, both directions",
        peer=f"CLIP4Clip {module.__doc__} compute_metrics",
        agreement="all metrics equal",
        duel=duel(theirs, lambda: ours(case), options.repeats),
        goal=3.0,
    )


def against_clip4clip_ragged(id: str, case: cases.Case, options: argparse.Namespace) -> Row | None:
    """Return the row of many captions against CLIP4Clip; a clip's captions compete as one."""
    module = peers.clip4clip()
    if module is None:
        return None
    text, video, gold = case

    def theirs() -> tuple[dict[str, float], dict[str, float]]:
        table = peers.cube((text @ video.T).numpy(), gold.numpy())
        back = module.tensor_video_to_text_sim(table)
        return module.tensor_text_to_video_metrics(table), module.compute_metrics(back.numpy())

    def grouped() -> tuple[Ranks, Ranks]:
        t2v, v2t = rank_vectors(*case, grouped=True)
        t2v.metrics()
        v2t.metrics()
        return t2v, v2t

    for found, ranks, lower in zip(theirs(), grouped(), (True, False), strict=True):
        peers.agree(found, peers.as_clip4clip(ranks, lower))
    print(f"{id} CLIP4Clip: all metrics equal")
    return Row(
        id=f"{id} CLIP4Clip",
        what=f"{len(text):,} captions x {len(video):,}, v2t=group",
        peer=f"CLIP4Clip {module.__doc__} multi-caption metrics",
        agreement="all metrics equal",
        duel=duel(theirs, grouped, options.repeats),
        goal=20.0,
    )


def of_captions(
    id: str, make: str, sizes: list[int | str | None], limits: tuple[float, float], repeats: int
) -> Row:
    """Return the row of many captions per video, ours alone; limits in seconds and MB."""
    case = getattr(cases, make)(*sizes)
    found = ours(case)
    agreement = cases.against_float64(case, found)
    print(f"{id}: {agreement}, R@1 {found[0].metrics()['R@1']:.1f}")
    times = alone(lambda: ours(case), repeats)
    used, gemm = peak_mb("evaluation:memory", make, sizes, "ours"), gemm_ms(case, repeats)
    return Row(
        id=id,
        what=f"{len(case[0]):,} captions x {len(case[1]):,} videos",
        agreement=agreement,
        duel=times,
        roof=gemm / times.median_ms,
        memory_mb=(None, used),
        at_most={"s": (times.median_ms / 1000, limits[0]), "MB": (used, limits[1])},
        figures={"gemm_ms": gemm, "R@1": found[0].metrics()["R@1"]},
        note="MB above the features",
    )


def largest(count: int = 100_000) -> Row:
    """Return the row of a gallery whose matrix would take 40 GB; it is run once."""
    case = cases.paired(count)
    wall, cpu = time.perf_counter(), time.process_time()
    found = ours(case)
    cpu, wall = 1000 * (time.process_time() - cpu), 1000 * (time.perf_counter() - wall)
    agreement = cases.against_sample(case, found)
    print(f"E6: {agreement}, R@1 {found[0].metrics()['R@1']:.1f}")
    used = peak_mb("evaluation:memory", "paired", [count], "ours")
    gemm = 2e-6 * count**2 * cases.D / roofs()["gemm_fp32_gflops"]
    return Row(
        id="E6",
        what=f"{count:,} x {count:,}, both directions",
        agreement=agreement,
        duel=Times(wall, wall, 0.0, cpu),
        roof=gemm / wall,
        memory_mb=(None, used),
        at_most={"MB": (used, 500.0)},
        figures={"R@1": found[0].metrics()["R@1"]},
        note="MB above the features; one run; the roof is that of a smaller product",
    )


def against_torchmetrics(count: int, options: argparse.Namespace) -> Row:
    """Return the row of `RetrievalRecall`, which takes a negative score for no score at all."""
    from torchmetrics.retrieval import RetrievalRecall

    text, video, gold = cases.vectors(torch.arange(count), count, 0.22)
    scores = (1 + text @ video.T) / 2  # torchmetrics ignores right items at or below 0
    index = torch.arange(count).repeat_interleave(count)
    target = torch.eye(count, dtype=torch.bool).flatten()

    def theirs(values: Tensor = scores) -> float:
        return float(RetrievalRecall(top_k=1)(values.flatten(), target, indexes=index))

    share = retrieval_metrics(scores, gold)["R@1"] / 100
    if not np.isclose(theirs(), share):
        raise SystemExit("outputs differ on positive scores")
    below = scores - 2
    found: Duel = duel(theirs, lambda: retrieval_metrics(scores, gold), options.repeats)
    wrong, right = 100 * theirs(below), retrieval_metrics(below, gold)["R@1"]
    print(f"E7: equal on positive scores; all negative: torchmetrics {wrong:.1f}, ours {right:.1f}")
    return Row(
        id="E7",
        what=f"{count} x {count}, recall at 1 from a matrix",
        peer="torchmetrics RetrievalRecall",
        agreement="R@1 equal where all scores are positive",
        duel=found,
        goal=50.0,
        figures={"torchmetrics, all negative": wrong, "ours, all negative": right},
        note="all negative: the same scores less 2, in percent",
    )


def tables(options: argparse.Namespace) -> dict[str, Callable[[], list[Row | None]]]:
    """Return what makes the rows of each id."""
    small, repeats = options.small, options.repeats
    second, counts = (2_000, (2_776, 67)) if small else (5_000, MSVD)
    fifth: list[int | str | None] = [2_000, 100] if small else [*MSRVTT, options.msrvtt]
    every: dict[str, Callable[[], list[Row | None]]] = {
        "E1": lambda: [
            against_open_clip("E1", 1_000, 5.0, options),
            against_clip4clip_paired("E1", 1_000, options),
        ],
        "E2": lambda: [
            against_open_clip("E2", second, 3.0, options),
            against_clip4clip_paired("E2", second, options),
        ],
        "E3": lambda: [against_open_clip("E3", 20_000, 3.0, options)],
        "E4": lambda: [
            of_captions("E4", "ragged", [*counts], (0.5, 300.0), repeats),
            against_clip4clip_ragged("E4", cases.ragged(*counts), options),
        ],
        "E5": lambda: [of_captions("E5", "many", fifth, (2.5, 300.0), repeats)],
        "E6": lambda: [largest()],
        "E7": lambda: [against_torchmetrics(200 if small else 500, options)],
    }
    left = ("E3", "E6") if small else ()
    return {name: make for name, make in every.items() if name not in left}


def main() -> None:
    """Measure and keep the rows."""

    def extra(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--only", nargs="+", metavar="ID", help="rows: E1 to E7")
        parser.add_argument("--msrvtt", metavar="DIR", help="MSR-VTT's annotations, for E5")

    options = arguments(__doc__, extra)
    warnings.filterwarnings("ignore", category=UserWarning)
    made = tables(options)
    names = [name for name in made if not options.only or name in options.only]
    for name in names:  # what is measured is kept, whatever becomes of the rest
        if rows := [row for row in made[name]() if row is not None]:
            save("evaluation", rows, options)


if __name__ == "__main__":
    main()
