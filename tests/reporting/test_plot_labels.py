"""Labels of points."""

from itertools import combinations

import pytest
from matplotlib.text import Annotation

from skiplab.reporting.plot_labels import Labelled, label_points, without_shared_ends
from skiplab.reporting.plot_style import axes_of


@pytest.mark.parametrize("main", [True, False])
def test_labels_cover_neither_points_nor_each_other(main: bool) -> None:
    points = [
        Labelled(f"setting {number}", number % 5, number % 3, number % 3, number % 3, main) for number in range(15)
    ]
    crowd = [Labelled(f"crowd {number}", 2 + number / 50, 1, 0.9, 1.1, main) for number in range(10)]
    figure, (axis,) = axes_of(1)
    axis.plot([point.x for point in points], [point.y for point in points], "o")
    axis.margins(0.3)
    figure.draw_without_rendering()
    label_points(axis, points + crowd, [(0, 0), (4, 2)])
    written = [text for text in axis.texts if text.get_text()]
    boxes = [text.get_window_extent() for text in written]
    assert len(points) // 2 < len(written) < len(points + crowd)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    places = [axis.transData.transform((point.x, point.y)) for point in points + crowd]
    assert not any(box.contains(*place) for box in boxes for place in places)


def test_the_label_of_a_main_point_that_stands_apart_has_a_line() -> None:
    crowd = [Labelled(f"crowd {number}", number / 100, 1, 1, 1, main=True) for number in range(8)]
    figure, (axis,) = axes_of(1)
    axis.set(xlim=(-1, 1), ylim=(0, 2))
    figure.draw_without_rendering()
    label_points(axis, crowd)
    assert any(isinstance(text, Annotation) and text.arrow_patch for text in axis.texts)


def test_labels_lose_the_last_words_that_all_of_a_method_share() -> None:
    methods = {
        "full 1x": "full", "full 1x fine-tuned": "full", "calm state ~2x 6 drawn exits": "calm",
        "calm softmax ~3x 6 drawn exits": "calm", "multi_layer 2x 6 drawn exits": "multi_layer",
    }  # fmt: skip
    assert list(without_shared_ends(methods).values()) == [
        "full 1x", "full 1x fine-tuned", "calm state ~2x", "calm softmax ~3x", "multi_layer 2x 6 drawn exits",
    ]  # fmt: skip
    # A word is left besides the method's name.
    assert without_shared_ends({"d3 2x far": "d3", "d3 far": "d3"}) == {"d3 2x far": "d3 2x far", "d3 far": "d3 far"}
