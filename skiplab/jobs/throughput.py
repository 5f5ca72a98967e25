"""Time decoding at any shape: ours and others, random weights, fixed lengths, against the machine's bounds."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

from skiplab.backbones.spec import BackboneSpec
from skiplab.benchmarking.cost_model import CONSTANTS, Evidence, Observation
from skiplab.benchmarking.peers import ctranslate2_system
from skiplab.benchmarking.roofline import Ceilings, Footprint
from skiplab.benchmarking.roofline_measure import measure_bandwidth, measure_matrix_speed
from skiplab.benchmarking.throughput_spec import ThroughputSpec, bound_figures, policy_steps
from skiplab.benchmarking.timing import System, Timing, Workload, engine_system, hf_generate_system, interleave
from skiplab.comparison import publish
from skiplab.comparison.cases import Case, expand
from skiplab.comparison.config import RunConfig, load
from skiplab.comparison.prepare import configuring, device_of
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import collate
from skiplab.engine.number_format import FORMATS
from skiplab.engine.packed_linear import check_integers
from skiplab.engine.policy import ExitPolicy, FullDepth, RowwisePolicy
from skiplab.evaluation.metrics import agreement
from skiplab.methods.base import Optimization, Setup
from skiplab.reporting import html, mlflow_store, plots
from skiplab.reporting.results import Row, check_row, write_results
from skiplab.reporting.tables import throughput_table
from skiplab.utils.environment import environment
from skiplab.utils.run_folder import RunFolder

PAD, BOS, EOS = 1, 0, 2
_REFERENCE = "1x reference path"
_NOTES = (
    "Medians over interleaved rounds of one run, quartiles small. Speedups are against the full model in the same "
    "number format; `realised` is their share of what the bytes allow; `roofline` is the least time that the "
    "machine's measured bandwidth and matrix speed allow over the time taken. Weights are random: figures are of "
    "speed alone."
)


def throughput(cfg: DictConfig, run_dir: Path) -> bool:
    """Time all systems at every batch size; True if none failed.

    Raises:
        ConfigurationError: before anything is timed.
    """
    config = load(cfg)
    with configuring():
        spec, shape, device = asked_for(config)
        folder = RunFolder(run_dir)
        folder.check(config.plain)
        job = Throughput(config, spec, shape, folder, device)
        mlflow_store.connect(config.tracking.uri, config.tracking.experiment)
        folder.bind(config.plain)
    return job.run()


def asked_for(config: RunConfig) -> tuple[ThroughputSpec, BackboneSpec, torch.device]:
    """What is timed, on which shape, where.

    Raises:
        ValueError: they do not fit together.
    """
    spec: ThroughputSpec = config.section("throughput")
    shape = config.backbone
    device = device_of(config.trainer.accelerator)
    spec.check_positions(shape.positions)
    if any(FORMATS[dtype].integers for dtype in spec.dtypes):
        check_integers(device)
    return spec, shape, device


def vocabulary(shape: BackboneSpec) -> int:
    """Entries of its token embedding, OPT's where it leaves them to a tokenizer."""
    return shape.vocabulary or 50272


def build(shape: BackboneSpec) -> Backbone:
    """A backbone for random tokens."""
    return shape.build(vocab_size=vocabulary(shape), pad_id=PAD, bos_id=BOS, eos_id=EOS)


def seeded(shape: BackboneSpec, device: torch.device) -> Backbone:
    """A backbone whose random weights are the same at every call, and made on the device: billions take seconds there.

    A checkpoint's are wherever it loads them.
    """
    torch.manual_seed(0)
    with device:
        return build(shape).eval()


@dataclass(frozen=True)
class Entrant:
    """A system that is timed.

    Attributes:
        system: what decodes a workload.
        policy: what it runs; None is an outside engine.
        size: of its backbone; None if that is not ours.
        baseline: number format of the full model that it is compared with.
    """

    row: Row
    system: Callable[[Workload], System]
    policy: ExitPolicy | None
    size: Footprint | None
    baseline: str


