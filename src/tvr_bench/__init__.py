"""Train, compare and trust text-video retrieval models.

The names below are the public interface; each is imported when it is first asked for, so that
`import tvr_bench` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvr_bench.errors import UserError as UserError
    from tvr_bench.evaluation.ranks import retrieval_metrics as retrieval_metrics
    from tvr_bench.published import load_model as load_model
    from tvr_bench.registry import create_model as create_model
    from tvr_bench.registry import list_datasets as list_datasets
    from tvr_bench.registry import list_models as list_models
    from tvr_bench.registry import register_dataset as register_dataset
    from tvr_bench.registry import register_model as register_model
    from tvr_bench.runs import evaluate as evaluate
    from tvr_bench.runs import load_run as load_run

_HOMES = {
    "UserError": "errors",
    "create_model": "registry",
    "evaluate": "runs",
    "list_datasets": "registry",
    "list_models": "registry",
    "load_model": "published",
    "load_run": "runs",
    "register_dataset": "registry",
    "register_model": "registry",
    "retrieval_metrics": "evaluation.ranks",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tvr-bench")
    if name not in _HOMES:
        raise AttributeError(f"module 'tvr_bench' has no attribute '{name}'")
    return getattr(importlib.import_module(f"tvr_bench.{_HOMES[name]}"), name)
