"""All statistics of one seed, as JSON values: what the tables, plots and claims are made of."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hierarchy_cnn_torch.data.images import Data
from hierarchy_cnn_torch.data.tree_files import load_tree, official_tree
from hierarchy_cnn_torch.flags import AnalysisConfig, Config, read_config
from hierarchy_cnn_torch.method import intervals, selectivity, statistics, trees
from hierarchy_cnn_torch.report import layers
from hierarchy_cnn_torch.report.label_study import study_labels
from reproduction.runtime.arrays import confusion_counts, read_npz
from reproduction.runtime.metrics_log import read_metrics
from reproduction.runtime.run_folder import UserError, read_json, shown

npz = functools.partial(read_npz, hint="run that variant again with --overwrite")  # the arrays of a run's file


@dataclass(frozen=True)
class Seed:
    """The finished variants of one seed, and how they are to be measured.

    Attributes:
      folder: holds A0, A1, ...
      flat: flags of A0.
      config: flags of analyze.py.
      arms: names of the finished variants.
      folds: number of finished folds of the label study.
      data: images in their splits.
      device: where to compute.
    """

    folder: Path
    flat: Config
    config: AnalysisConfig
    arms: list[str]
    folds: int
    data: Data
    device: torch.device

    @functools.cached_property
    def levels(self) -> list[np.ndarray]:
        """int64 [K] for each level of the tree that statistics refer to, coarsest first."""
        return trees.levels_of(study_tree(self.folder, self.flat, self.data.names))


def flat_config(seed_folder: Path) -> Config:
    """Returns the flags of the seed's A0.

    Raises:
      UserError: stage 1 is missing; names the command.
    """
    folder = seed_folder / "A0"
    if not (folder / "DONE").exists():
        raise UserError(
            f"{shown(folder)}: no finished stage 1; run: python hierarchy_cnn_torch/train.py --stage flat "
            f"--out {shown(folder)}"
        )
    return read_config(folder)


def study_tree(seed_folder: Path, flat: Config, names: list[str]) -> trees.Node:
    """Returns the tree that statistics refer to: the official one or a file if the flags say so, else A0's.

    Of a file, this is the copy that stage 1 wrote, in older runs that of an A1 with the same --tree, else the file.
    """
    if flat.tree == "official":
        return official_tree(flat.dataset, names)
    if flat.tree in ("derived", "random"):
        return load_tree(seed_folder / "A0" / "tree.json", names)
    copies, a1 = [seed_folder / "A0" / "given_tree.json"], seed_folder / "A1"
    if (a1 / "DONE").exists() and read_config(a1).tree == flat.tree:
        copies.append(a1 / "tree.json")
    return load_tree(next((path for path in copies if path.exists()), flat.tree), names)


def everything(seed: Seed, out: Path) -> dict[str, Any]:
    """Measures the parts of --what.

    Args:
      seed: what to measure.
      out: folder of the analysis, for arrays.
    Returns:
      JSON values; `metrics` holds the single numbers for the record, None for one that does not exist.
    """
    flat, names = seed.flat, seed.data.names
    if not seed.levels:
        raise UserError(f"{shown(seed.folder)}: the {flat.tree} tree has no level between root and classes")
    results: dict[str, Any] = {
        "dataset": flat.dataset,
        "seed": flat.seed,
        "preset": flat.preset,
        "epochs": flat.epochs,
        "names": names,
        "tree": flat.tree,
        "levels": [level.tolist() for level in seed.levels],
        "arms": seed.arms,
    }
    derived = trees.levels_of(load_tree(seed.folder / "A0" / "tree.json", names))
    if flat.tree not in ("derived", "random") and derived:
        results["agreement"] = statistics.tree_agreement(seed.levels, derived)
    a0 = layers.FlatRun(seed.folder / "A0", flat, seed.data, seed.device)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "confusion": lambda: confusions(seed),
        "arms": lambda: compare_variants(seed),
        "responses": lambda: layers.measure_responses(a0, seed.levels, seed.config, out),
        "probes": lambda: layers.measure_probes(a0, seed.levels, seed.config),
        "quality": lambda: study_labels(seed.folder, seed.data) if seed.folds else {},
    }
    metrics: dict[str, Any] = {}
    chosen = [name for name in parts if name in seed.config.what.split(",")]
    for number, name in enumerate(chosen, 1):
        print(f"analysis of seed {flat.seed}: {name}, part {number} of {len(chosen)}", flush=True)
        part = parts[name]()
        metrics |= part.pop("metrics", {})
        results |= part
    exists = {name: v is not None and math.isfinite(v) for name, v in metrics.items()}
    return results | {"metrics": {name: float(v) if exists[name] else None for name, v in metrics.items()}}


def confusions(seed: Seed) -> dict[str, Any]:
    """Measures the blocks of every variant's confusion matrix, and the over-fitting of two variants."""
    tables = {arm: confusion_table(seed, arm) for arm in seed.arms}
    levels = tables["A0"]["levels"]
    metrics = {
        "block_lift_coarse": levels[0]["lift"],
        "block_p_coarse": levels[0]["p"],
        "block_lift_fine": levels[-1]["lift"],
        "block_p_fine": levels[-1]["p"],
        "block_null_95_coarse": levels[0]["null_95"],
        "block_null_95_fine": levels[-1]["null_95"],
        "mistake_height": tables["A0"]["height"],
    }
    results = {"T1": tables, "metrics": metrics}
    if seed.config.compare in seed.arms:
        measured = {arm: group_gaps(seed, arm) for arm in ("A0", seed.config.compare)}
        results["gap_overall"] = {arm: overall for arm, (overall, _, _) in measured.items()}
        results["gap"] = {arm: gaps for arm, (_, gaps, _) in measured.items()}
        metrics |= {f"gap/{arm}": overall[0] for arm, (overall, _, _) in measured.items()} | measured["A0"][2]
    else:
        print(f"no finished {seed.config.compare}: no over-fitting of groups (F7), no second matrix in the viewer")
    return results


