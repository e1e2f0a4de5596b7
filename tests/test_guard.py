"""Steps without a finite gradient: left out, named, counted, and never saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tvr_bench import config, guard
from tvr_bench.bench import bench
from tvr_bench.errors import UserError
from tvr_bench.models.meanpool import MeanPool
from tvr_bench.resume import not_finite

WORDS = (
    *("model=meanpool", "trainer.steps=null", "trainer.epochs=2", "trainer.batch_size=4"),
    "trainer.keep_checkpoints=true",
)
Run = Callable[..., Path]


@pytest.fixture
def run(tiny_settings: list[str], tmp_path: Path) -> Run:
    """Train meanpool for eight steps; return the folder."""

    def make(*words: str, name: str = "run") -> Path:
        bench(config.load([*tiny_settings, *WORDS, f"run.name={name}", *words]))
        return tmp_path / "runs" / name

    return make


class _Spoil(torch.autograd.Function):
    """Nothing, with a gradient that is not a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * torch.nan


def _spoiled(kind: str, clip: int) -> Callable[..., Any]:
    real = MeanPool.encode_video

    def encode(self: MeanPool, batch: dict[str, Tensor]) -> Any:
        found = real(self, batch)
        if not self.training or clip not in batch["video_index"].tolist():
            return found
        bad = (batch["video_index"] == clip)[:, None]
        spoil = found["video"] * torch.nan if kind == "loss" else _Spoil.apply(found["video"])
        return {"video": torch.where(bad, spoil, found["video"])}

    return encode


def _finite(folder: Path) -> bool:
    kept = [
        torch.load(path, weights_only=True)["state_dict"]
        for path in (folder / "checkpoints").iterdir()
    ]
    kept.append(load_file(folder / "model.safetensors"))
    assert len(kept) >= 3
    return all(bool(t.isfinite().all()) for state in kept for t in state.values())


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_clip_that_gives_nan_is_named_and_its_steps_left_out(
    kind: str, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before: list[dict[str, Tensor]] = []
    real = MeanPool.on_train_batch_start

    def note(self: MeanPool, batch: Any, index: int) -> None:
        before.append({k: v.clone() for k, v in self.state_dict().items()})
        before[-1]["spoiled"] = (batch["video_index"] == 5).any()
        real(self, batch, index)

    monkeypatch.setattr(MeanPool, "on_train_batch_start", note)
    monkeypatch.setattr(MeanPool, "encode_video", _spoiled(kind, 5))
    folder = run()
    assert _finite(folder)
    lines = [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]
    record = json.loads((folder / "record.json").read_text())
    assert [line["stage"] for line in lines] == ["train"]
    assert record["data"]["failures"] == {"train": 1}
    printed = capsys.readouterr().err
    assert printed.count(f"because of {lines[0]['id']}; the step was left out") == 2
    for one, after in pairwise(before):
        same = all(torch.equal(one[k], after[k]) for k in one if k != "spoiled")
        assert same == bool(one["spoiled"])


@pytest.mark.parametrize("name", ["adamw", "adam", "bert_adam"])
def test_every_optimiser_stays_untouched(
    name: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MeanPool, "encode_video", _spoiled("gradient", 5))
    assert _finite(run(f"optim.name={name}"))


def test_where_no_clip_is_to_blame_the_batch_is(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(MeanPool, "batch_losses", lambda *_: {"odd": torch.tensor(torch.inf)})
    with pytest.raises(UserError, match="more than 1 such steps") as error:
        run("trainer.max_skipped=1")
    assert "no single one of its 4 clips" in str(error.value)
    assert "trainer.max_skipped" in str(error.value) and "\n" not in str(error.value)
    assert "(1 of at most 1)" in capsys.readouterr().err


def test_an_interrupted_run_counts_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(Exception):
        pass

    def stop(self: MeanPool, *_: Any) -> None:
        if self.trainer.global_step == 6:
            raise Killed

    monkeypatch.setattr(MeanPool, "encode_video", _spoiled("loss", 5))
    whole = run()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(MeanPool, "on_train_batch_start", stop)
        run("trainer.checkpoint_every=0", name="again")
    again = run("trainer.checkpoint_every=0", name="again")
    assert (again / "failures.jsonl").read_text() == (whole / "failures.jsonl").read_text()
    one, other = (
        torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"][
            "NonFiniteGuard"
        ]
        for f in (whole, again)
    )
    assert one == other and one["skipped"] == 2


def test_weights_that_are_not_finite_are_not_saved(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def spoil(self: Any, trainer: Any, module: MeanPool, *_: Any) -> None:
        if trainer.global_step == 5:
            module.log_scale.data.fill_(torch.nan)

    monkeypatch.setattr(guard.NonFiniteGuard, "on_train_batch_end", spoil)
    with pytest.raises(UserError, match="log_scale is not finite after step"):
        run("trainer.checkpoint_every=0")
    for path in (tmp_path / "runs" / "run" / "checkpoints").iterdir():
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(bool(t.isfinite().all()) for t in state.values())


def test_infinities_are_allowed_in_masks_alone() -> None:
    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    module.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    assert not_finite(module, [optimizer]) == ""
    optimizer.state[module.weight]["exp_avg"][0] = torch.inf
    assert not_finite(module, [optimizer]) == "the optimiser's exp_avg 0"
    module.mask[0] = torch.nan
    assert not_finite(module, []) == "mask"
    module.bias.data[0] = -torch.inf
    assert not_finite(module, []) == "bias"
