"""Plots of the class strings: their tree, and the accuracy after each bit. matplotlib, no display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from class2str_tf.method.codes import num_distinct
from class2str_tf.method.string_tree import compact, trie
from reproduction.runtime.figures import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, LIGHT = "#1c1c1c", "#6f6f6f", "#b9b9b9"
OURS, POSTER, SHARED = "#2166ac", "#b2182b", "#b2182b"
MOST_LEAVES = 160  # a larger tree is drawn down to the depth that has no more nodes than this
DPI = 130
# what the poster calls the data sets whose curve it shows
POSTER_ROWS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


def draw_tree(
    codes: np.ndarray,
    names: Sequence[str],
    path: Path,
    coarse: Sequence[int] | np.ndarray | None = None,
    coarse_names: Sequence[str] | None = None,
) -> None:
    """Draws the strings as a tree from left to right, one line of text for each string, the classes behind it.

    Args:
      codes: uint8 [C, L].
      names: C class names.
      path: PNG to write.
      coarse: superclass of each class; colours the class names.
      coarse_names: names of the superclasses, for the legend.
    """
    codes = np.asarray(codes)
    num_bits = codes.shape[1]
    depth = _drawn_depth(codes)
    tree = trie(codes[:, :depth], names)
    rows: list[dict[str, Any]] = []
    segments: list[tuple[list[float], list[float]]] = []
    labels: list[tuple[float, float, str]] = []
    dots: list[tuple[float, float]] = []
    root = compact(tree)
    root_y = _lay_out(root, rows, segments, labels, dots)
    if root["prefix"]:  # all strings begin alike: show the shared bits before the first branching
        segments.append(([0.0, len(root["prefix"])], [root_y, root_y]))
        labels.append((0.0, root_y, root["prefix"]))

    # the tree takes 0.75 inch for each bit; the text grows to the right of it in inches
    tags = [_tag(row, num_bits) for row in rows]
    font, row_inches = (10, 0.30) if len(rows) <= 30 else (8, 0.19)
    letter = font / 72 * 0.62  # inches of one monospace character
    tree_inches = 0.75 * depth + 0.5
    text_inches = letter * (num_bits + 2 + 0.9 * max(len(tag) for tag in tags)) + 0.2
    legend_inches = 0.0
    width = max(0.2 + tree_inches + text_inches, 5.0)
    if coarse_names is not None and coarse is not None:
        legend_inches = 0.25 + 0.2 * -(-len(coarse_names) // _legend_columns(width))
    height = 0.8 + row_inches * len(rows) + legend_inches
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0.1 / width, legend_inches / height, tree_inches / width, row_inches * len(rows) / height))
    axes.set_xlim(-0.1, depth + 0.2)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axis("off")
    for xs, ys in segments:
        axes.plot(xs, ys, color=GREY, linewidth=1.1, solid_capstyle="round", zorder=1)
    if dots:
        columns, heights = zip(*dots, strict=True)
        axes.scatter(columns, heights, s=14, color=INK, zorder=3)
    for x, y, text in labels:
        axes.text(
            x + 0.06,
            y,
            text,
            fontsize=font - 2,
            family="monospace",
            color=GREY,
            va="center",
            ha="left",
            zorder=2,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )
    colours = None
    if coarse is not None:
        ids = np.unique(np.asarray(coarse), return_inverse=True)[1]
        colours = {name: _colour(int(i), int(ids.max()) + 1) for name, i in zip(names, ids, strict=True)}
    per_inch = (depth + 0.3) / tree_inches
    for y, (row, tag) in enumerate(zip(rows, tags, strict=True)):
        x = depth + 0.12
        axes.text(x, y, row["prefix"].ljust(num_bits, "_"), fontsize=font, family="monospace", color=INK, va="center")
        x += letter * (num_bits + 1.5) * per_inch
        _write_names(axes, x, y, row, tag, colours, font, 0.92 * letter * per_inch)
    distinct = num_distinct(codes)
    note = f"{len(codes)} classes, {distinct} different string{'s' if distinct > 1 else ''} of {num_bits} bits"
    if depth < num_bits:
        note += f"; drawn to bit {depth}"
    elif distinct < len(codes):
        note += "; [ ] or red: classes that share one" if colours else "; red: classes that share one"
    figure.text(
        0.1 / width, 1 - 0.12 / height, "Class strings as a tree", fontsize=13, weight="bold", color=INK, va="top"
    )
    figure.text(0.1 / width, 1 - 0.38 / height, note, fontsize=9, color=GREY, va="top")
    if coarse_names is not None and coarse is not None:
        _legend(figure, coarse_names)
    save_figure(figure, path, DPI)


def _lay_out(
    node: dict[str, Any],
    rows: list[dict[str, Any]],
    segments: list[tuple[list[float], list[float]]],
    labels: list[tuple[float, float, str]],
    dots: list[tuple[float, float]],
) -> float:
    """Places a node of the compact tree: x is its depth, leaves get the next row. Returns its y."""
    x = float(len(node["prefix"]))
    if "classes" in node:
        rows.append(node)
        return float(len(rows) - 1)
    heights = []
    for child in node["children"].values():
        y = _lay_out(child, rows, segments, labels, dots)
        heights.append(y)
        segments.append(([x, x, float(len(child["prefix"]))], [np.nan, y, y]))
        labels.append((x, y, child["prefix"][len(node["prefix"]) :]))
    segments.append(([x, x], [heights[0], heights[-1]]))
    middle = (heights[0] + heights[-1]) / 2
    dots.append((x, middle))
    return middle


def _write_names(
    axes: Axes,
    x: float,
    y: float,
    row: dict[str, Any],
    tag: str,
    colours: dict[str, tuple[float, float, float]] | None,
    font: float,
    letter: float,
) -> None:
    """Class names of a string, in the colour of their superclass; in brackets or red where classes share it."""
    shared = len(row["classes"]) > 1 and not tag.startswith("(")
    if colours is None or tag != ", ".join(row["classes"]):
        axes.text(x, y, tag, fontsize=font, color=SHARED if shared else INK, va="center", clip_on=False)
        return
    for index, name in enumerate(row["classes"]):
        text = ("[" if shared and index == 0 else "") + name
        text += "" if not shared else "]" if index + 1 == len(row["classes"]) else ","
        axes.text(x, y, text, fontsize=font, color=colours[name], va="center", weight="bold", clip_on=False)
        x += letter * (len(text) + 1)


def _tag(row: dict[str, Any], num_bits: int) -> str:
    if len(row["prefix"]) < num_bits:
        few = ", ".join(row["classes"][:2])
        return few if len(row["classes"]) <= 2 else f"({len(row['classes'])} classes: {few}, …)"
    text = ", ".join(row["classes"])
    return text if len(text) <= 68 else text[:67] + "…"


def _drawn_depth(codes: np.ndarray) -> int:
    depth = codes.shape[1]
    while depth > 1 and num_distinct(codes[:, :depth]) > MOST_LEAVES:
        depth -= 1
    return depth


def _colour(index: int, count: int) -> tuple[float, float, float]:
    """Colour of a superclass: hues in turn, every other one dark, all of them readable on white."""
    from matplotlib.colors import hsv_to_rgb

    hue = (0.58 + index / max(count, 1)) % 1.0
    saturation, value = ((0.85, 0.75), (0.75, 0.45))[index % 2] if count > 2 else (0.85, 0.70)
    red, green, blue = hsv_to_rgb((hue, saturation, value)).tolist()
    return red, green, blue


def _legend_columns(width: float) -> int:
    return max(1, int(width / 2.4))


def _legend(figure: Figure, coarse_names: Sequence[str]) -> None:
    """Names of the superclasses below the tree, in their colours."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="s", linestyle="", color=_colour(i, len(coarse_names)), label=str(name).replace("_", " "))
        for i, name in enumerate(coarse_names)
    ]
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.01, 0.0),
        ncols=_legend_columns(figure.get_figwidth()),
        frameon=False,
        fontsize=8,
        handletextpad=0.2,
        columnspacing=1.0,
    )


