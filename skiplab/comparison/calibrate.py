"""Calibrate a case: decode the calibration prompts under one hypothesis after another until one fails."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from time import sleep
from typing import Any, final
from weakref import WeakKeyDictionary

from skiplab.comparison.cases import Case
from skiplab.comparison.claims import FOLDER, claimed
from skiplab.comparison.model_store import ModelStore
from skiplab.comparison.session import Session
from skiplab.data.module import Item
from skiplab.engine.backbone import Backbone
from skiplab.engine.policy import AdaptivePolicy, ExitPolicy, FullDepth
from skiplab.evaluation.calibration import CalibrationSpec, Verdict, certify, stored
from skiplab.evaluation.consistency import consistency_losses, unmoved, why_uninformative
from skiplab.evaluation.generate import Generation, generate
from skiplab.methods.base import ExitModule
from skiplab.reporting.record import Entry
from skiplab.reporting.tracker import Tracker
from skiplab.utils.files import fingerprint

# Hypotheses, from the one that is needed, among which a process chooses while another measures that one.
_AHEAD = 3
_POLL_SECONDS = 0.1


@final
class Calibrator:
    """Chooses candidates. A hypothesis is decoded once for all deltas; its losses are kept in the run folder."""

    def __init__(self, session: Session, models: ModelStore) -> None:
        self._session = session
        self._prepared = session.prepared
        self._folder = session.folder
        self._models = models
        self._full: WeakKeyDictionary[Backbone, dict[bool, Generation]] = WeakKeyDictionary()
        self._all_moved: set[tuple[str, int]] = set()

    @property
    def spec(self) -> CalibrationSpec:
        return self._prepared.calibration

    def choose(self, case: Case, run_id: str | None) -> Verdict:
        """Find the fastest certified candidate of a calibrated case; the verdict is kept in the run folder."""
        assert case.delta is not None
        settings = [candidate.setting for candidate in case.candidates]
        if reason := self._why_uninformative(case, run_id):
            verdict = Verdict(None, [], reason)
        else:
            verdict = certify(
                settings, lambda place: self._measure(case, place, run_id), delta=case.delta, spec=self.spec
            )
        if verdict.reason:
            self._session.screen.print(f"    not certified: {verdict.reason}", style="yellow")
        params = None if verdict.chosen is None else case.candidates[verdict.chosen].params
        kept = stored(verdict, case.delta, self.spec, len(self._items), params)
        self._folder.save(f"calibration/calibration-{case.entry.key}", kept)
        return verdict

    def losses(self, module: ExitModule, own: Generation, items: list[Item]) -> list[float]:
        """Losses of outputs on the items relative to the reference outputs."""
        backbone = self._models.base if self.spec.reference == "base" else module.backbone
        spec = self.spec
        return consistency_losses(
            own,
            self._full_depth(backbone, items),
            items,
            self._prepared.metrics,
            consistency=spec.consistency,
            metric=spec.metric,
        )

    def _why_uninformative(self, case: Case, run_id: str | None) -> str:
        """Why the metric cannot certify anything on the full model's calibration outputs; empty if it can."""
        if self.spec.consistency != "risk":
            return ""
        candidate, seed, own = case.candidates[0], case.entry.seed, self.spec.reference == "own"
        weights = self._models.folder(candidate, seed) if own else self._models.base_folder
        about = {"metric": self.spec.metric, "weights": weights.name}
        name = f"calibration/metric-{fingerprint(**about)}"
        if (known := self._folder.load(name)) is None:
            backbone = self._models.module(candidate, seed, run_id).backbone if own else self._models.base
            full = self._full_depth(backbone, self._items)
            known = {"reason": why_uninformative(full, self._items, self._prepared.metrics, self.spec.metric)}
            self._folder.save(name, known)
        return known["reason"]

    def _measure(self, case: Case, place: int, run_id: str | None) -> tuple[list[float], float]:
        """Item losses and layer speedup of a hypothesis on the calibration items.

        While another process measures it, this one measures the next that is free: it is probably needed too.
        """
        while (known := self._folder.load(self._name(case, place))) is None:
            ahead = range(place, min(place + _AHEAD, len(case.candidates)))
            if not any(self._measured_here(case, one, run_id) for one in ahead):
                sleep(_POLL_SECONDS)
        return known["losses"], known["layer_speedup"]

    def _name(self, case: Case, place: int) -> str:
        """The file of a hypothesis in the run folder."""
        candidate, seed = case.candidates[place], case.entry.seed
        label = Entry(case.entry.method, candidate.setting, seed).key
        weights = self._models.folder(candidate, seed).name
        return f"calibration/{label}-{fingerprint(params=candidate.params, weights=weights)}"

    def _measured_here(self, case: Case, place: int, run_id: str | None) -> bool:
        """Measure a hypothesis, unless it is known or another process is at it; returns whether it was measured."""
        name = self._name(case, place)
        with self._claimed(name) as mine:
            if not mine or self._folder.load(name) is not None:
                return False
            module = self._models.module(case.candidates[place], case.entry.seed, run_id)
            policy = module.exit_policy(self._models.selection_batches)
            if isinstance(policy, AdaptivePolicy):
                own = self._moved_outputs(module, policy, (case.series, case.entry.seed))
            else:
                own = self._generate(module.backbone, policy, self._items)
            speedup = module.backbone.num_layers / own.mean_depth
            self._folder.save(name, {"losses": self.losses(module, own, self._items), "layer_speedup": speedup})
            return True

    def _claimed(self, name: str) -> AbstractContextManager[bool]:
        # Ranks work on a hypothesis together.
        if self._session.ranks.processes > 1:
            return nullcontext(True)
        return claimed(self._folder.path / FOLDER, [name.replace("/", "-")])

    def _moved_outputs(self, module: ExitModule, policy: AdaptivePolicy, ladder: tuple[str, int]) -> Generation:
        """A policy's outputs. Those known to equal full depth's are copied, and only the others are decoded.

        After a hypothesis that changes every output, faster ones are not checked. Under a batch policy that waits for
        the least confident row, each item is decoded alone, so that items are independent.
        """
        full = self._full_depth(module.backbone, self._items)
        kept = [False] * len(self._items)
        if ladder not in self._all_moved:
            kept = unmoved(module.backbone, policy, full, self._prepared.data, self._items, batch_size=self._batch_size)
        if not any(kept):
            self._all_moved.add(ladder)
        moved = [index for index, keep in enumerate(kept) if not keep]
        texts, tokens, depths = list(full.texts), list(full.tokens), list(full.depths)
        if moved:
            alone = 1 if policy.batch_policy == "min" else self._batch_size
            own = self._generate(module.backbone, policy, [self._items[index] for index in moved], alone)
            for index, text, ids, layers in zip(moved, own.texts, own.tokens, own.depths, strict=True):
                texts[index], tokens[index], depths[index] = text, ids, layers
        return Generation(texts, tokens, depths)

    def _full_depth(self, backbone: Backbone, items: list[Item]) -> Generation:
        by_split = self._full.setdefault(backbone, {})
        if (valid := items is self._items) not in by_split:
            by_split[valid] = self._generate(backbone, FullDepth(backbone.num_layers), items)
        return by_split[valid]

    def _generate(
        self, backbone: Backbone, policy: ExitPolicy, items: Sequence[Item], batch_size: int | None = None
    ) -> Generation:
        return generate(
            backbone,
            policy,
            self._prepared.data,
            items,
            batch_size=batch_size or self._batch_size,
            progress=self._session.screen.counting("batches of the calibration items"),
            ranks=self._session.ranks,
        )

    @property
    def _batch_size(self) -> int:
        return self._prepared.config.decode_batch_size

    @cached_property
    def _items(self) -> list[Item]:
        return self._prepared.data.items("calibration")


def track_verdict(tracker: Tracker, verdict: Verdict) -> None:
    """Log the tested hypotheses as a table of the active run."""
    columns: dict[str, list[Any]] = {}
    for one in verdict.tested:
        for name, value in vars(one).items():
            columns.setdefault(name, []).append(value)
    tracker.log_table(columns, "calibration.json")
