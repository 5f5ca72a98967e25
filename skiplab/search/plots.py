"""Plots of a search: fronts, what was dominated when, which parameters matter, layers' importances."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from skiplab.reporting.plots import axes_of, curve_style, legend_outside
from skiplab.search.layer_importance import Profile
from skiplab.search.pareto import Scored, Sense, better, front, hypervolume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def front_figure(
    points: Mapping[str, Sequence[Scored]], sense: Sense, names: tuple[str, str], marked: Mapping[str, Scored]
) -> "Figure":
    """All trials of each study and their front.

    Args:
        names: of quality and speed.
        marked: further points by label.
    """
    figure, (axis,) = axes_of(1, height=4.2, width=6.5)
    for number, (study, members) in enumerate(points.items(), start=1):
        look = curve_style(number)
        axis.plot(
            [point.speedup for point in members], [point.quality for point in members],
            linestyle="", marker=".", markersize=4, color=look["color"], alpha=0.35,
        )  # fmt: skip
        best = front(members, sense)
        axis.plot(
            [point.speedup for point in best], [point.quality for point in best], drawstyle="steps-pre",
            label=f"{study}: front", **{**look, "markersize": 4},
        )  # fmt: skip
    for number, (label, point) in enumerate(marked.items(), start=len(points) + 1):
        axis.plot(
            [point.speedup], [point.quality], linestyle="", label=label, **{**curve_style(number), "markersize": 7}
        )
    axis.set(xlabel=names[1].replace("_", " "), ylabel=names[0].replace("_", " "))
    _focus(axis, points, sense)
    legend_outside(figure, [axis])
    return figure


def hypervolume_figure(points: Mapping[str, Sequence[Scored]], sense: Sense) -> "Figure":
    """Hypervolume after each trial, from `reference_of` all studies."""
    figure, (axis,) = axes_of(1, height=3.6, width=6.0)
    for number, (study, members) in enumerate(points.items(), start=1):
        series = hypervolumes(members, sense, reference_of(points, sense))
        axis.plot(range(1, len(series) + 1), series, label=study, color=curve_style(number)["color"])
    axis.set(xlabel="finished trials", ylabel="hypervolume")
    legend_outside(figure, [axis])
    return figure


def reference_of(points: Mapping[str, Sequence[Scored]], sense: Sense) -> Scored:
    """Where hypervolume begins: the quality that nine in ten trials of all studies reach, and the lowest speed."""
    everything = [point for members in points.values() for point in members]
    ordered = sorted((point.quality for point in everything), key=better(sense))
    return Scored(-1, ordered[int(0.9 * (len(ordered) - 1))], min(point.speedup for point in everything))


def hypervolumes(members: Sequence[Scored], sense: Sense, reference: Scored) -> list[float]:
    """Hypervolume after each trial."""
    return [hypervolume(members[: count + 1], sense, reference) for count in range(len(members))]


def importance_figure(importances: Mapping[str, Mapping[str, float]]) -> "Figure":
    """Parameter importances, one panel per objective."""
    figure, axes = axes_of(len(importances), height=2.6, share=True)
    names = sorted({name for found in importances.values() for name in found})
    for axis, (objective, found) in zip(axes, importances.items(), strict=True):
        axis.barh(range(len(names)), [found.get(name, 0.0) for name in names], color=curve_style(2)["color"])
        axis.set_title(objective.replace("_", " "), fontsize=9)
        axis.set_xlabel("importance")
    axes[0].set_yticks(range(len(names)), names)
    return figure


def profile_figure(profiles: Mapping[str, Profile]) -> "Figure":
    """Loss change when a layer is left out from a step on, one panel per plan that it was measured about."""
    import numpy as np

    figure, axes = axes_of(len(profiles), height=4.0)
    for axis, (label, profile) in zip(axes, profiles.items(), strict=True):
        grid = np.array(profile.importance.loss_LC)
        grid[~np.isfinite(grid)] = np.nan
        cuts = profile.importance.cuts
        # One layer without which nothing works must not hide the differences between the others.
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


def _focus(axis: "Axes", points: Mapping[str, Sequence[Scored]], sense: Sense) -> None:
    """Show what is near the fronts: ruinous trials would flatten all else."""
    best = min((point.quality for members in points.values() for point in members), key=better(sense))
    far = best + 1.3 * (reference_of(points, sense).quality - best)
    room = 0.05 * (far - best)
    low, high = sorted((best - room, far))
    if low < high:
        axis.set_ylim(low, high)
