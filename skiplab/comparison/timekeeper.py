"""Time the settings of a comparison interleaved, on prompts of the test set."""

from collections.abc import Callable, Mapping, Sequence
from typing import final

from skiplab.benchmarking.hf_systems import hf_generate_system
from skiplab.benchmarking.layer_times import layer_times
from skiplab.benchmarking.timing import System, Workload, engine_system
from skiplab.comparison.cases import Case
from skiplab.comparison.decoders import Decoders, WeightsAndPolicy
from skiplab.comparison.hf_entries import decodes, hf_entries
from skiplab.comparison.model_store import ModelStore
from skiplab.comparison.records import Records
from skiplab.comparison.session import Session
from skiplab.comparison.swappable_backbone import SwappableBackbone
from skiplab.comparison.timed_systems import spread_workload, time_systems
from skiplab.engine.policy import FullDepth
from skiplab.reporting.record import Entry, Record

Errors = dict[Entry, Exception]


@final
class Timekeeper:
    """Times finished settings. Speeds are saved in their records, times by layer in `layers` of the run folder."""

    def __init__(self, session: Session, models: ModelStore, decoders: Decoders, records: Records) -> None:
        self._session = session
        self._options = session.prepared.config.benchmark
        self._models = models
        self._decoders = decoders
        self._records = records
        self._hf = hf_entries(session.prepared.config)

    def run(self, cases: Mapping[Entry, Case | None], full: Record) -> dict[Entry, str]:
        """Time all settings, unless all have timings.

        Args:
            cases: the settings to time, the full model first; None is Hugging Face's `generate`.
            full: the full model's record; every system generates as many tokens as it did.

        Returns:
            The errors of the settings that raised; the others are timed all the same.
        """
        sizes = self._options.batch_sizes
        if not sizes:
            return {}
        in_turns = any(
            len(self._timings(entry)) < sum(decodes(self._hf.get(entry, {}), size) for size in sizes) for entry in cases
        )
        layers_at = self._options.layers_at if self._lack_layers(cases) else None
        if not in_turns:
            self._session.screen.print("timing: already finished")
        errors: Errors = {}
        timed = self._timed(cases, errors) if in_turns or layers_at else {}
        if timed:
            self._models.let_go()
            swappable = SwappableBackbone(self._models.load, next(iter(timed.values())).weights)
            lengths = [len(tokens) for tokens in full.outputs.tokens]
            if in_turns:
                self._session.screen.phase(f"timing {len(timed)} systems in interleaved rounds")
                workloads = [self._workload(lengths, size) for size in sizes]
                self._in_turns(swappable, timed, full.entry, workloads, errors)
            if layers_at:
                self._by_layer(swappable, timed, self._workload(lengths, layers_at), errors)
        return {entry: f"timing: {type(error).__name__}: {error}" for entry, error in errors.items()}

    def _lack_layers(self, cases: Mapping[Entry, Case | None]) -> bool:
        known = self._session.folder.load("layers") or {}
        return any(case is not None and entry.label not in known for entry, case in cases.items())

    def _timings(self, entry: Entry) -> Sequence[object]:
        record = self._records.get(entry)
        return record.timings if record else ()

    def _timed(self, cases: Mapping[Entry, Case | None], errors: Errors) -> dict[Entry, WeightsAndPolicy]:
        """The settings to time, ordered so that those with the same weights are neighbours."""
        made: dict[Entry, WeightsAndPolicy] = {}
        for entry, case in cases.items():
            record = self._records.get(entry)
            assert record is not None
            try:
                if case is None:
                    full = FullDepth(self._models.base.num_layers)
                    made[entry] = WeightsAndPolicy(self._models.base_folder, full)
                else:
                    made[entry] = self._decoders.weights_and_policy(case, record)
            except Exception as error:  # noqa: BLE001 - one setting's failure must spare the others
                # Frames of the traceback would keep a model alive.
                errors[entry] = error.with_traceback(None)
        order = list(dict.fromkeys(one.weights for one in made.values()))
        return dict(sorted(made.items(), key=lambda item: order.index(item[1].weights)))

    def _in_turns(
        self,
        swappable: SwappableBackbone,
        timed: Mapping[Entry, WeightsAndPolicy],
        full: Entry,
        workloads: Sequence[Workload],
        errors: Errors,
    ) -> None:
        def system(entry: Entry) -> Callable[[Workload], System | None]:
            if (given := self._hf.get(entry)) is not None:
                return lambda workload: (
                    hf_generate_system(swappable.backbone, **given) if decodes(given, workload.batch_size) else None
                )
            policy = timed[entry].policy
            return lambda workload: engine_system(swappable.packed(workload.batch_size), policy, workload)

        by_key = {entry.key: entry for entry in timed}
        found, failed = time_systems(
            {key: system(entry) for key, entry in by_key.items()},
            workloads,
            baseline=full.key,
            options=self._options,
            device=self._session.prepared.device,
            before=lambda key: swappable.load_weights(timed[by_key[key]].weights),
            progress=self._session.screen.counting("rounds of timing"),
        )
        errors |= {by_key[key]: error for key, error in failed.items()}
        self._records.add_timings({by_key[key]: timings for key, timings in found.items()})

    def _by_layer(
        self,
        swappable: SwappableBackbone,
        timed: Mapping[Entry, WeightsAndPolicy],
        workload: Workload,
        errors: Errors,
    ) -> None:
        found = {}
        for entry, one in timed.items():
            if entry not in self._hf and entry not in errors:
                try:
                    swappable.load_weights(one.weights)
                    found[entry.label] = layer_times(swappable.backbone, one.policy, workload)
                except Exception as error:  # noqa: BLE001 - one setting's failure must spare the others
                    errors[entry] = error
        self._session.folder.save("layers", found)

    def _workload(self, lengths: Sequence[int], batch_size: int) -> Workload:
        data = self._session.prepared.data
        return spread_workload(
            data.items("test"), lengths, batch_size=batch_size, options=self._options, pad_id=data.pad_id
        )
