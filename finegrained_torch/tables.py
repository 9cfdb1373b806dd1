"""Names of the rows of the main table; no framework is imported here.

A row is `<dataset>-<profile>[-variant]`; the variants are below, in the table's order.
"""

from __future__ import annotations

from collections.abc import Sequence

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
