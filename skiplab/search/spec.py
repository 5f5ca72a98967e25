"""The options of a search, and their checks before the first trial."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final, get_args

from skiplab.reporting.vocabulary import FIGURES
from skiplab.search.space import SearchSpace
from skiplab.utils.figures import Figure, Sense, did_you_mean

Fidelity = Literal["once_for_all", "base", "fine_tune"]


@final
@dataclass(frozen=True, kw_only=True)
class SearchSpec:
    """One search.

    Args:
        study: its name in the storage; a study of that name goes on.
        storage: `sqlite:///FILE`, the path of a journal file, or `postgresql+psycopg://...`.
        artifacts: folder of the plots that optuna-dashboard shows.
        sampler: `tpe`, `nsga2`, `gp` or `random`.
        baselines: samplers of further studies with as many trials, to compare with.
        trials: schedules to judge. Duplicate and infeasible trials are not counted.
        seed: seed of the samplers.
        fidelity: `once_for_all`: by a model fine-tuned under random plans; `base`: by the base as it is;
            `fine_tune`: after a short fine-tuning of its own.
        tune_steps: training steps of the short fine-tuning.
        tune_reports: number of validation losses reported to the pruner during it.
        pruner: `median` or `hyperband`, for one objective under `fine_tune`; None disables pruning.
        objectives: by metric, `minimize` or `maximize`: a quality and a speed, or one of them.
        constraints: by metric, `at_least` or `at_most` and a number.
        warm_starts: decays whose solutions for the speedups, with the paper's one warm-up layer, are tried first.
        profile_items: validation examples that layers' importances are measured on.
        profile_parts: cuts per layer.
        profile_stages: rounds of measuring from one speedup to the next.
        select: how the chosen schedule is picked: `speedup: X`, the best that is at least so fast; `quality: X`, the
            fastest at least so good; or `guarantee: DELTA`, the fastest certified one, one of calibration.delta.
        space: the schedules.

    In `objectives`, `constraints` and `select` an entry of None counts as absent.
    """

    study: str
    storage: str
    artifacts: str
    sampler: str
    baselines: Sequence[str]
    trials: int
    seed: int
    fidelity: Fidelity
    tune_steps: int
    tune_reports: int
    pruner: str | None
    objectives: Mapping[str, str]
    constraints: Mapping[str, Mapping[str, float]]
    warm_starts: Sequence[str]
    profile_items: int
    profile_parts: int
    profile_stages: int
    select: Mapping[str, float]
    space: SearchSpace

    def __post_init__(self) -> None:
        from skiplab.search.study import PrunerName, SamplerName

        # Overrides merge into these mappings; null takes an entry out.
        for name in ("objectives", "constraints", "select"):
            kept = {key: value for key, value in getattr(self, name).items() if value is not None}
            object.__setattr__(self, name, kept)

        for name, value, known in (
            ("fidelity", self.fidelity, get_args(Fidelity)),
            ("sampler", self.sampler, get_args(SamplerName)),
            *(("baselines", value, get_args(SamplerName)) for value in self.baselines),
            *([("pruner", self.pruner, get_args(PrunerName))] if self.pruner is not None else []),
        ):
            if value not in known:
                raise ValueError(f"unknown search.{name} {value!r}; choose one of {', '.join(known)}")
        for name in ("trials", "tune_steps", "tune_reports", "profile_items", "profile_parts", "profile_stages"):
            if getattr(self, name) < 1:
                raise ValueError(f"search.{name} must be at least 1, got {getattr(self, name)}")
        if not 1 <= len(self.objectives) <= 2:
            raise ValueError(f"search.objectives takes a quality and a speed, or one, got {dict(self.objectives)}")
        if self.pruner is not None and (len(self.objectives) > 1 or self.fidelity != "fine_tune"):
            raise ValueError(
                f"search.pruner={self.pruner} needs fidelity=fine_tune, whose training it cuts short, and one "
                f"objective, since Optuna prunes no others; got fidelity={self.fidelity} and "
                f"{len(self.objectives)} objectives"
            )
        if self.space.training and (self.fidelity != "fine_tune" or "guarantee" in self.select):
            raise ValueError(
                "search.space.training needs search.fidelity=fine_tune, whose training it sets, and a selection by "
                f"speedup or quality; got fidelity={self.fidelity} and select={dict(self.select)}"
            )
        if self.pruner is not None and "loss" not in self.objectives:
            raise ValueError(f"search.pruner={self.pruner} watches the loss; make it the objective")
        if len(self.select) != 1 or not self.select.keys() <= {"speedup", "quality", "guarantee"}:
            raise ValueError(
                f"search.select takes one of speedup: X, quality: X and guarantee: DELTA, got {dict(self.select)}"
            )

    def check(self, measured: Collection[str], num_layers: int, deltas: Sequence[float]) -> None:
        """Refuse what does not fit the data, the backbone or the calibration.

        Args:
            measured: figures that the comparison's metrics give outputs.

        Raises:
            ValueError: the message says what was expected.
        """
        known = {
            figure.name: figure.sense
            for figure in FIGURES
            if figure.sense and (figure.trial is not None or figure.name in measured)
        }
        for metric, sense in self.objectives.items():
            _check_metric("objectives", metric, known)
            if sense not in get_args(Sense):
                raise ValueError(
                    f"search.objectives.{metric} must be one of {', '.join(get_args(Sense))}, got {sense!r}"
                )
            if sense != known[metric]:
                raise ValueError(f"search.objectives.{metric} must be {known[metric]}, got {sense}")
        speeds = [metric for metric in self.objectives if _is_cost(FIGURES[metric])]
        if len(self.objectives) == 2 and (len(speeds) != 1 or not _is_speedup(FIGURES[speeds[0]])):
            speedups = ", ".join(figure.name for figure in FIGURES if _is_speedup(figure))
            raise ValueError(f"two search.objectives are a quality and one of {speedups}, got {list(self.objectives)}")
        for metric, bounds in self.constraints.items():
            _check_metric("constraints", metric, known)
            if len(bounds) != 1 or not bounds.keys() <= {"at_least", "at_most"}:
                raise ValueError(f"search.constraints.{metric} takes at_least: X or at_most: X, got {dict(bounds)}")
        if (delta := self.select.get("guarantee")) is not None and delta not in deltas:
            raise ValueError(
                f"search.select guarantee={delta:g} must be one of calibration.delta={list(deltas)}, for which "
                "finalists are calibrated"
            )
        if "quality" in self.select and self.quality is None:
            raise ValueError("search.select quality=X needs a quality among search.objectives")
        self.space.check(num_layers)

    @property
    def quality(self) -> str | None:
        """The quality objective; None if speed is the only objective."""
        return next((metric for metric in self.objectives if not _is_cost(FIGURES[metric])), None)

    @property
    def sense(self) -> Sense:
        """Of the quality, or of the speed where that alone is searched for."""
        return FIGURES[self.quality or self.speed].sense or "maximize"

    @property
    def speed(self) -> str:
        """The speedup that trials are compared by."""
        return next((metric for metric in self.objectives if _is_speedup(FIGURES[metric])), "layer_speedup")

    @property
    def decodes(self) -> bool:
        """Whether a trial must decode the validation prompts."""
        return any(FIGURES[metric].trial is None for metric in (*self.objectives, *self.constraints))

    @property
    def times(self) -> bool:
        """Whether a trial must measure its decoding speed."""
        return any(FIGURES[metric].trial == "timing" for metric in (*self.objectives, *self.constraints))

    @property
    def samplers(self) -> dict[str, str]:
        """By study, the sampler: the search's own, then the baselines'."""
        return {self.study: self.sampler, **{f"{self.study}-{name}": name for name in self.baselines}}

    @property
    def identity(self) -> dict[str, Any]:
        """The options that trials of one study must share, as JSON values."""
        shared: dict[str, Any] = {
            "space": self.space.plain,
            "constraints": {metric: dict(bounds) for metric, bounds in self.constraints.items()},
            "fidelity": self.fidelity,
        }
        if self.fidelity == "fine_tune":
            shared["tune_steps"] = self.tune_steps
        return shared


def violation(figure: float, bounds: Mapping[str, float]) -> float:
    """How far a figure is beyond its bound; 0 or less if it keeps it."""
    return bounds["at_least"] - figure if "at_least" in bounds else figure - bounds["at_most"]


def _is_cost(figure: Figure) -> bool:
    """Whether it is a figure of cost or speed."""
    return figure.trial in ("plan", "timing")


def _is_speedup(figure: Figure) -> bool:
    return _is_cost(figure) and figure.unit == "x"


def _check_metric(where: str, metric: str, known: Collection[str]) -> None:
    if metric not in known:
        raise ValueError(
            f"search.{where}.{metric} is not a figure of a trial{did_you_mean(metric, known)}; choose from "
            f"{', '.join(known)}"
        )
