"""The result record: one JSON per run that says what was measured, on what, with what.

Units stand in the names (`_s` seconds, `_ms` milliseconds, `_mb` 10^6 bytes) and recalls are in
percent. Everything that varies between two runs of one seed stands outside of `metrics`.
N texts, M videos.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from tvr_bench.errors import UserError
from tvr_bench.files import atomic_write
from tvr_bench.leaderboard.packing import pack

RECORD_FILE = "record.json"
STANDARD_METRICS = ("R@1", "R@5", "R@10", "R@50", "MdR", "MnR")
_LARGEST_RECORD = 64_000_000  # bytes; a larger file is not a record

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]  # also a file's name
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Frozen = Literal["none", "image", "all"]
Values = dict[str, int | float]  # by metric; recalls in percent


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class RunInfo(_Part):
    """Which run this was, by which commit of this package; `source` is a hash of its Python files.

    `weights_of` is the run whose weights were tested, where this one trained none. `notes` are
    lines on its settings that a reader has to know: what in the paper's track is our choice.
    """

    id: Name
    date: AwareDatetime
    git: str | None
    dirty: bool | None
    source: str | None = None
    command: str
    seed: int
    weights_of: str | None = None
    notes: list[str] = []
    wall_s: Seconds


class ModelInfo(_Part):
    """Which model was tested."""

    name: str
    backbone: str
    checkpoint_sha256: Sha256 | None
    params: Count
    trainable_params: Count | None = None


class DataInfo(_Part):
    """On what it was tested.

    `variant` is a preset, edition or fold (`small`, `1k-A`), `title` what its user calls it (a
    file's name). `clips` and `queries` count the
    tested split whole. `missing_ids` have no file, `failed` could not be read: both stay in the
    gallery and count as misses. `failures` are ledger lines over all splits, by stage.
    `captions_cut` are captions longer than the protocol's `words`, by split; `notes` say how the
    files were understood.
    """

    name: str
    variant: str = ""
    title: str = ""
    annotations_sha256: Sha256
    clips: Count
    queries: Count
    train_clips: Count | None = None
    missing_ids: list[str] = []
    failed: list[str] = []
    clips_with_text: Count | None = None
    failures: dict[str, Count] = {}
    captions_cut: dict[str, Count] = {}
    notes: list[str] = []


class OcrInfo(_Part):
    """Whether and how the model was given scene text.

    `source` is engine, or which kind of files of text that others read; `engine` is its name then.
    """

    enabled: bool
    source: Literal["engine", "kwai", "tracks"] = "engine"
    engine: str = ""
    windows: Count = 0
    xi: float = 1.0
    reads: Count = 0


class TrainedOn(_Part):
    """What the tested weights were trained on; None is unknown, as of an old run."""

    data: str
    split: str = "train"
    annotations_sha256: Sha256 | None
    clips: Count | None


class Input(_Part):
    """Something that a run was given: what people call it, and a hash of what is in it."""

    name: str
    sha256: Sha256


class Protocol(_Part):
    """How a number was made; numbers compare only where all of this but `ocr` is equal.

    `ocr` is a model's input, not a rule of the test. `track` is controlled (the same towers and
    schedule for every model) or paper (the model's own); `resolution` is (height, width),
    `two_stage` the k of a second stage over the top k. A `parity` repeats how a paper's released
    code ranks, for comparison with its numbers only. `v2t` says how the many captions of a video
    compete: each by itself, or as a group by their best score. `towers` are the pretrained weights
    that the run began from, None from scratch, `frozen` which of them did not learn; both are
    rules of the controlled track alone. `trained_on` is None where nothing was trained here; of the
    same data set it is no rule of the test either.
    """

    split: str
    track: Literal["controlled", "paper"] = "controlled"
    captions: Literal["single", "all", "random", "paragraph"]
    frames: Count
    resolution: tuple[Count, Count]
    words: Count
    selection: Literal["last", "best_val", "best_test"] = "best_val"
    postprocess: Literal["none", "dsl", "qbnorm"] = "none"
    two_stage: Count | None = None
    parity: Literal["none", "eercf"] = "none"
    v2t: Literal["caption", "group"] = "caption"
    ocr: OcrInfo = OcrInfo(enabled=False)
    towers: Input | None = None
    frozen: Frozen = "none"
    trained_on: TrainedOn | None = None


class SkillMetrics(_Part):
    """The metrics of one skill's queries: over the full gallery and among their hard negatives.

    `in_group` is text to video inside the queries' groups, with `chance_R@1`, what guessing
    reaches there in percent; empty where no query has a group.
    """

    t2v: Values
    v2t: Values = {}
    in_group: Values = {}


class Metrics(_Part):
    """What two runs of one seed share to the last byte: no time, no path, no machine.

    Both directions have at least `STANDARD_METRICS`. `tied_queries` and `nan_queries` count, by
    direction, the queries whose right item ties with a wrong one or has no score; `nan_scores`
    counts single scores.
    """

    t2v: Values
    v2t: Values
    in_group: Values = {}
    by_skill: dict[str, SkillMetrics] = {}
    tied_queries: dict[str, Count] = {}
    nan_queries: dict[str, Count] = {}
    nan_scores: Count = 0

    @field_validator("t2v", "v2t")
    @classmethod
    def _complete(cls, values: Values) -> Values:
        missing = [name for name in STANDARD_METRICS if name not in values]
        if missing:
            raise ValueError(f"without {', '.join(missing)}")
        return values


class Efficiency(_Part):
    """What it cost; None is "not measured". FLOPs in 10^9 per text, per video and per pair.

    `videos_per_s` counts a video each time that training encodes it. `pairs_scored` are distinct
    pairs that the model scored. In two stages `pairs_t2v` and
    `pairs_v2t` are those that each direction asked for, some of them both; `recall_*` is the cost
    of stage one: its dot products, 10^9 FLOPs of one, its share of `ms_per_query_p50`, and the
    bytes of a video's vector (`gallery_bytes_per_video` are those of all its features).
    """

    device: str
    dtype: str
    threads: Count | None = None
    gflops_text: float | None = None
    gflops_video: float | None = None
    gflops_pair: float | None = None
    pairs_scored: Count | None = None
    pairs_t2v: Count | None = None
    pairs_v2t: Count | None = None
    recall_pairs: Count | None = None
    gflops_recall_pair: float | None = None
    recall_ms_per_query_p50: float | None = None
    recall_bytes_per_video: float | None = None
    ms_per_query_p50: float | None = None
    ms_per_query_p95: float | None = None
    gallery_bytes_per_video: float | None = None
    peak_mem_mb: float | None = None
    peak_mem_child_mb: float | None = None
    train_s: Seconds | None = None
    videos_per_s: float | None = None


class Record(_Part):
    """The whole result of one run; `ranks` names the file of per-query ranks beside it.

    `settings` are flat, without what changes no number; `inputs` what they do not say, by content;
    `notes` what to know before the result is quoted. Version 1 has none of the three.
    """

    schema_version: Literal[1, 2] = 2
    run: RunInfo
    model: ModelInfo
    data: DataInfo
    protocol: Protocol
    metrics: Metrics
    efficiency: Efficiency
    phases: dict[str, Seconds] = {}
    ranks: Name = "ranks.npz"
    settings: dict[str, str] = {}
    inputs: dict[str, Input] = {}
    notes: list[str] = []
    env: dict[str, str]


def metrics_json(record: Record) -> str:
    """Return the metrics as canonical JSON: sorted keys, every float with all its digits."""
    return json.dumps(
        record.metrics.model_dump(mode="json"),
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
        ensure_ascii=False,
    )


def save_record(record: Record, run_dir: Path, ranks: Mapping[str, np.ndarray]) -> Path:
    """Write the per-query ranks, then the record; return the record's path.

    `ranks` maps names to arrays: names that end in `ids`, `skills`, `texts` or `units` hold texts,
    all others whole numbers, stored as int32. The record comes last, so that its ranks are there.
    """
    atomic_write(run_dir / record.ranks, pack(ranks))
    path = run_dir / RECORD_FILE
    atomic_write(path, record.model_dump_json(indent=2) + "\n")
    return path


def load_record(path: Path) -> Record:
    """Read a record from its file or its run folder.

    Raises UserError, in one line, where there is none or it is of no known version.
    """
    path = path / RECORD_FILE if path.is_dir() else path
    try:
        if not path.is_file():
            raise UserError(f"there is no record {path}; give a run folder that holds one")
        if path.stat().st_size > _LARGEST_RECORD:
            raise UserError(f"{path} is larger than 64 MB, so it is no record; remove it")
        return _of_today(Record.model_validate_json(path.read_bytes(), strict=True))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        text = f"cannot read the record {path}: {reason}; check its permissions"
        raise UserError(text) from error
    except ValidationError as error:
        raise UserError(
            f"{path} is not a whole record of this version ({_first_fault(error)}); "
            "remove it or repeat its run"
        ) from error


def _of_today(record: Record) -> Record:
    """Return a record; one that says of all towers at once whether they learned says it by name."""
    names: dict[str, Frozen] = {"true": "all", "false": "none"}
    frozen = names.get(record.settings.get("backbone.frozen", ""))
    if frozen is None:
        return record
    settings = {**record.settings, "backbone.frozen": frozen}
    protocol = record.protocol.model_copy(update={"frozen": frozen})
    return record.model_copy(update={"settings": settings, "protocol": protocol})


def load_ranks(record: Record, run_dir: Path) -> dict[str, np.ndarray]:
    """Return the arrays that were saved with `record`; UserError where they cannot be read."""
    path = run_dir / record.ranks
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"cannot read the ranks {path}; repeat the run") from error


def _first_fault(error: ValidationError) -> str:
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    place = ".".join(str(part) for part in faults[0]["loc"])
    more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
    text = f"{place}: {faults[0]['msg']}" if place else faults[0]["msg"]
    return " ".join(text.split())[:160] + more
