"""`python -m reproduction.page.strip`: the picture at the top of the README, an output of each paper from `runs/`.

Each panel is drawn from a file that a finished run left behind; of several runs the newest counts. A panel whose file
is missing is an error that names the command which writes it. With `--rows photos --charts` it draws the pictures of
docs/own_images.md: what comes out for a folder of images, and none of these images themselves.
"""

from __future__ import annotations

import argparse
import csv
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.terminal import any_terminal
from reproduction.runtime.arrays import confusion_counts, read_npz
from reproduction.runtime.figures import RED, new_figure, save_figure
from reproduction.runtime.flags import one_line_errors
from reproduction.runtime.run_folder import REPO_ROOT, RUNS_ROOT, UserError, read_json, shown

PICTURE = REPO_ROOT / "docs" / "images" / "strip.png"
INK, QUIET, PAPER_WHITE = "#24292f", "#8c959f", "#ffffff"
SHEET_CELL, SHEET_ROW = 110, 122  # pixels of one image and one row of triplet's neighbours.png
SHEET_COLUMNS, SHEET_ROWS, SHEET_GAP = 5, 5, 18
Find = Callable[[str, str], Path]  # pattern and command of `newest` -> file


def newest(runs: Path, rows: str, pattern: str, command: str) -> Path:
    """Finds the newest file of a pattern.

    Args:
      runs: the runs folder.
      rows: how the names of rows begin; "" for every row.
      pattern: glob below `runs`; its first `/*` stands for a row.
      command: what writes such a file, for the message.
    Raises:
      UserError: there is none.
    """
    pattern = pattern.replace("/*", f"/{rows}*", 1)
    path = max(runs.glob(pattern), key=lambda path: path.stat().st_mtime, default=None)
    if path is None:
        raise UserError(f"{shown(runs)}/{pattern}: no such file; run: {command}")
    return path


def draw_string_tree(axes: Any, find: Find) -> None:
    """Draws the class strings of Class2Str as a binary tree, leaves in the order of the strings."""
    file = find("class2str/*/seed*/rnn/*_strings.json", "make reproduce-class2str")
    saved = read_json(file, "strings", "class_names")
    leaves = sorted(zip(saved["strings"], saved["class_names"], strict=True))
    depth = len(leaves[0][0])
    heights: dict[str, list[int]] = {}
    for place, (string, _) in enumerate(leaves):
        for length in range(depth + 1):
            heights.setdefault(string[:length], []).append(place)
    middle = {prefix: (places[0] + places[-1]) / 2 for prefix, places in heights.items()}
    for prefix, height in middle.items():
        if prefix:
            before = middle[prefix[:-1]]
            x = len(prefix)
            axes.plot([x - 1, x - 1, x], [before, height, height], color=INK, linewidth=1.6)
            axes.text(x - 0.5, height - 0.12, prefix[-1], color=QUIET, fontsize=11, ha="center", va="bottom")
    for place, (string, name) in enumerate(leaves):
        axes.text(depth + 0.15, place, f"{string}  {name}", va="center", fontsize=13, family="monospace", color=INK)
    axes.set(xlim=(-0.1, depth + 2.6), ylim=(len(leaves) - 0.5, -0.7))
    axes.axis("off")


def draw_neglect(axes: Any, find: Find) -> None:
    """Draws the neglection degree of each class over the epochs of stage 1, the two neglected classes in red."""
    file = find("subclass/*/seed*/stage1/logs/*_neglected.json", "make reproduce-subclass")
    saved = read_json(file, "degrees", "ranking", "class_names")
    degrees = np.asarray(saved["degrees"], float)
    epochs = np.arange(1, len(degrees) + 1)
    top = saved["ranking"][:2]
    for label in reversed(saved["ranking"]):
        colour, width = (RED, 2.4) if label in top else (QUIET, 1.2)
        axes.plot(epochs, degrees[:, label], color=colour, linewidth=width)
    ends = sorted(top, key=lambda label: degrees[-1, label])
    low = degrees[-1, ends[0]]
    high = max(degrees[-1, ends[1]], low + 0.06 * (degrees.max() - 1))
    for label, y in zip(ends, (low, high), strict=True):
        axes.text(epochs[-1] + 0.15, y, saved["class_names"][label], color=RED, fontsize=13, va="center")
    axes.set_xlabel("epoch of stage 1", fontsize=13)
    axes.set_ylabel("neglection degree", fontsize=13)
    axes.tick_params(labelsize=12)
    axes.spines[["top", "right"]].set_visible(False)


def draw_clusters(axes: Any, find: Find) -> None:
    """Draws the UMAP of one coarse class, a colour for each sub-class found, uncertain images in grey."""
    file = find("finegrained/*/seed*/sub_*/clustering.npz", "make reproduce-finegrained")
    maps = read_npz(file.with_name("maps.npz"))
    pseudo = read_npz(file, ("pseudo",))["pseudo"]
    coarse = read_npz(file.with_name("uncertainty.npz"), ("coarse",))["coarse"]
    label = int(np.unique(coarse)[0])
    points, clusters = maps[str(label)], pseudo[coarse == label]
    axes.scatter(*points[clusters < 0].T, s=4, color="#d0d7de", linewidths=0)
    for place, cluster in enumerate(np.unique(clusters[clusters >= 0])):
        axes.scatter(*points[clusters == cluster].T, s=7, color=f"C{place % 10}", linewidths=0)
    axes.axis("off")


def draw_neighbours(axes: Any, find: Find) -> None:
    """Shows the last rows of the retrieval sheet: query on the left, nearest test images in green or red frames."""
    from PIL import Image

    pattern = "triplet/*semi_hard/seed*/neighbours.png"
    with Image.open(find(pattern, "make reproduce-triplet")) as image:
        width = SHEET_COLUMNS * SHEET_CELL + SHEET_GAP
        sheet = image.convert("RGB").crop((0, max(0, image.height - SHEET_ROWS * SHEET_ROW), width, image.height))
    axes.imshow(np.asarray(sheet), interpolation="antialiased")
    axes.axis("off")


