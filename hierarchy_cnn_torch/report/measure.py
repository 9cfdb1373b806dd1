"""All statistics of one seed, as JSON values: what the tables, plots and claims are made of."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from datasets.split import stratified
from hierarchy_cnn_torch.data.images import Data
from hierarchy_cnn_torch.data.tree_files import load_tree, official_tree
from hierarchy_cnn_torch.flags import AnalysisConfig, Config, read_config
from hierarchy_cnn_torch.method import (
    intervals,
    probes,
    responses,
    selectivity,
    statistics,
    trees,
)
from hierarchy_cnn_torch.report.label_study import study_labels
from hierarchy_cnn_torch.report.response_file import open_responses, stream
from hierarchy_cnn_torch.training import evaluate
from reproduction.runtime.arrays import confusion_counts, read_npz, write_npz
from reproduction.runtime.run_folder import UserError, read_json, read_metrics, shown

npz = functools.partial(read_npz, hint="run that variant again with --overwrite")  # the arrays of a run's file
CONTROLS = 2  # random groupings of equal sizes per level, for the probes


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
    """Returns the tree that statistics refer to: the official one if the flags say so, else A0's."""
    if flat.tree == "official":
        return official_tree(flat.dataset, names)
    return load_tree(seed_folder / "A0" / "tree.json", names)


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
    if flat.tree == "official" and derived:
        results["agreement"] = statistics.tree_agreement(seed.levels, derived)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "confusion": lambda: confusions(seed),
        "arms": lambda: compare_arms(seed),
        "responses": lambda: layer_statistics(seed, out),
        "probes": lambda: probe_tables(seed),
        "quality": lambda: study_labels(seed.folder, seed.data) if seed.folds else {},
    }
    metrics: dict[str, Any] = {}
    asked = [name for name in parts if name in seed.config.what.split(",")]
    for number, name in enumerate(asked, 1):
        print(f"analysis of seed {flat.seed}: {name}, part {number} of {len(asked)}", flush=True)
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
        results["gap"] = {arm: gaps for arm, (gaps, _) in measured.items()}
        metrics |= {f"gap/{arm}": gaps["all"][0] for arm, (gaps, _) in measured.items()} | measured["A0"][1]
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


