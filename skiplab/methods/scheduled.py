"""Base classes of methods with a fixed plan per step: training under the plans, and solving the schedule."""

from abc import ABC
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from skiplab.engine.batch import Batch
from skiplab.engine.policy import PromptPlanned, Scheduled
from skiplab.methods.base import PlannedModule, Setup
from skiplab.methods.distillation import Distillation, planned_loss
from skiplab.methods.given_plan import GivenPlan
from skiplab.schedules.exit_schedule import PlanKind
from skiplab.schedules.prompt_spec import PromptSpec
from skiplab.schedules.schedule_solver import ScheduleSpec


class PlanTrainedModule(PlannedModule, ABC):
    """Is fine-tuned under the plans that it decodes with.

    A subclass sets the attributes. As constructor arguments they would be saved as hyperparameters.

    Args:
        distill: keywords of `Distillation`; None disables distillation.
        learning_rate: peak learning rate of this method; None means the trainer's.

    Attributes:
        policy: gives the plans.
        plans: plain values that determine the plans.
    """

    plans: dict[str, Any]

    def __init__(self, setup: Setup, distill: Mapping[str, float] | None, learning_rate: float | None = None) -> None:
        if learning_rate is not None:
            setup = replace(setup, optimization=replace(setup.optimization, learning_rate=learning_rate))
        super().__init__(setup)
        self.learning_rate = learning_rate
        self.distillation = Distillation.of(distill)

    def shared_recipe(self) -> Mapping[str, Any]:
        """Settings with equal plans and training options share one training."""
        rate = {} if self.learning_rate is None else {"learning_rate": self.learning_rate}
        taught_in = {"teacher_dtype": self._decode_dtype} if self.distillation.parts and self._decode_dtype else {}
        return {"loss": "planned", **self.plans, **self.distillation.recipe, **taught_in, **rate}

    def configure_model(self) -> None:
        """As the base's.

        Raises:
            ValueError: weights are sharded, and the prompt plan projects keys and values.
        """
        if self.device_mesh is not None and self.policy.prompt.projects:
            raise ValueError(
                "a prompt of the form project cannot be trained with sharded weights (strategy fsdp), because it uses "
                "layers in part; train it with ddp or on one device"
            )
        super().configure_model()

    def loss(self, batch: Batch) -> Tensor:
        return planned_loss(self.backbone, self.policy, batch, teacher=self.teacher, distillation=self.distillation)


class ScheduleTrainedModule(PlanTrainedModule, ABC):
    """Is fine-tuned under the schedule that it decodes with; further keywords are those of `ScheduleSpec`.

    Args:
        kind: which layers run at a given depth.
        prompt: keywords of `PromptSpec`; None takes the schedule file's, if there is one, or else runs every layer on
            the whole prompt.
        distill: keywords of `Distillation`; None disables distillation.
        schedule: a schedule file, or what one holds, instead of the keywords of `ScheduleSpec`; with it `speedup`
            only says which budget it stands for.
        learning_rate: peak learning rate of this method; None means the trainer's.

    Attributes:
        keywords_of: the dataclass whose fields are the further keywords, by which a configuration is checked.
    """

    keywords_of: ClassVar[type] = ScheduleSpec

    def __init__(
        self,
        setup: Setup,
        kind: PlanKind,
        *,
        prompt: Mapping[str, Any] | None = None,
        distill: Mapping[str, float] | None = None,
        schedule: str | Mapping[str, Any] | None = None,
        learning_rate: float | None = None,
        **options: Any,
    ) -> None:
        given = GivenPlan.solved(setup, kind, options) if schedule is None else GivenPlan.read(setup, schedule, options)
        super().__init__(setup, distill, learning_rate)
        self.policy, self.plans = given.policy, dict(given.plain)
        self._name, self._target = given.name, given.speedup
        self._prompt = PromptSpec.of(given.prompt if prompt is None else prompt)
        if self._prompt is not None:
            plan = self._prompt.plan(setup.backbone.num_layers, self.policy.plan(1))
            self.policy = PromptPlanned(self.policy, plan)
            self.plans["prompt"] = plan.plain()

    @property
    def setting(self) -> str:
        prompt = "" if self._prompt is None else f" {self._prompt}"
        rate = "" if self.learning_rate is None else f" lr {self.learning_rate:.3g}"
        return f"{self._name}{prompt}{self.distillation.suffix}{rate}"

    @property
    def target_speedup(self) -> float | None:
        return self._target


class ScheduledModule(PlannedModule, ABC):
    """Decodes by a schedule, and may be trained in any way; keywords are those of `ScheduleSpec`.

    Attributes:
        keywords_of: the dataclass whose fields are the further keywords, by which a configuration is checked.
    """

    keywords_of: ClassVar[type] = ScheduleSpec

    def __init__(self, setup: Setup, kind: PlanKind = "terminate", **schedule: Any) -> None:
        super().__init__(setup)
        self._spec = ScheduleSpec(**schedule)
        self.policy = Scheduled(self._spec.schedule(setup.backbone.num_layers, setup.lengths), kind)

    @property
    def setting(self) -> str:
        return str(self._spec)

    @property
    def target_speedup(self) -> float | None:
        return self._spec.speedup