def confusion_table(seed: Seed, arm: str) -> dict[str, Any]:
    """Returns T1 and C1 of a variant, on the test images."""
    saved, names, config = npz(seed.folder / arm / "predictions.npz"), seed.data.names, seed.config
    labels, predicted = saved["test_labels"], saved["test_logits"].argmax(1)
    counts = confusion_counts(labels, predicted, len(names))
    rows = []
    for level in seed.levels:
        row: dict[str, Any] = dict(statistics.block_diagonality(counts, level, config.permutations))
        row["within_95"] = intervals.within_interval(labels, predicted, level, config.bootstrap)
        report = statistics.group_report(counts, level)
        rows.append(row | {"accuracy": report["accuracy"], "corrected": report["corrected"]})
    terms, finest = statistics.class_terms(counts), seed.levels[-1]
    marks = {f"high_{name}": statistics.mixed_classes(terms[name], finest) for name in ("in_mix", "out_mix")}
    return {
        "levels": rows,
        "height": statistics.mistake_severity(counts, seed.levels),
        "classes": {name: values.tolist() for name, values in (terms | marks).items()},
        "nested": statistics.nested_shares(counts, seed.levels),
        "conditional": statistics.conditional_accuracy(counts, seed.levels),
        "counts": counts.tolist() if len(names) <= 200 else None,
    }


def group_gaps(seed: Seed, arm: str) -> tuple[list[float], dict[str, list[float]], dict[str, float]]:
    """Measures the over-fitting of all classes and of each finest group (C6): training minus test accuracy.

    Returns:
      ([gap, low, high], bootstrap over images; group -> the same; metrics of the spread, with groups that over-fit
      alike). Groups without training or test images are left out.
    """
    saved = npz(seed.folder / arm / "predictions.npz")
    train_right = saved["train_predicted"] == saved["train_labels"]
    test_right = saved["test_logits"].argmax(1) == saved["test_labels"]

    def gap_of(a: np.ndarray, b: np.ndarray) -> list[float]:
        rng = np.random.default_rng([0, 0x6A9])
        drawn = [
            a[rng.integers(0, len(a), len(a))].mean() - b[rng.integers(0, len(b), len(b))].mean()
            for _ in range(seed.config.bootstrap)
        ]
        return [float(a.mean() - b.mean()), *map(float, np.percentile(drawn, [2.5, 97.5]))]

    overall = gap_of(train_right, test_right)
    gaps, pairs = {}, []
    for node in trees.tree_of([seed.levels[-1]], seed.data.names).children:
        a = train_right[np.isin(saved["train_labels"], node.classes)]
        b = test_right[np.isin(saved["test_labels"], node.classes)]
        if len(a) and len(b):
            gaps[node.name] = gap_of(a, b)
            pairs.append((a, b))
    spread = float(np.ptp([a.mean() - b.mean() for a, b in pairs]))  # two groups may have one name
    equal = intervals.spread_of_equal_gaps(pairs, overall[0], seed.config.bootstrap)
    p = selectivity.chance(spread, equal, exact=False)
    return overall, gaps, {"gap_spread": spread, "gap_spread_equal": float(equal.mean()), "gap_spread_p": p}


def compare_variants(seed: Seed) -> dict[str, Any]:
    """Returns F8, accuracy and gradient norms per epoch of each variant, and the numbers of T3."""
    curves: dict[str, dict[str, Any]] = {}
    for arm in seed.arms:
        folder = seed.folder / arm
        rows = read_metrics(folder)
        record = read_json(folder / "record.json", "metrics", "details")
        gradients = npz(folder / "curves.npz")["gradients"]
        steps = max(1, len(gradients) // len(rows))
        curves[arm] = {
            "test": [row["test/accuracy"] for row in rows],
            "val": [row.get("val/accuracy") for row in rows],
            "train": [row["train/accuracy"] for row in rows],
            "gradient": {k.split("/")[1]: [row[k] for row in rows] for k in rows[0] if k.startswith("gradient/")},
            "metrics": {name.partition("/")[2]: value["last"] for name, value in record["metrics"].items()},
            "betas": record["details"].get("betas"),
            "first_epoch_gradients": gradients[:steps, 0].mean(0).tolist(),
            "first_epoch_ratios": gradients[:steps, 1].mean(0).tolist(),
        }
    metrics: dict[str, float] = {}
    for arm in (name for name in curves if name != "A0"):
        of_flat, its = statistics.epochs_to_lower_end(curves["A0"]["test"], curves[arm]["test"])
        metrics |= {f"A0_epochs_to_lower_end/{arm}": of_flat, f"epochs_to_lower_end/{arm}": its}
    return {"curves": curves, "metrics": metrics}
