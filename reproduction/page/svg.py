"""Matplotlib's SVG, prepared for the HTML page: its colours follow the page's light, dark and print styles."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from reproduction.runtime.figures import draw_literally

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that no plot needs, each standing for a variable of style.css
SOFT, RULE, INK = "#000001", "#000002", "#000003"
SEEDS = tuple(f"#00001{number}" for number in range(5))
_VARIABLES = {SOFT: "var(--soft)", RULE: "var(--rule)", INK: "var(--ink)"}
_VARIABLES |= {colour: f"var(--s{number})" for number, colour in enumerate(SEEDS)}


def blank_axes(width: int, height: int, left: int, right: int, top: int, bottom: int) -> tuple[Figure, Axes]:
    """Creates a figure with one frameless pair of axes; all lengths in units of the SVG's viewBox.

    Args:
      width: of the figure.
      height: of the figure.
      left: margin.
      right: margin.
      top: margin.
      bottom: margin.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72))
    figure.patch.set_visible(False)
    box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes(box, frameon=False)
    axes.tick_params(length=0, labelcolor=SOFT, labelsize=8)
    return figure, axes


def inline(figure: Figure, kind: str, label: str) -> Markup:
    """Renders a figure without ids, fonts and fixed colours, so that several fit into one page.

    Args:
      figure: of `blank_axes`; artists with a gid k0, k1, ... get it as their class.
      kind: class of the svg element.
      label: for screen readers.
    """
    import matplotlib

    draw_literally(figure)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "page"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    whole = buffer.getvalue()
    box = re.search(r'viewBox="[^"]*"', whole)
    assert box is not None
    body = whole[whole.index("</defs>") + len("</defs>") :]  # behind metadata and a style that is for all elements
    body = re.sub(r"<[^>]*>", lambda tag: _plain(tag[0]), body).replace("\n", " ")
    head = f'<svg class="{kind}" {box[0]} role="img" aria-label="{escape(label)}">'
    return Markup(head + re.sub(r"> +<", "><", body).strip())


def _plain(tag: str) -> str:
    """One tag with short numbers, the page's fonts and colours, and classes in place of ids."""
    tag = re.sub(r' id="(k\d)"', r' class="\1"', tag)
    tag = re.sub(r' id="[^"]*"| transform="rotate\(-0 [^"]*"', "", tag)
    tag = re.sub(r"font[^;\"]*; ?", "", tag)
    tag = re.sub(r"#0000\d\d", lambda colour: _VARIABLES.get(colour[0], colour[0]), tag)
    tag = re.sub(r"(\d\.\d)\d+", r"\1", tag)
    return re.sub(r"M (\S+ \S+)\s+L \1\s+", r"M\1h0", tag)  # a dot: a line of no length
