"""One setting of a comparison: trained, decoded, scored."""

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, final

from skiplab.comparison import publish
from skiplab.comparison.calibrate import Calibrator, track_verdict
from skiplab.comparison.cases import Case, Entry
from skiplab.comparison.decoders import Decoder, Decoders
from skiplab.comparison.model_store import Models
from skiplab.comparison.prepare import Prepared
from skiplab.data.module import Item
from skiplab.engine.policy import ExitPolicy, HindsightPolicy
from skiplab.evaluation.calibration import Verdict
from skiplab.evaluation.generate import Generation, generate, generate_hf, perplexity, quality
from skiplab.evaluation.significance import seed_item_interval
from skiplab.export.saved_method import save_method
from skiplab.methods.base import ExitModule
from skiplab.reporting import mlflow_store
from skiplab.reporting.results import Row, check_row
from skiplab.utils import distributed
from skiplab.utils.progress import Progress
from skiplab.utils.run_folder import RunFolder


@dataclass(frozen=True)
class _Decoded:
    """A setting's outputs, and what made them.

    Attributes:
        place: the candidate's; None is full depth, or no case.
        figures: what is known beside the outputs' quality.
        decoder: None is Hugging Face's `generate`.
    """

    outputs: Generation
    place: int | None = None
    figures: Row = field(default_factory=dict)
    decoder: Decoder | None = None


@final
class Settings:
    """Makes the settings' records on the test split."""

    def __init__(
        self, prepared: Prepared, models: Models, decoders: Decoders, folder: RunFolder, progress: Progress
    ) -> None:
        self._prepared = prepared
        self._config = prepared.config
        self._data = prepared.data
        self._models = models
        self._decoders = decoders
        self._folder = folder
        self._progress = progress
        self._calibrator = Calibrator(prepared, models, folder, progress)

    def make(self, entry: Entry, case: Case | None, full: Generation | None, run_id: str) -> dict[str, Any]:
        """A setting's record as plain values: its result `row`, its `outputs`, scores `by_item` and so on.

        Args:
            case: what it is built from; None is Hugging Face's `generate` with the base's weights.
            full: the full model's outputs; None while these are made.
            run_id: the active MLflow run.
        """
        made = self._decoded_by_hf(entry) if case is None else self._decoded(entry, case, run_id)
        outputs, module = made.outputs, made.decoder and made.decoder.module
        figures, by_item = quality(outputs, self._items, full or outputs, self._prepared.metrics)
        row: Row = {
            **vars(entry),
            **made.figures,
            **_given("decode_batch_size", outputs.decode_batch_size),
            "mean_depth": outputs.mean_depth,
            "layer_speedup": self._models.base.num_layers / outputs.mean_depth,
            "dtype": str(self._models.base.dtype).removeprefix("torch."),
            **figures,
        }
        check_row(row)
        if self._config["save_models"] and case is not None and made.decoder is not None and module is not None:
            params = case.candidates[made.place or 0].params
            distributed.on_first(partial(self._save_model, entry, module, made.decoder.policy, params, row))
        publish.track_outputs(row, outputs, full or outputs, self._items)
        return {
            "series": entry.method if case is None else case.series,
            "candidate": made.place,
            "trained": module is not None and module.recipe is not None,
            # An oracle runs every layer to choose in hindsight: its clock would say nothing.
            "timed": made.decoder is None or not isinstance(made.decoder.policy, HindsightPolicy),
            "row": row,
            "outputs": vars(outputs),
            "depth_by_step": outputs.depth_by_step(),
            "by_item": by_item,
        }

    def _decoded_by_hf(self, entry: Entry) -> _Decoded:
        mlflow_store.log_params(vars(entry))
        batch_size = self._config["decode_batch_size"]
        return _Decoded(generate_hf(self._models.base, self._data, self._items, batch_size=batch_size))

    def _decoded(self, entry: Entry, case: Case, run_id: str) -> _Decoded:
        place, verdict = self._chosen(case, run_id)
        mlflow_store.log_params({**vars(entry), **({} if place is None else case.candidates[place].params)})
        decoder = self._decoders.make(case, place, run_id)
        backbone, policy, module = decoder.backbone, decoder.policy, decoder.module
        batch_size = self._config["decode_batch_size"]
        outputs = generate(backbone, policy, self._data, self._items, batch_size=batch_size, progress=self._progress)
        figures: Row = {
            **_given("target_speedup", module and module.target_speedup),
            **_given("threshold", getattr(policy, "threshold", None)),
            **_given("perplexity", perplexity(backbone, policy, self._models.test_batches)),
        }
        if place is not None:
            figures |= _given("train_batch_part", self._models.batch_part(case.candidates[place], entry.seed))
        if verdict is not None:
            figures |= self._calibration_figures(case, verdict, module, outputs)
        return _Decoded(outputs, place, figures, decoder)

    def _chosen(self, case: Case, run_id: str | None) -> tuple[int | None, Verdict | None]:
        """Place of the candidate that a case decodes with, None for full depth; and the calibration that chose it."""
        if case.delta is None:
            return 0, None
        verdict = self._calibrator.choose(case, run_id)
        track_verdict(verdict)
        return verdict.chosen, verdict

    def _calibration_figures(self, case: Case, verdict: Verdict, module: ExitModule | None, outputs: Generation) -> Row:
        figures: Row = {"delta": case.delta, "epsilon": self._prepared.calibration.epsilon}
        if module is None or verdict.chosen is None:
            return {**figures, "calibrated": "full depth"}
        losses = self._calibrator.losses(module, outputs, self._items)
        interval = seed_item_interval([losses])
        return {
            **figures,
            "calibrated": module.setting,
            "calibration_loss": verdict.tested[verdict.chosen].loss,
            "test_loss": sum(losses) / len(losses),
            **_given("test_loss_ci95", interval and list(interval)),
        }

    def _save_model(
        self, entry: Entry, module: ExitModule, policy: ExitPolicy, params: dict[str, Any], row: Row
    ) -> None:
        """The setting as a folder that `skiplab.export.saved_method.load_method` reads, and registered to be served."""
        folder = self._folder.path / "models" / entry.key
        save_method(
            folder,
            module,
            policy,
            self._data.encoding,
            params=params,
            max_new_tokens=self._data.max_new_tokens,
            facts={"task": self._data.source.name, **row},
        )
        name = f"{self._config['tracking']['experiment']}-{entry.name}"
        mlflow_store.register_method(folder, name, tags={"seed": entry.seed})

    @cached_property
    def _items(self) -> list[Item]:
        return self._data.items("test")


def _given(key: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {key: value}
