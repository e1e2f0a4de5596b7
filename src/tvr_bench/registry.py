"""Models and data sets by name: a file in the package and a YAML of the same name, no list.

`configs/model/NAME.yaml` says that the model exists; `models/NAME.py` registers its class when it
is imported, which happens only for the one that is asked for. Data sets likewise.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from tvr_bench import config

if TYPE_CHECKING:
    from tvr_bench.datamodules.base import VideoTextDataModule
    from tvr_bench.models.base import RetrievalModule
    from tvr_bench.schema import Config

_classes: dict[tuple[str, str], type[Any]] = {}
_PACKAGES = {"model": "tvr_bench.models", "data": "tvr_bench.datamodules"}
Class = TypeVar("Class", bound=type)


def register_model(name: str) -> Callable[[Class], Class]:
    """Return a decorator that makes a RetrievalModule known as `name`."""
    return _register("model", name)


def register_dataset(name: str) -> Callable[[Class], Class]:
    """Return a decorator that makes a VideoTextDataModule known as `name`."""
    return _register("data", name)


def list_models() -> list[str]:
    """Return the sorted names of all models."""
    return config.names("model")


def list_datasets() -> list[str]:
    """Return the sorted names of all data sets."""
    return config.names("data")


def model_class(name: str) -> type[RetrievalModule]:
    """Return the class of a model; raises UserError for an unknown name."""
    return _find("model", name)


def dataset_class(name: str) -> type[VideoTextDataModule]:
    """Return the class of a data set; raises UserError for an unknown name."""
    return _find("data", name)


def create_model(name: str, **overrides: Any) -> RetrievalModule:
    """Return an untrained model.

    `overrides` are the model's own keys (`tau=2.0`) or, in a dict, any key of the configuration
    (`**{"backbone.width": 64}`). Raises UserError for an unknown name or key.
    """
    own = [(key if "." in key else f"model.{key}", value) for key, value in overrides.items()]
    return build_model(config.load([("model.name", name), *own]))


def build_model(cfg: Config) -> RetrievalModule:
    """Return the untrained model that a configuration describes.

    Raises UserError for one that cannot be built.
    """
    found = model_class(cfg.model.name)
    if cfg.ocr.add:
        from tvr_bench.models.window_matching import with_windows

        found = with_windows(found)
    return found(cfg)


def _register(kind: str, name: str) -> Callable[[Class], Class]:
    def register(cls: Class) -> Class:
        _classes[kind, name] = cls
        return cls

    return register


def _find(kind: str, name: str) -> Any:
    name = config.canonical(kind, name)
    module = f"{_PACKAGES[kind]}.{name}"
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"configs/{kind}/{name}.yaml has no {module}"
    if spec.submodule_search_locations:  # a package keeps its class out of its __init__
        module += ".datamodule"
    importlib.import_module(module)
    assert (kind, name) in _classes, f"{module} registers no '{name}'"
    return _classes[kind, name]
