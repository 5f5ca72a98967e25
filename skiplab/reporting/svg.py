"""Plots as SVG for a page: colours from its style sheet, and texts where a pointer rests."""

import io
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote
from xml.etree import ElementTree

from skiplab.reporting.plot_style import TIP, VARIABLES

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_PIXELS_PER_POINT = (1.2, 1.6)
"""Least and largest scale of a plot on a page: texts of 7.5 points have 9 to 12 pixels."""


def inline(figure: "Figure", title: str, name: str) -> "Markup":
    """An `svg` element to stand in a page.

    Args:
        title: what it shows, for screen readers.
        name: starts its ids, so that plots of one page do not share any.
    """
    import matplotlib
    from markupsafe import Markup

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "skiplab", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(re.sub(r"<!DOCTYPE[^>]*>", "", text.getvalue()))
    _drop_styles(root)
    _add_tips(root)
    _rename(root, name)
    root.set("role", "img")
    root.set("aria-label", title)
    least, most = (scale * float(root.get("width", "0pt").removesuffix("pt")) for scale in _PIXELS_PER_POINT)
    root.set("style", f"min-width: {least:.0f}px; max-width: {most:.0f}px")
    drawn = ElementTree.tostring(root, encoding="unicode")
    for colour, variable in VARIABLES.items():
        drawn = drawn.replace(colour, f"var({variable})")
    return Markup(drawn)


def _drop_styles(root: ElementTree.Element) -> None:
    """Remove style sheets, which would hold for the whole page, and metadata."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}style", f"{{{_SVG}}}metadata"):
                parent.remove(child)


def _add_tips(root: ElementTree.Element) -> None:
    for element in root.iter():
        if (name := element.get("id", "")).startswith(TIP):
            del element.attrib["id"]
            title = ElementTree.Element(f"{{{_SVG}}}title")
            title.text = unquote(name.removeprefix(TIP))
            element.insert(0, title)


def _rename(root: ElementTree.Element, name: str) -> None:
    """Keep the ids that something refers to, with `name` before them."""
    text = ElementTree.tostring(root, encoding="unicode")
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text))
    referred = {one for pair in used for one in pair if one}
    for element in root.iter():
        known = element.get("id")
        if known in referred:
            element.set("id", f"{name}-{known}")
        elif known is not None:
            del element.attrib["id"]
        for key, value in list(element.attrib.items()):
            if key == f"{{{_XLINK}}}href" and value.startswith("#"):
                element.set(key, f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{name}-"))
