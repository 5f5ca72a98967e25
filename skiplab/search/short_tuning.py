"""A short fine-tuning under one plan that reports validation losses."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, final

import lightning as L
from lightning.pytorch.callbacks import Callback

from skiplab.comparison.model_store import ModelStore
from skiplab.comparison.prepare import Prepared
from skiplab.engine.backbone import Backbone
from skiplab.methods.base import Setup
from skiplab.methods.skipdecode import SkipDecode
from skiplab.schedules.nested_plan import NestedPlan
from skiplab.schedules.schedule_file import NamedPlan
from skiplab.search.spec import SearchSpec
from skiplab.training.trainer import StopOnNonFiniteLoss

Report = Callable[[int, float], None]


@final
class _Watched(Callback):
    """Reports each validation loss."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._report(trainer.global_step, float(trainer.callback_metrics["valid_loss"]))


def tune(
    prepared: Prepared,
    models: ModelStore,
    spec: SearchSpec,
    plan: NestedPlan,
    training: Mapping[str, Any],
    report: Report,
) -> Backbone:
    """The base after `spec.tune_steps` steps under a plan, with `spec.tune_reports` looks at the validation loss.

    Args:
        training: SkipDecode's keywords beside the schedule.

    Raises:
        Exception: whatever `report` raises ends it.
    """
    L.seed_everything(prepared.config.seeds[0], verbose=False)
    backbone = prepared.new_backbone()
    backbone.model.load_state_dict(models.base.model.state_dict())
    setup = Setup(backbone, models.lengths, prepared.trainer.optimization, teacher=models.base)
    module = SkipDecode(setup, schedule=NamedPlan(name="trial", plan=plan).plain(), **training)
    data = models.training_data(prepared.trainer)
    steps = max(1, -(-len(data.train_pairs) // data.batch_size))
    trainer = replace(prepared.trainer, max_epochs=-(-spec.tune_steps // steps)).trainer(
        max_steps=spec.tune_steps, val_check_interval=max(1, min(spec.tune_steps, steps) // spec.tune_reports),
        logger=False, enable_checkpointing=False, enable_progress_bar=False, num_sanity_val_steps=0,
        callbacks=[StopOnNonFiniteLoss(), _Watched(report)],
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    module.eval()
    return backbone.to(prepared.device)
