"""Matplotlib figures without pyplot, so that no global state stays behind; matplotlib is imported on the first use."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reproduction.runtime.run_folder import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELLED = 20  # more classes than this are not written along an axis
RED = "#c0392b"


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, layout: Any = "constrained", **options: Any
) -> tuple[Figure, np.ndarray]:
    """Creates a figure with a grid of axes.

    Args:
      width: inches.
      height: inches.
      rows: number of rows of axes.
      columns: number of columns of axes.
      layout: matplotlib's layout engine; None leaves the margins as they are.
      **options: keyword arguments of `Figure.subplots`, such as `gridspec_kw`.
    Returns:
      (the figure, its axes as an object array [rows, columns]).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def draw_literally(figure: Figure) -> None:
    """Makes matplotlib draw every text as it is: a `$` in a class name is no mathematics. Call it before saving.

    The powers of ten along a log axis stay mathematics.

    Args:
      figure: with all its texts.
    """
    from matplotlib.text import Text

    axes_of_figure = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    powers = [axis.get_ticklabels(which="both") for axis in axes_of_figure if axis.get_scale() == "log"]
    mathematics = {id(label) for labels in powers for label in labels}
    for text in figure.findobj(Text):
        if id(text) not in mathematics:
            text.set_parse_math(False)


def png_of(figure: Figure, dpi: float = 110, **options: Any) -> bytes:
    """Returns a figure as the bytes of a PNG file, without matplotlib's version: equal plots are equal files.

    Args:
      figure: of `new_figure`, or any other figure.
      dpi: pixels per inch.
      **options: keyword arguments of `Figure.savefig`, such as `bbox_inches`.
    """
    draw_literally(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, **options)
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path, dpi: float = 110, **options: Any) -> None:
    """Writes a figure as PNG, atomically.

    Args:
      figure: of `new_figure`, or any other figure.
      path: the PNG file; its folder is created.
      dpi: pixels per inch.
      **options: keyword arguments of `Figure.savefig`, such as `bbox_inches`.
    """
    data = png_of(figure, dpi, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data)


def draw_confusions(
    path: Path,
    panels: Sequence[tuple[str, np.ndarray]],
    names: Sequence[str],
    marked: Sequence[int] = (),
    width: float = 5.2,
    smallest_limit: float = 1.0,
) -> None:
    """Draws confusion matrices side by side on one scale, the diagonal left out so that the errors can be seen.

    Args:
      path: PNG file.
      panels: title and matrix of each, float [C, C], rows are true classes, in percent of the true class.
      names: of the classes.
      marked: classes whose names are red.
      width: of a panel, inches.
      smallest_limit: end of the scale, in percent, if there is no error at all.
    """
    figure, (axes,) = new_figure(width * len(panels), 4.8, columns=len(panels))
    diagonal = np.eye(len(names), dtype=bool)
    limit = max(float(np.max(share, initial=0, where=~diagonal)) for _, share in panels) or smallest_limit
    for axis, (title, share) in zip(axes, panels, strict=True):
        image = axis.imshow(np.where(diagonal, np.nan, share), cmap="cividis", vmin=0, vmax=limit)
        axis.set(xlabel="decided", ylabel="true class", title=title)
        if len(names) <= LABELLED:
            axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
            axis.set_yticks(range(len(names)), names, fontsize=8)
            for label in marked:
                axis.get_yticklabels()[label].set_color(RED)
                axis.get_xticklabels()[label].set_color(RED)
    figure.colorbar(image, ax=list(axes), label="% of the true class (errors only)", shrink=0.8)
    save_figure(figure, path)
