"""Make one setting of a comparison: train, decode and score it."""

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, final

from skiplab.comparison.calibrate import Calibrator, track_verdict
from skiplab.comparison.cases import Case
from skiplab.comparison.decoders import Decoder, Decoders
from skiplab.comparison.growth import definition
from skiplab.comparison.hf_entries import decodes, hf_entries
from skiplab.comparison.model_store import ModelStore
from skiplab.comparison.publish import track_outputs
from skiplab.comparison.save_setting import save_setting, setting_folder
from skiplab.comparison.session import Session
from skiplab.data.module import Item
from skiplab.engine.backbone import Backbone
from skiplab.engine.policy import ExitPolicy, FullDepth, HindsightPolicy
from skiplab.engine.speculative import Speculative
from skiplab.evaluation.calibration import Verdict
from skiplab.evaluation.generate import Generation, generate, generate_hf, perplexity, quality
from skiplab.evaluation.significance import seed_item_interval
from skiplab.export.description import FILE
from skiplab.export.saved_method import SavedMethodError
from skiplab.methods.base import ExitModule
from skiplab.methods.spec import MethodSpec
from skiplab.reporting.record import Entry, Record
from skiplab.reporting.results import Row, check_row


@dataclass(frozen=True)
class _Decoded:
    """A setting's outputs, and how they were made.

    Attributes:
        place: index of the candidate; None is full depth, or Hugging Face's `generate`.
        figures: figures other than the quality of the outputs.
        decoder: None is Hugging Face's `generate`.
    """

    outputs: Generation
    place: int | None = None
    figures: Row = field(default_factory=dict)
    decoder: Decoder | None = None


