"""Everything that can be refused, before anything is trained or written."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from skiplab.backbones.spec import BackboneSpec
from skiplab.comparison.cases import Case, expand
from skiplab.comparison.check_types import check_types
from skiplab.comparison.metrics import calibratable, metrics_of
from skiplab.data.encoding import Template
from skiplab.data.module import TextData
from skiplab.engine.backbone import Backbone
from skiplab.evaluation.calibration import CalibrationSpec
from skiplab.evaluation.metric import Metric
from skiplab.methods.base import Setup
from skiplab.training.trainer import SPREAD, TrainerSpec
from skiplab.utils.files import fingerprint


class ConfigurationError(Exception):
    """The configuration cannot be run; the message says what was expected, what came, and what to do."""


@dataclass(frozen=True)
class Prepared:
    """A comparison's parts, checked.

    Attributes:
        config: the resolved configuration as plain values.
        base_key: hash of all that the shared base depends on.
        base_trainer: the training that makes the base.
        calibration: what calibrated settings are certified for.
        metrics: what outputs are scored by.
        notes: what the user should know before it starts.
    """

    config: dict[str, Any]
    data: TextData
    spec: BackboneSpec
    trainer: TrainerSpec
    base_trainer: TrainerSpec
    base_key: str
    cases: list[Case]
    calibration: CalibrationSpec
    device: torch.device
    metrics: tuple[Metric, ...] = ()
    notes: tuple[str, ...] = ()

    def new_backbone(self) -> Backbone:
        """A backbone to start from."""
        vocabulary = len(self.data.tokenizer)
        ids = {"pad_id": self.data.pad_id, "bos_id": self.data.bos_id, "eos_id": self.data.eos_id}
        return self.spec.build(vocab_size=vocabulary, **ids)

    def probe(self) -> Setup:
        """What modules can be built on to see whether they can: no weights, the references' lengths."""
        with torch.device("meta"):
            backbone = self.new_backbone()
        return Setup(backbone, [target for _, target in self.data.valid_pairs.lengths], self.trainer.optimization)


@contextmanager
def configuring() -> Iterator[None]:
    """Turns whatever a bad configuration raises into a `ConfigurationError`."""
    try:
        yield
    except InstantiationException as error:
        raise ConfigurationError(str(error.__cause__ or error)) from error
    except MissingMandatoryValue as error:
        raise ConfigurationError(f"{error.full_key} has no value yet; give it as {error.full_key}=VALUE") from error
    except (ValueError, TypeError, OSError, OmegaConfBaseException, StrictDataclassError) as error:
        raise ConfigurationError(str(error)) from error


def prepare(cfg: DictConfig, *, together: bool = False) -> Prepared:
    """Resolve and check a configuration.

    Args:
        together: whether the job can be that of several processes.

    Raises:
        ConfigurationError: anything in it cannot work.
    """
    with configuring():
        prepared = _prepare(cfg)
        if prepared.trainer.processes > 1 and not together:
            raise ValueError(
                f"this experiment runs in one process, got trainer.devices={prepared.trainer.devices} and "
                f"trainer.num_nodes={prepared.trainer.num_nodes}; take 1 and 1, as in trainer=cpu"
            )
        return prepared


def device_of(accelerator: str) -> torch.device:
    """Where a trainer's accelerator decodes.

    Raises:
        ValueError: it is not there.
    """
    if accelerator not in ("gpu", "cuda"):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("trainer.accelerator asks for a GPU, and this machine has none; use trainer=cpu")
    return torch.device("cuda")


