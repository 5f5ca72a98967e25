"""Decoders of settings: weights and policy."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from skiplab.comparison.cases import Case
from skiplab.comparison.model_store import ModelStore
from skiplab.engine.backbone import Backbone
from skiplab.engine.policy import ExitPolicy, FullDepth
from skiplab.methods.base import ExitModule
from skiplab.reporting.record import Entry, Record


@final
@dataclass(frozen=True)
class WeightsAndPolicy:
    """A setting's policy, and the folder of its weights."""

    weights: Path
    policy: ExitPolicy


@final
@dataclass(frozen=True)
class Decoder:
    """Weights and policy, and the module that they come from; None for full depth, if no setting is certified."""

    backbone: Backbone
    policy: ExitPolicy
    module: ExitModule | None


@final
class Decoders:
    """Makes the settings' decoders, and caches the policies, which are small but slow to make.

    Args:
        own: whether full depth uses the method's own weights, or the base's.
    """

    def __init__(self, models: ModelStore, *, own: bool) -> None:
        self._models = models
        self._own = own
        self._known: dict[Entry, WeightsAndPolicy] = {}

    def make(
        self, case: Case, place: int | None, run_id: str | None = None, *, threshold: float | None = None
    ) -> Decoder:
        """The decoder of candidate number `place` of a case, trained if necessary; None is full depth.

        Args:
            run_id: MLflow run for the training curves; None keeps none.
            threshold: the one that was found for it; None finds it, if there is one to find.
        """
        spec, seed = case.candidates[place or 0].settled(threshold), case.entry.seed
        if place is None and not self._own:
            decoder = Decoder(self._models.base, FullDepth(self._models.base.num_layers), None)
            weights = self._models.base_folder
        else:
            module = self._models.module(spec, seed, run_id)
            weights = self._models.folder(spec, seed)
            if place is None:
                decoder = Decoder(module.backbone, FullDepth(module.backbone.num_layers), None)
            else:
                decoder = Decoder(module.backbone, module.exit_policy(self._models.selection_batches), module)
        self._known[case.entry] = WeightsAndPolicy(weights, decoder.policy)
        return decoder

    def weights_and_policy(self, case: Case, record: Record) -> WeightsAndPolicy:
        """The weights folder and policy of a finished case's decoder."""
        if case.entry not in self._known:
            self.make(case, record.chosen, threshold=record.figures.get("threshold"))
        return self._known[case.entry]
