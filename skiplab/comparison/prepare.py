"""Check a configuration completely before anything is trained or written."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from omegaconf import DictConfig

from skiplab.backbones.spec import BackboneSpec
from skiplab.comparison.cases import Case, expand
from skiplab.comparison.config import RunConfig, load
from skiplab.comparison.config_base import ConfigurationError as ConfigurationError
from skiplab.comparison.config_base import configuring as configuring
from skiplab.comparison.config_generation import check_greedy
from skiplab.comparison.metrics import calibratable, metrics_of
from skiplab.data.module import TextData
from skiplab.engine.backbone import Backbone
from skiplab.evaluation.calibration import CalibrationSpec
from skiplab.evaluation.metric import Metric
from skiplab.methods.base import Setup
from skiplab.reporting.tables import FEW_ITEMS, few_items
from skiplab.training.trainer import TrainerSpec
from skiplab.utils.files import fingerprint


@dataclass(frozen=True)
class Prepared:
    """The checked parts of a comparison.

    Attributes:
        config: the configuration; `config.plain` is written to disk.
        base_key: hash of everything that the shared base depends on.
        base_trainer: the training that makes the base.
        calibration: the quality guarantee of calibrated settings.
        metrics: with which outputs are scored.
        notes: warnings for the user, shown before the comparison starts.
    """

    config: RunConfig
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
        """A new backbone, with pretrained or random weights."""
        vocabulary = len(self.data.tokenizer)
        ids = {"pad_id": self.data.pad_id, "bos_id": self.data.bos_id, "eos_id": self.data.eos_id}
        return self.spec.build(vocab_size=vocabulary, **ids)

    def probe(self, lengths: Sequence[int] | None = None) -> Setup:
        """A setup without weights, to check modules and read their properties.

        Args:
            lengths: output lengths; None takes those of the references.
        """
        with torch.device("meta"):
            backbone = self.new_backbone()
        lengths = lengths or [target for _, target in self.data.selection_pairs.lengths]
        return Setup(backbone, lengths, self.trainer.optimization, decode_dtype=self.config.decode_dtype)


def prepare(cfg: DictConfig, *, allow_distributed: bool = False) -> Prepared:
    """Resolve and check a configuration.

    Args:
        allow_distributed: whether the job supports several processes.

    Raises:
        ConfigurationError: the configuration is invalid; the message says why.
    """
    with configuring():
        prepared = _prepare(cfg)
        if prepared.trainer.processes > 1 and not allow_distributed:
            raise ValueError(
                f"this experiment runs in one process, got trainer.devices={prepared.trainer.devices} and "
                f"trainer.num_nodes={prepared.trainer.num_nodes}; take 1 and 1, as in trainer=cpu"
            )
        return prepared


def device_of(accelerator: str) -> torch.device:
    """The device for decoding with a trainer's accelerator.

    Raises:
        ValueError: the machine does not have it.
    """
    if accelerator not in ("gpu", "cuda"):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("trainer.accelerator asks for a GPU, and this machine has none; use trainer=cpu")
    return torch.device("cuda")


def _prepare(cfg: DictConfig) -> Prepared:
    config = load(cfg)
    trainer, base_trainer, spec = config.trainer, config.base_trainer, config.backbone
    data = TextData(
        config.data,
        batch_size=trainer.batch_size,
        max_new_tokens=config.max_new_tokens,
        limit=config.limit,
        tokenizer=spec.tokenizer(),
        template=config.template,
    )
    data.check(spec.positions)
    if base_trainer.max_epochs == 0 and not spec.identity:
        raise ValueError("base.max_epochs=0 keeps the base as it is, and its weights are random; choose a checkpoint")
    if base_trainer.base_outputs is not None:
        raise ValueError(
            f"the base is trained on the references, got base.base_outputs={base_trainer.base_outputs}; remove it"
        )
    calibration = config.calibration
    metrics = metrics_of(config.metrics, config.bertscore, data)
    calibration.check_metric(calibratable(metrics))
    prepared = Prepared(
        config=config,
        data=data,
        spec=spec,
        trainer=trainer,
        base_trainer=base_trainer,
        base_key=fingerprint(
            backbone=config.plain["backbone"], trainer=base_trainer.recipe, seed=config.base.seed,
            data=data.digest, encoding=data.encoding.identity, checkpoint=spec.identity,
            max_new_tokens=data.max_new_tokens,
        ),
        cases=[],
        calibration=calibration,
        metrics=metrics,
        device=device_of(trainer.accelerator),
        notes=(*_random_weights(config, data), *_few_items(data, "test")),
    )  # fmt: skip
    for spec_ in (trainer, base_trainer):
        spec_.trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    return _with_cases(prepared)


def _with_cases(prepared: Prepared) -> Prepared:
    """A copy with its settings; under `limit`, without calibrated settings that so few items cannot certify."""
    config, data, calibration, probe = prepared.config, prepared.data, prepared.calibration, prepared.probe()
    cases = expand(config.method_nodes, config.seeds, probe, calibration.delta)
    calibrated = [case for case in cases if case.delta is not None]
    if not calibrated:
        return replace(prepared, cases=cases)
    check_greedy(config.generation, "calibrated settings are certified", ", or leave these out with ~methods.NAME")
    if calibration.reference == "own":
        for case in calibrated:
            _check_own(case)
    items = len(data.rows("calibration"))
    few = _few_items(data, "calibration")
    try:
        calibration.check_items(items)
    except ValueError as error:
        # `limit` is for quick trials, which should not fail for this.
        if config.limit is None:
            raise
        kept = calibration.attainable(items)
        return replace(
            prepared,
            cases=[case for case in cases if case.delta is None or case.delta in kept.delta],
            calibration=kept,
            notes=(
                *prepared.notes,
                *(few if kept.delta else ()),
                f"under limit, calibrated settings are left out: {error}",
            ),
        )
    return replace(prepared, cases=cases, notes=(*prepared.notes, *few))


def _few_items(data: TextData, split: str) -> tuple[str, ...]:
    """A note if a split has few items."""
    count = len(data.rows(split))
    return (few_items(split, count).removesuffix("."),) if count < FEW_ITEMS else ()


def _random_weights(config: RunConfig, data: TextData) -> tuple[str, ...]:
    """A note if a checkpoint is named but not used."""
    backbone = config.plain["backbone"]
    if backbone.get("checkpoint") is None or backbone.get("pretrained"):
        return ()
    name = backbone["checkpoint"].get("name", "the checkpoint")
    return (f"random weights instead of {name}, and a tokenizer of {len(data.tokenizer)} entries trained on the task",)


def _check_own(case: Case) -> None:
    if len({spec.training for spec in case.candidates}) > 1:
        raise ValueError(
            f"calibration reference=own compares with the method's own weights at full depth, and the hypotheses of "
            f"{case.entry.label} have different weights; use reference=base"
        )
