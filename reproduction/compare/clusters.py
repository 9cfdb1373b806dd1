"""Clusters of each coarse class next to those of the controls, for the page of the fine-grained labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reproduction.compare.collect import Collection, SeedRun
from reproduction.compare.extras import over_seeds
from reproduction.compare.tabular import markdown_table

CONTROLS = {"found": "", "kmeans": "k-means", "random": "random", "noumap": "no UMAP"}
SCORES = {"ari": "ARI", "nmi": "NMI"}
NOTE = (
    "Certain training images, mean and standard deviation over seeds. ARI and NMI compare sub-labels with the true "
    "sub-classes: first those of the clusters, then those of the controls. ARI between seeds compares the clusters of "
    "two seeds, over all pairs. Classes stand in visiting order."
)


def class_table(runs: Sequence[SeedRun], stability: Sequence[SeedRun]) -> str:
    """Returns one line for each coarse class, as Markdown; "" if no record of the row has scores.

    Args:
      runs: of a row with the stage `cluster`.
      stability: of the row `<row>-stability`, if it was run.
    """
    clusters = [_by_class(run, "per_class") for run in runs]
    scores = {name: [_by_class(run, "scores", name, "per_class") for run in runs] for name in CONTROLS}
    if not any(scores["found"]):
        return ""
    between = [_by_class(run, "stability_by_class") for run in stability]
    names = next(filter(None, (run.listed("class_names") for run in runs)), [])
    rows = []
    for label in dict.fromkeys(label for seed in clusters for label in seed):
        cells = [str(names[label]) if isinstance(label, int) and label < len(names) else str(label)]
        cells.append(over_seeds([seed.get(label, {}).get("clusters") for seed in clusters], ".1f"))
        cells.append(over_seeds([seed.get(label, {}).get("subclasses") for seed in scores["found"]], ".0f"))
        cells.append(over_seeds([seed.get(label, {}).get("noise_share") for seed in clusters], ".1f", 100.0))
        for score in SCORES:
            cells += [over_seeds([seed.get(label, {}).get(score) for seed in scores[name]], ".3f") for name in CONTROLS]
        cells.append(over_seeds([seed.get(label, {}).get("found") for seed in between], ".3f"))
        rows.append(cells)
    heads = [f"{title}{', ' * bool(control)}{control}" for title in SCORES.values() for control in CONTROLS.values()]
    head = ("class", "clusters", "true sub-classes", "noise, %", *heads, "ARI between seeds")
    return markdown_table(head, rows)


def markdown_clusters(records: Collection) -> str:
    """Returns the tables of all rows of the matched profile that have clusters."""
    parts = []
    for group in records.of("finegrained"):
        table = class_table(group.runs, records.runs("finegrained", group.row, "stability"))
        if group.profile == "matched" and table:
            parts += [f"`{group.row}`, {len(group.runs)} seed{'s' * (len(group.runs) > 1)}:", table]
    return "\n\n".join([*parts, NOTE]) if parts else "No row of the matched profile yet."


def _by_class(run: SeedRun, *path: str) -> dict[Any, dict[str, Any]]:
    return {entry["class"]: entry for entry in run.listed(*path) if isinstance(entry, dict) and "class" in entry}
