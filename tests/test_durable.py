"""Checkpoint files: whole or absent, two of them, and never read when damaged."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from tvr_bench import durable
from tvr_bench.errors import UserError

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))


def _write(folder: Path, *steps: int) -> Path:
    path = folder / durable.LAST
    for step in steps:
        durable.write({"global_step": step, "weights": torch.full((100,), float(step))}, path)
    return path


def test_a_checkpoint_comes_back_and_any_torch_can_read_it(tmp_path: Path) -> None:
    path = _write(tmp_path, 3)
    expected = {"global_step": 3, "weights": torch.full((100,), 3.0)}
    for loaded in (durable.read(path), durable.peek(path), torch.load(path, weights_only=True)):
        assert loaded["global_step"] == 3
        assert torch.equal(loaded["weights"], expected["weights"])
    assert list(tmp_path.iterdir()) == [path]


def test_the_one_before_is_kept_and_nothing_else(tmp_path: Path) -> None:
    path = _write(tmp_path, 1, 2, 3)
    assert [durable.peek(p)["global_step"] for p in (path, durable.previous(path))] == [3, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last-1.ckpt", "last.ckpt"]


def test_without_links_the_one_before_is_kept_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    path = _write(tmp_path, 1, 2, 3)
    assert [durable.peek(p)["global_step"] for p in (path, durable.previous(path))] == [3, 2]


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "empty", "foreign"])
def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path: Path, damage: str) -> None:
    path = _write(tmp_path, 1, 2)
    data = path.read_bytes()
    assert durable.newest(tmp_path) == path
    path.write_bytes(
        {
            "flip": data[:700] + bytes([data[700] ^ 4]) + data[701:],
            "cut": data[:-1],
            "longer": data + b"\0",
            "empty": b"",
            "foreign": data[: -durable._END.size],
        }[damage]
    )
    assert not durable.verified(path)
    assert durable.newest(tmp_path) == durable.previous(path)
    with pytest.raises(UserError, match="damaged"):
        durable.read(path)
    durable.previous(path).write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint .* can be read"):
        durable.newest(tmp_path)


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert durable.newest(tmp_path) is None
    assert durable.newest(tmp_path / "nowhere") is None


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "run"),)

    durable.write({"global_step": Hostile()}, tmp_path / durable.LAST)
    for load in (durable.read, durable.peek):
        with pytest.raises(Exception, match=r"[Ww]eights"):
            load(tmp_path / durable.LAST)
    assert not (tmp_path / "run").exists()


def test_the_best_of_a_lost_future_gives_way_to_the_best_of_the_checkpoint(tmp_path: Path) -> None:
    best = tmp_path / durable.BEST
    for step in (4, 8):
        durable.write({"global_step": step}, best)
    durable.choose_best(tmp_path, None)
    durable.choose_best(tmp_path, 8)
    assert durable.peek(best)["global_step"] == 8
    durable.choose_best(tmp_path, 4)
    assert durable.peek(best)["global_step"] == 4
    with pytest.raises(UserError, match="of step 5, is missing or damaged"):
        durable.choose_best(tmp_path, 5)


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    kept = _write(tmp_path / "checkpoints", 1)
    for name in (".0123456789ab.tmp.ckpt", ".last.ckpt.link", "../.0123456789ab.tmp.yaml"):
        (kept.parent / name).write_bytes(b"half")
    durable.clean(tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [kept]


@pytest.mark.parametrize("trials", [10, pytest.param(100, marks=pytest.mark.soak)])
def test_kills_while_writing_lose_nothing(tmp_path: Path, trials: int) -> None:
    from durability_files import kills_while_writing

    found = kills_while_writing(tmp_path / "kills", "ours", trials, 2)
    assert found.pop("leftovers") <= 2
    assert found == {"trials": trials, "unreadable": 0, "missing": 0}


@pytest.mark.parametrize("trials", [5, pytest.param(60, marks=pytest.mark.soak)])
def test_a_full_disk_leaves_the_checkpoint_and_says_what_to_do(tmp_path: Path, trials: int) -> None:
    from durability_files import full_disk

    expected = {"trials": trials, "lost": 0, "leftovers": 0, "unclear": 0}
    assert full_disk(tmp_path / "full", "ours", trials) == expected


@pytest.mark.parametrize("trials", [20, pytest.param(300, marks=pytest.mark.soak)])
def test_a_flipped_bit_is_never_read(tmp_path: Path, trials: int) -> None:
    from durability_files import flipped

    expected = {"trials": trials, "read though damaged": 0, "nothing to read": 0}
    assert flipped(tmp_path / "flipped", "ours", trials) == expected