def group_gaps(seed: Seed, arm: str) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Measures the over-fitting of each finest group (C6): training minus test accuracy.

    Returns:
      (group -> [gap, low, high], bootstrap over images; metrics of the spread, with groups that over-fit alike).
    """
    saved = npz(seed.folder / arm / "predictions.npz")
    train_right = saved["train_predicted"] == saved["train_labels"]
    test_right = saved["test_logits"].argmax(1) == saved["test_labels"]
    tree = trees.tree_of([seed.levels[-1]], seed.data.names)
    groups = [("all", range(len(seed.data.names))), *((node.name, node.classes) for node in tree.children)]
    gaps, pairs = {}, []
    for name, classes in groups:
        a = train_right[np.isin(saved["train_labels"], classes)]
        b = test_right[np.isin(saved["test_labels"], classes)]
        if not len(a) or not len(b):
            continue
        rng = np.random.default_rng([0, 0x6A9])
        drawn = [
            a[rng.integers(0, len(a), len(a))].mean() - b[rng.integers(0, len(b), len(b))].mean()
            for _ in range(seed.config.bootstrap)
        ]
        gaps[name] = [float(a.mean() - b.mean()), *map(float, np.percentile(drawn, [2.5, 97.5]))]
        pairs.append((a, b))
    spread = max(values := [gap for name, (gap, _, _) in gaps.items() if name != "all"]) - min(values)
    equal = intervals.spread_of_equal_gaps(pairs[1:], gaps["all"][0], seed.config.bootstrap)
    p = selectivity.chance(spread, equal, exact=False)
    return gaps, {"gap_spread": spread, "gap_spread_equal": float(equal.mean()), "gap_spread_p": p}


def compare_arms(seed: Seed) -> dict[str, Any]:
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
    goal = curves["A0"]["test"]
    metrics = {f"epochs_to_A0/{arm}": statistics.epochs_to(goal, curve["test"]) for arm, curve in curves.items()}
    return {"curves": curves, "metrics": metrics}


def balanced(labels: np.ndarray, count: int, draw: int) -> np.ndarray:
    """Returns the positions of `count` images, 0 for all, with an equal share of every class, in ascending order."""
    return np.sort(stratified(labels, min(count or len(labels), len(labels)), draw)[0])


def layer_statistics(seed: Seed, out: Path) -> dict[str, Any]:
    """Measures the layers of A0 (C4, C5): class correlation over kept epochs, selectivity at the last one.

    Args:
      seed: what to measure.
      out: folder of the analysis; profiles.npz and the responses go there.
    """
    data, flat, how = seed.data, seed.flat, seed.config.response
    folder, network = seed.folder / "A0", evaluate.rebuild(flat, data)
    index = balanced(data.test_labels, seed.config.response_images, 3)
    pixels, labels = data.test_images[index], data.test_labels[index]
    layers, epochs = list(network.response_layers()), evaluate.kept_epochs(folder)
    mantel: dict[str, dict[str, Any]] = {name: {} for name in layers}
    random_trees: dict[str, np.ndarray] = {}  # the coefficients of each layer's last epoch, with the same random trees
    arrays: dict[str, np.ndarray] = {}

    def batches() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]]:
        pool = lambda x: responses.aggregate(x, how)  # noqa: E731
        for batch, rows in evaluate.passes(network, data, pixels, flat, seed.device, layers, pool):
            yield batch, labels[rows], index[rows]

    for epoch in tqdm(epochs, desc="responses", unit="epoch", leave=False, disable=None):
        evaluate.load_epoch(network, folder, epoch)
        if epoch == epochs[-1]:
            (out / "responses").mkdir(parents=True, exist_ok=True)
            streamed = stream(batches(), len(pixels), len(data.names), out / "responses")
            profiles = {name: sums.mean() for name, (sums, _) in streamed.items()}
        else:
            profiles = evaluate.class_profiles(network, data, pixels, labels, flat, seed.device, layers, how)
        if epoch == epochs[0]:  # the same network untrained, as control
            parts = [batch for batch, _, _ in batches()]
            untrained = [
                [selectivity.best_with_null(values, labels, level) for level in seed.levels]
                for values in (np.concatenate([part[name] for part in parts]) for name in layers[:-1])
            ]
        for name, profile in profiles.items():
            mantel[name][str(epoch)] = statistics.mantel(responses.class_correlation(profile), seed.levels, 999)
            random_trees[name] = mantel[name][str(epoch)].pop("null")
            arrays[f"{name}/{epoch}"] = profile.astype(np.float32)
    chosen: dict[str, list[dict[str, Any]]] = {}
    for name, start_rows in zip(layers[:-1], untrained, strict=True):
        values, _ = open_responses(out / "responses" / name)
        arrays[f"top/{name}"] = streamed[name][1].images
        chosen[name], shares = [], []
        for level, start_row in zip(seed.levels, start_rows, strict=True):
            groups = range(int(level.max()) + 1)
            sizes = [int((level == group).sum()) for group in groups]
            nulls = [selectivity.random_best(len(data.names), size, values.shape[1]) for size in sizes]
            row = selectivity.best_with_null(values, labels, level)
            row |= {"untrained": start_row["best"], "untrained_95": start_row["null_95"]}
            chosen[name].append(row | {"level_groups": len(groups), "class_rank_null": nulls})
            share = [selectivity.sample_selectivity(values, level[labels] == group) for group in groups]
            shares.append(np.max(share, 0))
        arrays[f"simg/{name}"] = np.stack(shares).astype(np.float32)
    write_npz(out / "profiles.npz", {key.replace("/", "__"): value for key, value in arrays.items()})
    coarsest, coarsest_untrained = [rows[0] for rows in chosen.values()], [rows[0] for rows in untrained]
    (at, p), (start, _) = selectivity.best_layer(coarsest), selectivity.best_layer(coarsest_untrained)
    for rows in chosen.values():
        for row in rows:
            del row["null"]  # long, and summed up by its mean and its 95 % point
    (conv1, conv1_untrained), (fc7, fc7_untrained) = (
        [mantel[name][str(epoch)] for epoch in (epochs[-1], epochs[0])] for name in ("conv1", "fc7")
    )
    null_95, at_start = coarsest[at]["null_95"], coarsest_untrained[start]
    random_rise = random_trees["fc7"] - random_trees["conv1"]
    metrics = {
        "mantel_conv1": conv1["rho"],
        "mantel_fc7": fc7["rho"],
        "mantel_fc7_p": fc7["p"],
        "mantel_conv1_untrained": conv1_untrained["rho"],
        "mantel_fc7_untrained": fc7_untrained["rho"],
        "selectivity_best": coarsest[at]["best"],
        "selectivity_null_95": null_95,
        "selectivity_p": p,
        "selectivity_best_untrained": at_start["best"],
        "selectivity_null_95_untrained": at_start["null_95"],
        # as far above the baseline of their claim as the untrained network is above its own: controls
        "mantel_as_untrained": conv1["rho"] + fc7_untrained["rho"] - conv1_untrained["rho"],
        "selectivity_as_untrained": null_95 + at_start["best"] - at_start["null_95"],
        # as far above conv1 as fc7 is with random trees of the same shape: their 95 % point, and the p of the rise
        "mantel_as_random": conv1["rho"] + float(np.quantile(random_rise, 0.95)),
        "mantel_rise_p": selectivity.chance(fc7["rho"] - conv1["rho"], random_rise, exact=False),
    }
    return {"mantel": mantel, "selectivity": chosen, "kept_epochs": epochs, "metrics": metrics}


def probe_tables(seed: Seed) -> dict[str, Any]:
    """Returns chance-corrected probe accuracy of A0 per layer, level and epoch, with random groups (C2, C3, T2)."""
    data, config = seed.data, seed.config
    folder, network = seed.folder / "A0", evaluate.rebuild(seed.flat, data)
    apart = np.setdiff1d(data.train, data.val)  # with --train-held-out the training part has both
    train = apart[balanced(data.labels[apart], config.probe_images, 5)]
    val, test = data.val[: max(200, len(train) // 4)], balanced(data.test_labels, config.probe_test_images, 5)
    labelings: dict[str, np.ndarray] = {}
    for level in seed.levels:
        name = str(int(level.max()) + 1)
        random = {f"{name}/random{at}": trees.random_levels([level], 100 + at)[0] for at in range(CONTROLS)}
        labelings |= {name: level} | random
    labelings["classes"] = np.arange(len(data.names))
    coarse, early, late = next(iter(labelings)), "conv2", "fc7"
    pixels = (data.images[train], data.images[val], data.test_images[test])
    truth = [data.labels[train], data.labels[val], data.test_labels[test]]
    table: dict[str, dict[str, dict[str, float]]] = {
        tap: {name: {} for name in labelings} for tap in evaluate.PROBE_TAPS
    }
    purity: dict[str, float] = {}
    every = statistics.distinct_splits(seed.levels[0], config.groupings + 1)
    drawn = (trees.random_levels([seed.levels[0]], 200 + at)[0] for at in range(config.groupings))
    groupings, nulls = list(drawn if every is None else every), []
    epochs = evaluate.kept_epochs(folder)
    for epoch in tqdm(epochs, desc="probes", unit="epoch", leave=False, disable=None):
        evaluate.load_epoch(network, folder, epoch)
        parts = [evaluate.probe_features(network, data, images, seed.flat, seed.device) for images in pixels]
        for tap, rows in table.items():
            features = [part[tap] for part in parts]
            for name, level in labelings.items():
                rows[name][str(epoch)] = probes.probe(features, truth, level)
            if tap == early:
                nulls.append([probes.probe(features, truth, grouping) for grouping in groupings])
            if epoch == epochs[-1]:
                purity[tap] = probes.kmeans_purity(features[2].numpy()[:2000], seed.levels[0][truth[2][:2000]])
    e90 = {
        tap: {name: statistics.epoch_to_90(list(map(int, curve)), list(curve.values())) for name, curve in rows.items()}
        for tap, rows in table.items()
    }
    untrained, first, last = (str(epochs[at]) for at in (0, min(1, len(epochs) - 1), -1))
    controls = [name for name in labelings if name.startswith(f"{coarse}/")]
    if not groupings:
        nulls = [[table[early][name][str(epoch)] for name in controls] for epoch in epochs]
    rise = table[early][coarse][first] - table[early][coarse][untrained]
    at_start, at_first = nulls[0], nulls[min(1, len(epochs) - 1)]
    risen = np.subtract(at_first, at_start)  # of random groups, the control
    counted = statistics.counted_epochs_to_90(epochs, [[*table[early][coarse].values()], *np.transpose(nulls)])
    metrics = {
        "e90_early_coarse": e90[early][coarse],
        "e90_late_classes": e90[late]["classes"],
        "e90_late_coarse": e90[late][coarse],
        "e90_early_random": float(np.mean([e90[early][name] for name in controls])),
        # of all random groupings; one whose probe does not rise counts as one epoch more than the last
        "e90_early_as_random": float(counted[1:].mean()),
        "e90_early_random_never": float((counted[1:] > epochs[-1]).mean()),
        "e90_early_p": selectivity.chance(-counted[0], -counted[1:], every is not None) if groupings else math.nan,
        "probe_early_coarse_first": table[early][coarse][first],
        "probe_early_coarse_untrained": table[early][coarse][untrained],
        "probe_early_random_first": float(np.mean(at_first)),
        "probe_early_random_untrained": float(np.mean(at_start)),
        "probe_early_rise": rise,
        "probe_early_rise_random": float(risen.mean()),
        # the untrained network, and what random groups gain: control of `probe_early_coarse_first`
        "probe_early_as_random": table[early][coarse][untrained] + float(risen.mean()),
        "probe_early_rise_p": selectivity.chance(rise, risen, every is not None) if groupings else math.nan,
        "probe_late_classes_last": table[late]["classes"][last],
    }
    return {"probes": table, "e90": e90, "purity": purity, "metrics": metrics}
