"""The shared base and the methods' trained modules: loaded from the cache if present, otherwise trained.

The base and at most one other model are in memory at a time.
"""

import gc
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any, final

import lightning as L
import torch
from torch import nn

from skiplab.backbones.whole_weights import copy_whole
from skiplab.comparison.base_outputs import BaseOutputs
from skiplab.comparison.session import Session
from skiplab.data.module import TextData
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import Batch, PromptGroup, group_by_prompt
from skiplab.methods.base import ExitModule, Setup, TrainedModule
from skiplab.methods.full import Full
from skiplab.methods.spec import MethodSpec
from skiplab.reporting.curve_logger import Curves, points
from skiplab.reporting.tracker import Point
from skiplab.training.trainer import BATCH_PART, TrainerSpec, train
from skiplab.training.training_cost import TrainingCost
from skiplab.training.upkeep import Upkeep
from skiplab.training.weights import load_backbone, load_or_train, retrainable, saved
from skiplab.utils.files import fingerprint, load_json, save_json


@final
class ModelStore:
    """Trains each model once and loads it when needed; runs share bases and methods' weights through the cache.

    Args:
        trained: told the passes and seconds of each training.
    """

    def __init__(self, session: Session, trained: Callable[[int, float], object] | None = None) -> None:
        self._session = session
        self._note_trained = trained
        self._prepared = session.prepared
        self._ranks = session.ranks
        self._cache = Path(self._prepared.config.cache_dir).expanduser()
        self._base_dir = self._cache / f"base-{self._prepared.base_key}"
        self._in_memory: tuple[Path, Backbone] | None = None
        # Pairs of tracker run and weights folder whose curves were logged.
        self._tracked: set[tuple[str, Path]] = set()
        self._resolved: dict[MethodSpec, MethodSpec] = {}

    @cached_property
    def base(self) -> Backbone:
        """The backbone trained at full depth, for all methods to start from."""
        if not saved(self._base_dir, self._ranks):
            self._train_base()
            gc.collect()
        return self.load(self._base_dir)

    def _train_base(self) -> None:
        prepared, seed = self._prepared, self._prepared.config.base.seed
        L.seed_everything(seed, verbose=False)
        backbone = prepared.new_backbone()

        def train_base(checkpoints: Path) -> None:
            with self._session.run("base", "base") as run_id:
                module = Full(Setup(backbone, [], prepared.base_trainer.optimization))
                if prepared.base_trainer.max_epochs:
                    self._train(module, prepared.base_trainer, seed, checkpoints, run_id)

        complete = prepared.data.tokenizer.save_pretrained
        load_or_train(backbone.model, self._base_dir, train_base, complete, self._ranks)

    @property
    def lengths(self) -> list[int]:
        """Lengths of the base's outputs on the selection prompts, for which schedules are solved."""
        return self._base_outputs.lengths

    def training_data(self, trainer: TrainerSpec) -> TextData:
        """The task, with the training targets that a method's training takes."""
        return self._base_outputs.training_data(trainer.base_outputs)

    @cached_property
    def _base_outputs(self) -> BaseOutputs:
        return BaseOutputs(self._session, self._base_dir, lambda: self.base)

    @cached_property
    def selection_batches(self) -> list[Batch]:
        batches = self._prepared.data.batches("selection")
        return [Batch(*(tensor.to(self._prepared.device) for tensor in batch)) for batch in batches]

    @cached_property
    def test_groups(self) -> list[PromptGroup]:
        data = self._prepared.data
        groups = group_by_prompt(data.test_pairs, data.pad_id, size=data.batch_size)
        return [group.to(self._prepared.device) for group in groups]

    def resolved(self, spec: MethodSpec) -> MethodSpec:
        """The spec with its schedule solved for the base's output lengths."""
        if spec not in self._resolved:
            self._resolved[spec] = spec.resolved(self._meta_setup)
        return self._resolved[spec]

    def spec(self, method: type[ExitModule], **params: object) -> MethodSpec:
        """The spec of a method that is not in the configuration."""
        return MethodSpec.of(method, params, self._meta_setup)

    def module(self, spec: MethodSpec, seed: int, run_id: str | None) -> ExitModule:
        """A module with the weights of a seed's training.

        Args:
            run_id: MLflow run for the training curves; None keeps none.
        """
        spec = self.resolved(spec)
        backbone = self.base if spec.training is None else self._trained(spec, seed, run_id)
        module = spec.build(self._setup(backbone))
        for probe, key in zip(module.probes, spec.probes, strict=True):
            self._fit_probe(probe, self._folder(key, spec, seed), self._trainer(spec), seed, run_id)
            probe.to(self._prepared.device)
        if run_id:
            self._track_curves(spec, seed, run_id)
        return module.eval()

    def _track_curves(self, spec: MethodSpec, seed: int, run_id: str) -> None:
        """Log the curves of trainings that had ended before, in this run or another, to a run of the tracker."""
        for folder in self._trained_folders(spec, seed):
            if (run_id, folder) not in self._tracked:
                self._tracked.add((run_id, folder))
                self._session.tracker.log_points(run_id, points(folder))

    def folder(self, spec: MethodSpec, seed: int) -> Path:
        """The folder of the weights with which a module decodes; the base's if the method has no training."""
        training = self.resolved(spec).training
        return self._base_dir if training is None else self._folder(training, spec, seed)

    def _folder(self, training: str, spec: MethodSpec, seed: int) -> Path:
        trainer = self._trainer(spec)
        known = (
            {**trainer.recipe, "outputs_dtype": self._prepared.config.decode_dtype}
            if trainer.base_outputs is not None
            else trainer.recipe
        )
        key = fingerprint(base=self._prepared.base_key, trainer=known, seed=seed, training=training)
        return self._cache / f"method-{key}"

    def _trainer(self, spec: MethodSpec) -> TrainerSpec:
        trainer = self._prepared.trainer
        return trainer if spec.passes is None else replace(trainer, max_epochs=spec.passes)

    @property
    def base_folder(self) -> Path:
        return self._base_dir

    def load(self, folder: Path) -> Backbone:
        """A folder's weights, on the device and in the number format for decoding."""
        dtype = self._prepared.config.decode_dtype
        with retrainable(folder):
            backbone = load_backbone(folder, getattr(torch, dtype) if dtype else None)
        return backbone.eval().to(self._prepared.device)

    def let_go(self) -> None:
        """Free the memory of all models; they are loaded again when they are needed."""
        self._in_memory = None
        self.__dict__.pop("base", None)
        gc.collect()

    def _trained(self, spec: MethodSpec, seed: int, run_id: str | None) -> Backbone:
        folder = self.folder(spec, seed)
        if self._in_memory is None or self._in_memory[0] != folder:
            self._in_memory = None
            if not saved(folder, self._ranks):
                # Make room for the next model: after a failed training, module and trainer form a reference cycle.
                gc.collect()
                with retrainable(self._base_dir):
                    backbone = load_backbone(self._base_dir)
                module, trainer = spec.build(self._setup(backbone)), self._trainer(spec)
                self._fit(module, backbone.model, folder, trainer, seed, run_id)
                del module, backbone
                gc.collect()
            self._in_memory = folder, self.load(folder)
        return self._in_memory[1]

    def curves(self, spec: MethodSpec, seed: int) -> list[Point]:
        """Training curves of a spec's weights and probes."""
        return [point for folder in self._trained_folders(spec, seed) for point in points(folder)]

    def training_cost(self, spec: MethodSpec, seed: int) -> dict[str, Any]:
        """The cost of training a spec's weights and probes, with the keys of results; empty if nothing is trained."""
        costs = [TrainingCost.stored(folder) for folder in self._trained_folders(spec, seed)]
        known = [cost for cost in costs if cost is not None]
        return known[0].row(known[1:]) if known else {}

    def _trained_folders(self, spec: MethodSpec, seed: int) -> list[Path]:
        """The folders of a spec's weights and of its probes, which are trained on these weights."""
        spec = self.resolved(spec)
        keys = [key for key in (spec.training, *spec.probes) if key is not None]
        return [self._folder(key, spec, seed) for key in keys]

    def missing(self, spec: MethodSpec, seed: int) -> list[Path]:
        """The folders that have to be trained for a module; only the base's if that is missing."""
        if not saved(self._base_dir, self._ranks):
            return [self._base_dir]
        return [folder for folder in self._trained_folders(spec, seed) if not saved(folder, self._ranks)]

    def trainings_left(self, specs: Iterable[tuple[MethodSpec, int]]) -> dict[Path, int]:
        """Folders of the trainings that specs with their seeds still need, with their passes; of those it can tell."""
        passes: dict[Path, int] = {}
        for spec, seed in specs:
            try:
                folders = [folder for folder in self._trained_folders(spec, seed) if not saved(folder)]
            except ValueError:
                # The setting's own attempt reports it.
                continue
            passes |= dict.fromkeys(folders, self._trainer(spec).max_epochs)
        return passes

    def passes_left(self, specs: Iterable[tuple[MethodSpec, int]]) -> int:
        """Passes of the trainings that specs with their seeds still need, each training once."""
        return sum(self.trainings_left(specs).values())

    def batch_part(self, spec: MethodSpec, seed: int) -> float | None:
        """The fraction of a batch that was processed at a time in a spec's training; None is the whole batch."""
        return load_json(self.folder(spec, seed) / BATCH_PART)

    @property
    def base_curves(self) -> list[Point]:
        return points(self._base_dir)

    def _fit(
        self,
        module: TrainedModule,
        weights: nn.Module,
        folder: Path,
        trainer: TrainerSpec,
        seed: int,
        run_id: str | None,
    ) -> None:
        def train_method(checkpoints: Path) -> None:
            if run_id:
                self._tracked.add((run_id, folder))
            self._train(module, trainer, seed, checkpoints, run_id)

        def describe(unfinished: Path) -> None:
            known = {"base": self._prepared.base_key, "recipe": module.recipe, "code": module.code}
            save_json(unfinished / "training.json", {**known, "trainer": trainer.recipe, "seed": seed})

        load_or_train(weights, folder, train_method, describe, self._ranks)

    def _fit_probe(
        self, probe: TrainedModule, folder: Path, trainer: TrainerSpec, seed: int, run_id: str | None
    ) -> None:
        """Train a probe on the first rank only: it is small, and its loss need not be a mean over tokens."""
        self._ranks.on_first(lambda: self._fit(probe, probe, folder, trainer, seed, run_id))
        if not self._ranks.is_first:
            with retrainable(folder):
                copy_whole(probe, folder / "model.safetensors")

    def _setup(self, backbone: Backbone) -> Setup:
        return Setup(
            backbone,
            self.lengths,
            self._prepared.trainer.optimization,
            teacher=self.base,
            decode_dtype=self._prepared.config.decode_dtype,
        )

    @cached_property
    def _meta_setup(self) -> Setup:
        """The setup for making specs: the backbone's shape without weights, and the base's output lengths."""
        return self._prepared.probe(self.lengths)

    def _train(
        self, module: TrainedModule, spec: TrainerSpec, seed: int, checkpoints: Path, run_id: str | None
    ) -> None:
        start = monotonic()
        train(
            module,
            self.training_data(spec),
            spec,
            seed=seed,
            folder=checkpoints,
            logger=Curves(checkpoints, self._session.tracker, run_id),
            upkeep=Upkeep(
                checkpoint_every=self._prepared.config.checkpoint_every,
                progress=self._session.screen.counting("steps of training"),
            ),
            ranks=self._ranks,
        )
        if self._note_trained is not None:
            self._note_trained(spec.max_epochs, monotonic() - start)
