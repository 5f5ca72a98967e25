"""Labels of points in a plot, where they cover nothing."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from skiplab.reporting.plot_style import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# Offsets of a label from its point, in points, the best first.
_NEAR = ((6, 5), (-6, 5), (6, -11), (-6, -11), (8, -3), (-8, -3))
# With a line to the point.
_FAR = (
    (8, 14), (-8, 14), (8, -20), (-8, -20), (8, 24), (-8, 24), (8, -30), (-8, -30), (20, 32), (-20, 32), (20, -40),
    (-20, -40),
)  # fmt: skip
_LINE: Mapping[str, Any] = MappingProxyType(
    {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
)
_HALF = 5.0
"""Half the side of the square around a point that labels leave free, in pixels of the drawn figure."""
_FONT_SIZE = 7.5


class Labelled(NamedTuple):
    """A point, with the ends of its vertical bar, and its label; that of a main one may stand apart from it."""

    label: str
    x: float
    y: float
    low: float
    high: float
    main: bool = False


def without_shared_ends(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels without the last words that all of a method have, which tell none of them from the others.

    Args:
        labels: a label's method, which is its first word.
    """
    words = {label: label.split() for label in labels}
    for method in set(labels.values()):
        ours = [words[label] for label in labels if labels[label] == method]
        while len(ours) > 1 and len({one[-1] for one in ours}) == 1 and min(map(len, ours)) > 2:
            for one in ours:
                one.pop()
    return {label: " ".join(left) for label, left in words.items()}


def label_points(axis: "Axes", points: Sequence[Labelled], path: Sequence[tuple[float, float]] = ()) -> None:
    """Write each label where it covers no point, bar, line or other label; leave out those for which there is no room.

    Args:
        axis: of a figure that was drawn, so that its size is known.
        points: the most important first.
        path: corners of a line that labels may not cross.
    """
    taken = [*(_square(axis, point) for point in points), *(_bar(axis, point) for point in points), *_along(axis, path)]
    inside = axis.get_window_extent().padded(-8)
    for point in points:
        for right, up in (*_NEAR, *_FAR) if point.main else _NEAR:
            text: Annotation = axis.annotate(
                point.label, (point.x, point.y), (right, up), textcoords="offset points", fontsize=_FONT_SIZE,
                color=INK, ha="left" if right > 0 else "right",
            )  # fmt: skip
            box = text.get_window_extent().padded(2)
            within = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
            if within and not box.count_overlaps(taken):
                taken.append(box)
                if (right, up) in _FAR:
                    # To the edge of the label that is nearer.
                    end = (right, up if up > 0 else up + _FONT_SIZE)
                    axis.annotate("", (point.x, point.y), end, textcoords="offset points", arrowprops=dict(_LINE))
                break
            text.remove()


def _square(axis: "Axes", point: Labelled) -> "Bbox":
    x, y = axis.transData.transform((point.x, point.y))
    return _box(x - _HALF, y - _HALF, x + _HALF, y + _HALF)


def _bar(axis: "Axes", point: Labelled) -> "Bbox":
    (x, low), (_, high) = axis.transData.transform([(point.x, point.low), (point.x, point.high)])
    return _box(x - 1, low, x + 1, high)


def _along(axis: "Axes", path: Sequence[tuple[float, float]], step: float = 4.0) -> "list[Bbox]":
    """Small boxes along a line."""
    found = []
    for (x, y), (to_x, to_y) in pairwise(axis.transData.transform(path) if path else []):
        count = max(1, int(max(abs(to_x - x), abs(to_y - y)) / step))
        for number in range(count + 1):
            share = number / count
            at_x, at_y = x + share * (to_x - x), y + share * (to_y - y)
            found.append(_box(at_x - 1, at_y - 1, at_x + 1, at_y + 1))
    return found


def _box(left: float, bottom: float, right: float, top: float) -> "Bbox":
    from matplotlib.transforms import Bbox

    return Bbox([[left, bottom], [right, top]])
