"""Charts over the seeds of rows of the matched profile: for the page, and by `reproduction.readme --write` for docs.

They show what no single run can: effects with their intervals, the gain of each class, neglection degrees of all seeds.
Fine-grained labels have one chart a row, of all variants.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reproduction.compare.claim_language import Side
from reproduction.compare.claims import Result, why_not_judged
from reproduction.compare.collect import Collection
from reproduction.compare.comparison import Comparison
from reproduction.compare.effects import Effect
from reproduction.compare.pairs import pair
from reproduction.runtime.figures import RED, new_figure, save_figure
from reproduction.runtime.run_folder import REPO_ROOT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = REPO_ROOT / "docs" / "images" / "charts"
GREY, BLUE, BAND = "#7f8c99", "#2c6fad", "#eceff1"
GAINS = {  # variant of the subclass method -> title of its panel
    "": "subclasses",
    "doubled": "doubled, not split",
    "random": "random others split, not the red",
    "copied": "doubled by copies, split",
    "undoubled": "split, not doubled",
    "epochs": "subclasses, equal epochs",
}
CAPTIONS = {  # last word of a chart's name -> what it shows
    "effects": "Effects with 95 % intervals",
    "bits": "Accuracy after the first bits of the strings",
    "gains": "Gain of each class over the plain network",
    "neglect": "Neglection degrees of all runs",
}
CHARTS_NOTE = (
    "Effects are claims of the tables below, method minus baseline; those that are not in points are not drawn."
)
COLUMNS = 3  # panels side by side
MOST_CLASSES, EXTREMES = 20, 5  # of a panel; of more classes the neglected ones and the extremes of the others


@dataclass(frozen=True)
class Interval:
    """An effect in points with its interval.

    Attributes:
      effect: of two seeds or more.
      colour: of a judged effect.
      label: in words, in lines short enough for the axis.
      judged: whether a verdict follows from it; the others are drawn open and grey.
    """

    effect: Effect
    colour: str
    label: str
    judged: bool


def effects(results: Sequence[Result]) -> Figure | None:
    """Draws the effects of a row in points, one line a claim, with 95 % interval and margin.

    Args:
      results: of one row; those without an interval are left out.
    Returns:
      The figure, or None with fewer than two effects: one is a line of the table.
    """
    lines, margins = [], []
    for result in results:
        effect, margin = result.effect, result.claim.margin
        if result.claim.unit == "points" and effect is not None and effect.seeds > 1 and margin is not None:
            colour = RED if result.claim.group == "main" else BLUE
            lines.append(Interval(effect, colour, textwrap.fill(result.claim.text, 60), result.verdict.line != 1))
            margins.append(margin)
    if len(lines) < 2:
        return None
    title = f"{results[0].row}; red: main claims, blue: findings"
    figure, axis = _intervals(lines, "points, with 95 % interval", title)
    for at, margin in enumerate(margins):
        axis.barh(at, 2 * margin, left=-margin, height=0.8, color=BAND)
    return figure


def _intervals(lines: Sequence[Interval], unit: str, title: str) -> tuple[Figure, Axes]:
    """Draws effects with their 95 % intervals, one line each, the first on top.

    Args:
      lines: the effects.
      unit: what the x axis shows.
      title: one line of at most 70 characters, or several.
    """
    marks = ["grey band: too small to matter"]
    if not all(line.judged for line in lines):
        marks.append("open circle: not testable")
    height = 0.75 + 0.2 * (2 + title.count("\n")) + 0.45 * len(lines)
    figure, ((axis,),) = new_figure(9, height)
    for at, line in enumerate(lines):
        look = {"color": line.colour} if line.judged else {"color": GREY, "markerfacecolor": "white"}
        axis.errorbar(line.effect.mean, at, xerr=line.effect.half_width(), fmt="o", capsize=3, markersize=5, **look)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(lines)), [line.label for line in lines], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel(f"{unit}\n{'; '.join(marks)}", fontsize=9)
    axis.set_title(title, fontsize=10)
    return figure, axis


def class_gains(comparison: Comparison, records: Collection, base: str) -> Figure | None:
    """Draws the gain of each class over the plain network, for each variant of the subclass method.

    Args:
      comparison: of the paper; not used.
      records: of all papers.
      base: row of the method, such as "cifar10-matched".
    Returns:
      The figure, the neglected classes in red; None unless method and baseline have two seeds.
    """
    gains = {variant: by_class for variant in GAINS if (by_class := gains_of(records, base, variant))}
    if "" not in gains:
        return None
    first = records.runs("subclass", base)[0]
    names, neglected = first.listed("class_names"), first.listed("neglected")
    order = [int(c) for c in np.argsort([-effect.mean for effect in gains[""]])]
    others, left_out = [c for c in order if c not in neglected], ""
    if len(names) > MOST_CLASSES:
        order = [c for c in order if c in {*neglected, *others[:EXTREMES], *others[-EXTREMES:]}]
        left_out = f"\nof the others: the {EXTREMES} best and {EXTREMES} worst"
    columns, lines = min(len(gains), COLUMNS), -(-len(gains) // COLUMNS)
    size = (3.2 * columns + 1.2, (0.32 * len(order) + 1.2) * lines)
    figure, axes = new_figure(*size, lines, columns, sharex=True, sharey=True)
    for empty in axes.flat[len(gains) :]:
        empty.set_axis_off()
    for axis, (variant, by_class) in zip(axes.flat, gains.items(), strict=False):
        means, halves = ([f(by_class[c]) for c in order] for f in (lambda e: e.mean, Effect.half_width))
        colours = [RED if c in neglected else GREY for c in order]
        axis.barh(range(len(order)), means, color=colours, alpha=0.55)
        axis.errorbar(means, range(len(order)), xerr=halves, fmt="none", ecolor="black", capsize=2, linewidth=1)
        axis.axvline(0, color="black", linewidth=0.8)
        title = f"{GAINS[variant]} ({by_class[0].seeds} seeds)"
        axis.set_title(f"{title}\n{gains_in_words(by_class, neglected)}", fontsize=8)
        lacking = "" if by_class[0].images else " of seeds only"
        axis.set_xlabel(f"points over the plain network\nred: neglected; line: 95 % interval{lacking}{left_out}")
        axis.set_yticks(range(len(order)), [names[c] for c in order], fontsize=8)
        axis.tick_params(labelbottom=True)
    axes[0, 0].invert_yaxis()
    return figure


def gains_of(records: Collection, base: str, variant: str) -> list[Effect]:
    """Returns the gain of each class over the plain network, in points; [] unless all have two seeds.

    Args:
      records: of all papers.
      base: row of the method, such as "cifar10-matched".
      variant: of the subclass method.
    """
    runs, gains = records.runs("subclass", base), []
    for number in range(len(runs[0].listed("class_names")) if runs else 0):
        metric = f"class_accuracy/{number}"
        method, baseline = Side(metric=metric, variant=variant), Side(metric=metric, variant="baseline")
        effect = pair(records, "points", f"gain in {metric}", "subclass", base, method, baseline).effect
        if effect is None or effect.seeds < 2:
            return []
        gains.append(effect)
    return gains


def gains_in_words(by_class: Sequence[Effect], neglected: Sequence[int]) -> str:
    """Returns "sum over the neglected +1.2, over the others -3.4", in points."""
    others = sum(effect.mean for c, effect in enumerate(by_class) if c not in neglected)
    return f"sum over the neglected {sum(by_class[c].mean for c in neglected):+z.1f}, over the others {others:+z.1f}"


def neglect_of_all_seeds(comparison: Comparison, records: Collection, row: str) -> Figure | None:
    """Draws the neglection degree of the classes in every run of stage 1, epoch by epoch; None without a ranking.

    Of many classes it draws the neglected ones and, of the others, those that come next in the ranking and last.
    """
    runs = records.runs("subclass", row)
    if not runs or not runs[0].listed("degrees"):
        return None
    degrees, order, chosen, names = map(runs[0].listed, ("degrees", "ranking", "neglected", "class_names"))
    left_out = ""
    if len(order) > MOST_CLASSES:
        others = [label for label in order if label not in chosen]
        order = [label for label in order if label in {*chosen, *others[:EXTREMES], *others[-EXTREMES:]}]
        left_out = f"; of the others: the {EXTREMES} next and the {EXTREMES} last"
    values = np.asarray(degrees)  # [runs, E, C]
    figure, ((axis,),) = new_figure(9, 4)
    epochs = np.linspace(-0.3, 0.3, values.shape[1]) if values.shape[1] > 1 else np.zeros(1)
    for at, label in enumerate(order):
        for run in values[:, :, label]:
            axis.plot(at + epochs, run, ".-", color=RED if label in chosen else GREY, linewidth=0.8, markersize=4)
    axis.set_xticks(range(len(order)), [names[label] for label in order], rotation=30, ha="right", fontsize=9)
    axis.set_ylabel("neglection degree (1 = no cancellation)")
    what = f"{len(values)} runs of stage 1, epochs 1 to {values.shape[1]} from left to right within a class"
    axis.set_title(f"{what}\nred: the neglected classes, the same in stage 2 of every seed{left_out}", fontsize=10)
    return figure


def prefixes(comparison: Comparison, records: Collection, row: str) -> Figure | None:
    """Draws the accuracy after the first bits of the strings, each seed of ours, and the poster's curve if it has one.

    Args:
      comparison: of Class2Str, for the poster's numbers.
      records: of all papers.
      row: of ours, such as "cifar10-matched".
    Returns:
      The figure, or None without records and for variants of a row.
    """
    published = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}.get(row.split("-")[0])
    group = records.rows.get(("class2str", row))
    poster = [n.value for n in comparison.paper.numbers if (n.table, n.row) == ("bits", published) and n.value]
    if group is None or not poster or not row.endswith(group.profile):
        return None
    bits, seeds = range(1, len(poster) + 1), len(group.runs)
    figure, ((axis,),) = new_figure(6.4, 4)
    for at, run in enumerate(group.runs):
        values = [run.number(f"prefix_accuracy/{bit}", "last") for bit in bits]
        ours = [100 * value if value is not None else np.nan for value in values]
        shared = len(set(strings := run.listed("strings"))) < len(strings)
        label = "" if at else f"ours, {seeds} seed{'s' * (seeds > 1)} (dotted: classes share a string)"
        axis.plot(bits, ours, "o:" if shared else "o-", color=BLUE, linewidth=1, label=label)
    axis.plot(bits, poster, "s--", color=RED, label="authors' poster, read off its figure")
    axis.set_xticks(list(bits))
    axis.set(xlabel="bits of the string, from the root of the tree", ylabel="test images with all these bits right, %")
    distinct = [run.number("distinct_codes", "last") for run in group.runs]
    shown = ", ".join(f"{count:.0f}" for count in distinct if count is not None)
    axis.set_title(f"{row}: the last point is string match\ndistinct strings by seed: {shown}", fontsize=10)
    axis.legend(frameon=False)
    return figure


def against_longer(comparison: Comparison, records: Collection, row: str) -> Figure | None:
    """Draws the accuracy of every variant of a row against the coarse network trained on as long.

    Args:
      comparison: of the fine-grained labels, for the titles of the rows.
      records: of all papers.
      row: the base row, such as "cifar100-q90-matched".
    Returns:
      The figure: 95 % intervals, the pseudo-labels of the method in red, base and controls in blue; None unless a
      variant has two seeds in common with the coarse network trained on.
    """
    paper, titles = comparison.paper.paper.id, comparison.paper.full_titles()
    longer, drawn = Side(metric="accuracy", variant="base-budget"), []
    names = dict.fromkeys([*titles, *(group.row for group in records.of(paper))])
    for name in (name for name in names if name == row or name.startswith(f"{row}-")):
        side = Side(metric="accuracy", variant=name.removeprefix(row).removeprefix("-"))
        pairs = pair(records, "points", "chart", paper, row, side, longer) if side != longer else None
        if pairs is not None and pairs.effect is not None and pairs.effect.seeds > 1:
            title = titles.get(name, "").partition(", ")[2] or side.variant or "base"
            label = textwrap.fill(f"{title} ({pairs.effect.seeds} seeds)", 50)
            judged = not why_not_judged(comparison.paper, records, row, (side, longer), pairs.seeds)
            colour = RED if side.variant in ("ft", "ft-deep", "mh09") else BLUE
            drawn.append(Interval(pairs.effect, colour, label, judged))
    if not drawn:
        return None
    unit = "points over the coarse network trained on as long, with 95 % interval"
    title = f"{row}, test accuracy of the last epoch\nred: pseudo-labels of the method; blue: base and controls"
    figure, axis = _intervals(drawn, unit, title)
    (margin,) = (claim.margin for claim in comparison.paper.claim if claim.id == "FGL-C1-budget")
    assert margin is not None
    axis.axvspan(-margin, margin, color=BAND)
    return figure


OF_A_PAPER: dict[str, dict[str, Callable[[Comparison, Collection, str], Figure | None]]] = {
    "class2str": {"bits": prefixes},
    "finegrained": {"effects": against_longer},  # in place of one line a claim: one chart a row
    "subclass": {"gains": class_gains, "neglect": neglect_of_all_seeds},
}


def charts(comparisons: Sequence[Comparison], records: Collection) -> Iterator[tuple[str, Figure]]:
    """Draws every chart that the records of the matched profile allow, with the name of its file without suffix."""
    for comparison in comparisons:
        paper = comparison.paper.paper.id
        for row in dict.fromkeys(result.row for result in comparison.claims if result.profile == "matched"):
            drawn = {"effects": effects([result for result in comparison.claims if result.row == row])}
            drawn |= {name: draw(comparison, records, row) for name, draw in OF_A_PAPER.get(paper, {}).items()}
            yield from ((f"{paper}-{row}-{name}", figure) for name, figure in drawn.items() if figure is not None)


def write_charts(comparisons: Sequence[Comparison], records: Collection, folder: Path = FOLDER) -> None:
    """Writes the charts as PNG files; those of rows that no longer exist are deleted."""
    old = set(folder.glob("*.png"))
    for name, figure in charts(comparisons, records):
        save_figure(figure, folder / f"{name}.png")
        old.discard(folder / f"{name}.png")
    for path in old:
        path.unlink()


def markdown_charts(paper: str, folder: Path = FOLDER) -> str:
    """Returns the charts of a paper as images for docs/papers; their alternative texts say what they show."""
    parts = []
    for name in (path.stem for path in sorted(folder.glob(f"{paper}-*.png"))):
        row, _, kind = name.removeprefix(f"{paper}-").rpartition("-")
        parts.append(f"![{CAPTIONS[kind]} ({row})](../images/charts/{name}.png)")
    return "\n\n".join([CHARTS_NOTE, *parts]) if parts else "No row of the matched profile has two seeds yet."