@final
class Throughput:
    """One timing under way. A finished batch size is a file in the run folder, and is not timed again."""

    def __init__(
        self,
        config: RunConfig,
        spec: ThroughputSpec,
        shape: BackboneSpec,
        folder: RunFolder,
        device: torch.device,
    ) -> None:
        self._config = config
        self._spec = spec
        self._shape = shape
        self._folder = folder
        self._console = Console()
        self._device = device
        with torch.device("meta"):
            self._cases = self._expand(build(shape))

    def run(self) -> bool:
        """All batch sizes, the table, MLflow."""
        name = self._config.tracking.experiment
        with mlflow_store.run(name):
            ceilings = self._measured_ceilings()
            entrants = self._entrants()
            parts = [self._batch(size, entrants, ceilings) for size in self._spec.batch_sizes]
            rows = [timed["row"] for part in parts for timed in part.values()]
            models = self._cost_models(entrants, parts, ceilings)
            machine = {dtype: vars(found) for dtype, found in ceilings.items()}
            described = {**environment(0), "ceilings": machine, "cost_model": models}
            write_results(self._folder.path, job="throughput", experiment=name, environment=described, rows=rows)
            self._publish(name, rows, parts, described)
        return not any("error" in row for row in rows)

    def _batch(
        self, batch_size: int, entrants: Mapping[str, Entrant], ceilings: Mapping[str, Ceilings]
    ) -> dict[str, dict[str, Any]]:
        if (known := self._folder.load(f"batch{batch_size}")) is not None:
            self._console.print(f"batch {batch_size}: finished before")
            return known
        self._console.print(f"batch {batch_size}: {len(entrants)} systems in turns")
        workload = self._spec.workload(batch_size, vocabulary(self._shape), PAD)
        options = self._config.benchmark
        timings, errors = interleave(
            {name: entrant.system(workload) for name, entrant in entrants.items()},
            workload,
            rounds=options.rounds,
            warmup=options.warmup,
            device=self._device,
            count_memory=True,
            progress=lambda work: track(list(work), console=self._console, transient=True),
        )
        found: dict[str, dict[str, Any]] = {}
        for name, entrant in entrants.items():
            if name in errors:
                error = f"{type(errors[name]).__name__}: {errors[name]}"
                found[name] = {"row": {**entrant.row, "batch_size": batch_size, "error": error}, "step_ms": []}
            else:
                row = self._row(entrant, timings, name, ceilings)
                found[name] = {"row": row, "step_ms": timings[name].step_ms()}
            check_row(found[name]["row"])
        self._folder.save(f"batch{batch_size}", found)
        return found

    def _row(self, entrant: Entrant, timings: Mapping[str, Timing], name: str, ceilings: Mapping[str, Ceilings]) -> Row:
        timing, reference = timings[name], timings.get(f"full {_REFERENCE} float32")
        row = {**entrant.row, **timing.row(timings.get(f"full 1x {entrant.baseline}"))}
        if isinstance(entrant.policy, FullDepth) and reference is not None:
            row["agreement"] = statistics.mean(agreement(timing.tokens, reference.tokens))
        if entrant.policy is not None and entrant.size is not None:
            steps = policy_steps(entrant.policy, timing, self._spec.prompt_tokens)
            row |= bound_figures(steps, entrant.size, ceilings[entrant.row["dtype"]], row)
        return row

    def _cost_models(
        self,
        entrants: Mapping[str, Entrant],
        parts: Sequence[Mapping[str, dict[str, Any]]],
        ceilings: Mapping[str, Ceilings],
    ) -> dict[str, Any]:
        """By number format, a model fitted to some settings and its errors on those held out; kept for `capacity`."""
        found: dict[str, Any] = {}
        for dtype in self._spec.dtypes:
            fitted: dict[str, Observation] = {}
            held_out: dict[str, Observation] = {}
            for part in parts:
                for name, timed in part.items():
                    entrant, row = entrants[name], timed["row"]
                    if entrant.policy is None or entrant.size is None or isinstance(entrant.policy, RowwisePolicy):
                        continue
                    if row["dtype"] == dtype and row["setting"] != _REFERENCE and "error" not in row:
                        apart = row["batch_size"] in self._spec.held_out_batches or row["setting"] in (
                            f"{speedup:g}x" for speedup in self._spec.held_out_speedups
                        )
                        observation = self._observation(entrant.policy, entrant.size, row)
                        (held_out if apart else fitted)[f"{name} batch {row['batch_size']}"] = observation
            if len(fitted) >= CONSTANTS and held_out:
                overlapped = self._device.type == "cuda"
                found[dtype] = Evidence.gather(fitted, held_out, ceilings[dtype], overlapped=overlapped).plain()
        self._folder.save("cost_model", found)
        return {dtype: {key: model[key] for key in ("constants", "median_error")} for dtype, model in found.items()}

    def _observation(self, policy: ExitPolicy, size: Footprint, row: Row) -> Observation:
        depths = [len(policy.plan(step)) for step in range(1, self._spec.new_tokens)]
        seconds = row["decode_ms_per_step"] * len(depths) / 1e3
        return Observation(depths, row["batch_size"], self._spec.prompt_tokens, size, seconds)

    def _measured_ceilings(self) -> dict[str, Ceilings]:
        if (known := self._folder.load("ceilings")) is None:
            self._console.print("bandwidth and matrix speed of the machine")
            bandwidth = measure_bandwidth(self._device)
            known = {
                dtype: {"bandwidth": bandwidth, "flops": measure_matrix_speed(self._device, FORMATS[dtype])}
                for dtype in self._spec.dtypes
            }
            self._folder.save("ceilings", known)
        return {dtype: Ceilings(**values) for dtype, values in known.items()}

    def _entrants(self) -> dict[str, Entrant]:
        found: dict[str, Entrant] = {}
        if "ctranslate2" in self._spec.peers:
            found |= self._ctranslate2()
        for dtype in self._spec.dtypes:
            found |= self._in_format(dtype)
        return found

    def _ctranslate2(self) -> dict[str, Entrant]:
        backbone, folder = seeded(self._shape, self._device), self._folder.path / "ctranslate2"
        found: dict[str, Entrant] = {}
        for kind in ("float32", "int8"):
            row = {"method": "ctranslate2", "setting": "full depth", "seed": 0, "dtype": kind}
            system = ctranslate2_system(backbone, folder, kind, threads=self._config.threads)
            baseline = kind if kind in self._spec.dtypes else "float32"
            found[f"ctranslate2 {kind}"] = Entrant(row, lambda _, system=system: system, None, None, baseline)
        return found

    def _in_format(self, dtype: str) -> dict[str, Entrant]:
        number_format = FORMATS[dtype]
        backbone = seeded(self._shape, self._device).to(self._device, number_format.states)
        size = Footprint.of(backbone, number_format.weight_bytes)
        fast_path = lru_cache(maxsize=1)(lambda rows: number_format.fast_path(backbone, rows))

        def entrant(row: Row, make: Callable[[Workload], System], policy: ExitPolicy | None) -> Entrant:
            return Entrant({**row, "seed": 0, "dtype": dtype}, make, policy, size, dtype)

        found = []
        for case in self._cases:
            policy, target = self._policy(case, backbone)
            row = {**vars(case.entry), **({} if target is None else {"target_speedup": target})}

            def fast(workload: Workload, policy: ExitPolicy = policy) -> System:
                return engine_system(fast_path(workload.batch_size), policy, workload)

            found.append(entrant(row, fast, policy))
        if not number_format.integers:
            full = FullDepth(backbone.num_layers)
            row = {"method": "full", "setting": _REFERENCE}
            found.append(entrant(row, lambda workload: engine_system(backbone, full), full))
            for peer, cache in (("hf_generate", None), ("hf_generate_static", "static")):
                if peer in self._spec.peers:
                    row = {"method": peer, "setting": "full depth"}
                    found.append(entrant(row, lambda workload, cache=cache: hf_generate_system(backbone, cache), None))
        return {f"{one.row['method']} {one.row['setting']} {dtype}": one for one in found}

    def _policy(self, case: Case, backbone: Backbone) -> tuple[ExitPolicy, float | None]:
        """What a case decodes with, and the speedup that it promises."""
        prompts = self._spec.workload(4, vocabulary(self._shape), PAD).prompts
        valid = collate(prompts, [[EOS] * self._spec.new_tokens] * len(prompts), PAD)
        module = case.build(self._setup(backbone)).eval()
        policy = module.exit_policy([type(valid)(*(tensor.to(self._device) for tensor in valid))])
        return policy, module.target_speedup

    def _publish(
        self, name: str, rows: list[Row], parts: list[dict[str, dict[str, Any]]], described: dict[str, Any]
    ) -> None:
        table = throughput_table(rows)
        page = html.Page(
            title=name,
            description=self._config.description or "",
            task=f"prompts of {self._spec.prompt_tokens} random tokens, {self._spec.new_tokens} new ones",
            rows=rows,
            tables=[table],
            figures=plots.throughput_figures(rows, parts[-1]),
            samples=[],
            environment=described,
            config=OmegaConf.to_yaml(OmegaConf.create(self._config.plain)),
            notes=_NOTES,
        )
        publish.publish(self._folder.path, page)
        for system in parts[0]:
            self._track(system, [part[system] for part in parts])
        table.print(self._console)
        for dtype, model in described["cost_model"].items():
            error = f"{model['median_error']:.1%}"
            self._console.print(f"cost model, {dtype}: median error {error} on settings held out", highlight=False)
        self._console.print(f"report: {self._folder.path / 'report.html'}", soft_wrap=True, highlight=False)

    def _track(self, system: str, timed: list[dict[str, Any]]) -> None:
        """A child run with a system's figures by batch size."""
        with mlflow_store.run(system, nested=True):
            mlflow_store.log_params({key: timed[0]["row"][key] for key in ("method", "setting", "dtype")})
            for part in timed:
                group = f"batch{part['row']['batch_size']}/"
                mlflow_store.log_figures(part["row"], group=group)
                mlflow_store.log_series(f"{group}step_ms", part["step_ms"], first_step=1)

    def _expand(self, probe: Backbone) -> list[Case]:
        return expand(self._config.method_nodes, [0], self._setup(probe))

    def _setup(self, backbone: Backbone) -> Setup:
        return Setup(backbone, [self._spec.new_tokens] * 8, Optimization(learning_rate=1e-3))
