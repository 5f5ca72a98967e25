"""What decodes a setting: weights and policy."""

from dataclasses import dataclass
from typing import final

from skiplab.backbone import Backbone
from skiplab.jobs.cases import Case, Entry
from skiplab.jobs.models import Models
from skiplab.module import ExitModule
from skiplab.policy import ExitPolicy, FullDepth


@dataclass(frozen=True)
class Decoder:
    """Weights and policy, and the module that they come from; None is full depth for want of a certified setting."""

    backbone: Backbone
    policy: ExitPolicy
    module: ExitModule | None


@final
class Decoders:
    """Makes each setting's decoder once.

    Args:
        own: whether full depth is that of a method's own weights, or else the base's.
    """

    def __init__(self, models: Models, *, own: bool) -> None:
        self._models = models
        self._own = own
        self._made: dict[Entry, Decoder] = {}

    def get(self, case: Case, place: int | None, run_id: str | None = None) -> Decoder:
        """The decoder of a case's candidate at a place, trained if need be; None is full depth.

        Args:
            run_id: MLflow run for the training curves; None keeps none.
        """
        if case.entry not in self._made:
            self._made[case.entry] = self._make(case, place, run_id)
        return self._made[case.entry]

    def _make(self, case: Case, place: int | None, run_id: str | None) -> Decoder:
        if place is None and not self._own:
            return Decoder(self._models.base, FullDepth(self._models.base.num_layers), None)
        module = self._models.module(case.candidates[place or 0], case.entry.seed, run_id)
        if place is None:
            return Decoder(module.backbone, FullDepth(module.backbone.num_layers), None)
        return Decoder(module.backbone, module.exit_policy(self._models.valid_batches), module)
