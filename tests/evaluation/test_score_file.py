"""Scoring a matrix in a file."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from rich.console import Console

from tvr_bench.errors import UserError
from tvr_bench.evaluation.ranks import retrieval_metrics
from tvr_bench.evaluation.score_file import render_score, score_file


def save(folder, name, array):
    path = folder / name
    np.save(path, array)
    return path


def shown(report) -> str:
    """The report as an ordinary terminal shows it, its line breaks as blanks."""
    console = Console(width=80)
    with console.capture() as capture:
        console.print(render_score(report))
    return " ".join(capture.get().split())


def test_square_matrix_uses_its_diagonal_and_says_so(tmp_path):
    scores = np.random.default_rng(0).normal(size=(30, 30)).astype(np.float32)
    report = score_file(save(tmp_path, "sims.npy", scores))
    assert report["t2v"] == retrieval_metrics(scores, np.arange(30))
    assert report["v2t"] == retrieval_metrics(scores.T, np.arange(30))
    assert report["RSum"] == pytest.approx(report["t2v"]["RSum"] + report["v2t"]["RSum"])
    assert (report["gold"], report["shape"], report["dtype"]) == ("diagonal", [30, 30], "float32")
    assert any("row i belongs to column i" in note for note in report["notes"])
    assert json.loads(json.dumps(report)) == report


def test_gold_as_indices_and_as_mask_agree(tmp_path):
    rng = np.random.default_rng(1)
    scores, gold = np.round(rng.normal(size=(20, 9)), 1), np.arange(20) % 7
    mask = gold[:, None] == np.arange(9)
    sims = save(tmp_path, "sims.npy", scores)
    by_index = score_file(sims, save(tmp_path, "index.npy", gold))
    by_mask = score_file(sims, save(tmp_path, "mask.npy", mask))
    assert by_index | {"gold": ""} == by_mask | {"gold": ""}
    assert by_index["t2v"] == retrieval_metrics(scores, gold)
    assert by_index["v2t"] == retrieval_metrics(scores.T[:7], mask.T[:7])
    notes = " ".join(by_index["notes"])
    assert "2 columns are no row's gold" in notes and "best row counts" in notes


def test_constant_matrix_gets_chance_and_shows_its_ties(tmp_path):
    report = score_file(save(tmp_path, "[red]flat.npy", np.zeros((40, 40), np.float16)))
    assert report["t2v"]["R@1"] == report["v2t"]["R@1"] == pytest.approx(2.5)
    text = shown(report)
    assert "[red]flat.npy: 40 x 40, float16" in text
    assert "40 rows have ties and expected hits; R@1 of all rows is 0.0 to 100.0" in text
    assert "40 columns have ties" in text


def test_nan_is_noted_and_missed(tmp_path):
    scores = np.eye(10)
    scores[3, 3] = np.nan
    report = score_file(save(tmp_path, "sims.npy", scores))
    assert (report["nan_scores"], report["t2v"]["R@1"], report["t2v"]["R@10"]) == (1, 90, 100)
    assert "warning: 1 scores are NaN" in shown(report)
    assert "has no score: 2" in shown(report)


def test_table_names_both_directions_and_rounds(tmp_path):
    text = shown(score_file(save(tmp_path, "sims.npy", np.eye(3))))
    assert "row > column" in text and "column > row" in text
    assert "RSum 600.0" in text and "R@50" in text
    assert "…" not in text


@pytest.mark.parametrize("layout", ["C", "F", ">f4", "int16"])
def test_files_of_any_layout_are_read_and_left_alone(tmp_path, layout):
    scores = np.random.default_rng(2).integers(-9, 9, size=(12, 12)).astype(np.float32)
    stored = np.asfortranarray(scores) if layout == "F" else scores
    stored = stored.astype(layout) if layout not in "CF" else stored
    path = save(tmp_path, "sims.npy", stored)
    before = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score_file(path)["t2v"] == retrieval_metrics(scores, np.arange(12))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("array", "gold", "message"),
    [
        (np.zeros((3, 4)), None, "must be square.*--gold"),
        (np.zeros(5), None, "must be a matrix"),
        (np.zeros((2, 2, 2)), None, "must be a matrix"),
        (np.zeros((0, 0)), None, "not\\s+empty"),
        (np.array([["a"]]), None, "not real numbers"),
        (np.array([[1j]]), None, "not real numbers"),
        (np.array([[{}]], dtype=object), None, "no plain .npy"),
        (np.zeros((2, 2)), np.array([0, 2]), r"gold\[1\] is 2"),
        (np.zeros((2, 2)), np.array([0.0, 1.0]), "integers"),
        (np.zeros((2, 2)), np.zeros((2, 2), bool), "no right item"),
        (np.zeros((2, 2)), np.array(["x", "y"]), "not real numbers"),
    ],
)
def test_wrong_arrays_are_one_line_user_errors(tmp_path, array, gold, message):
    sims = save(tmp_path, "sims.npy", array)
    right = None if gold is None else save(tmp_path, "gold.npy", gold)
    with pytest.raises(UserError, match=message) as caught:
        score_file(sims, right)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_arrays_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        score_file(tmp_path / "missing.npy")
    with pytest.raises(UserError, match="there is no file"):
        score_file(tmp_path)
    good = save(tmp_path, "good.npy", np.eye(4)).read_bytes()
    several = tmp_path / "several.npz"
    np.savez(several, a=np.eye(2), ids=np.arange(2))
    with pytest.raises(UserError, match=r"several arrays: a \(2, 2\), ids \(2,\); write the one"):
        score_file(several)
    contents = {
        "empty": b"",
        "text": b"0.1,0.2\n",
        "cut": good[:-8],
        "head": good[:20],
        "pickle": pickle.dumps([[1.0]]),
        "zip": b"PK\x03\x04 nothing",
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.npy"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"no plain \.npy") as caught:
            score_file(path)
        assert "\n" not in str(caught.value)


TORCH = {
    "tensor": lambda scores: scores,
    "gradient": lambda scores: scores.clone().requires_grad_(),
    "dict": lambda scores: {"sims": scores, "epoch": 3, "name": "x"},
    "turned": lambda scores: scores.T.contiguous().T,
    "bfloat16": lambda scores: scores.bfloat16(),
}


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_torch_are_read(tmp_path, name, zipped):
    scores = torch.from_numpy(np.random.default_rng(3).integers(-9, 9, (12, 12)).astype("f4"))
    path = tmp_path / "sims.pt"
    torch.save(TORCH[name](scores), path, _use_new_zipfile_serialization=zipped)
    report = score_file(path, None)
    assert report["t2v"] == retrieval_metrics(scores.numpy(), np.arange(12))
    assert report["dtype"] == ("bfloat16" if name == "bfloat16" else "float32")


def test_one_array_of_npz_is_read_and_gold_may_be_either(tmp_path):
    scores = np.random.default_rng(4).normal(size=(6, 4))
    np.savez_compressed(tmp_path / "sims.npz", anything=scores)
    torch.save(torch.arange(6) % 4, tmp_path / "gold.pt")
    report = score_file(tmp_path / "sims.npz", tmp_path / "gold.pt")
    assert report["t2v"] == retrieval_metrics(scores, np.arange(6) % 4)


class Evil:
    """What a stranger's file may ask a reader to build."""

    def __reduce__(self):
        return (print, ("taken over",))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": torch.eye(2), "b": torch.eye(3)}, r"several arrays: a \(2, 2\), b \(3, 3\)"),
        ({"a": 1}, "holds a dict without a tensor"),
        ([torch.eye(2)], "holds a list without a tensor"),
        (torch.eye(2, dtype=torch.complex64), "complex64, not real numbers"),
        (torch.zeros(3, 4), "must be square"),
        (torch.zeros(3), "has the shape"),
        (Evil(), r"no plain \.npy, \.npz or \.pt file"),
    ],
)
def test_other_things_of_torch_are_one_line(tmp_path, capsys, value, message):
    torch.save(value, tmp_path / "sims.pt")
    with pytest.raises(UserError, match=message) as caught:
        score_file(tmp_path / "sims.pt")
    assert "\n" not in str(caught.value) and "taken over" not in capsys.readouterr().out


def test_a_wrong_file_is_answered_before_torch_is_loaded(tmp_path):
    (tmp_path / "sims.csv").write_text("0.1,0.2\n")
    for path in ("none.npy", "sims.csv"):
        code = (
            "import sys; from tvr_bench.cli import main; "
            f"assert main(['score', {str(tmp_path / path)!r}]) == 2; "
            "assert 'torch' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr.count("\n") == 1, done.stderr
