"""Names of the rows of the main table, and the table itself over seeds: mean, spread, difference to base, McNemar.

No framework is imported here. A row is `<dataset>-<profile>[-variant]`; the variants are below, in the table's order.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reproduction.compare.claims import interval

BASE = ""
# variant -> title, in the order of section 7.1 of the specification, then the controls of 7.3
TITLES = {
    BASE: "base",
    "ft": "FT pseudo (plain)",
    "ft-deep": "FT pseudo (deep_layer)",
    "ft-keep": "FT pseudo (keep_sub_head)",
    "mh01": "MH pseudo, alpha 0.1",
    "mh09": "MH pseudo, alpha 0.9",
    "ft-true": "FT true",
    "mh01-true": "MH true, alpha 0.1",
    "mh09-true": "MH true, alpha 0.9",
    "base-budget": "control: base trained on for FT's epochs",
    "base-certain": "control: base on certain images only",
    "ft-random": "control: FT, random sub-labels",
    "ft-kmeans": "control: FT, k-means in the 4-d space",
    "ft-pixels": "control: FT, k-means on pixels",
    "ft-nofilter": "control: FT, no filter",
    "ft-noumap": "control: FT, clusters without UMAP",
}
HEADS = {"plain": "", "deep_layer": "-deep", "keep_sub_head": "-keep"}
SUB_LABELS = ("found", "random", "kmeans", "pixels", "nofilter", "noumap")


def variant(
    stage: str,
    use_pseudo: bool = True,
    head: str = "plain",
    alpha: float | None = None,
    sub_labels: str = "found",
    control: str = "none",
) -> str:
    """The suffix of a row.

    Args:
      stage: coarse, features, uncertainty, cluster, sub, fine-tune or multi-head; sub counts to the row it feeds.
      use_pseudo: False trains on the true fine labels.
      head: of fine-tuning, one of HEADS.
      alpha: weight of the coarse loss, for multi-head.
      sub_labels: one of SUB_LABELS, whose labels are trained on.
      control: none, budget or certain, for coarse.
    Returns:
      Such as "", "ft-deep", "mh09-true", "ft-random", "base-certain".
    """
    if stage in ("coarse", "features", "uncertainty", "cluster", "report"):
        return BASE if control == "none" else f"base-{control}"
    name = "ft" if stage in ("sub", "fine-tune") else f"mh{_digits(alpha)}"
    if stage == "fine-tune":
        name += HEADS[head]
    if not use_pseudo:
        return f"{name}-true"
    return name if sub_labels == "found" else f"{name}-{sub_labels}"


def _digits(alpha: float | None) -> str:
    """0.1 -> "01", 0.25 -> "025", 1 -> "1"; None is no multi-head."""
    return "" if alpha is None else f"{alpha:g}".replace(".", "")


def row_name(base_row: str | None, suffix: str) -> str | None:
    """Full name of a row; None (a run by hand) stays None."""
    return base_row if base_row is None or not suffix else f"{base_row}-{suffix}"


def title(suffix: str) -> str:
    """What a row is called in the report; a variant that is not listed is called by its name."""
    return TITLES.get(suffix, suffix)


def ordered(suffixes: Sequence[str]) -> list[str]:
    """Variants in the order of the table, others behind."""
    order = {name: place for place, name in enumerate(TITLES)}
    return sorted(set(suffixes), key=lambda name: (order.get(name, len(order)), name))


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 2) -> str:
    """Mean and standard deviation as text: "97.10 ± 0.12"; one value stands alone, none is "-"."""
    shown = [scale * value for value in values if math.isfinite(value)]
    if not shown:
        return "-"
    mean = f"{statistics.fmean(shown):.{digits}f}"
    return mean if len(shown) < 2 else f"{mean} ± {statistics.stdev(shown):.{digits}f}"


def difference(ours: Mapping[int, float], base: Mapping[int, float]) -> str:
    """Paired difference over the seeds both have, in points, with its 95 percent t interval.

    Args:
      ours, base: seed -> accuracy as a fraction.
    """
    seeds = sorted(ours.keys() & base.keys())
    if not seeds:
        return "-"
    points = [100 * (ours[seed] - base[seed]) for seed in seeds]
    bounds = interval(points)
    text = f"{statistics.fmean(points):+.2f}"
    return text if bounds is None else f"{text} [{bounds[0]:+.2f}, {bounds[1]:+.2f}]"


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> tuple[int, int, float]:
    """Exact McNemar test of two classifiers on the same images.

    Args:
      correct_a, correct_b: bool [n], whether each image is classified correctly.
    Returns:
      (images only a gets right, images only b gets right, two-sided p of the exact binomial test; 1.0 where they
      never differ).
    Raises:
      ValueError: if the lengths differ.
    Source: McNemar 1947, in its exact form; ours.
    """
    if correct_a.shape != correct_b.shape:
        raise ValueError(f"{correct_a.shape} and {correct_b.shape}: predictions of different test sets")
    only_a = int(np.count_nonzero(correct_a & ~correct_b))
    only_b = int(np.count_nonzero(correct_b & ~correct_a))
    if only_a + only_b == 0:
        return 0, 0, 1.0
    from scipy.stats import binomtest

    return only_a, only_b, float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; a bar within a cell is escaped."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in (head, ["---"] * len(head), *rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)
