"""Where a decode step's time goes, by kind of module, with torch's profiler."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch._C._autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.profiler import ProfilerActivity, profile, record_function

from skiplab.benchmarking.timing import Clock, System, Workload, engine_system
from skiplab.engine.backbone import Backbone
from skiplab.engine.number_format import NumberFormat
from skiplab.engine.policy import FullDepth

Path = Literal["reference", "fast"]
PATHS: tuple[Path, ...] = get_args(Path)
# Kind by suffix of the module's class name, which torch, transformers and skiplab share.
_KINDS = MappingProxyType({"Linear": "linear layers", "Attention": "attention", "Norm": "norms"})
_OTHER_MODULES = "other modules"
_STEP_LOOP = "step loop"


def kind_of(module: nn.Module) -> str:
    """The kind of work of a module, without its children. Attention includes writing keys and values."""
    name = type(module).__name__
    return next((kind for end, kind in _KINDS.items() if name.endswith(end)), _OTHER_MODULES)


@contextmanager
def module_ranges() -> Iterator[None]:
    """Give the profiler a range for each call of a module while the context lasts, named by the module's kind."""
    entered: list[record_function] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        entered.append(record_function(kind_of(module)))
        entered[-1].__enter__()

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        entered.pop().__exit__(None, None, None)

    hooks = register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def step_profile(
    system: System, workload: Workload, device: torch.device, *, unrecorded: System | None = None
) -> dict[str, float]:
    """Milliseconds per decode step by kind of work; `host` is the time outside operators.

    An operator counts towards the innermost module that runs it, or the step loop. Operators are timed in one pass
    under the profiler, the step in another without it; on a GPU operators are their kernels.

    Args:
        unrecorded: for a system that replays recorded steps, in which no module is called: a system that runs the
            same kernels without replaying, for the profiler.
    """
    (prompts, lengths), *_ = workload.batches()
    watched_system = unrecorded or system

    def run(running: System, clock: Clock) -> None:
        running(prompts, lengths, workload.pad_id, clock)

    run(system, Clock(device))
    clock = Clock(device)
    run(system, clock)
    _, first, *_, last = clock.times()
    steps = max(lengths) - 1
    gpu = device.type == "cuda"
    if unrecorded is not None:
        run(unrecorded, Clock(device))
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if gpu else [ProfilerActivity.CPU]
    profiler = profile(activities=activities, acc_events=True)
    with module_ranges():
        run(watched_system, _Watched(device, profiler.start))
        profiler.stop()
    found = {kind: seconds / 1e3 / steps for kind, seconds in _microseconds(profiler.events() or [], gpu=gpu).items()}
    found["host"] = 1e3 * (last - first) / steps - sum(found.values())
    return found


def path_profile(backbone: Backbone, path: Path, number_format: NumberFormat, workload: Workload) -> dict[str, float]:
    """`step_profile` of full depth on a path; the backbone's states are already in the number format's type."""
    policy, device = FullDepth(backbone.num_layers), backbone.device
    if path == "reference":
        return step_profile(engine_system(backbone, policy), workload, device)
    fast = number_format.fast_path(backbone, workload.batch_size)
    unrecorded = engine_system(fast, policy, workload, record=False) if device.type == "cuda" else None
    return step_profile(engine_system(fast, policy, workload), workload, device, unrecorded=unrecorded)


def _microseconds(events: Any, *, gpu: bool) -> dict[str, float]:
    """Time of operators, or of their kernels, by the kind of the range around them."""
    found: dict[str, float] = {}
    kernels = 0.0
    for event in events:
        if event.device_type != DeviceType.CPU:
            kernels += 0.0 if event.is_user_annotation else event.self_device_time_total
            continue
        # A range's own time on the CPU is Python's, its own kernels are those launched without an operator.
        own = event.self_device_time_total if gpu else event.self_cpu_time_total * (not event.is_user_annotation)
        kind = _range_of(event)
        found[kind] = found.get(kind, 0.0) + own
    # Kernels that the profiler could not attribute to a launch.
    if gpu and (rest := kernels - sum(found.values())) > 0:
        found[_OTHER_MODULES] = found.get(_OTHER_MODULES, 0.0) + rest
    return found


def _range_of(event: FunctionEvent | None) -> str:
    while event is not None and not event.is_user_annotation:
        event = event.cpu_parent
    return _STEP_LOOP if event is None else event.name


class _Watched(Clock):
    """Starts the profiler when the first tokens are known."""

    def __init__(self, device: torch.device, begin: Callable[[], None]) -> None:
        super().__init__(device)
        self._begin: Callable[[], None] | None = begin

    def on_step(self, step: int, index_B: Tensor, logits_BV: Tensor) -> None:
        if self._begin is not None:
            self._begin()
            self._begin = None
