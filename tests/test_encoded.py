"""Frozen towers: kept features give the numbers of the pixels, and refuse what they are not."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tvr_bench import config, encoded
from tvr_bench.bench import bench
from tvr_bench.datamodules.base import SPLITS
from tvr_bench.encoded import EncodedStore
from tvr_bench.errors import UserError
from tvr_bench.parts import Part
from tvr_bench.prepare import part_of, prepare_data
from tvr_bench.registry import build_model, dataset_class
from tvr_bench.shards import Shard

FROZEN = ("backbone.frozen=true", "trainer.shift=0", "trainer.mirror=false", "eval.selection=last")


def _loaded(settings: list[str], *more: str) -> Any:
    return config.load([*settings, "data=signvid", *FROZEN, *more])


@pytest.mark.parametrize("name", ["meanpool", "cret"])
def test_a_run_on_kept_features_is_the_run_on_pixels(name: str, tiny_settings: list[str]) -> None:
    found = []
    for run, cache in enumerate(("false", "true", "true")):
        words = [f"model={name}", f"backbone.cache={cache}", f"run.name=run{run}"]
        record = bench(_loaded(tiny_settings, *words))
        assert record is not None
        found.append(record)
    pixels, kept, again = found
    for one in (kept, again):
        assert one.metrics.t2v == pixels.metrics.t2v and one.metrics.v2t == pixels.metrics.v2t
        assert one.efficiency.gflops_video == pixels.efficiency.gflops_video


def test_features_are_those_of_the_tower_and_patches_kept_where_a_model_looks(
    tiny_settings: list[str],
) -> None:
    widths = {}
    for name in ("meanpool", "cret"):
        cfg = _loaded(tiny_settings, f"model={name}", "backbone.cache=true")
        torch.manual_seed(0)
        model = build_model(cfg)
        data = dataset_class("signvid")(cfg, scene_text=False)
        data.prepare(["test"])
        encoded.encode_frames(model, data, ["test"])
        items = data.items("test")
        kept, pixels = items.video(0)["frames"], items.video(0, pixels=True)["frames"]
        assert kept.is_floating_point() and pixels.dtype == torch.uint8
        with torch.no_grad():
            frames, patches = model.network.encode_frames(pixels[None])
        assert torch.allclose(kept[:, 0], frames[0], atol=1e-5)
        assert pickle.loads(pickle.dumps(items)).video(0)["frames"].equal(kept)
        widths[name] = kept.shape[1]
        if name == "cret":
            assert torch.allclose(kept[:, 1:], patches[0], atol=1e-5)
    assert widths == {"meanpool": 1, "cret": 1 + patches.shape[2]}


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
    encoded._remove_damaged([whole, victim, Shard(tmp_path / "none", ())])
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
    assert str(victim.output) in caplog.text and str(whole.output) not in caplog.text


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (["backbone.frozen=false"], r"backbone\.frozen=true"),
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
    path = tmp_path / "a.safetensors"
    save_file({"features": torch.zeros(1, 2, 3)}, path, {"settings": other, "ids": '["v"]'})
    assert "v" in EncodedStore([path], other)
    for settings, wanted in ((one, "another tower"), (other, "damaged")):
        if wanted == "damaged":
            path.write_bytes(path.read_bytes()[:20])
        with pytest.raises(UserError, match=wanted):
            EncodedStore([path], settings)


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
