"""The metrics of a comparison: the built-in ones, the task's scores, and those that the configuration names."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, final

from skiplab.data.module import TextData
from skiplab.data.source import Source
from skiplab.evaluation.bertscore import BERTScore
from skiplab.evaluation.metric import Measured, Metric, Outputs, is_calibratable
from skiplab.evaluation.metrics import BUILT_IN
from skiplab.reporting.vocabulary import FIGURES
from skiplab.utils.figures import Figure


@final
@dataclass(frozen=True)
class TaskScores(Metric):
    """A task's own scores, such as slot accuracy."""

    source: Source
    names: tuple[str, ...]

    @property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(FIGURES[name] for name in self.names)

    def measure(self, outputs: Outputs) -> Measured:
        pairs = zip(outputs.prompts, outputs.texts, strict=True)
        scored = [self.source.item_scores(prompt, text) for prompt, text in pairs]
        return Measured({name: [scores[name] for scores in scored] for name in self.names})


def metrics_of(paths: Sequence[str], bertscore: str | None, data: TextData) -> tuple[Metric, ...]:
    """All metrics of a comparison; the figures of new ones are registered.

    Args:
        paths: dotted paths of metrics, the configuration's `metrics`.
        bertscore: encoder for BERTScore; None omits it.

    Raises:
        ValueError: a path names no metric or one that fails, the encoder cannot be loaded, or a score of the task is
            not a registered figure.
    """
    prompt, references = data.splits["test"][0]["prompt"], data.splits["test"][0]["references"]
    task = TaskScores(data.source, tuple(data.source.item_scores(prompt, references[0])))
    for name in task.names:
        if name not in FIGURES:
            raise ValueError(
                f"the data scores {name!r}, which is not a registered figure; where its source is defined, call "
                f"skiplab.utils.figures.FIGURES.register(quality_figure({name!r}, ...))"
            )
    example = Outputs([prompt], [references], [references[0]], [[0]], [[0]])
    named = [_named(path, example) for path in dict.fromkeys(paths)]
    encoder = [BERTScore(bertscore)] if bertscore else []
    for one in encoder:
        one.check()
    return (*BUILT_IN, *encoder, *([task] if task.names else []), *named)


def figures_of(metrics: Iterable[Metric]) -> list[Figure]:
    """The figures that metrics measure."""
    return [figure for metric in metrics for figure in metric.figures]


def calibratable(metrics: Iterable[Metric]) -> list[str]:
    """The figures whose loss a calibration can bound."""
    return [figure.name for figure in figures_of(metrics) if is_calibratable(figure)]


def _named(path: str, example: Outputs) -> Metric:
    """The metric at a dotted path, tried on an example."""
    try:
        module, _, name = path.rpartition(".")
        metric: Any = getattr(import_module(module), name)
    except Exception as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"metrics: cannot import {path}: {reason}. Give the dotted path of a skiplab.evaluation.metric.Metric "
            "in an installed package, or in a folder of PYTHONPATH"
        ) from error
    if not isinstance(metric, Metric):
        raise ValueError(
            f"metrics: {path} is not a metric but {metric!r}; it must be a skiplab.evaluation.metric.Metric instance, "
            "such as a TextMetric"
        )
    names = {FIGURES.register(figure).name for figure in metric.figures}
    try:
        found = metric.measure(example)
    except Exception as error:
        raise ValueError(f"metrics: {path} fails on a test item: {type(error).__name__}: {error}") from error
    for name, scores in found.by_item.items():
        if name not in names or len(scores) != 1 or not math.isfinite(scores[0]):
            raise ValueError(
                f"metrics: {path} must give one finite score per item for {sorted(names)}, got {scores} for {name!r}"
            )
        if FIGURES[name].unit == "share" and not 0 <= scores[0] <= 1:
            raise ValueError(
                f"metrics: {path} gives a test item {scores[0]:g}, and a figure with unit 'share' is in [0, 1]; scale "
                "it, or give its figure another unit"
            )
    return metric
