"""The whole configuration, typed: read and checked once, before anything is trained or written.

It is checked by pydantic, not by Hydra's structured configs: ranges, literals and nested classes are in the type hints,
classes that YAML names by `_target_` are checked against their own hints without being registered, and pydantic comes
with MLflow anyway. Types are strict: no "2" for 2, no true for 1, no 2.5 for an integer.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import BeforeValidator, ConfigDict, Field, InstanceOf, PrivateAttr, model_validator

from skiplab.backbones.checkpoint import DType
from skiplab.backbones.spec import BackboneSpec
from skiplab.benchmarking.rounds import Rounds
from skiplab.benchmarking.throughput_spec import ThroughputSpec
from skiplab.comparison.config_base import (
    ConfigurationError,
    Launch,
    Name,
    NonNegativeInt,
    Number,
    PositiveInt,
    Section,
    Seed,
    configuring,
    shown,
    validate,
)
from skiplab.comparison.config_capacity import Capacity
from skiplab.comparison.config_drafts import Drafts
from skiplab.comparison.config_generation import options_of
from skiplab.comparison.config_nodes import build, check_value, make, target, with_floats
from skiplab.comparison.config_streams import Streams
from skiplab.data.encoding import Template, typed_newlines
from skiplab.data.source import Source
from skiplab.engine.generation import GREEDY, GenerationOptions
from skiplab.evaluation.calibration import CalibrationSpec
from skiplab.methods.base import ExitModule
from skiplab.training.trainer import PARALLELISM_KEYS, TrainerSpec

Plain = dict[str, Any]
# Keys of a method node that are not hyperparameters.
_NODE_KEYS = ("name", "_target_", "sweep", "calibrate", "passes")
Passes = NonNegativeInt | Literal["per_speedup"] | None


class Base(Section):
    """The training of the shared base: its seed, and overrides of the trainer's settings."""

    model_config = ConfigDict(extra="allow")
    seed: Seed

    @property
    def options(self) -> Plain:
        """Overrides of the trainer's settings for the base."""
        return dict(self.__pydantic_extra__ or {})


class Benchmark(Section):
    """How decoding is timed."""

    batch_sizes: list[PositiveInt]
    prompts: PositiveInt
    new_tokens: Annotated[int, Field(ge=2)] | None
    # At least two, for quartiles.
    rounds: Annotated[int, Field(ge=2)]
    narrow: Annotated[Number, Field(gt=0)] | None
    warmup: Annotated[int, Field(ge=0)]
    layers_at: PositiveInt | None
    assisted: dict[Literal["hf_prompt_lookup", "hf_assistant_early_exit"], list[PositiveInt]] | None

    @property
    def timing(self) -> Rounds:
        """The rounds of interleaved timing."""
        return Rounds(self.rounds, self.warmup, self.narrow)


class Tracking(Section):
    """The MLflow store; without a `uri` nothing is tracked."""

    uri: Name | None
    experiment: Name


class _Method(Section):
    """The keys of every method node except its hyperparameters."""

    model_config = ConfigDict(extra="allow")
    name: Name
    target: Name = Field(alias="_target_")
    sweep: dict[str, list[Any]] | None = None
    calibrate: dict[str, Annotated[list[Any], Field(min_length=1)]] | None = None
    passes: Passes = None


class _SweptPasses(Section):
    passes: NonNegativeInt


def _data(node: Any) -> Source:
    return build(node, Source, "data")


def _backbone(node: Any) -> BackboneSpec:
    return build(node, BackboneSpec, "backbone")


def _trainer(node: Any) -> TrainerSpec:
    return build(node, TrainerSpec, "trainer")


def _calibration(values: Any) -> Any:
    return make(CalibrationSpec, values, "calibration") if isinstance(values, Mapping) else values


def _template(values: Any) -> Any:
    return make(Template, values, "template") if isinstance(values, Mapping) else values


def _throughput(values: Any) -> Any:
    return make(ThroughputSpec, values, "throughput") if isinstance(values, Mapping) else values


def _search(node: Any) -> Any:
    # Its class is in a later package, so the search job checks the type.
    return build(node, object, "search")


