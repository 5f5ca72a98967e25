"""A search's plots, and the hypervolume against its definition."""

import matplotlib
import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot
from matplotlib.lines import Line2D
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import create_trial

from skiplab.search import plots
from skiplab.search.pareto import Scored
from skiplab.search.study import experimental

NAMES = ("loss", "layer_speedup")
POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), max_size=12)


def study_of(pairs: list[tuple[float, float]], *, speed_first: bool = False) -> Study:
    """A study whose trials have these losses and speedups."""
    names, directions = NAMES, [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
    study = optuna.create_study(directions=directions[::-1] if speed_first else directions)
    with experimental():
        study.set_metric_names(list(names[::-1] if speed_first else names))
    for number, pair in enumerate(pairs):
        values = [float(value) for value in (pair[::-1] if speed_first else pair)]
        params = {"depth": number % 5, "warmup": number % 3}
        kinds: dict[str, BaseDistribution] = {"depth": IntDistribution(0, 4), "warmup": IntDistribution(0, 2)}
        study.add_trial(create_trial(values=values, params=params, distributions=kinds))
    return study


def scored(pairs: list[tuple[float, float]]) -> list[Scored]:
    return [Scored(number, *pair) for number, pair in enumerate(pairs)]


def coordinates(line: Line2D) -> tuple[list[float], list[float]]:
    xs, ys = (np.asarray(values, dtype=float).tolist() for values in line.get_data())
    return xs, ys


@pytest.fixture(scope="module")
def pairs() -> list[tuple[float, float]]:
    return [(0.5 + (number * 7 % 11) / 10, 1 + (number * 5 % 13) / 4) for number in range(40)]


@given(POINTS, st.booleans())
def test_hypervolume_counts_dominated_cells(pairs: list[tuple[float, float]], speed_first: bool) -> None:
    found = plots.hypervolumes(study_of(pairs, speed_first=speed_first), {"loss": 6.0, "layer_speedup": 1.0})
    cells = [
        sum(
            any(loss <= left and fast >= speed + 1 for loss, fast in pairs[: count + 1])
            for left in range(6)
            for speed in range(1, 6)
        )
        for count in range(len(pairs))
    ]
    assert found == pytest.approx(cells)


def test_the_reference_point_is_reached_by_nine_in_ten_trials() -> None:
    points = {
        "one": [Scored(n, float(n), 9.0 - n) for n in range(5)],
        "two": [Scored(n, 5.0 + n, 3.0) for n in range(6)],
    }
    assert plots.reference_of(points, "minimize") == Scored(-1, 9.0, 3.0)
    assert plots.reference_of(points, "maximize") == Scored(-1, 1.0, 3.0)


def test_the_front_is_drawn_for_every_study(pairs: list[tuple[float, float]]) -> None:
    studies = {"own": study_of(pairs), "random": study_of(pairs[:10], speed_first=True), "empty": study_of([])}
    points = {"own": scored(pairs), "random": scored(pairs[:10]), "empty": []}
    figure = plots.front_figure(studies, points, "minimize", NAMES, {"profile 2x": Scored(-1, 0.6, 2.0)})
    (axis,) = figure.axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("layer speedup", "loss")
    drawn = {line.get_label(): {*zip(*coordinates(line), strict=True)} for line in axis.lines}
    assert drawn.keys() == {"own: front", "random: front", "profile 2x"}
    for name, members in (("own: front", pairs), ("random: front", pairs[:10])):
        best = {
            (speed, loss)
            for loss, speed in members
            if not any(l <= loss and s >= speed and (l, s) != (loss, speed) for l, s in members)  # noqa: E741
        }
        assert drawn[name] == best


def test_hypervolume_is_drawn_for_every_study(pairs: list[tuple[float, float]]) -> None:
    studies = {"own": study_of(pairs), "random": study_of(pairs[:10])}
    reference = {"loss": 1.5, "layer_speedup": 1.0}
    (axis,) = plots.hypervolume_figure(studies, reference).axes
    for line, (name, study) in zip(axis.lines, studies.items(), strict=True):
        assert line.get_label() == name
        assert coordinates(line)[1] == plots.hypervolumes(study, reference)


@pytest.mark.parametrize("objectives", [{"loss": 0, "layer_speedup": 1}, {"layer_speedup": 1}])
def test_importances_are_shown_for_the_requested_objectives(
    pairs: list[tuple[float, float]], objectives: dict[str, int]
) -> None:
    (axis,) = plots.importance_figure(study_of(pairs), objectives).axes
    assert {label.get_text() for label in axis.get_yticklabels()} == {"depth", "warmup"}
    legend = axis.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == list(objectives)


def test_drawing_does_not_change_pyplots_state(pairs: list[tuple[float, float]]) -> None:
    before = dict(matplotlib.rcParams)
    figure = plots.hypervolume_figure({"own": study_of(pairs)}, {"loss": 1.5, "layer_speedup": 1.0})
    assert figure.axes
    assert pyplot.get_fignums() == []
    changed = {key for key, value in before.items() if matplotlib.rcParams[key] != value}
    assert changed <= {"backend"}
