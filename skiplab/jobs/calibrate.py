"""Calibrate a case: decode the validation prompts under one hypothesis after the other until one fails."""

from functools import cached_property
from typing import Any, final

from skiplab import tracking
from skiplab.benchmark import Progress
from skiplab.calibration import CalibrationSpec, Verdict, certify, stored
from skiplab.data.module import Item
from skiplab.evaluate import Generation, consistency_losses, generate
from skiplab.files import save_json
from skiplab.jobs.cases import Candidate, Case, Entry
from skiplab.jobs.models import Models
from skiplab.jobs.prepare import Prepared
from skiplab.module import ExitModule
from skiplab.policy import ExitPolicy, FullDepth
from skiplab.run_folder import RunFolder


@final
class Calibrator:
    """Chooses candidates. A hypothesis is decoded once, for all deltas; what is measured is kept in the run folder."""

    def __init__(self, prepared: Prepared, models: Models, folder: RunFolder, progress: Progress) -> None:
        self._prepared = prepared
        self._models = models
        self._folder = folder
        self._progress = progress
        self._full: dict[str, Generation] = {}

    @property
    def spec(self) -> CalibrationSpec:
        return self._prepared.calibration

    def choose(self, case: Case, run_id: str | None) -> tuple[Candidate | None, Verdict]:
        """The fastest certified candidate of a calibrated case, None for full depth.

        The verdict is kept beside the weights that it speaks of.
        """
        assert case.delta is not None
        settings = [candidate.setting for candidate in case.candidates]

        def measure(place: int) -> tuple[list[float], float]:
            return self._measure(case, case.candidates[place], run_id)

        verdict = certify(settings, measure, delta=case.delta, spec=self.spec)
        chosen = None if verdict.chosen is None else case.candidates[verdict.chosen]
        params = None if chosen is None else chosen.params
        weights = self._models.weights_dir(case.candidates[0] if chosen is None else chosen, case.entry.seed)
        kept = stored(verdict, case.delta, self.spec, len(self._items), params)
        save_json(weights / f"calibration-{case.entry.key}.json", kept)
        return chosen, verdict

    def losses(self, module: ExitModule, own: Generation, items: list[Item]) -> list[float]:
        """What outputs on the items lose against the reference's."""
        full = self._reference(module, items)
        spec = self.spec
        return consistency_losses(
            own, full, items, self._prepared.data, consistency=spec.consistency, metric=spec.metric
        )

    def _measure(self, case: Case, candidate: Candidate, run_id: str | None) -> tuple[list[float], float]:
        name = f"calibration/{Entry(case.entry.method, candidate.setting, case.entry.seed).key}"
        if (known := self._folder.load(name)) is None:
            module = self._models.module(candidate, case.entry.seed, run_id)
            policy = module.exit_policy(self._models.valid_batches)
            own = self._generate(module, policy, self._items)
            speedup = module.backbone.num_layers / own.mean_depth
            known = {"losses": self.losses(module, own, self._items), "layer_speedup": speedup}
            self._folder.save(name, known)
        return known["losses"], known["layer_speedup"]

    def _reference(self, module: ExitModule, items: list[Item]) -> Generation:
        backbone = self._models.base if self.spec.reference == "base" else module.backbone
        key = f"{id(backbone)} {items is self._items}"
        if key not in self._full:
            policy = FullDepth(backbone.num_layers)
            self._full[key] = generate(
                backbone, policy, self._prepared.data, items, batch_size=self._batch_size, progress=self._progress
            )
        return self._full[key]

    def _generate(self, module: ExitModule, policy: ExitPolicy, items: list[Item]) -> Generation:
        return generate(
            module.backbone,
            policy,
            self._prepared.data,
            items,
            batch_size=self._batch_size,
            progress=self._progress,
        )

    @property
    def _batch_size(self) -> int:
        return self._prepared.config["decode_batch_size"]

    @cached_property
    def _items(self) -> list[Item]:
        return self._prepared.data.items("valid")


def track_verdict(verdict: Verdict) -> None:
    """The tested hypotheses as a table of the active run."""
    columns: dict[str, list[Any]] = {}
    for one in verdict.tested:
        for name, value in vars(one).items():
            columns.setdefault(name, []).append(value)
    tracking.log_table(columns, "calibration.json")
