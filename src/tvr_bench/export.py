"""Publish a trained model: a folder with its weights, settings, tokenizer, record and card.

Folders of the machine that trained it and the command line are left out.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from pathlib import Path

import torch

from tvr_bench import text_yaml
from tvr_bench.card import write_card
from tvr_bench.errors import UserError
from tvr_bench.files import atomic_write
from tvr_bench.leaderboard.provenance import checkpoint_sha256
from tvr_bench.leaderboard.record import RECORD_FILE, Record, load_record
from tvr_bench.models.base import RetrievalModule
from tvr_bench.models.layers import towers
from tvr_bench.published import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, load_model, portable
from tvr_bench.runs import load_run

CARD_FILE = "README.md"
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")


def export_model(run_dir: Path, folder: Path, license: str | None = None) -> Record:
    """Write the model of a finished run to a new folder; return the run's record.

    `license` is the identifier of the weights' licence, for the card. The folder is there only
    once it has been read back with equal weights. Raises UserError where the run cannot be read,
    its weights are not those that were tested, or the folder exists already.
    """
    if license is not None and not _LICENSE.fullmatch(license):
        raise UserError(f"--license {license!r} is no identifier; use one such as apache-2.0")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already; give a new folder")
    record = load_record(run_dir)
    model = load_run(run_dir)
    if checkpoint_sha256(run_dir / WEIGHTS_FILE) != record.model.checkpoint_sha256:
        raise UserError(
            f"{run_dir / WEIGHTS_FILE} is not what the run's record was measured with; repeat the "
            "run"
        )
    temporary = folder.parent / f".{uuid.uuid4().hex[:12]}.tmp"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write(model, record, run_dir, temporary, license)
        _check_equal(model, load_model(temporary))
        os.replace(temporary, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; choose another place") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return record


def _write(
    model: RetrievalModule, record: Record, run_dir: Path, folder: Path, license: str | None
) -> None:
    folder.mkdir()
    for name in (WEIGHTS_FILE, TOKENIZER_FILE):
        shutil.copyfile(run_dir / name, folder / name)
    towers.save(getattr(model.network, "shapes", {}), folder)
    atomic_write(folder / CONFIG_FILE, text_yaml.dump(portable(model.cfg)))
    # a command line names folders, and people
    public = record.model_copy(update={"run": record.run.model_copy(update={"command": ""})})
    atomic_write(folder / RECORD_FILE, public.model_dump_json(indent=2) + "\n")
    atomic_write(folder / CARD_FILE, write_card(public, run_dir, folder, license))


def _check_equal(model: RetrievalModule, again: RetrievalModule) -> None:
    other = again.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other[name]), f"{name} is not what was exported"