def draw_blocks(axes: Any, find: Find) -> None:
    """Draws the confusion matrix of the flat network in the order of a similarity tree, errors only."""
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    file = find("hierarchy/*/seed*/A0/predictions.npz", "make reproduce-hierarchy")
    saved = read_npz(file, ("test_logits", "test_labels"))
    logits, labels = saved["test_logits"], saved["test_labels"]
    names = class_names(file.with_name("tree.json"), logits.shape[1])
    errors = confusion_counts(labels, logits.argmax(1), logits.shape[1]).astype(float)
    np.fill_diagonal(errors, 0)
    distance = 1 - np.corrcoef(logits.T)
    flat = squareform(distance, checks=False)
    order = leaves_list(optimal_leaf_ordering(linkage(flat, "average"), flat))
    axes.imshow(errors[np.ix_(order, order)], cmap="Reds", vmin=0)
    label_matrix(axes, [names[label] for label in order], "predicted class")
    axes.set_ylabel("true class", fontsize=13)


def draw_nearest_classes(axes: Any, find: Find) -> None:
    """Draws of which class the nearest other test image of each class is, as shares of the class."""
    file = find("triplet/*semi_hard/seed*/embeddings.npz", "make reproduce-triplet")
    saved = read_npz(file, ("emb", "label"))
    points, labels = saved["emb"].astype(float), saved["label"]
    with file.with_name("confusion.csv").open(encoding="utf-8", newline="") as table:
        names = next(csv.reader(table))[1:]
    distance = np.square(points).sum(1)[:, None] - 2 * points @ points.T + np.square(points).sum(1)
    np.fill_diagonal(distance, np.inf)
    counts = confusion_counts(labels, labels[distance.argmin(1)], len(names)).astype(float)
    axes.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Greens", vmin=0, vmax=1)
    label_matrix(axes, names, "class of the nearest image")


def label_matrix(axes: Any, names: Sequence[str], columns: str) -> None:
    """Writes the rows' class names, of 20 at most, and what the columns are."""
    shown_names = names if len(names) <= 20 else []
    axes.set_xticks([])
    axes.set_yticks(range(len(shown_names)), shown_names, fontsize=12)
    axes.tick_params(length=0)
    axes.set_xlabel(f"{columns}, same order", fontsize=13)


def class_names(tree: Path, count: int) -> list[str]:
    """Reads the names of classes from a tree file, by class number."""
    names = [str(label) for label in range(count)]
    nodes = [read_json(tree, "name")]
    while nodes:
        node = nodes.pop()
        nodes += node.get("children", [])
        if len(node.get("classes", [])) == 1:
            names[node["classes"][0]] = node["name"]
    return names


PANELS = (
    ("class2str", "Class2Str\na binary string for each class", draw_string_tree, 1.0),
    ("subclass", "Subclass networks\nwhich classes are neglected", draw_neglect, 1.0),
    ("finegrained", "Fine-grained labels\nsub-classes inside a class", draw_clusters, 1.0),
    ("triplet", "Ranking regularizer\na query and its nearest images", draw_neighbours, 1.0),
    ("hierarchy", "Class hierarchy (Blocks)\nwhich classes are confused", draw_blocks, 1.15),
)
CHART = ("triplet", "Ranking regularizer\nclass of the nearest image", draw_nearest_classes, 1.15)


def draw_strip(find: Find, path: Path, charts: bool = False) -> None:
    """Draws the five panels side by side on an opaque white ground, and each panel in a file of its own next to it.

    Args:
      find: `newest` for a runs folder and rows.
      path: PNG file to write.
      charts: draw no image of a data set.
    Raises:
      UserError: a run is missing; the message holds the command.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = [CHART if charts and panel[0] == CHART[0] else panel for panel in PANELS]
    ratios = {"width_ratios": [width for *_, width in panels]}
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08)
    figure, grid = new_figure(20, 4.7, 1, len(panels), layout, gridspec_kw=ratios)
    single = [new_figure(5, 4) for _ in panels]
    for axes, (_, alone), (_, _, draw, _) in zip(grid[0], single, panels, strict=True):
        for place in (axes, alone[0, 0]):
            draw(place, find)
    for axes, (one, _), (paper, title, _, _) in zip(grid[0], single, panels, strict=True):  # no run is missing
        save_figure(one, path.with_name(f"{paper}.png"), dpi=84, facecolor=PAPER_WHITE)
        axes.set_title(title, fontsize=16, color=INK, loc="left", linespacing=1.3, y=1.02, pad=0)
    save_figure(figure, path, dpi=84, facecolor=PAPER_WHITE)


@any_terminal()
@one_line_errors("reproduction.page.strip")
def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduction.page.strip",
        description="Draws one picture with an output of each paper, from finished runs.",
        allow_abbrev=False,
    )
    parser.add_argument("--runs", type=Path, default=RUNS_ROOT, help="runs folder; default: runs/")
    parser.add_argument("--rows", default="", metavar="START", help="only rows whose names begin so, such as photos")
    parser.add_argument("--charts", action="store_true", help="draw charts only, no image of the data set")
    parser.add_argument("--out", type=Path, default=PICTURE, metavar="FILE", help=f"default: {shown(PICTURE)}")
    args = parser.parse_args(argv)
    draw_strip(functools.partial(newest, args.runs, args.rows), args.out, args.charts)
    print(f"wrote {shown(args.out)} ({args.out.stat().st_size / 1e3:.0f} kB)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
