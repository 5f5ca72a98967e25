"""The command line: `python -m skiplab.run experiment=NAME [key=value ...]`; without arguments, a list."""

import os
import signal
import sys
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf


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
    from skiplab.backbones.checkpoint import CheckpointError
    from skiplab.files import DiskFullError, disk_full
    from skiplab.jobs.prepare import ConfigurationError
    from skiplab.quiet import quiet
    from skiplab.training import NonFiniteLossError

    quiet(threads=cfg.threads)
    module, _, name = cfg.job.rpartition(".")
    job: Any = getattr(import_module(module), name)
    try:
        complete = job(cfg, Path(HydraConfig.get().runtime.output_dir))
    except (ConfigurationError, CheckpointError, NonFiniteLossError, DiskFullError) as error:
        raise SystemExit(f"error: {error}") from error
    except OSError as error:
        if not disk_full(error):
            raise
        raise SystemExit(f"error: {error}: make room, then the same command goes on from what is finished") from error
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from what is finished", file=sys.stderr)
        raise SystemExit(130) from None
    if not complete:
        raise SystemExit(1)


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