class RunConfig(Launch):
    """The configuration of a run.

    Attributes:
        methods: checked nodes as plain values, by the name under which the experiment lists them.
        method: a single node that replaces `methods`, compared with the full model.
        passes: a list that methods' sweeps refer to, as they do to `speedups`.
        metrics: dotted paths of further metrics.
        workers: processes that share the settings of a comparison, or the trials of a search; None is as many as the
            machine has room for, and one for a search, whose trials depend on it.
        search: the section of `experiment=search_schedule`.
        throughput: the section of jobs that time a model shape.
        streams: the section of `experiment=streams`.
        drafts: the section of `experiment=search_draft`.
        steps_per_round: for `experiment=scaling`; the first two steps of a round are not timed.
    """

    model_config = ConfigDict(extra="forbid")

    description: str | None = None
    passes: list[NonNegativeInt] | None = None
    speedups: Annotated[list[Annotated[Number, Field(ge=1)]], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    methods: dict[str, Plain]
    method: Plain | None = None
    metrics: list[Name] = Field(default_factory=list)
    limit: PositiveInt | None
    workers: PositiveInt | None = None
    cache_dir: Name
    checkpoint_every: Annotated[Number, Field(ge=0)]
    trainer: Annotated[InstanceOf[TrainerSpec], BeforeValidator(_trainer)]  # type: ignore[assignment]
    base: Base
    backbone: Annotated[InstanceOf[BackboneSpec], BeforeValidator(_backbone)]
    data: Annotated[InstanceOf[Source], BeforeValidator(_data)]
    template: Annotated[InstanceOf[Template], BeforeValidator(_template)]
    max_new_tokens: PositiveInt
    generation: Annotated[InstanceOf[GenerationOptions], BeforeValidator(options_of)] = GREEDY
    save_models: bool
    decode_batch_size: PositiveInt
    decode_dtype: DType | None
    bertscore: Name | None
    benchmark: Benchmark
    calibration: Annotated[InstanceOf[CalibrationSpec], BeforeValidator(_calibration)]
    tracking: Tracking
    throughput: Annotated[InstanceOf[ThroughputSpec], BeforeValidator(_throughput)] | None = None
    capacity: Capacity | None = None
    streams: Streams | None = None
    drafts: Drafts | None = None
    steps_per_round: Annotated[int, Field(ge=3)] | None = None
    search: Annotated[Any, BeforeValidator(_search)] = None

    _plain: Plain = PrivateAttr(default_factory=dict)

    @property
    def plain(self) -> Plain:
        """The resolved configuration as plain values, as it is written to disk and hashed."""
        return self._plain

    @property
    def method_nodes(self) -> dict[str, Plain]:
        """The method nodes, the full model first; with `method=NAME` only these two. Passes are resolved to numbers."""
        methods = dict(self.methods)
        if self.method:
            methods = {"full": methods.get("full"), self.method["name"]: self.method}
        full = methods.pop("full", None) or {"name": "full", "_target_": "skiplab.methods.full.Full"}
        methods = {"full": full, **methods}
        return {name: self._with_passes(node) for name, node in methods.items()}

    def _with_passes(self, node: Plain) -> Plain:
        if node.get("passes") == "per_speedup":
            return {**node, "passes": self.trainer.max_epochs * len(self.speedups)}
        return {"passes": 0, **node} if self.trainer.max_epochs == 0 else node

    @property
    def base_trainer(self) -> TrainerSpec:
        """The training that makes the base."""
        return make(type(self.trainer), {**vars(self.trainer), "base_outputs": None, **self.base.options}, "base")

    def section(self, name: str) -> Any:
        """A section that the job needs, but that not every experiment has.

        Raises:
            ConfigurationError: the section is missing.
        """
        if (found := getattr(self, name)) is None:
            raise ConfigurationError(
                f"{name} is missing or null, and {self.job} needs it; use an experiment that has it"
            )
        return found

    @model_validator(mode="after")
    def _fits_together(self) -> "RunConfig":
        benchmark = self.benchmark
        if benchmark.new_tokens is not None and benchmark.new_tokens > self.max_new_tokens:
            raise ConfigurationError(
                f"benchmark.new_tokens must lie between 2 and max_new_tokens={self.max_new_tokens}, got "
                f"{benchmark.new_tokens}"
            )
        if benchmark.layers_at is not None and self.trainer.accelerator != "cpu":
            raise ConfigurationError(
                f"benchmark.layers_at is for a CPU, got {benchmark.layers_at} with trainer.accelerator="
                f"{self.trainer.accelerator}; take null"
            )
        if (self.workers or 1) > 1 and self.trainer.processes > 1:
            raise ConfigurationError(
                f"workers={self.workers} makes several settings at once, and trainer.devices times trainer.num_nodes="
                f"{self.trainer.processes} distributes each training; a job can do only one of the two, set the other "
                "to 1"
            )
        if spread := sorted(self.base.options.keys() & set(PARALLELISM_KEYS)):
            raise ConfigurationError(f"base.{spread[0]} must be set as trainer.{spread[0]}, for all trainings")
        _ = self.base_trainer
        for name, node in self.methods.items():
            _check_method(node, f"methods.{name}")
        if self.method is not None:
            _check_method(self.method, "method")
        return self


def load(cfg: DictConfig) -> RunConfig:
    """Resolve and check a configuration.

    Raises:
        ConfigurationError: a key is unknown or missing, or a value of another type or out of its range.
    """
    with configuring():
        plain: Plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
        if isinstance(template := plain.get("template"), dict):
            plain["template"] = {
                key: typed_newlines(value) if isinstance(value, str) else value for key, value in template.items()
            }
        for key, value in _floats(plain):
            if not math.isfinite(value):
                raise ConfigurationError(f"{key} must be a finite number, got {value}")
        config = validate(RunConfig, plain := with_floats(plain, sections={"base": TrainerSpec}))
        config._plain = plain
        return config


def _check_method(node: Plain, key: str) -> None:
    """Check the hyperparameters of a method node, its sweep and its calibration against its class's type hints."""
    if not {"name", "_target_"} <= node.keys():
        raise ConfigurationError(f"{key} must be a node with name and _target_, got {shown(node)}; ~{key} removes it")
    checked = validate(_Method, node, key)
    cls = target(checked.target, f"{key}._target_")
    if not issubclass(cls, ExitModule):
        raise ConfigurationError(f"{key}._target_ must name an ExitModule, got {checked.target}")
    for name, value in node.items():
        if name not in _NODE_KEYS:
            check_value(cls, name, value, f"{key}.{name}")
    for part in ("sweep", "calibrate"):
        for name, values in (getattr(checked, part) or {}).items():
            for value in values:
                if name == "passes":
                    validate(_SweptPasses, {"passes": value}, f"{key}.{part}")
                else:
                    check_value(cls, name, value, f"{key}.{part}.{name}")


def _floats(values: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """All numbers that may be NaN or infinite, with their keys."""
    if isinstance(values, float):
        yield key, values
    elif isinstance(values, Mapping):
        for name, value in values.items():
            yield from _floats(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list):
        for place, value in enumerate(values):
            yield from _floats(value, f"{key}[{place}]")