@final
class Settings:
    """Makes the settings' records on the test split."""

    def __init__(self, session: Session, models: ModelStore, decoders: Decoders) -> None:
        self._session = session
        self._prepared = session.prepared
        self._config = session.prepared.config
        self._data = session.prepared.data
        self._ranks = session.ranks
        self._models = models
        self._decoders = decoders
        self._calibrator = Calibrator(session, models)

    def make(self, entry: Entry, case: Case | None, full: Generation | None, run_id: str) -> Record:
        """A setting's record.

        Args:
            case: the case to build it from; None is Hugging Face's `generate` with the base's weights.
            full: the full model's outputs; None if this setting is the full model.
            run_id: the active MLflow run.
        """
        made = self._decoded_by_hf(entry) if case is None else self._decoded(entry, case, run_id)
        outputs, module = made.outputs, made.decoder and made.decoder.module
        scored, item_scores = quality(outputs, self._items, full or outputs, self._prepared.metrics, self._ranks)
        record = Record(
            entry=entry,
            series=entry.method if case is None else case.series,
            chosen=made.place,
            trained=module is not None and module.trains,
            # An oracle runs every layer before it chooses, so its time is meaningless.
            timed=made.decoder is None or not isinstance(made.decoder.policy, HindsightPolicy),
            figures={
                **made.figures,
                **_given("decode_batch_size", outputs.decode_batch_size),
                "mean_depth": outputs.mean_depth,
                "layer_speedup": self._models.base.num_layers / outputs.mean_depth,
                "test_items": len(self._items),
                "dtype": str(self._models.base.dtype).removeprefix("torch."),
                **scored,
            },
            outputs=outputs,
            item_scores=item_scores,
            definition=definition(case, self._prepared.trainer.max_epochs),
        )
        check_row(record.row)
        if self._config.save_models and case is not None and made.decoder is not None and module is not None:
            self._save_model(record, case.candidates[made.place or 0], made.decoder)
        track_outputs(self._session.tracker, record, full or outputs, self._items)
        return record

    def _decoded_by_hf(self, entry: Entry) -> _Decoded:
        self._session.tracker.log_params(vars(entry))
        options, size = hf_entries(self._config)[entry], self._config.decode_batch_size
        return _Decoded(
            generate_hf(
                self._models.base, self._data, self._items, batch_size=size if decodes(options, size) else 1,
                ranks=self._ranks, options=options,
            )
        )  # fmt: skip

    def _decoded(self, entry: Entry, case: Case, run_id: str) -> _Decoded:
        place, verdict = self._chosen(case, run_id)
        self._session.tracker.log_params({**vars(entry), **({} if place is None else case.candidates[place].params)})
        decoder = self._decoders.make(case, place, run_id)
        backbone, policy, module = decoder.backbone, decoder.policy, decoder.module
        outputs = self._generate(backbone, policy)
        figures: Row = {
            **_given("target_speedup", module and module.target_speedup),
            **_given("threshold", getattr(policy, "threshold", None)),
            **_given("perplexity", perplexity(backbone, policy, self._models.test_groups, self._ranks)),
            **_given("prefill_layer_speedup", self._prefill_layer_speedup(policy)),
            **_given("equal_outputs", self._equal_outputs(decoder, outputs)),
        }
        if place is not None:
            spec = case.candidates[place]
            figures |= _given("train_batch_part", self._models.batch_part(spec, entry.seed))
            figures |= self._models.training_cost(spec, entry.seed)
            figures["models_per_speed_range"] = self.models_in(case)
        if verdict is not None:
            figures |= self._calibration_figures(case, verdict, module, outputs)
        return _Decoded(outputs, place, figures, decoder)

    def _generate(self, backbone: Backbone, policy: ExitPolicy) -> Generation:
        return generate(
            backbone, policy, self._data, self._items,
            batch_size=self._config.decode_batch_size,
            progress=self._session.screen.counting("batches of the test items"), ranks=self._ranks,
            options=self._config.generation,
        )  # fmt: skip

    def _equal_outputs(self, decoder: Decoder, outputs: Generation) -> float | None:
        """Share of outputs that are full depth's with the same weights, token for token; None if nothing is drafted, or
        if sampling has no seed."""
        sampled = self._config.generation.do_sample and self._config.generation.seed is None
        if sampled or not isinstance(decoder.policy, Speculative):
            return None
        full = self._generate(decoder.backbone, FullDepth(decoder.backbone.num_layers))
        equal = [
            own == other
            for drafted, plain in zip(outputs.draws, full.draws, strict=True)
            for own, other in zip(drafted.tokens, plain.tokens, strict=True)
        ]
        return sum(equal) / len(equal)

    def _prefill_layer_speedup(self, policy: ExitPolicy) -> float | None:
        """None if every layer runs on whole prompts."""
        depth = policy.prompt.mean_depth([len(item.prompt_ids) for item in self._items])
        layers = self._models.base.num_layers
        return None if depth == layers else layers / depth

    def refreshed(self, record: Record, case: Case | None) -> Record:
        """A finished record, updated where it depends on the other settings of the current comparison."""
        if case is not None:
            models = self.models_in(case) if "models_per_speed_range" in record.figures else None
            figures = {**record.figures, **_given("models_per_speed_range", models)}
            record = replace(record, series=case.series, figures=figures)
        # Records of earlier versions lack a definition; their folders cannot grow, so the present one holds.
        return replace(record, definition=definition(case, self._prepared.trainer.max_epochs))

    def models_in(self, case: Case) -> int:
        """The number of trained models behind a case's curve, at its passes and with its seed."""
        specs = [
            spec
            for other in self._prepared.cases
            if (other.series, other.passes, other.entry.seed) == (case.series, case.passes, case.entry.seed)
            for spec in other.candidates
        ]
        return len({self._models.folder(spec, case.entry.seed) for spec in specs} - {self._models.base_folder})

    def _chosen(self, case: Case, run_id: str | None) -> tuple[int | None, Verdict | None]:
        """Index of the candidate with which a case decodes (None is full depth), and the verdict of its calibration."""
        if case.delta is None:
            return 0, None
        verdict = self._calibrator.choose(case, run_id)
        track_verdict(self._session.tracker, verdict)
        return verdict.chosen, verdict

    def _calibration_figures(self, case: Case, verdict: Verdict, module: ExitModule | None, outputs: Generation) -> Row:
        figures: Row = {"delta": case.delta, "epsilon": self._prepared.calibration.epsilon}
        if module is None or verdict.chosen is None:
            return {**figures, "calibrated": "full depth", **_given("not_certified", verdict.reason or None)}
        losses = self._calibrator.losses(module, outputs, self._items)
        interval = seed_item_interval([losses])
        return {
            **figures,
            "calibrated": module.setting,
            "calibration_loss": verdict.tested[verdict.chosen].loss,
            "test_loss": sum(losses) / len(losses),
            **_given("test_loss_ci95", interval and list(interval)),
        }

    def save_finished(self, record: Record, case: Case | None) -> None:
        """Save a finished setting as a model if the configuration asks for it and it is not saved yet."""
        if not self._config.save_models or case is None or record.chosen is None:
            return
        if not self._ranks.on_first((setting_folder(self._session, record.entry) / FILE).exists):
            self._save_model(record, case.candidates[record.chosen], self._decoders.make(case, record.chosen))

    def _save_model(self, record: Record, spec: MethodSpec, decoder: Decoder) -> None:
        self._ranks.on_first(partial(self._save_by_one, record, spec, decoder))

    def _save_by_one(self, record: Record, spec: MethodSpec, decoder: Decoder) -> None:
        try:
            save_setting(self._session, record, spec, decoder)
        except SavedMethodError as error:
            # The setting keeps its results.
            self._session.screen.print(f"    not saved: {error}")

    @cached_property
    def _items(self) -> list[Item]:
        return self._data.items("test")


def _given(key: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {key: value}
