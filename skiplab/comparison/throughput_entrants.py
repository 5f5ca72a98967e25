"""The systems that a throughput run times: skiplab in every number format, and other engines."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import final

import torch

from skiplab.backbones.spec import BackboneSpec
from skiplab.benchmarking.hf_systems import hf_generate_system
from skiplab.benchmarking.llama_cpp import KINDS, LlamaCpp, check_shape, write_gguf
from skiplab.benchmarking.peers import ctranslate2_system
from skiplab.benchmarking.random_backbone import EOS, PAD, build, seeded, vocabulary
from skiplab.benchmarking.roofline import Footprint
from skiplab.benchmarking.throughput_spec import ThroughputSpec
from skiplab.benchmarking.timing import System, Workload, engine_system
from skiplab.comparison.cases import Case, expand
from skiplab.comparison.config import RunConfig
from skiplab.comparison.prepare import device_of
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import Batch, collate
from skiplab.engine.number_format import FORMATS
from skiplab.engine.packed_linear import check_integers
from skiplab.engine.policy import ExitPolicy, FullDepth
from skiplab.methods.base import Optimization, Setup
from skiplab.reporting.results import Row

REFERENCE = "1x reference path"
Parts = tuple[Row, Callable[[Workload], System], ExitPolicy | None]


@final
@dataclass(frozen=True)
class Subject:
    """The workload, model shape and device of a throughput run."""

    spec: ThroughputSpec
    shape: BackboneSpec
    device: torch.device

    @classmethod
    def of(cls, config: RunConfig) -> "Subject":
        """The subject that a configuration describes.

        Raises:
            ValueError: parts of the configuration contradict each other.
        """
        spec: ThroughputSpec = config.section("throughput")
        device = device_of(config.trainer.accelerator)
        spec.check_positions(config.backbone.positions)
        if any(FORMATS[dtype].integers for dtype in spec.dtypes):
            check_integers(device)
        return cls(spec, config.backbone, device)

    def workload(self, batch_size: int) -> Workload:
        """Random prompts of the configured length."""
        return self.spec.workload(batch_size, vocabulary(self.shape), PAD)


@final
@dataclass(frozen=True)
class Entrant:
    """A system that is timed.

    Attributes:
        system: makes the system that decodes a workload.
        policy: the policy that it runs; None for other engines.
        size: the footprint of its backbone; None for other engines.
        baseline: number format of the full model with which it is compared.
    """

    row: Row
    system: Callable[[Workload], System]
    policy: ExitPolicy | None
    size: Footprint | None
    baseline: str


@final
class Entrants:
    """Makes the systems.

    Args:
        folder: where other engines keep their copies of the weights.
    """

    def __init__(self, config: RunConfig, subject: Subject, folder: Path) -> None:
        self._config = config
        self._subject = subject
        self._spec = subject.spec
        self._folder = folder
        with torch.device("meta"):
            backbone = build(subject.shape)
        if "llama_cpp" in self._spec.peers:
            check_shape(backbone)
        self._cases = expand(config.method_nodes, [0], self._setup(backbone))

    def make(self) -> dict[str, Entrant]:
        """All systems by name."""
        found: dict[str, Entrant] = {}
        if "ctranslate2" in self._spec.peers:
            found |= self._ctranslate2()
        if "llama_cpp" in self._spec.peers:
            found |= self._llama_cpp()
        for dtype in self._spec.dtypes:
            found |= self._in_format(dtype)
        return found

    def _ctranslate2(self) -> dict[str, Entrant]:
        backbone = seeded(self._subject.shape, self._subject.device)
        found: dict[str, Entrant] = {}
        for kind in ("float32", "int8"):
            row = {"method": "ctranslate2", "setting": "full depth", "seed": 0, "dtype": kind}
            engine = ctranslate2_system(backbone, self._folder / "ctranslate2", kind, threads=self._config.threads)
            found[f"ctranslate2 {kind}"] = Entrant(row, lambda _, own=engine: own, None, None, self._baseline(kind))
        return found

    def _llama_cpp(self) -> dict[str, Entrant]:
        backbone = seeded(self._subject.shape, torch.device("cpu"))
        found: dict[str, Entrant] = {}
        for kind in KINDS:
            file = self._folder / f"{kind}.gguf"
            write_gguf(backbone, file, kind)

            def system(workload: Workload, file: Path = file) -> System:
                positions = self._spec.prompt_tokens + self._spec.new_tokens
                return LlamaCpp(file, rows=workload.batch_size, positions=positions, threads=self._config.threads)

            row = {"method": "llama_cpp", "setting": "full depth", "seed": 0, "dtype": kind}
            found[f"llama_cpp {kind}"] = Entrant(row, system, None, None, self._baseline(kind))
        return found

    def _baseline(self, kind: str) -> str:
        """The number format in which the full model is compared with another engine's."""
        return kind if kind in self._spec.dtypes else self._spec.dtypes[0]

    def _in_format(self, dtype: str) -> dict[str, Entrant]:
        number_format, device = FORMATS[dtype], self._subject.device
        backbone = seeded(self._subject.shape, device).to(device, number_format.states)
        size = Footprint.of(backbone, number_format.weight_bytes)

        def entrant(row: Row, make: Callable[[Workload], System], policy: ExitPolicy | None) -> Entrant:
            return Entrant({**row, "seed": 0, "dtype": dtype}, make, policy, size, dtype)

        found = [entrant(*parts) for parts in self._ours(backbone, dtype)]
        if not number_format.integers:
            found += [entrant(*parts) for parts in self._on_plain_layers(backbone)]
        return {f"{one.row['method']} {one.row['setting']} {dtype}": one for one in found}

    def _ours(self, backbone: Backbone, dtype: str) -> Iterator[Parts]:
        """The cases on the fast path."""
        fast_path = lru_cache(maxsize=1)(lambda rows: FORMATS[dtype].fast_path(backbone, rows))
        for case in self._cases:
            policy, target = self._policy(case, backbone)
            row = {**vars(case.entry), **({} if target is None else {"target_speedup": target})}

            def fast(workload: Workload, policy: ExitPolicy = policy) -> System:
                return engine_system(fast_path(workload.batch_size), policy, workload)

            yield row, fast, policy

    def _on_plain_layers(self, backbone: Backbone) -> Iterator[Parts]:
        """The reference path, and Hugging Face's `generate`."""
        full = FullDepth(backbone.num_layers)
        yield {"method": "full", "setting": REFERENCE}, lambda workload: engine_system(backbone, full), full
        for peer, cache in (("hf_generate", None), ("hf_generate_static", "static")):
            if peer in self._spec.peers:
                row = {"method": peer, "setting": "full depth"}
                yield row, lambda workload, cache=cache: hf_generate_system(backbone, cache_implementation=cache), None

    def _policy(self, case: Case, backbone: Backbone) -> tuple[ExitPolicy, float | None]:
        """The policy with which a case decodes, and its target speedup."""
        prompts = self._subject.workload(4).prompts
        valid = collate(prompts, [[EOS] * self._spec.new_tokens] * len(prompts), PAD)
        module = case.candidates[0].build(self._setup(backbone)).eval()
        policy = module.exit_policy([Batch(*(tensor.to(self._subject.device) for tensor in valid))])
        return policy, module.target_speedup

    def _setup(self, backbone: Backbone) -> Setup:
        return Setup(backbone, [self._spec.new_tokens] * 8, Optimization(learning_rate=1e-3))
