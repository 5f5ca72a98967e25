"""The command line: `skiplab` or `python -m skiplab.run`, with `experiment=NAME [key=value ...]`, or `list`."""

import errno
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType, FunctionType
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from skiplab.comparison.catalog import KINDS, experiments, lines, list_names
from skiplab.comparison.run_name import run_name
from skiplab.utils.suggestions import did_you_mean

if TYPE_CHECKING:
    from skiplab.utils.distributed import Ranks


def _run_name(experiment: str | None, overrides: Sequence[str]) -> str:
    # Without an experiment, which the experiments' list answers, there is nothing to name.
    # As they were typed: an interpolation in one of them is the job's to resolve, or to refuse.
    typed: Any = OmegaConf.to_container(overrides, resolve=False) if isinstance(overrides, ListConfig) else overrides
    return "none" if experiment is None else run_name(experiment, typed)


OmegaConf.register_new_resolver("skiplab.run_name", _run_name, replace=True)


def print_experiments() -> None:
    _print("skiplab experiment=NAME [key=value ...]\nskiplab list [KIND ...]\n")
    for line in lines("experiments", experiments()):
        _print(line)


def _print(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:
        # Whoever reads has seen enough, as in `skiplab list | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@hydra.main(config_path="pkg://experiments", config_name="config", version_base="1.3")
def run(cfg: DictConfig) -> None:
    """Run the experiment's job in the run folder."""
    run_composed(cfg)


def run_composed(cfg: DictConfig) -> None:
    """Run the job of a composed configuration in Hydra's run folder.

    Raises:
        SystemExit: the job failed, or cannot be run; with its exit code, or one line of what was wrong.
    """
    if cfg.job is None and HydraConfig.get().runtime.choices.get("experiment") is None:
        print_experiments()
        raise SystemExit(2)
    from skiplab.comparison.config_base import ConfigurationError, launch

    try:
        options = launch(cfg)
    except ConfigurationError as error:
        raise SystemExit(f"error: {error}") from error
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    devices, nodes = options.trainer.devices, options.trainer.num_nodes
    if (devices, nodes) != (1, 1):
        # DDP looks for layers that a plan leaves out, and warns where none is left out. Torch reads it when imported.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

    try:
        ranks = _gather(cfg, devices, nodes, options.trainer.accelerator)
    except ConfigurationError as error:
        raise SystemExit(f"error: {error}") from error
    code = _run_job(cfg, options.job, options.threads, ranks)
    ranks.leave()
    if code:
        raise SystemExit(code)


def _gather(cfg: DictConfig, devices: int, nodes: int, accelerator: str) -> "Ranks":
    """The ranks of the job, of which this process is made one; or start all of them, and end with them."""
    from skiplab.comparison.config import load
    from skiplab.utils import launch
    from skiplab.utils.distributed import ALONE

    try:
        launch.check_environment()
        environment = launch.launcher()
        launch.check_devices(devices, accelerator)
        launch.check(environment and environment.world_size(), devices=devices, nodes=nodes)
    except launch.LaunchError as error:
        raise SystemExit(f"error: {error}") from error
    if environment is None and devices > 1:
        # Before there are processes that would each find it wrong.
        load(cfg)
        raise SystemExit(launch.start(devices))
    if environment is not None and devices * nodes > 1:
        return launch.join(environment, accelerator)
    return ALONE


def _run_job(cfg: DictConfig, job: str, threads: int, ranks: "Ranks") -> int | str | None:
    """Exit code or error message of the job. If all ranks failed, only the first reports the error."""
    from skiplab.backbones.checkpoint import CheckpointError
    from skiplab.comparison.config_base import ConfigurationError
    from skiplab.training.trainer import NonFiniteLossError
    from skiplab.utils.files import DamagedFileError, DiskFullError, disk_full
    from skiplab.utils.quiet import quiet

    quiet(threads=threads)
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        function = _job(job)
        # Collections after each model then do not search all modules again.
        gc.freeze()
        code = 0 if function(cfg, folder, ranks) else 1
    except (ConfigurationError, CheckpointError, NonFiniteLossError, DiskFullError, DamagedFileError) as error:
        code = f"error: {error}"
    except OSError as error:
        if disk_full(error):
            code = f"error: {error}: make room, then run the same command again to resume"
        else:
            code = _refused(error) or _unexpected(error, folder)
    except KeyboardInterrupt:
        if ranks.is_first:
            print("\ninterrupted; run the same command again to resume", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001 - the traceback is kept
        raise SystemExit(_unexpected(error, folder)) from None
    return code if ranks.is_first else 0


def _job(path: str) -> "Callable[[DictConfig, Path, Ranks], bool]":
    """The function of a dotted path.

    Raises:
        ConfigurationError: there is none.
    """
    from skiplab.comparison.config_base import ConfigurationError

    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"job must be the dotted path of a function, got {path!r}: {error}; omit job= to run the experiment's own"
        ) from error
    if not isinstance(found, FunctionType):
        raise ConfigurationError(f"job must name a function, got {path!r}; omit job= to run the experiment's own")
    return found


def _refused(error: OSError) -> str | None:
    """The message for a file or folder that the system refuses; None for other errors."""
    kinds = (
        errno.ENOENT,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ELOOP,
        errno.ENAMETOOLONG,
    )
    if error.errno not in kinds or error.filename is None:
        return None
    return (
        f"error: {error.filename}: {error.strerror}; choose folders that can be written with hydra.run.dir=DIR and "
        "cache_dir=DIR"
    )


def _unexpected(error: Exception, folder: Path) -> str:
    """The message for an error that nobody foresaw. Its traceback goes to a file of the run folder, or is printed."""
    path = folder / f"error-{os.getpid()}.log"
    try:
        path.write_text("".join(traceback.format_exception(error)))
    except OSError:
        traceback.print_exception(error)
        path = None
    line = next(iter(str(error).splitlines()), "")
    where = "above" if path is None else f"in {path}"
    return f"error: unexpected {type(error).__name__}: {line}; its traceback is {where}: please report it"


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def _find_own_packages() -> None:
    """Add the working directory to the places of packages, as `python -m` does."""
    try:
        folder = os.getcwd()
    except OSError as error:
        raise SystemExit("error: the working directory was removed; change to one that exists (cd DIR)") from error
    if folder not in sys.path:
        sys.path.append(folder)


def _command(word: str, arguments: Sequence[str]) -> None:
    """Run what the first word asks for, if it is no override."""
    from skiplab.comparison.config_base import ConfigurationError

    if word != "list":
        known = {**{name: f"experiment={name}" for name in experiments()}, **dict.fromkeys(("list", *KINDS), "list")}
        near = did_you_mean(word, known).removeprefix("; did you mean ").removesuffix("?")
        hint = f"did you mean {known[near]}?" if near else "skiplab list shows what there is"
        raise SystemExit(f"error: {word!r} cannot be read; expected list, or overrides such as experiment=NAME; {hint}")
    try:
        list_names(arguments, _print)
    except ConfigurationError as error:
        raise SystemExit(f"error: {error}") from error


def main() -> None:
    if len(sys.argv) == 1:
        print_experiments()
        return
    if not sys.argv[1].startswith("-") and "=" not in sys.argv[1] and not sys.argv[1].startswith("~"):
        _command(sys.argv[1], sys.argv[2:])
        return
    signal.signal(signal.SIGTERM, _terminate)
    _find_own_packages()
    # Hydra then raises what it refuses instead of printing it.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        run()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        from skiplab.comparison.config_overrides import refused_overrides

        raise SystemExit(f"error: {refused_overrides(error, sys.argv[1:])}") from error
    except OSError as error:
        if (refused := _refused(error)) is None:
            raise
        raise SystemExit(refused) from error


if __name__ == "__main__":
    main()
