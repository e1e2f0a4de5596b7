"""What was found out about many files, by key: JSON files in a folder, each with its checksum."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from tvr_bench.files import atomic_write, settings_hash

Record: TypeAlias = dict[str, Any]
_log = logging.getLogger(__name__)


def records_path(folder: Path, keys: Iterable[str]) -> Path:
    """Return the file in `folder` of the records with these `keys`."""
    return folder / f"{settings_hash(list(keys))}.json"


def write_records(path: Path, records: Mapping[str, Record]) -> None:
    """Write records as a whole file or none."""
    text = json.dumps(records)
    atomic_write(path, json.dumps({"sha256": _digest(text), "records": json.loads(text)}))


def read_records(
    folder: Path, *, retry: Callable[[Record], bool] = lambda record: False
) -> dict[str, Record]:
    """Return all records of a folder by key; those that `retry` picks are forgotten for good.

    A file that is not what was written is removed, and said so, for its records to be made again.
    """
    records: dict[str, Record] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found = _checked(path.read_bytes())
        except FileNotFoundError:  # another process has just written it anew
            continue
        if found is None:
            _log.warning("kept results are damaged, making them again: %s", path)
            path.unlink(missing_ok=True)
            continue
        kept = {key: record for key, record in found.items() if not retry(record)}
        if len(kept) < len(found):
            write_records(records_path(folder, kept), kept)
            path.unlink(missing_ok=True)
        records |= kept
    return records


def _checked(data: bytes) -> dict[str, Record] | None:
    """Return the records of a file, None where it is not what was written."""
    try:
        found = json.loads(data)
        records: dict[str, Record] = found["records"]
        whole = found["sha256"] == _digest(json.dumps(records))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return records if whole else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
