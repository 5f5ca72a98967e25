"""Calibrate a case: decode the validation prompts under one hypothesis after the other until one fails."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, final

from skiplab import tracking
from skiplab.backbone import Backbone
from skiplab.benchmark import Progress
from skiplab.calibration import CalibrationSpec, Verdict, certify, stored
from skiplab.data.module import Item
from skiplab.evaluate import Generation, consistency_losses, generate, unmoved
from skiplab.files import save_json
from skiplab.jobs.cases import Candidate, Case, Entry
from skiplab.jobs.models import Models
from skiplab.jobs.prepare import Prepared
from skiplab.module import ExitModule
from skiplab.policy import AdaptivePolicy, ExitPolicy, FullDepth
from skiplab.run_folder import RunFolder


@final
class Calibrator:
    """Chooses candidates. A hypothesis is decoded once, for all deltas; what is measured is kept in the run folder."""

    def __init__(self, prepared: Prepared, models: Models, folder: RunFolder, progress: Progress) -> None:
        self._prepared = prepared
        self._models = models
        self._folder = folder
        self._progress = progress
        self._full: dict[tuple[int, bool], Generation] = {}
        self._unmoved: dict[tuple[str, int], list[list[bool]]] = {}

    @property
    def spec(self) -> CalibrationSpec:
        return self._prepared.calibration

    def choose(self, case: Case, run_id: str | None) -> tuple[Candidate | None, Verdict]:
        """The fastest certified candidate of a calibrated case, None for full depth.

        The verdict is kept beside the weights that it speaks of.
        """
        assert case.delta is not None
        settings = [candidate.setting for candidate in case.candidates]
        verdict = certify(settings, lambda place: self._measure(case, place, run_id), delta=case.delta, spec=self.spec)
        chosen = None if verdict.chosen is None else case.candidates[verdict.chosen]
        params = None if chosen is None else chosen.params
        weights = self._models.weights_dir(case.candidates[0] if chosen is None else chosen, case.entry.seed)
        kept = stored(verdict, case.delta, self.spec, len(self._items), params)
        save_json(weights / f"calibration-{case.entry.key}.json", kept)
        return chosen, verdict

    def losses(self, module: ExitModule, own: Generation, items: list[Item]) -> list[float]:
        """What outputs on the items lose against the reference's."""
        backbone = self._models.base if self.spec.reference == "base" else module.backbone
        spec = self.spec
        return consistency_losses(
            own,
            self._full_depth(backbone, items),
            items,
            self._prepared.data,
            consistency=spec.consistency,
            metric=spec.metric,
        )

    def _measure(self, case: Case, place: int, run_id: str | None) -> tuple[list[float], float]:
        """Item losses and layer speedup of a hypothesis on the calibration items."""
        candidate, seed = case.candidates[place], case.entry.seed
        name = f"calibration/{Entry(case.entry.method, candidate.setting, seed).key}"
        if (known := self._folder.load(name)) is None:
            module = self._models.module(candidate, seed, run_id)
            policy = module.exit_policy(self._models.valid_batches)
            if isinstance(policy, AdaptivePolicy):
                own = self._moved_outputs(case, place, module, policy)
            else:
                own = self._generate(module.backbone, policy, self._items)
            speedup = module.backbone.num_layers / own.mean_depth
            known = {"losses": self.losses(module, own, self._items), "layer_speedup": speedup}
            self._folder.save(name, known)
        return known["losses"], known["layer_speedup"]

    def _moved_outputs(self, case: Case, place: int, module: ExitModule, policy: ExitPolicy) -> Generation:
        """A hypothesis's outputs: those of full depth that it leaves as they are, and the others decoded."""
        full = self._full_depth(module.backbone, self._items)
        kept = self._unmoved_by(case, module.backbone, full)[place]
        moved = [index for index, keep in enumerate(kept) if not keep]
        texts, tokens, depths = list(full.texts), list(full.tokens), list(full.depths)
        if moved:
            own = self._generate(module.backbone, policy, [self._items[index] for index in moved])
            for index, text, ids, layers in zip(moved, own.texts, own.tokens, own.depths, strict=True):
                texts[index], tokens[index], depths[index] = text, ids, layers
        return Generation(texts, tokens, depths)

    def _unmoved_by(self, case: Case, backbone: Backbone, full: Generation) -> list[list[bool]]:
        """For each hypothesis of a case, which of its weights' full-depth outputs it leaves as they are."""
        key = (case.series, case.entry.seed)
        if key not in self._unmoved:
            modules = [self._models.module(candidate, case.entry.seed, None) for candidate in case.candidates]
            policies = [module.exit_policy(self._models.valid_batches) for module in modules]
            adaptive = [policy for policy in policies if isinstance(policy, AdaptivePolicy)]
            self._unmoved[key] = unmoved(
                backbone, adaptive, full, self._prepared.data, self._items, batch_size=self._batch_size
            )
        return self._unmoved[key]

    def _full_depth(self, backbone: Backbone, items: list[Item]) -> Generation:
        key = (id(backbone), items is self._items)
        if key not in self._full:
            self._full[key] = self._generate(backbone, FullDepth(backbone.num_layers), items)
        return self._full[key]

    def _generate(self, backbone: Backbone, policy: ExitPolicy, items: Sequence[Item]) -> Generation:
        return generate(
            backbone, policy, self._prepared.data, items, batch_size=self._batch_size, progress=self._progress
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
