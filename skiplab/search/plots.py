"""Plots of a search: fronts, hypervolume and parameters' importances by Optuna, and layers' importances."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial

from skiplab.reporting.plot_style import INK, Style, axes_of, dress
from skiplab.search.layer_importance import Profile
from skiplab.search.pareto import Scored, Sense, better
from skiplab.search.study import experimental

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Objectives = tuple[str, str]
"""Names of quality and speed."""


def front_figure(
    studies: Mapping[str, Study],
    points: Mapping[str, Sequence[Scored]],
    sense: Sense,
    names: Objectives,
    marked: Mapping[str, Scored],
) -> "Figure":
    """All trials of the first study, and the fronts of all studies.

    Args:
        points: the finished trials of each study.
        sense: of the quality.
        marked: further points by label.
    """
    first = next(iter(studies.values()))

    def speed_and_quality(trial: FrozenTrial) -> tuple[float, float]:
        quality, speed = _values(trial, first, names)
        return speed, quality

    quality, speed = (name.replace("_", " ") for name in names)
    with _optunas_plots():
        from optuna.visualization.matplotlib import plot_pareto_front

        axis = plot_pareto_front(first, targets=speed_and_quality, target_names=[speed, quality])
    for dots in axis.collections:
        dots.set(sizes=[12])
    for number, (name, study) in enumerate(studies.items()):
        best = sorted(_values(trial, study, names)[::-1] for trial in study.best_trials)
        if best:
            style = {**Style(number).line, "markersize": 3}
            axis.plot(*zip(*best, strict=True), drawstyle="steps-pre", label=f"{name}: front", **style)
    for number, (label, point) in enumerate(marked.items(), start=len(studies)):
        style = {**Style(number).line, "markersize": 7, "linestyle": ""}
        axis.plot([point.speedup], [point.quality], label=label, **style)
    _focus(axis, points, sense)
    return _finished(axis, "Trials and fronts")


def hypervolume_figure(studies: Mapping[str, Study], reference: Mapping[str, float]) -> "Figure":
    """Hypervolume after each finished trial of each study.

    Args:
        reference: reference point of the hypervolume, by objective.
    """
    first, *others = studies.items()
    axis = _hypervolume_axis(first[1], reference)
    axis.lines[0].set(label=first[0], **_line_style(0))
    for number, (name, study) in enumerate(others, start=1):
        axis.plot(*_hypervolume_axis(study, reference).lines[0].get_data(), label=name, **_line_style(number))
    return _finished(axis, "Hypervolume by trial")


def hypervolumes(study: Study, reference: Mapping[str, float]) -> list[float]:
    """Hypervolume after each finished trial; `reference` as for `hypervolume_figure`."""
    import numpy as np

    return np.asarray(_hypervolume_axis(study, reference).lines[0].get_ydata(), dtype=float).tolist()


def reference_of(points: Mapping[str, Sequence[Scored]], sense: Sense) -> Scored:
    """Reference point of the hypervolume: the quality that 90% of all trials reach, and the lowest speedup."""
    everything = [point for members in points.values() for point in members]
    ordered = sorted((point.quality for point in everything), key=better(sense))
    return Scored(-1, ordered[int(0.9 * (len(ordered) - 1))], min(point.speedup for point in everything))


def importance_figure(study: Study, objectives: Mapping[str, int]) -> "Figure":
    """Importances of a study's parameters.

    Args:
        objectives: for which to show them, with the place of each among the study's values.
    """
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    chosen: dict[str, Any] = {}
    if len(objectives) < len(study.directions):
        ((name, place),) = objectives.items()
        chosen = {"target": lambda trial: trial.values[place], "target_name": name}
    with _optunas_plots():
        from optuna.visualization.matplotlib import plot_param_importances

        axis = plot_param_importances(study, evaluator=evaluator, **chosen)
    return _finished(axis, "Importance of parameters")


def profile_figure(profiles: Mapping[str, Profile]) -> "Figure":
    """Loss change when a layer is left out from a step on, one panel per plan that it was measured about."""
    import numpy as np

    figure, axes = axes_of(len(profiles), height=4.0)
    for axis, (label, profile) in zip(axes, profiles.items(), strict=True):
        grid = np.array(profile.importance.loss_LC)
        grid[~np.isfinite(grid)] = np.nan
        cuts = profile.importance.cuts
        # One layer of very high importance must not hide the differences between the others.
        second = sorted(np.nanmax(np.nan_to_num(grid), axis=1))[-2]
        drawn = axis.imshow(grid[:, :-1], aspect="auto", origin="lower", cmap="viridis", vmax=max(second, 1e-6))
        axis.set_xticks(range(len(cuts) - 1), [str(cut) for cut in cuts[:-1]])
        axis.set_yticks(range(len(grid)))
        axis.set_title(f"about {label}", fontsize=9)
        axis.set_xlabel("left out from step")
        axis.grid(visible=False)
        figure.colorbar(drawn, ax=axis, label="loss change, nats", extend="max")
    axes[0].set_ylabel("layer")
    return figure


def _hypervolume_axis(study: Study, reference: Mapping[str, float]) -> "Axes":
    with _optunas_plots():
        from optuna.visualization.matplotlib import plot_hypervolume_history

        return plot_hypervolume_history(study, [reference[name] for name in study.metric_names or []])


def _values(trial: FrozenTrial, study: Study, names: Objectives) -> tuple[float, float]:
    """A trial's quality and speed."""
    by_name = dict(zip(study.metric_names or [], trial.values, strict=True))
    return by_name[names[0]], by_name[names[1]]


def _line_style(number: int) -> dict[str, Any]:
    return {"color": Style(number).colour, "linewidth": 1.2, "marker": "", "alpha": 1.0}


@contextmanager
def _optunas_plots() -> Iterator[None]:
    """Optuna draws by pyplot in a style of its own: the style is put back, and no figure stays with pyplot."""
    import matplotlib
    from matplotlib import pyplot

    # Plots are files here, and a display need not be there.
    matplotlib.use("agg")
    with experimental(), matplotlib.rc_context():
        yield
        pyplot.close(pyplot.gcf())


def _finished(axis: "Axes", title: str) -> "Figure":
    figure = axis.get_figure(root=True)
    assert figure is not None
    # Optuna's own stands at either place.
    axis.set_title("", loc="left")
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, labelcolor=INK)
    dress(axis)
    figure.set_size_inches(9.0, 4.5)
    figure.set_layout_engine("constrained")
    return figure


def _focus(axis: "Axes", points: Mapping[str, Sequence[Scored]], sense: Sense) -> None:
    """Limit the axes to the region near the fronts, because outliers would compress it."""
    best = min((point.quality for members in points.values() for point in members), key=better(sense))
    far = best + 1.3 * (reference_of(points, sense).quality - best)
    room = 0.05 * (far - best)
    low, high = sorted((best - room, far))
    if low < high:
        axis.set_ylim(low, high)