def _prepare(cfg: DictConfig) -> Prepared:
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    check_types(config)
    trainer: TrainerSpec = instantiate(config["trainer"])
    base_options = {key: value for key, value in config["base"].items() if key != "seed"}
    if spread := sorted(base_options.keys() & set(SPREAD)):
        raise ValueError(f"base.{spread[0]} is given as trainer.{spread[0]}, for all training alike")
    base_trainer = replace(trainer, **base_options)
    spec: BackboneSpec = instantiate(config["backbone"])
    template = Template(**config["template"])
    data = TextData(
        instantiate(config["data"]),
        batch_size=trainer.batch_size,
        max_new_tokens=config["max_new_tokens"],
        limit=config["limit"],
        tokenizer=spec.tokenizer(),
        template=template,
    )
    data.check(spec.positions)
    _check_benchmark(config)
    calibration = CalibrationSpec(**config["calibration"])
    methods = _methods(config)
    metrics = metrics_of(config["metrics"], config["bertscore"], data)
    calibration.check_metric(calibratable(metrics))
    prepared = Prepared(
        config=config,
        data=data,
        spec=spec,
        trainer=trainer,
        base_trainer=base_trainer,
        base_key=fingerprint(
            backbone=config["backbone"], trainer=base_trainer.recipe, seed=config["base"]["seed"],
            data=data.digest, encoding=data.encoding.identity, checkpoint=spec.identity,
            max_new_tokens=data.max_new_tokens,
        ),
        cases=[],
        calibration=calibration,
        metrics=metrics,
        device=device_of(trainer.accelerator),
        notes=_random_weights(config, data),
    )  # fmt: skip
    for spec_ in (trainer, base_trainer):
        spec_.trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    probe = prepared.probe()
    cases = expand(methods, config["seeds"], probe, calibration.delta)
    calibrated = [case for case in cases if case.delta is not None]
    if not calibrated:
        return replace(prepared, cases=cases)
    if calibration.reference == "own":
        for case in calibrated:
            _check_own(case, probe)
    items = len(data.splits["valid"])
    try:
        calibration.check_items(items)
    except ValueError as error:
        # A limit is for trying things out.
        if config["limit"] is None:
            raise
        kept = calibration.attainable(items)
        return replace(
            prepared,
            cases=[case for case in cases if case.delta is None or case.delta in kept.delta],
            calibration=kept,
            notes=(*prepared.notes, f"under limit, calibrated settings are left out: {error}"),
        )
    return replace(prepared, cases=cases)


def _random_weights(config: dict[str, Any], data: TextData) -> tuple[str, ...]:
    """Says so where a checkpoint is named and not taken."""
    backbone = config["backbone"]
    if backbone.get("checkpoint") is None or backbone.get("pretrained"):
        return ()
    name = backbone["checkpoint"].get("name", "the checkpoint")
    return (f"random weights instead of {name}, and a tokenizer of {len(data.tokenizer)} entries trained on the task",)


def _check_own(case: Case, probe: Setup) -> None:
    recipes = [candidate.build(probe).recipe for candidate in case.candidates]
    if any(recipe != recipes[0] for recipe in recipes):
        raise ValueError(
            f"calibration reference=own compares with the method's own weights at full depth, and the hypotheses of "
            f"{case.entry.label} have different weights; use reference=base"
        )


def _methods(config: dict[str, Any]) -> dict[str, Any]:
    """The method nodes, the full model first; `method=NAME` leaves that one beside it."""
    methods = dict(config["methods"])
    if single := config.get("method"):
        methods = {"full": methods.get("full"), single["name"]: single}
    full = methods.pop("full", None) or {"name": "full", "_target_": "skiplab.methods.full.Full"}
    return {"full": full, **methods}


def _check_benchmark(config: dict[str, Any]) -> None:
    benchmark = config["benchmark"]
    if benchmark["rounds"] < 2 or benchmark["warmup"] < 0:
        raise ValueError(
            f"benchmark needs rounds >= 2 for a spread and warmup >= 0, got {benchmark['rounds']} and "
            f"{benchmark['warmup']}"
        )
    if not config["speedups"] or not config["seeds"] or min(config["seeds"]) < 0:
        raise ValueError(
            f"speedups and seeds need a value each, seeds at least 0, got {config['speedups']} and {config['seeds']}"
        )
    if benchmark["prompts"] < 1:
        raise ValueError(f"benchmark.prompts must be at least 1, got {benchmark['prompts']}")
    if benchmark["new_tokens"] is not None and not 2 <= benchmark["new_tokens"] <= config["max_new_tokens"]:
        raise ValueError(
            f"benchmark.new_tokens must lie between 2 and max_new_tokens={config['max_new_tokens']}, got "
            f"{benchmark['new_tokens']}"
        )
    if config["decode_batch_size"] < 1 or any(size < 1 for size in benchmark["batch_sizes"]):
        raise ValueError("decode_batch_size and benchmark.batch_sizes must be at least 1")
    layers_at = benchmark["layers_at"]
    if layers_at is not None and (layers_at < 1 or config["trainer"]["accelerator"] != "cpu"):
        raise ValueError(
            f"benchmark.layers_at is a batch size of at least 1, on a CPU; got {layers_at} with "
            f"accelerator={config['trainer']['accelerator']}"
        )
    if config["checkpoint_every"] < 0:
        raise ValueError(f"checkpoint_every must be at least 0 seconds, got {config['checkpoint_every']}")
    if config["threads"] < 1:
        raise ValueError(f"threads must be at least 1, got {config['threads']}")
