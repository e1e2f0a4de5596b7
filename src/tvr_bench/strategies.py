"""How a model is trained on several devices: whole on each of them (DDP), or in parts (FSDP).

With FSDP each device holds a part of every weight, its gradient and its optimiser state. The blocks
of the towers are put together one at a time, everything else for the whole step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from tvr_bench.models.base import RetrievalModule
from tvr_bench.registry import build_model

_PROBE = 2  # pairs that a step needs
_STEPS = ("training_step", "validation_step", "test_step")


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of the towers: entries of a list of modules that have modules themselves."""
    for module in network.modules():
        if isinstance(module, nn.ModuleList | nn.Sequential):
            for entry in module:
                if sum(bool(part._parameters) for part in entry.modules()) > 1:
                    yield entry


def single_numbers(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters without a dimension, which cannot be shared out."""
    return [parameter for parameter in model.parameters() if not parameter.ndim]


def shard(model: RetrievalModule, mesh: DeviceMesh) -> None:
    """Share the parameters of a model out over a mesh, once."""
    if isinstance(model, FSDPModule):
        return
    for block in list(blocks(model.network)):
        if not isinstance(block, FSDPModule):
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=set(single_numbers(model)))
    for name in _STEPS:
        register_fsdp_forward_method(model, name)


class WholeStrategy(DDPStrategy):
    """DDP that looks for unused parameters where a step leaves some out, and saves that elsewhere.

    The search goes through the graph of every step, so a first step without consequences decides.
    """

    def configure_ddp(self) -> None:
        """Wrap the model."""
        model = self.lightning_module
        assert isinstance(model, RetrievalModule)
        with self.precision_plugin.train_step_context():
            unused = float(bool(unused_parameters(model, self._pairs(model.trainer))))
        found = torch.tensor(unused, device=self.root_device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        self._ddp_kwargs["find_unused_parameters"] = bool(found)
        super().configure_ddp()

    def _pairs(self, trainer: pl.Trainer) -> dict[str, Tensor]:
        loader = trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
        picks = loader.plan.batch(0, 0)[:_PROBE]
        pairs: dict[str, Tensor] = self.batch_to_device(loader.dataset.__getitems__(picks))
        return pairs


def unused_parameters(model: RetrievalModule, batch: dict[str, Tensor]) -> list[str]:
    """Return the names of parameters that a training step asks no gradient of.

    Neither the model nor the random numbers are changed by it.
    """
    devices = [model.device] if model.device.type == "cuda" else []
    buffers = [buffer.clone() for buffer in model.buffers()]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    logs, model._logs = model._logs, False
    with torch.random.fork_rng(devices):
        loss = model.training_step(batch, 0)
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    model._logs = logs
    for buffer, before in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(before)
    return [name for name, grad in zip(trained, gradients, strict=True) if grad is None]


class ShardedStrategy(ModelParallelStrategy):
    """FSDP over all devices; a checkpoint is one file, the same as without it."""

    def __init__(self, world: int, environment: ClusterEnvironment, timeout: timedelta) -> None:
        """Take the number of devices, what started their processes, and the longest wait."""
        super().__init__(world, 1, save_distributed_checkpoint=False, timeout=timeout)
        self.cluster_environment = environment

    def setup(self, trainer: pl.Trainer) -> None:
        """Share the model out before the optimiser is built of its parts."""
        model = self.lightning_module
        assert self.accelerator is not None and isinstance(model, RetrievalModule)
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(model)
        self.model_to_device()
        shard(model, self.device_mesh["data_parallel"])
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()
        self.barrier()

    def post_backward(self, closure_loss: Tensor) -> None:
        """Average the gradients that FSDP leaves alone."""
        assert self.model is not None
        for parameter in single_numbers(self.model):
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.world_size


def load_weights(model: RetrievalModule, state: Mapping[str, Any]) -> None:
    """Load a whole state dict into a model that may be shared out; every process calls it."""
    if isinstance(model, FSDPModule):
        set_model_state_dict(model, dict(state), options=StateDictOptions(full_state_dict=True))
    else:
        model.load_state_dict(state)


def whole(model: RetrievalModule) -> RetrievalModule:
    """Return the model with all its weights in the first process; every process calls it."""
    if not isinstance(model, FSDPModule):
        return model
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    if dist.get_rank():
        return model
    found = build_model(model.cfg)
    found.load_state_dict(state)
    found.tokenizer, found.trained_clips = model.tokenizer, model.trained_clips
    return found.to(model.device)
