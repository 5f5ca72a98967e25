"""The shared base and the methods' trained modules: from disk where they are there, else trained.

Of these models the base and one other are in memory at a time.
"""

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, final

import lightning as L
import torch
from safetensors.torch import load_model
from torch import nn

from skiplab.comparison.cases import Candidate
from skiplab.comparison.prepare import Prepared
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import Batch
from skiplab.engine.policy import FullDepth
from skiplab.evaluation.generate import generate
from skiplab.methods.base import ExitModule, Setup, TrainedModule
from skiplab.methods.full import Full
from skiplab.reporting.curve_logger import Curves, Point, points
from skiplab.training.trainer import BATCH_PART, TrainerSpec, train
from skiplab.training.weights import load_backbone, load_or_train, saved
from skiplab.utils import distributed
from skiplab.utils.files import fingerprint, load_json, save_json


@final
class Models:
    """Trains each model once, and reads it as often as need be.

    Bases are shared between runs through the cache, methods' weights are the run's own.
    """

    def __init__(self, prepared: Prepared, run_dir: Path, base_run: Callable[[], AbstractContextManager[str]]) -> None:
        """`base_run` opens the MLflow run for the base's training."""
        self._prepared = prepared
        self._base_run = base_run
        self._run_dir = run_dir
        self._base_dir = Path(prepared.config.cache_dir).expanduser() / f"base-{prepared.base_key}"
        self._at_hand: tuple[Path, Backbone] | None = None

    @cached_property
    def base(self) -> Backbone:
        """The backbone trained at full depth, for all methods to start from."""
        if not saved(self._base_dir):
            self._train_base()
        return self.load(self._base_dir)

    def _train_base(self) -> None:
        prepared, seed = self._prepared, self._prepared.config.base.seed
        L.seed_everything(seed, verbose=False)
        backbone = prepared.new_backbone()

        def train_base(checkpoints: Path) -> None:
            with self._base_run() as run_id:
                module = Full(Setup(backbone, [], prepared.base_trainer.optimization))
                self._train(module, prepared.base_trainer, seed, checkpoints, run_id)

        load_or_train(backbone.model, self._base_dir, train_base, complete=prepared.data.tokenizer.save_pretrained)

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens per output of the base on the validation prompts: what schedules are solved for."""
        decoded_in = self._prepared.config.decode_dtype
        stored = self._base_dir / ("lengths.json" if decoded_in is None else f"lengths-{decoded_in}.json")
        if (lengths := distributed.on_first(lambda: load_json(stored))) is None:
            data, policy = self._prepared.data, FullDepth(self.base.num_layers)
            batch_size = self._prepared.config.decode_batch_size
            outputs = generate(self.base, policy, data, data.items("valid"), batch_size=batch_size)
            lengths = [len(tokens) for tokens in outputs.tokens]
            distributed.on_first(lambda: save_json(stored, lengths))
        return lengths

    @cached_property
    def valid_batches(self) -> list[Batch]:
        return self._batches("valid")

    @cached_property
    def test_batches(self) -> list[Batch]:
        return self._batches("test")

    def module(self, candidate: Candidate, seed: int, run_id: str | None) -> ExitModule:
        """A candidate's module with the weights of a seed's training.

        Args:
            run_id: MLflow run for the training curves; None keeps none.
        """
        module = candidate.build(self._setup(self.base))
        if (recipe := module.recipe) is not None:
            backbone = self._trained(candidate, seed, self.folder(candidate, seed), run_id)
            module = candidate.build(self._setup(backbone))
        for probe in module.probes:
            folder = self._run_dir / "weights" / self._key(seed, recipe=recipe, probe=probe.recipe)
            # Small, and its loss need be no mean over tokens: one rank trains it.
            self._fit_probe(probe, folder, seed, run_id)
            probe.to(self._prepared.device)
        return module.eval()

    def folder(self, candidate: Candidate, seed: int) -> Path:
        """Where the weights are that a candidate's module decodes with; the base's if it has no training."""
        recipe = candidate.build(self._setup(self.base)).recipe
        return self._base_dir if recipe is None else self._run_dir / "weights" / self._key(seed, recipe=recipe)

    @property
    def base_folder(self) -> Path:
        return self._base_dir

    def load(self, folder: Path) -> Backbone:
        """A folder's weights, on the device and in the number format that settings decode in."""
        # Lightning's trainer and module hold each other.
        gc.collect()
        dtype = self._prepared.config.decode_dtype
        return load_backbone(folder, getattr(torch, dtype) if dtype else None).eval().to(self._prepared.device)

    def let_go(self) -> None:
        """Free the memory of all models; what is asked for later is read again."""
        self._at_hand = None
        self.__dict__.pop("base", None)
        gc.collect()

    def _trained(self, candidate: Candidate, seed: int, folder: Path, run_id: str | None) -> Backbone:
        if self._at_hand is None or self._at_hand[0] != folder:
            # Room for the next one; of a training that failed, module and trainer hold each other.
            self._at_hand = None
            gc.collect()
            if not saved(folder):
                backbone = load_backbone(self._base_dir)
                self._fit(candidate.build(self._setup(backbone)), backbone.model, folder, seed, run_id)
                del backbone
            self._at_hand = folder, self.load(folder)
        return self._at_hand[1]

    def curves(self, candidate: Candidate, seed: int) -> list[Point]:
        """Training curves of a candidate's weights and probes."""
        module = candidate.build(self._setup(self.base))
        recipes = [
            {"recipe": module.recipe},
            *({"recipe": module.recipe, "probe": one.recipe} for one in module.probes),
        ]
        return [point for one in recipes for point in points(self._run_dir / "weights" / self._key(seed, **one))]

    def batch_part(self, candidate: Candidate, seed: int) -> float | None:
        """The share of a batch that went through the model at a time in a candidate's training; None is the whole."""
        return load_json(self.folder(candidate, seed) / BATCH_PART)

    @property
    def base_curves(self) -> list[Point]:
        return points(self._base_dir)

    def _key(self, seed: int, **recipes: Any) -> str:
        trainer = self._prepared.trainer.recipe
        return fingerprint(base=self._prepared.base_key, trainer=trainer, seed=seed, **recipes)

    def _fit(self, module: TrainedModule, weights: nn.Module, folder: Path, seed: int, run_id: str | None) -> None:
        load_or_train(
            weights,
            folder,
            lambda checkpoints: self._train(module, self._prepared.trainer, seed, checkpoints, run_id),
        )

    def _fit_probe(self, probe: TrainedModule, folder: Path, seed: int, run_id: str | None) -> None:
        """By the first rank alone: a probe is small, and its loss need not be a mean over tokens."""
        distributed.on_first(lambda: self._fit(probe, probe, folder, seed, run_id))
        if not distributed.is_first():
            load_model(probe, folder / "model.safetensors")

    def _batches(self, split: str) -> list[Batch]:
        batches = self._prepared.data.batches(split)
        return [Batch(*(tensor.to(self._prepared.device) for tensor in batch)) for batch in batches]

    def _setup(self, backbone: Backbone) -> Setup:
        return Setup(backbone, self.lengths, self._prepared.trainer.optimization, teacher=self.base)

    def _train(
        self, module: TrainedModule, spec: TrainerSpec, seed: int, checkpoints: Path, run_id: str | None
    ) -> None:
        train(
            module,
            self._prepared.data,
            spec,
            seed=seed,
            folder=checkpoints,
            logger=Curves(checkpoints, run_id),
            checkpoint_every=self._prepared.config.checkpoint_every,
        )
