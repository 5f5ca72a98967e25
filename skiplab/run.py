"""The command line: `python -m skiplab.run experiment=NAME [key=value ...]`; without arguments, a list."""

import os
import signal
import sys
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from skiplab.utils.distributed import Ranks


def experiments() -> dict[str, str]:
    """Each experiment's name and its description."""
    folder = files("experiments") / "experiment"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    return {
        name.removesuffix(".yaml"): OmegaConf.create((folder / name).read_text())["description"]  # type: ignore[index]
        for name in names
    }


def print_experiments() -> None:
    width = max(map(len, experiments()))
    print("python -m skiplab.run experiment=NAME [key=value ...]\n")
    for name, description in experiments().items():
        print(f"  {name:{width}}  {description}")


@hydra.main(config_path="pkg://experiments", config_name="config", version_base="1.3")
def run(cfg: DictConfig) -> None:
    """Run the experiment's job in the run folder."""
    if cfg.job is None:
        print_experiments()
        raise SystemExit(2)
    os.environ.setdefault("OMP_NUM_THREADS", str(cfg.threads))
    devices, nodes = cfg.trainer.devices, cfg.trainer.num_nodes
    if (devices, nodes) != (1, 1):
        # DDP looks for layers that a plan leaves out, and warns where none is left out. Torch reads it when imported.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from skiplab.utils.distributed import ALONE

    known = isinstance(devices, int) and isinstance(nodes, int)
    ranks = _gather(devices, nodes, cfg.trainer.accelerator) if known else ALONE
    code = _run_job(cfg, ranks)
    ranks.leave()
    if code:
        raise SystemExit(code)


def _gather(devices: int, nodes: int, accelerator: str) -> "Ranks":
    """The ranks of the job, of which this process is made one; or start all of them, and end with them."""
    from skiplab.utils import launch
    from skiplab.utils.distributed import ALONE

    environment = launch.launcher()
    try:
        launch.check(environment and environment.world_size(), devices=devices, nodes=nodes)
    except launch.LaunchError as error:
        raise SystemExit(f"error: {error}") from error
    if environment is None and devices > 1:
        raise SystemExit(launch.start(devices))
    if environment is not None and devices * nodes > 1:
        return launch.join(environment, accelerator)
    return ALONE


def _run_job(cfg: DictConfig, ranks: "Ranks") -> int | str | None:
    """Exit code or error message of the job. What all ranks failed of, the first alone has to say."""
    from skiplab.backbones.checkpoint import CheckpointError
    from skiplab.comparison.prepare import ConfigurationError
    from skiplab.training.trainer import NonFiniteLossError
    from skiplab.utils.files import DiskFullError, disk_full
    from skiplab.utils.quiet import quiet

    quiet(threads=cfg.threads)
    module, _, name = cfg.job.rpartition(".")
    job: Any = getattr(import_module(module), name)
    try:
        code = 0 if job(cfg, Path(HydraConfig.get().runtime.output_dir), ranks) else 1
    except (ConfigurationError, CheckpointError, NonFiniteLossError, DiskFullError) as error:
        code = f"error: {error}"
    except OSError as error:
        if not disk_full(error):
            raise
        code = f"error: {error}: make room, then the same command goes on from what is finished"
    except KeyboardInterrupt:
        if ranks.is_first:
            print("\ninterrupted; the same command goes on from what is finished", file=sys.stderr)
        return 130
    return code if ranks.is_first else 0


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def main() -> None:
    if len(sys.argv) == 1:
        print_experiments()
        return
    signal.signal(signal.SIGTERM, _terminate)
    run()


if __name__ == "__main__":
    main()
