"""Models and data sets by name: what a file and a YAML of the same name make known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import tvr_bench
from tvr_bench import config, registry
from tvr_bench.datamodules.base import VideoTextDataModule
from tvr_bench.errors import UserError
from tvr_bench.models.base import RetrievalModule
from tvr_bench.registry import create_model, dataset_class, list_datasets, list_models, model_class

SMALL: dict[str, Any] = {
    "video.size": "[32,48]",
    "backbone.weights": "none",
    "backbone.width": 16,
    "backbone.layers": 1,
}


def test_there_are_the_models_and_data_sets_of_the_files() -> None:
    assert {"meanpool", "tcard"} <= set(list_models())
    assert {"csv", "signvid"} <= set(list_datasets())
    for name in list_models():
        assert issubclass(model_class(name), RetrievalModule)
    for name in list_datasets():
        assert issubclass(dataset_class(name), VideoTextDataModule)


def test_every_file_of_the_packages_that_registers_has_a_yaml() -> None:
    for kind, decorator in (("models", "@register_model("), ("datamodules", "@register_dataset(")):
        folder = Path(registry.__file__).parent / kind
        registered = {
            text.split(decorator + '"')[1].split('"')[0]
            for path in folder.rglob("*.py")
            if decorator in (text := path.read_text())
        }
        assert registered == set(list_models() if kind == "models" else list_datasets())


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no model 'tcrd'.* 'tcard'.* Known: .*meanpool, tcard"):
        create_model("tcrd")
    with pytest.raises(UserError, match=r"no data set 'signvd'.* 'signvid'"):
        dataset_class("signvd")


def test_create_model_takes_its_own_keys_and_those_of_the_whole_configuration() -> None:
    model = create_model("tcard", tau=2.5, heads=2, condition=False, **SMALL)
    assert isinstance(model, RetrievalModule)
    assert (model.cfg.model.tau, model.cfg.model.condition) == (2.5, False)
    assert model.cfg.backbone.width == 16
    nothing = create_model("meanpool", **SMALL, **{"optim.backbone_lr": None})
    assert nothing.cfg.optim.backbone_lr is None
    listed = create_model("meanpool", **(SMALL | {"video.size": [32, 48]}))
    assert tuple(listed.cfg.video.size) == (32, 48)


def test_create_model_refuses_an_unknown_key() -> None:
    with pytest.raises(UserError, match=r"model\.taau.*'model\.tau'"):
        create_model("tcard", taau=1.0)
    with pytest.raises(UserError, match=r"optim\.lrr"):
        create_model("tcard", **{"optim.lrr": 1})


def test_a_new_model_needs_one_file_and_one_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "echo.py").write_text(
        "from tvr_bench.models.base import RetrievalModule\n"
        "from tvr_bench.registry import register_model\n"
        "@register_model('echo')\n"
        "class Echo(RetrievalModule):\n"
        "    'Nothing of its own.'\n"
    )
    configs = tmp_path / "configs"
    (configs / "model").mkdir(parents=True)
    (configs / "data").symlink_to(config.CONFIG_ROOT / "data")
    (configs / "base.yaml").symlink_to(config.CONFIG_ROOT / "base.yaml")
    (configs / "model" / "echo.yaml").write_text(
        yaml.safe_dump({"model": {"name": "echo", "volume": 3}, "rules": {"model.volume": "> 0"}})
    )
    monkeypatch.setattr(config, "CONFIG_ROOT", configs)
    monkeypatch.setattr(
        sys.modules["tvr_bench.models"], "__path__", [*tvr_bench.models.__path__, str(tmp_path)]
    )
    assert list_models() == ["echo"]
    model = create_model("echo", volume=5, **SMALL)
    assert (type(model).__name__, model.cfg.model.volume) == ("Echo", 5)
    with pytest.raises(UserError, match=r"model\.volume=0 is impossible"):
        create_model("echo", volume=0, **SMALL)


def test_a_file_that_registers_another_name_is_our_own_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quiet.py").write_text("")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "quiet.yaml").write_text("model: {name: quiet}\n")
    monkeypatch.setattr(config, "CONFIG_ROOT", tmp_path)
    monkeypatch.setattr(
        sys.modules["tvr_bench.models"], "__path__", [*tvr_bench.models.__path__, str(tmp_path)]
    )
    with pytest.raises(AssertionError, match="registers no 'quiet'"):
        model_class("quiet")


def test_the_public_interface_is_all_there_and_costs_nothing_to_import() -> None:
    for name in tvr_bench.__all__:
        assert getattr(tvr_bench, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tvr_bench.nothing
    code = "import sys, tvr_bench; tvr_bench.list_models(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_models_of_one_seed_are_equal() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(create_model("meanpool", **SMALL).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
