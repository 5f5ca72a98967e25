"""Start the processes of a job, or join them, on one machine or on several (torchrun, SLURM)."""

import logging
import os
import sys
import uuid
import warnings
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from skiplab.utils.distributed import BARRIER_TIMEOUT, Ranks

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment


# That many are tried out on a machine of few cores.
_LEAST_CPU_PROCESSES = 8


class LaunchError(Exception):
    """The number of started processes differs from the configuration; the message says what to do."""


def launcher() -> "ClusterEnvironment | None":
    """What started this process as one of several; None if nothing did."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

        return TorchElasticEnvironment()
    # The batch script itself does not run in a SLURM step.
    if "SLURM_STEP_ID" in os.environ:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        return SLURMEnvironment(auto_requeue=False) if SLURMEnvironment.detect() else None
    return None


def check_environment() -> None:
    """Refuse variables of a launcher that are there in part: libraries read each of them on its own.

    Raises:
        LaunchError: the message names what is missing.
    """
    needed = ("RANK", "WORLD_SIZE")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        needed = (*needed, "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    elif not any(name in os.environ for name in needed):
        return
    if missing := [name for name in needed if name not in os.environ]:
        given = [name for name in ("TORCHELASTIC_RUN_ID", *needed) if name in os.environ]
        raise LaunchError(
            f"{' and '.join(given)} set in the environment without {', '.join(missing)}, as no launcher does; unset "
            "them, or start with torchrun"
        )
    for name in needed:
        if name != "MASTER_ADDR" and not os.environ[name].isdecimal():
            raise LaunchError(f"{name} in the environment must be a whole number, got {os.environ[name]!r}; unset it")


def check_devices(devices: int, accelerator: str) -> None:
    """Refuse more processes than this machine has devices for.

    Raises:
        LaunchError: the message says how many there are.
    """
    if accelerator in ("gpu", "cuda"):
        most, kind = torch.cuda.device_count(), "GPUs"
    else:
        most, kind = max(_LEAST_CPU_PROCESSES, os.cpu_count() or 1), "processes on its CPU at the most"
    if devices > most:
        raise LaunchError(f"trainer.devices={devices} is more than this machine has: {most} {kind}; take fewer")


def check(started: int | None, *, devices: int, nodes: int) -> None:
    """Refuse a number of processes that is not what the configuration asks for.

    Args:
        started: how many there are; None if this one was started on its own.

    Raises:
        LaunchError: the message says what to do.
    """
    if started is not None and started != devices * nodes:
        raise LaunchError(
            f"{started} processes were started, and trainer.devices={devices} times trainer.num_nodes={nodes} are "
            f"{devices * nodes}; make them the same"
        )
    if started is None and nodes > 1:
        raise LaunchError(
            f"trainer.num_nodes={nodes} needs the job to be started on each of them: torchrun --nnodes {nodes} "
            f"--nproc-per-node {devices} --rdzv-backend c10d --rdzv-endpoint FIRST_NODE:29500 -m skiplab.run ..., or "
            "srun under SLURM (docs/scale.md)"
        )


def join(environment: "ClusterEnvironment", accelerator: str, *, barrier_timeout: timedelta = BARRIER_TIMEOUT) -> Ranks:
    """Connect to the other ranks. All but the first stop printing."""
    os.environ["MASTER_ADDR"] = environment.main_address
    os.environ["MASTER_PORT"] = str(environment.main_port)
    on_gpu = accelerator in ("gpu", "cuda")
    if on_gpu and torch.cuda.is_available():
        torch.cuda.set_device(environment.local_rank())
    backend = "nccl" if on_gpu else "gloo"
    rank, world_size = environment.global_rank(), environment.world_size()
    ranks = Ranks.join(backend, rank=rank, world_size=world_size, barrier_timeout=barrier_timeout)
    if not ranks.is_first:
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
    return ranks


def start(processes: int) -> int:
    """Run this very command in several processes of this machine; the exit code.

    If one dies the others are ended.
    """
    # Else gloo takes the address that the machine's name has, which may be none.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=uuid.uuid4().hex, max_restarts=0,
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="127.0.0.1",
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "skiplab.run", *sys.argv[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            sys.stderr.write(
                f"process {rank} was killed by signal {-failure.exitcode}, and the others were stopped; run the same "
                "command again to resume\n"
            )
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as error:
        return 128 + error.sigval
    return 0
