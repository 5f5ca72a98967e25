"""The base's outputs, decoded once and kept beside its weights: schedules are solved for their lengths, and methods can
be trained on them."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

from skiplab.comparison.session import Session
from skiplab.data.module import TextData
from skiplab.engine.backbone import Backbone
from skiplab.engine.generation import GREEDY, GenerationOptions
from skiplab.engine.policy import FullDepth
from skiplab.evaluation.generate import Generation, generate
from skiplab.utils.files import fingerprint, load_json, save_json
from skiplab.utils.locks import exclusive

# Of training targets; temperature and top-p are those with which the SkipDecode paper decodes.
_SAMPLED = GenerationOptions(do_sample=True, temperature=0.3, top_p=0.7, top_k=0, seed=0)


@final
class BaseOutputs:
    """Outputs of the base at full depth.

    Args:
        folder: of the base's weights.
        base: gives the base; it is called only if something has to be decoded.
    """

    def __init__(self, session: Session, folder: Path, base: Callable[[], Backbone]) -> None:
        self._session = session
        self._config = session.prepared.config
        self._folder = folder
        self._base = base

    @cached_property
    def lengths(self) -> list[int]:
        """Lengths of the outputs on the selection prompts."""
        options = self._config.generation
        chosen_by = None if options.is_default else fingerprint(generation=vars(options))

        def decoded() -> list[int]:
            outputs = self._decoded("selection", options)
            return [len(tokens) for draw in outputs.draws for tokens in draw.tokens]

        return self._kept("-".join(filter(None, ("selection-lengths", self._config.decode_dtype, chosen_by))), decoded)

    def training_data(self, count: int | None) -> TextData:
        """The task with these outputs per training prompt as targets: the greedy one, and samples close to it.

        At temperature 1 a small base's samples are often wrong.

        Args:
            count: None keeps the references.
        """
        data = self._session.prepared.data
        if count is None:
            return data

        def decoded() -> list[list[list[int]]]:
            draws = [*self._decoded("train", GREEDY).draws]
            if count > 1:
                sampled = replace(_SAMPLED, num_return_sequences=count - 1)
                draws += self._decoded("train", sampled).draws
            return [list(outputs) for outputs in zip(*(draw.tokens for draw in draws), strict=True)]

        name = "-".join(filter(None, ("train-outputs", str(count), self._config.decode_dtype)))
        return data.with_targets(self._kept(name, decoded))

    def _decoded(self, split: str, options: GenerationOptions) -> Generation:
        prepared, base = self._session.prepared, self._base()
        return generate(
            base, FullDepth(base.num_layers), prepared.data, prepared.data.items(split),
            batch_size=self._config.decode_batch_size, ranks=self._session.ranks, options=options,
            progress=self._session.screen.counting(f"batches of the base's outputs on the {split} items"),
        )  # fmt: skip

    def _kept(self, name: str, decoded: Callable[[], Any]) -> Any:
        """The named file's plain values; without it, they are decoded and written, by one process at a time."""
        path, ranks = self._folder / f"{name}.json", self._session.ranks
        lock = exclusive(self._folder.with_name(f"{self._folder.name}-{name}.lock"), f"the base's outputs {path}")
        with lock if ranks.is_first else nullcontext():
            if (kept := ranks.on_first(lambda: load_json(path))) is None:
                kept = decoded()
                ranks.on_first(lambda: save_json(path, kept))
        return kept
