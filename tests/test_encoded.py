"""Frozen towers: kept features give the numbers of the pixels, and refuse what they are not."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tvr_bench import config, encoded
from tvr_bench.bench import bench
from tvr_bench.datamodules.base import SPLITS
from tvr_bench.encoded import EncodedStore
from tvr_bench.errors import UserError
from tvr_bench.leaderboard.aggregate import Run, identity
from tvr_bench.leaderboard.record import Record, metrics_json
from tvr_bench.leaderboard.run_settings import RunSettings
from tvr_bench.models.base import RetrievalModule
from tvr_bench.parts import Part
from tvr_bench.prepare import part_of, prepare_data
from tvr_bench.registry import build_model, dataset_class
from tvr_bench.runs import WEIGHTS_FILE
from tvr_bench.shards import Shard

FROZEN = ("backbone.frozen=image", "trainer.shift=0", "trainer.mirror=false", "eval.selection=last")


def _loaded(settings: list[str], *more: str) -> Any:
    return config.load([*settings, "data=signvid", *FROZEN, *more])


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("meanpool", ["backbone.frozen=all"]),
        ("eercf", ["trainer.workers=1", "trainer.captions=all"]),
        ("tcard", ["model.heads=2", "backbone.dropout=0.2"]),
    ],
)
def test_a_run_on_kept_features_is_the_run_on_pixels(
    name: str, more: list[str], tiny_settings: list[str], tmp_path: Path
) -> None:
    (pixels, before), (kept, after) = (
        _result(tiny_settings, tmp_path, f"model={name}", *more, f"backbone.cache={cache}")
        for cache in ("false", "true")
    )
    assert kept.metrics.t2v == pixels.metrics.t2v and kept.metrics.v2t == pixels.metrics.v2t
    assert kept.efficiency.gflops_video == pixels.efficiency.gflops_video
    rows = [identity(Run(tmp_path, "", r, RunSettings(r.settings))) for r in (pixels, kept)]
    assert rows[0] == rows[1], "one system, however its clips are read"
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)


def _result(settings: list[str], folder: Path, *more: str) -> tuple[Record, dict[str, Tensor]]:
    """Return the record and the weights of a run."""
    name = f"run{len(list(folder.glob('runs/*')))}"
    record = bench(_loaded(settings, *more, f"run.name={name}"))
    assert record is not None
    return record, load_file(folder / "runs" / name / WEIGHTS_FILE)


def test_a_run_on_kept_features_that_was_killed_goes_on_to_the_same_bits(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["model=meanpool", "backbone.cache=true", "backbone.dropout=0.2"]
    whole, weights = _result(tiny_settings, tmp_path, *words)

    def stop(self: RetrievalModule, *_: Any) -> None:
        if self.trainer.global_step == 2:
            raise InterruptedError

    cut = _loaded(tiny_settings, *words, "run.name=cut", "trainer.checkpoint_every=0")
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(RetrievalModule, "on_train_batch_start", stop)
        bench(cut)
    resumed = bench(cut)
    assert resumed is not None and metrics_json(resumed) == metrics_json(whole)
    after = load_file(tmp_path / "runs" / "cut" / WEIGHTS_FILE)
    assert all(torch.equal(weights[key], after[key]) for key in weights)


def test_one_pass_over_the_clips_serves_models_with_patches_and_without(
    tiny_settings: list[str], shared_cache: Path
) -> None:
    folder = shared_cache / "encoded"

    def kept(name: str) -> tuple[Any, Any]:
        cfg = _loaded(tiny_settings, f"model={name}", "backbone.cache=true")
        torch.manual_seed(7)
        model = build_model(cfg).train()
        data = dataset_class("signvid")(cfg, scene_text=False)
        data.prepare(["test"])
        encoded.encode_frames(model, data, ["test"])
        assert model.network.text.training and not model.network.image.training
        return model, data.items("test")

    before = set(folder.iterdir()) if folder.is_dir() else set()
    model, frames_alone = kept("meanpool")
    lean = set(folder.iterdir()) - before
    first = frames_alone.videos([0, 1, 2])
    pixels = torch.stack([frames_alone.video(i, pixels=True)["frames"] for i in range(3)])
    _, whole = kept("cret")
    full = set(folder.iterdir()) - before - lean
    assert len(full) == len(lean) > 0
    for path in lean:
        path.unlink()
    _, beside = kept("meanpool")
    assert set(folder.iterdir()) - before == full, "frames are read beside the patches"
    assert all(torch.equal(first[key], value) for key, value in beside.videos([0, 1, 2]).items())
    assert pickle.loads(pickle.dumps(beside)).video(1)["frames"].equal(first["frames"][1])
    both = whole.videos([0, 1, 2])["frames"]
    with torch.no_grad():
        frames, patches = model.network.eval().encode_frames(pixels)
    assert torch.equal(both[:, :, :1], first["frames"])
    assert torch.allclose(both[:, :, 0], frames, atol=1e-5)
    assert torch.allclose(both[:, :, 1:], patches, atol=1e-5)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "zeros inside": lambda data: data[:-900] + bytes(64) + data[-836:],
    "another id": lambda data: data.replace(b"video", b"vidxo"),
    "cut": lambda data: data[:-8],
    "empty": lambda data: b"",
    "without a checksum": lambda data: data.replace(b"sha256", b"sha257"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_features_that_are_not_what_was_written_are_removed_to_be_made_again(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    features, header = torch.rand(2, 3, 1, 99), {"settings": "x", "ids": '["video0", "video1"]'}
    whole, victim = (Shard(tmp_path / name, ()) for name in ("whole", "victim"))
    for shard in whole, victim:
        header_sum = {"sha256": encoded._digest(header, features)}
        save_file({"features": features}, shard.output, header | header_sum)
    victim.output.write_bytes(DAMAGES[damage](victim.output.read_bytes()))
    encoded._remove_damaged([whole.output, victim.output, tmp_path / "none"])
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
    assert str(victim.output) in caplog.text and str(whole.output) not in caplog.text


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (["backbone.frozen=none"], r"backbone\.frozen=image"),
        (["trainer.shift=2"], r"trainer\.shift=0"),
        (["trainer.mirror=true"], r"trainer\.mirror=false"),
    ],
)
def test_what_features_cannot_stand_for_is_refused(
    settings: list[str], word: str, tiny_settings: list[str]
) -> None:
    cfg = _loaded(tiny_settings, "model=meanpool", "backbone.cache=true", *settings)
    with pytest.raises(UserError, match=word):
        bench(cfg)


def test_another_tower_has_other_features_and_a_foreign_shard_is_refused(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    cfg = _loaded(tiny_settings, "model=meanpool", "backbone.cache=true")
    torch.manual_seed(0)
    one = encoded.settings_of(build_model(cfg))
    torch.manual_seed(1)
    other = encoded.settings_of(build_model(cfg))
    torch.manual_seed(0)
    assert one == encoded.settings_of(build_model(cfg)) != other
    torch.manual_seed(0)
    more = ["model=tcard", "model.ocr_encoder=untied", "model.heads=2", "backbone.text_layers=2"]
    assert one == encoded.settings_of(build_model(_loaded(tiny_settings, *more))), "one image tower"
    torch.manual_seed(0)
    heads = _loaded(tiny_settings, "model=meanpool", "backbone.heads=4")
    assert one != encoded.settings_of(build_model(heads)), "the same weights, used otherwise"
    path = tmp_path / "a.safetensors"
    save_file({"features": torch.zeros(1, 2, 3)}, path, {"settings": other, "ids": '["v"]'})
    assert "v" in EncodedStore([path], other, patches=True)
    for settings, wanted in ((one, "another tower"), (other, "damaged")):
        if wanted == "damaged":
            path.write_bytes(path.read_bytes()[:20])
        with pytest.raises(UserError, match=wanted):
            EncodedStore([path], settings, patches=True)


def test_parts_make_together_what_one_run_finds_ready(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [s for s in tiny_settings if not s.startswith("paths.cache")]
    words = ["model=meanpool", "backbone.cache=true", f"paths.cache={tmp_path / 'own'}"]
    cfg = _loaded(own, *words)
    for index in range(3):
        prepare_data(cfg, Part(index, 3))
    frames = set((tmp_path / "own" / "frames").iterdir())
    features = set((tmp_path / "own" / "encoded").iterdir())
    assert len(frames) == len(SPLITS) and features

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("everything was there")

    monkeypatch.setattr("tvr_bench.media.cache._build", never)
    prepare_data(cfg, Part())
    assert set((tmp_path / "own" / "frames").iterdir()) == frames
    assert set((tmp_path / "own" / "encoded").iterdir()) == features
    victim = min(features)
    victim.write_bytes(victim.read_bytes()[:-64] + bytes(64))
    prepare_data(cfg, Part())
    assert set((tmp_path / "own" / "encoded").iterdir()) == features
    assert victim.read_bytes()[-64:] != bytes(64)


def test_a_part_is_named_from_zero() -> None:
    assert part_of(None) == Part() and part_of("3/16") == Part(3, 16)
    for bad in ("3", "3/3", "-1/4", "a/b", "1/0", ""):
        with pytest.raises(UserError, match="no part"):
            part_of(bad)
    items = list(range(10))
    assert sorted(i for k in range(3) for i in Part(k, 3).of(items)) == items
    assert sum(Part(k, 3).holds("ff") for k in range(3)) == 1
