"""One run on many devices: which process this is, what they agree on, and how they end together.

Lightning starts the processes of `trainer.devices=N` on one machine itself; torchrun and SLURM's
srun start them on one or many. Everything that a run leaves is written by the first process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.strategies import Strategy
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from tvr_bench import early
from tvr_bench.cores import cores, told_threads
from tvr_bench.errors import UserError
from tvr_bench.link import Link
from tvr_bench.schema import Config

_STORE = "TVR_STORE"  # port and process of the first process, for those that it starts
_SHARED = "TVR_THREADS"  # OMP_NUM_THREADS is ours and not the user's
_LIGHTNING = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# of another launch: a shell inside a job, a notebook's kernel, an export that was forgotten
_STALE = (*_LIGHTNING, "RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE")
_TORCHRUN = ("TORCHELASTIC_RUN_ID", "LOCAL_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE")
_LOCAL = "127.0.0.1"
_LOOK_S = 0.2


@dataclass(frozen=True)
class Place:
    """Which of the `world` processes of a run this is, and what started them.

    `launcher` is ours, torchrun or slurm; `local` is the position on the machine `node`.
    """

    launcher: str = "ours"
    rank: int = 0
    local: int = 0
    node: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes what the run leaves."""
        return self.rank == 0


def place_of(cfg: Config, environment: Mapping[str, str] | None = None) -> Place:
    """Return this process's place, from what launchers leave in the environment.

    Raises UserError where as many processes were not started as the configuration asks for.
    """
    env = os.environ if environment is None else environment
    devices, nodes = cfg.trainer.devices, cfg.trainer.nodes
    launcher = launcher_of(env)
    if launcher == "ours":
        local = int(env["LOCAL_RANK"])
        return Place("ours", local, local, 0, devices)
    if launcher == "torchrun":
        names = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE")
        place = Place("torchrun", *(int(env[name]) for name in names))
        _check(place, int(env["LOCAL_WORLD_SIZE"]), cfg)
        return place
    if launcher == "slurm":
        names = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_NUM_TASKS")
        place = Place("slurm", *(int(env[name]) for name in names))
        if "SLURM_NTASKS_PER_NODE" not in env:
            raise UserError("srun was given no --ntasks-per-node; give it the devices of one node")
        _check(place, int(env["SLURM_NTASKS_PER_NODE"]), cfg)
        return place
    if nodes > 1:
        raise UserError(
            f"trainer.nodes={nodes} and this is one process; start `tvr-bench bench` with "
            f"`torchrun --nnodes {nodes} --nproc-per-node {devices} -m tvr_bench` or srun"
        )
    return Place(world=devices)


def launcher_of(env: Mapping[str, str]) -> str:
    """Return what has started this process as one of several: ours, torchrun or slurm; else "".

    A rank alone is no launch: shells inherit ranks, and launchers say how many there are, too.
    """
    if _STORE in env and "LOCAL_RANK" in env:
        return "ours"
    if all(name in env for name in (*_TORCHRUN, "RANK", "WORLD_SIZE")):
        return "torchrun"
    tasks = env.get("SLURM_STEP_NUM_TASKS", "")
    return "slurm" if tasks.isdecimal() and int(tasks) > 1 else ""


def settle() -> None:
    """Make a process that nobody has launched the first of its own, in Lightning's eyes as well.

    Lightning takes any RANK, LOCAL_RANK or SLURM_PROCID for this process's: the logs of a rank
    above 0 are not written, and no further processes are started.
    """
    if launcher_of(os.environ) or dist.is_initialized():
        return
    for name in _STALE:
        os.environ.pop(name, None)
    rank_zero_only.rank = 0  # type: ignore[attr-defined]


def _check(place: Place, per_node: int, cfg: Config) -> None:
    nodes = place.world // per_node
    if (cfg.trainer.devices, cfg.trainer.nodes) != (per_node, nodes):
        raise UserError(
            f"{place.launcher} started {place.world} processes, {per_node} per machine; set "
            f"trainer.devices={per_node} trainer.nodes={nodes}"
        )


def check(cfg: Config) -> None:
    """Raise UserError where more devices are asked for than there are, or they cannot share."""
    wanted, found = cfg.trainer.devices, torch.cuda.device_count()
    if cfg.trainer.accelerator == "gpu" and found < wanted:
        raise early.few_gpus(wanted, found)
    if cfg.trainer.accelerator == "auto" and 0 < found < wanted:
        raise UserError(f"trainer.devices={wanted} asked for and {found} GPUs found; lower it")
    early.check_sharing(cfg)