def draw_prefix_curve(accuracy: Sequence[float] | np.ndarray, path: Path, dataset: str = "") -> None:
    """Draws the accuracy after the first i bits: ours, and the authors' if the poster shows one.

    Args:
      accuracy: [L] in [0, 1], share of test images.
      path: PNG to write.
      dataset: name for the title; selects the poster's curve in reproduction/tables/class2str.toml.
    """
    reference = 100 * np.asarray(poster_curve(dataset), float)
    ours = 100 * np.asarray(accuracy, float)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), facecolor="white")
    axes = figure.add_axes((0.11, 0.13, 0.86, 0.72))
    _line(axes, ours, OURS, "ours", "o", above=True)
    if len(reference):
        _line(axes, reference, POSTER, "authors' poster (read off its figure)", "s", above=False)
    bits = max(len(ours), len(reference))
    axes.set_xticks(range(1, bits + 1))
    axes.set_xlim(0.7, bits + 0.5)
    low = min(*ours, *reference, 100.0)
    span = max(100.0 - low, 2.0)
    axes.set_ylim(max(low - 0.16 * span, -4.0 if low < 5 else 0.0), 100.0 + 0.10 * span)
    axes.set_xlabel("bits of the class string, from the root of the tree", color=INK)
    axes.set_ylabel("test images, %", color=INK)
    axes.grid(axis="y", color=LIGHT, linewidth=0.6, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(reference):
        axes.legend(frameon=False, loc="lower left", fontsize=9)
    suffix = f", {dataset}" if dataset else ""
    figure.text(0.02, 0.97, "First bits all right" + suffix, fontsize=13, weight="bold", color=INK, va="top")
    figure.text(0.02, 0.905, "the last point is the string-match accuracy", fontsize=9, color=GREY, va="top")
    save_figure(figure, path, DPI)


def _line(axes: Axes, values: np.ndarray, colour: str, label: str, marker: str, above: bool) -> None:
    x = np.arange(1, len(values) + 1)
    axes.plot(x, values, color=colour, marker=marker, markersize=5, linewidth=1.8, label=label)
    for i, value in zip(x, values, strict=True):
        axes.annotate(
            f"{value:.1f}",
            (i, value),
            xytext=(0, 8 if above else -8),
            textcoords="offset points",
            fontsize=8,
            color=colour,
            ha="center",
            va="bottom" if above else "top",
        )


def poster_curve(dataset: str) -> list[float]:
    """Returns the poster's accuracy after each bit, in [0, 1], from the paper's table; empty if it shows none."""
    from reproduction.compare.tables import paper_of

    numbers = [n for n in paper_of("class2str").numbers if (n.table, n.row) == ("bits", POSTER_ROWS.get(dataset))]
    return [n.value / 100 for n in numbers if n.value is not None]
