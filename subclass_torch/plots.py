"""Plots of a run: neglection degrees per epoch, confusion before and after, gain per class. Written as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reproduction.runtime.figures import LABELLED, RED, draw_confusions, new_figure, save_figure

_GREY = "#9aa5b1"


def neglection(path: Path, degrees: Sequence[Sequence[float]], neglected: Sequence[int], names: Sequence[str]) -> None:
    """Curves t_i(e), one per class, the neglected ones in red; [E][C]."""
    values = np.asarray(degrees)
    figure, ((axis,),) = new_figure(7, 4)
    epochs = np.arange(1, len(values) + 1)
    for label in range(values.shape[1]):
        if label not in neglected:
            axis.plot(epochs, values[:, label], color=_GREY, linewidth=0.9, marker="." if len(values) == 1 else None)
    lines = []
    for rank, label in enumerate(neglected):
        style = ("-", "--", ":", "-.")[rank % 4]
        lines += axis.plot(
            epochs, values[:, label], style, color=RED, linewidth=2, marker="o", markersize=3, label=names[label]
        )
    if 0 < len(neglected) <= LABELLED:
        # without handles, a name that begins with _ is left out
        axis.legend(handles=lines, title="neglected", fontsize=8)
    axis.set(xlabel="epoch of stage 1", ylabel="neglection degree (1 = no cancellation)")
    axis.set_title("How far each class's gradients cancel")
    save_figure(figure, path)


def ranking(
    path: Path, thetas: Sequence[Sequence[float]], order: Sequence[int], neglected: Sequence[int], names: Sequence[str]
) -> None:
    """Neglection degree of each class in every run, [runs][C], classes in the mean order, the neglected ones in red."""
    figure, ((axis,),) = new_figure(7, 4)
    for at, label in enumerate(order):
        values = [theta[label] for theta in thetas]
        axis.plot([at] * len(values), values, ".", color=RED if label in neglected else _GREY)
    if len(names) <= LABELLED:
        axis.set_xticks(range(len(order)), [names[label] for label in order], rotation=60, ha="right", fontsize=8)
    axis.set(ylabel="neglection degree (1 = no cancellation)", title="Neglection degree, one point a run")
    save_figure(figure, path)


def confusions(
    path: Path, matrices: Sequence[tuple[str, np.ndarray]], neglected: Sequence[int], names: Sequence[str]
) -> None:
    """Confusion matrices side by side, rows as shares of the true class, diagonal left out; neglected in red."""
    panels = [
        (
            f"{title}: CCR {100 * np.trace(matrix) / matrix.sum():.2f} %",
            100 * (matrix / np.maximum(matrix.sum(1, keepdims=True), 1)),
        )
        for title, matrix in matrices
    ]
    draw_confusions(path, panels, names, neglected)


def gains(
    path: Path, before: Sequence[float], after: Sequence[float], neglected: Sequence[int], names: Sequence[str]
) -> None:
    """Accuracy of each class with subclasses minus without, in points; neglected classes in red."""
    points = 100 * (np.asarray(after, float) - np.asarray(before, float))
    order = np.argsort(points)
    figure, ((axis,),) = new_figure(6, max(3.0, min(0.28 * len(names), 14) + 0.8))
    colours = [RED if label in neglected else _GREY for label in order]
    axis.barh(np.arange(len(order)), points[order], color=colours)
    axis.axvline(0, color="black", linewidth=0.8)
    if len(names) <= 60:
        axis.set_yticks(np.arange(len(order)), [names[label] for label in order], fontsize=8)
    axis.set(xlabel="points, with subclasses minus without", title="Gain per class (neglected in red)")
    save_figure(figure, path)