def threads(cfg: Config) -> int:
    """Return the threads of one training process: those set, else OMP_NUM_THREADS, else its share.

    That is of the cores that the processes on the CPU have.
    """
    on_cpu = cfg.trainer.devices if cfg.trainer.accelerator != "gpu" else 1
    return cfg.trainer.threads or told_threads() or max(1, cores() // on_cpu)


def share_threads(cfg: Config) -> None:
    """Tell the processes that Lightning starts their number of threads; it would choose one."""
    if cfg.trainer.devices > 1 and "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = os.environ[_SHARED] = str(threads(cfg))


def strategy(cfg: Config) -> Strategy | str:
    """Return Lightning's strategy: DDP on several devices, or FSDP where that is asked for."""
    place = place_of(cfg)
    if place.world == 1:
        return "auto"
    from tvr_bench import strategies  # which takes what several devices alone need

    timeout = timedelta(seconds=cfg.trainer.timeout)
    environment = _environment(place)
    if cfg.trainer.strategy == "fsdp":
        return strategies.ShardedStrategy(place.world, environment, timeout)
    return strategies.WholeStrategy(cluster_environment=environment, timeout=timeout)


def _environment(place: Place) -> ClusterEnvironment:
    if place.launcher == "torchrun":
        return TorchElasticEnvironment()
    if place.launcher == "slurm":
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


class Team:
    """What the processes of a run agree on; alone, a process agrees with itself."""

    def __init__(self, place: Place, store: Any = None, link: Link | None = None) -> None:
        """Take the store that all processes share and the link that ends them together."""
        self.place, self.store, self.link = place, store, link

    @property
    def first(self) -> bool:
        """Whether this process writes what the run leaves."""
        return self.place.first

    def agree(self, key: str, make: Callable[[], str]) -> str:
        """Return what the first process makes of `make`, in every process."""
        if self.store is None:
            return make()
        if self.first:
            self.store.set(key, make())
        self._await(key)
        return str(self.store.get(key).decode())

    @contextmanager
    def in_turn(self, key: str) -> Iterator[None]:
        """Let one process of each machine through, and the others when it is done."""
        done = f"{key}/{self.place.node}"
        if self.store is not None and self.place.local:
            self._await(done)
        yield
        if self.store is not None and not self.place.local:
            self.store.set(done, "done")

    def advise(self, advice: str) -> None:
        """Take what to tell the user if a process dies."""
        if self.link is not None:
            self.link.advice = advice

    def _await(self, key: str) -> None:
        """Wait as long as it takes; if a process dies, its link ends this one."""
        while not self.store.check([key]):
            time.sleep(_LOOK_S)


@contextmanager
def together(cfg: Config) -> Iterator[Team]:
    """Join the run's other processes; none outlives an error, a signal or a death of another.

    The exit code of all is 2 after a UserError, which the first process prints as one line.
    """
    settle()
    try:
        place = place_of(cfg)
    except UserError:
        rank = {"torchrun": "RANK", "slurm": "SLURM_PROCID"}.get(launcher_of(os.environ), "")
        if os.environ.get(rank, "0") != "0":
            os._exit(2)  # the first process says it
        raise
    if place.world == 1:
        yield Team(place)
        return
    store, parent, host = _meet(place, cfg)
    link = Link(place.rank, place.world, parent)
    link.open(store, host, local=cfg.trainer.nodes == 1)
    try:
        yield Team(place, store, link)
    except BaseException as error:
        link.fail(error)
        raise
    else:
        link.close()
        if dist.is_initialized():
            dist.destroy_process_group()
    finally:
        _forget(place)


def _meet(place: Place, cfg: Config) -> tuple[Any, int | None, str]:
    """Return the shared store, the process to end with, and the host of the first process."""
    timeout = timedelta(seconds=cfg.trainer.timeout)
    if place.launcher == "ours":
        if place.first:
            store = TCPStore(_LOCAL, 0, is_master=True, wait_for_workers=False)
            os.environ[_STORE] = f"{store.port} {os.getpid()}"
            return store, None, _LOCAL
        port, starter = map(int, os.environ[_STORE].split())
        if os.getppid() != starter:
            os._exit(1)  # it has died meanwhile
        return TCPStore(_LOCAL, port, timeout=timeout), starter, _LOCAL
    environment = _environment(place)
    os.environ["MASTER_ADDR"] = environment.main_address
    os.environ["MASTER_PORT"] = str(environment.main_port)
    store, _, _ = next(rendezvous("env://", place.rank, place.world, timeout=timeout))
    parent = os.getppid() if place.launcher == "torchrun" else None
    host = environment.main_address if cfg.trainer.nodes > 1 else _LOCAL
    return PrefixStore("tvr", store), parent, host


def _forget(place: Place) -> None:
    """Leave no trace in the environment, so that another run can follow in this process."""
    if os.environ.pop(_SHARED, None):
        os.environ.pop("OMP_NUM_THREADS", None)
    if place.launcher == "ours":
        for name in (_STORE, *_LIGHTNING):
            os.environ.pop(name, None)
