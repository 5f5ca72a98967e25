"""What decodes a setting: weights and policy."""

from dataclasses import dataclass
from typing import final

from skiplab.backbone import Backbone
from skiplab.jobs.cases import Candidate, Entry
from skiplab.jobs.models import Models
from skiplab.module import ExitModule
from skiplab.policy import ExitPolicy, FullDepth


@dataclass(frozen=True)
class Decoder:
    """Weights and policy, and the module that they come from; None is the base at full depth."""

    backbone: Backbone
    policy: ExitPolicy
    module: ExitModule | None


@final
class Decoders:
    """Makes each setting's decoder once."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._made: dict[Entry, Decoder] = {}

    def get(self, entry: Entry, candidate: Candidate | None, run_id: str | None = None) -> Decoder:
        """The decoder of a setting built from a candidate, trained if need be; None is the base at full depth.

        Args:
            run_id: MLflow run for the training curves; None keeps none.
        """
        if entry not in self._made:
            self._made[entry] = self._make(entry, candidate, run_id)
        return self._made[entry]

    def _make(self, entry: Entry, candidate: Candidate | None, run_id: str | None) -> Decoder:
        if candidate is None:
            return Decoder(self._models.base, FullDepth(self._models.base.num_layers), None)
        module = self._models.module(candidate, entry.seed, run_id)
        return Decoder(module.backbone, module.exit_policy(self._models.valid_batches), module)
