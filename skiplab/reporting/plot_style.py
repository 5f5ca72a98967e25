"""How plots look: one colour, marker and line per series, in light and dark."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final
from urllib.parse import quote

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# After the palette of Okabe and Ito, darkened until each has a contrast of 3 to 1 to white. The page replaces each
# colour by a variable, which has another value in dark mode.
INK, GRID, BAND, MUTED = "#1c2025", "#d8dade", "#c9ced6", "#696d74"
COLOURS = ("#c24d00", "#0067a4", "#007f5b", "#b04f8d", "#8a6100", "#1d7fb9", "#6f6f70", "#7a4fc0")
_MARKERS = "osD^vPX*<>"
_GLYPHS = "●■◆▲▼✚✖★◀▶"
_DASHES = ("-", "--", ":", "-.")
TIP = "tip:"
"""Start of an artist's id; the rest is the text to show where a pointer rests on it."""
_PANELS_PER_LINE = 3
_PANEL_WIDTH = 4.0
_NARROWEST = 4.2
# Names up to this many characters stand in two columns below a panel.
_SHORT = 15
# In inches: room for the label below a panel; a line of its legend.
_BELOW = 0.42
_LEGEND_LINE = 0.15


@final
@dataclass(frozen=True)
class Style:
    """Look of one series; number 0 is the full model's.

    Distinct numbers below 40 differ in colour or marker, so no series is told by its colour alone.
    """

    number: int

    @property
    def colour(self) -> str:
        return INK if self.number == 0 else COLOURS[(self.number - 1) % len(COLOURS)]

    @property
    def glyph(self) -> str:
        """The marker as a character."""
        return _GLYPHS[self.number % len(_GLYPHS)]

    @property
    def variable(self) -> str:
        """The colour as a variable of the page's style sheet."""
        return VARIABLES[self.colour]

    @property
    def line(self) -> dict[str, Any]:
        """Options of matplotlib's `plot`."""
        return {
            "color": self.colour,
            "marker": _MARKERS[self.number % len(_MARKERS)],
            "markersize": 5,
            "linewidth": 1.2,
            "linestyle": _DASHES[self.number // len(COLOURS) % len(_DASHES)],
        }


VARIABLES = {INK: "--ink", GRID: "--grid", BAND: "--band", MUTED: "--soft"} | {
    colour: f"--s{number}" for number, colour in enumerate(COLOURS, start=1)
}
"""Variables of the page's style sheet by the colour for which they stand."""


@final
@dataclass(frozen=True)
class Plot:
    """A plot with what it shows.

    Attributes:
        sentence: how to read it, in one sentence.
        narrow: the same for a narrow window; None shows `figure` in all.
    """

    title: str
    sentence: str
    figure: "Figure"
    narrow: "Figure | None" = None


def styles(names: Iterable[str], reference: str | None = None) -> dict[str, Style]:
    """A style for each name, in order of appearance; `reference` gets number 0, which no other has."""
    others = [name for name in dict.fromkeys(names) if name != reference]
    numbered = {name: Style(number) for number, name in enumerate(others, start=1)}
    return numbered if reference is None else {reference: Style(0), **numbered}


def axes_of(
    count: int,
    *,
    height: float = 3.2,
    width: float = _PANEL_WIDTH,
    share: bool = False,
    in_line: int = _PANELS_PER_LINE,
) -> tuple["Figure", list["Axes"]]:
    """A figure with `count` panels of a size in inches.

    Args:
        share: whether all have the same y axis.
        in_line: how many stand side by side at most.
    """
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(count, in_line)
    lines = ceil(count / columns)
    with matplotlib.rc_context(dict(_TEXT)):
        figure = Figure(figsize=(max(width * columns, _NARROWEST), height * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False, sharey=share).ravel()
        for axis in axes[count:]:
            axis.remove()
        for axis in axes:
            dress(axis)
    return figure, list(axes[:count])


def dress(axis: "Axes") -> None:
    """Give an axis the page's colours and text sizes."""
    axis.set_facecolor("none")
    axis.grid(color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(MUTED)
    axis.tick_params(which="both", colors=MUTED, labelcolor=INK, labelsize=8)
    axis.xaxis.label.set(color=INK, fontsize=9)
    axis.yaxis.label.set(color=INK, fontsize=9)
    axis.title.set(color=INK, fontsize=9)


_TEXT: Mapping[Any, Any] = MappingProxyType(
    {
        "text.color": INK,
        "axes.labelcolor": INK,
        "font.size": 8,
        "axes.labelsize": 9,
        "axes.titlesize": 9,
    }
)


def legend_outside(figure: "Figure", axes: Sequence["Axes"]) -> None:
    """One legend below the panels, for all of them."""
    drawn = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if drawn:
        columns = max(1, int(figure.get_figwidth() // 2.4))
        figure.legend(
            list(drawn.values()), list(drawn), loc="outside lower center", ncols=columns, frameon=False, fontsize=8,
            labelcolor=INK,
        )  # fmt: skip


def legend_below(axis: "Axes", lines: "Sequence[Line2D]", names: Sequence[str]) -> None:
    """A legend below one panel and its label, for its own lines."""
    from matplotlib.transforms import ScaledTranslation

    if lines:
        # In inches, because a panel is the lower the longer its legend is.
        below = axis.transAxes + ScaledTranslation(0, -_BELOW, axis.get_figure(root=True).dpi_scale_trans)  # type: ignore[union-attr]
        axis.legend(
            lines, names, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, ncols=_columns(names),
            frameon=False, fontsize=7.5, labelcolor=INK,
        )  # fmt: skip


def legend_height(names: Sequence[str]) -> float:
    """The height of a legend below a panel, in inches."""
    return _LEGEND_LINE * ceil(len(names) / _columns(names)) if names else 0.0


def _columns(names: Sequence[str]) -> int:
    return 1 if max(map(len, names)) > _SHORT else 2


def tipped(drawn: "Iterable[Line2D]", text: str) -> None:
    """Let a drawn point or line show a text where a pointer rests on it."""
    for line in drawn:
        line.set_gid(TIP + quote(text))
