"""Models from the hub, and folders of strangers that do nothing."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tvr_bench import config, published
from tvr_bench.datamodules.tokens import save_tokenizer, train_tokenizer
from tvr_bench.errors import UserError
from tvr_bench.published import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, load_model


@pytest.mark.parametrize("frozen", ["none", "image"])
def test_what_is_published_keeps_features_only_where_it_can(frozen: str) -> None:
    words = ["data=signvid", "model=meanpool", "backbone.weights=towers"]
    cfg = config.load([*words, f"backbone.frozen={frozen}", "trainer.workers=3"])
    portable = published.portable(cfg)
    assert portable["backbone"]["cache"] == (frozen == "image")
    assert portable["trainer"]["workers"] == config.load(words).trainer.workers


def test_a_name_is_looked_for_on_the_hub(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked = []
    cache = tmp_path / "models--someone--model"
    snapshot, blobs = cache / "snapshots" / "0123", cache / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in (CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE):  # as the hub's cache has them
        shutil.copy(exported / name, blobs / name)
        (snapshot / name).symlink_to(f"../../blobs/{name}")

    def download(name: str, **how: Any) -> str:
        asked.append((name, how))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    model = load_model("someone/model", revision="v1")
    assert model.cfg.model.name == "tcard"
    wanted = [CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, "towers/*.json"]
    assert asked == [("someone/model", {"revision": "v1", "allow_patterns": wanted})]


def test_a_hub_without_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    def download(*_: Any, **__: Any) -> str:
        raise OSError("404\nnot found")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError, match="not on the Hugging Face hub") as error:
        load_model("someone/model")
    assert "\n" not in str(error.value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for local in ("runs/typo", "a/b/c", "typo", "../up", "/no/where"):
        with pytest.raises(UserError, match="no finished run"):
            load_model(local)


class Calls:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


def _change_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def _first(header: dict[str, Any]) -> dict[str, Any]:
    return next(value for key, value in header.items() if key != "__metadata__")


def _change_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _settings_with(text: str, old: str = "", new: str = "") -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        path = folder / CONFIG_FILE
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new, 1) + text)

    return change


def _written(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


def _tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], Any]:
    return lambda folder: _change_weights(folder / WEIGHTS_FILE, change)


def _header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    return lambda folder: _change_header(folder / WEIGHTS_FILE, change)


def _pickled(folder: Path) -> None:
    (folder / WEIGHTS_FILE).write_bytes(pickle.dumps(Calls(folder / "canary")))


def _saved(folder: Path) -> None:
    torch.save({"a": Calls(folder / "canary")}, folder / WEIGHTS_FILE)


def _beside(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    for name in ("pytorch_model.bin", "model.ckpt", "model.pt", "model.pkl"):
        (folder / name).write_bytes(pickle.dumps(Calls(folder / "canary")))


def _cut(share: float) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        path = folder / WEIGHTS_FILE
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return change


def _linked(name: str) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        outside = folder.parent / f"outside-{name}"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return change


def _replaced(name: str, make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


_ALIASES = "\nb0: &b0 [a,a]\n" + "".join(
    f"b{i + 1}: &b{i + 1} [*b{i},*b{i},*b{i},*b{i},*b{i},*b{i},*b{i},*b{i}]\n" for i in range(40)
)
_CALL = "!!python/object/apply:os.system ['touch canary']"
HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a pickle named safetensors": (_pickled, "does not fit"),
    "a checkpoint named safetensors": (_saved, "does not fit"),
    "pickles beside": (_beside, "no model.safetensors"),
    "nothing in it": (_written(WEIGHTS_FILE, b""), "does not fit"),
    "truncated header": (_cut(0.001), "does not fit"),
    "truncated tensors": (_cut(0.9), "does not fit"),
    "a header of 2^63 bytes": (_written(WEIGHTS_FILE, b"\xff" * 7 + b"\x7f{}"), "does not fit"),
    "offsets behind the end": (
        _header(lambda h: _first(h).update(data_offsets=[0, 2**40])),
        "does not fit",
    ),
    "a shape that lies": (_header(lambda h: _first(h).update(shape=[10**6, 10**6])), "not fit"),
    "a negative shape": (_header(lambda h: _first(h).update(shape=[-1])), "does not fit"),
    "an unknown type": (_header(lambda h: _first(h).update(dtype="PICKLE")), "does not fit"),
    "another type": (_tensors(lambda t: t.update({k: v.half() for k, v in t.items()})), "float16"),
    "other shapes": (
        _tensors(lambda t: t.update({k: v.repeat(2) for k, v in t.items() if v.ndim == 1})),
        "does not fit",
    ),
    "a tensor too few": (_tensors(lambda t: t.pop("log_scale")), "log_scale is not there"),
    "a tensor too many": (_tensors(lambda t: t.update(more=torch.zeros(1))), "more is"),
    "_class_path": (_settings_with("_class_path: os.system\n"), "unknown key '_class_path'"),
    "_instantiator": (
        _settings_with("_instantiator: pytorch_lightning.cli.instantiate_module\n"),
        "_instantiator",
    ),
    "_target_": (_settings_with("", "model:\n", "model:\n  _target_: os.system\n"), "_target_"),
    "a call in YAML": (_settings_with(f"more: {_CALL}\n"), "tags"),
    "a call as a known key": (_settings_with("", "seed: 0", f"seed: {_CALL}"), "tags"),
    "a path made by YAML": (
        _settings_with("x: !!python/object/apply:pathlib.PosixPath [/etc/passwd]\n"),
        "tags",
    ),
    "an alias bomb": (_settings_with(_ALIASES), "aliases"),
    "a deep YAML": (_written(CONFIG_FILE, b"a: " + b"[" * 40_000), "too deep"),
    "a long YAML": (_written(CONFIG_FILE, b"a: 1\n" * 15_000), "too long"),
    "a large YAML": (_written(CONFIG_FILE, b"# " + b"x" * 200_000), "larger than 100,000"),
    "no YAML": (_written(CONFIG_FILE, b"\x00\xff\xfe{{{"), "configuration"),
    "a secret asked for": (
        _settings_with("", "name: signvid", "name: ${oc.env:HOME}"),
        "refers to something",
    ),
    "no model": (_settings_with("", "name: tcard", "name: ../../evil"), "no model"),
    "another model": (_settings_with("", "width: 16", "width: 32"), "does not fit"),
    "a model of 10^9 wide": (_settings_with("", "width: 16", "width: 1000000000"), "not fit"),
    "a model of 10^9 layers": (
        _settings_with("", "\n  layers: 1", "\n  layers: 1000000000"),
        "the most is",
    ),
    "impossible heads": (_settings_with("", "\n  heads: 2", "\n  heads: 7"), "does not fit|heads"),
    "a date for a seed": (_settings_with("", "seed: 0", "seed: 2020-01-01"), "seed|YAML|config"),
    "no tokenizer": (_written(TOKENIZER_FILE, b"{}"), "tokenizer"),
    "a pickled tokenizer": (_written(TOKENIZER_FILE, pickle.dumps({"a": 1})), "tokenizer"),
    "a deep tokenizer": (_written(TOKENIZER_FILE, b"[" * 100_000), "tokenizer"),
    "weights outside": (_linked(WEIGHTS_FILE), "leads out"),
    "settings outside": (_linked(CONFIG_FILE), "leads out"),
    "a secret as settings": (
        _replaced(CONFIG_FILE, lambda path: path.symlink_to("/etc/passwd")),
        "leads out",
    ),
    "a folder": (_replaced(WEIGHTS_FILE, Path.mkdir), "no model.safetensors"),
    "a pipe": (_replaced(WEIGHTS_FILE, os.mkfifo), "no model.safetensors"),
    "a link to nothing": (
        _replaced(WEIGHTS_FILE, lambda path: path.symlink_to("nothing")),
        "no model.safetensors",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_does_nothing_and_is_one_line(
    name: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, said = HOSTILE[name]
    damage(copy)
    monkeypatch.chdir(copy)
    with pytest.raises(UserError, match=said) as error:
        load_model(copy)
    message = str(error.value)
    assert "\n" not in message and len(message) < 700
    assert not (copy / "canary").exists()


def test_no_file_outside_is_opened_and_nothing_is_written(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's settings name no place on this machine."""
    home = copy.parent / "home"
    text = (copy / CONFIG_FILE).read_text()
    for key in ("root: runs", "leaderboard: .", "cache: .tvr_cache"):
        assert key in text
        text = text.replace(key, f"{key.split(':')[0]}: {home}")
    text = text.replace("accelerator: auto", "accelerator: gpu")
    text = text.replace("devices: 1", "devices: 64").replace("threads: null", "threads: 999")
    (copy / CONFIG_FILE).write_text(text)
    cfg = load_model(copy).cfg
    assert (cfg.run.root, cfg.run.leaderboard, cfg.paths.cache) == ("runs", ".", ".tvr_cache")
    assert (cfg.trainer.accelerator, cfg.trainer.devices, cfg.trainer.threads) == ("auto", 1, None)
    assert load_model(copy, **{"paths.cache": "mine"}).cfg.paths.cache == "mine"
    assert not home.exists()


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(copy: Path) -> None:
    large = train_tokenizer([f"word{i} x{i}y" for i in range(3000)], 2000, 32)
    save_tokenizer(large, copy / TOKENIZER_FILE)
    with pytest.raises(UserError, match="another model's"):
        load_model(copy)


def test_an_unknown_override_is_named(copy: Path) -> None:
    with pytest.raises(UserError, match=r"paths\.cach'.*paths\.cache"):
        load_model(copy, **{"paths.cach": "x"})


def test_reading_is_all_that_is_done_with_the_files(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No unpickler is ever made."""

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle is read")

    for module in (pickle, torch):
        monkeypatch.setattr(module, "load", forbidden)
    monkeypatch.setattr(pickle, "loads", forbidden)
    monkeypatch.setattr(pickle, "Unpickler", forbidden)
    assert published.load_model(copy).cfg.model.name == "tcard"
