"""The layers of the flat network over the kept epochs: responses, class correlation, selectivity, probes (C2 to C5)."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from datasets.split import stratified
from hierarchy_cnn_torch.data.images import Data
from hierarchy_cnn_torch.flags import AnalysisConfig, Config
from hierarchy_cnn_torch.method import probes, responses, selectivity, statistics, trees
from hierarchy_cnn_torch.report.response_file import open_responses, stream
from hierarchy_cnn_torch.training import evaluate
from reproduction.runtime.arrays import write_npz

CONTROLS = 2  # random groupings of equal sizes per level, for the probes
COARSE_TAP, CLASS_TAP = "conv2", "fc7"  # the early and the late layer of the claims
Levels = Sequence[np.ndarray]
Selectivities = dict[str, list[dict[str, Any]]]  # layer -> `best_with_null` of each level
Batches = Iterator[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]]  # responses, labels, image ids


@dataclass(frozen=True)
class FlatRun:
    """The finished A0 of a seed.

    Attributes:
      folder: its run folder.
      flags: its flags.
      data: images in their splits.
      device: where to compute.
    """

    folder: Path
    flags: Config
    data: Data
    device: torch.device


def balanced(labels: np.ndarray, count: int, draw: int) -> np.ndarray:
    """Returns the positions of `count` images, 0 for all, with an equal share of every class, in ascending order."""
    return np.sort(stratified(labels, min(count or len(labels), len(labels)), draw)[0])


def measure_responses(run: FlatRun, levels: Levels, config: AnalysisConfig, out: Path) -> dict[str, Any]:
    """Measures the layers of A0 (C4, C5): class correlation over kept epochs, selectivity at the last one.

    Args:
      run: A0.
      levels: int64 [K] each, coarsest first.
      config: flags of analyze.py.
      out: folder of the analysis; profiles.npz and the responses go there.
    """
    data, how = run.data, config.response
    network = evaluate.rebuild(run.flags, data)
    index = balanced(data.test_labels, config.response_images, 3)
    pixels, labels = data.test_images[index], data.test_labels[index]
    layers, epochs = list(network.response_layers()), evaluate.kept_epochs(run.folder)
    mantel: dict[str, dict[str, Any]] = {name: {} for name in layers}
    random_trees: dict[str, np.ndarray] = {}  # the coefficients of each layer's last epoch, with the same random trees
    arrays: dict[str, np.ndarray] = {}
    untrained: Selectivities = {}

    def batches() -> Batches:
        pool = functools.partial(responses.aggregate, how=how)
        for batch, rows in evaluate.passes(network, data, pixels, run.flags, run.device, layers, pool):
            yield batch, labels[rows], index[rows]

    for epoch in tqdm(epochs, desc="responses", unit="epoch", leave=False, disable=None):
        evaluate.load_epoch(network, run.folder, epoch)
        if epoch == epochs[-1]:
            (out / "responses").mkdir(parents=True, exist_ok=True)
            streamed = stream(batches(), len(pixels), len(data.names), out / "responses")
            profiles = {name: sums.mean() for name, (sums, _) in streamed.items()}
        else:
            profiles = evaluate.class_profiles(network, data, pixels, labels, run.flags, run.device, layers, how)
        if epoch == epochs[0]:  # the same network untrained, as control
            parts = [batch for batch, _, _ in batches()]
            for name in layers[:-1]:
                values = np.concatenate([part[name] for part in parts])
                untrained[name] = [selectivity.best_with_null(values, labels, level) for level in levels]
        for name, profile in profiles.items():
            mantel[name][str(epoch)] = statistics.mantel(responses.class_correlation(profile), levels, 999)
            random_trees[name] = mantel[name][str(epoch)].pop("null")
            arrays[f"{name}/{epoch}"] = profile.astype(np.float32)
    chosen: Selectivities = {}
    for name in layers[:-1]:
        values, _ = open_responses(out / "responses" / name)
        arrays[f"top/{name}"] = streamed[name][1].images
        chosen[name] = [selectivity.best_with_null(values, labels, level) for level in levels]
        members = [level[labels] == group for level in levels for group in range(int(level.max()) + 1)]
        none = np.zeros(values.shape[1])  # of a group that has none or all of the test images
        shares = [selectivity.sample_selectivity(values, m) if 0 < m.sum() < len(m) else none for m in members]
        arrays[f"group_simg/{name}"] = np.stack(shares).astype(np.float32)
    write_npz(out / "profiles.npz", {key.replace("/", "__"): value for key, value in arrays.items()})
    metrics = mantel_metrics(mantel, random_trees, epochs) | selectivity_metrics(chosen, untrained)
    rows = {name: _shown(chosen[name], untrained[name]) for name in chosen}
    return {"mantel": mantel, "selectivity": rows, "kept_epochs": epochs, "metrics": metrics}


def _shown(rows: Sequence[dict[str, Any]], untrained: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The selectivity of a layer for analysis.json: without the null, which its mean and its 95 % point sum up."""
    return [
        {name: value for name, value in row.items() if name != "null"}
        | {"untrained": start["best"], "untrained_95": start["null_95"], "level_groups": len(row["groups"])}
        for row, start in zip(rows, untrained, strict=True)
    ]


def mantel_metrics(
    mantel: Mapping[str, Mapping[str, Any]], random_trees: Mapping[str, np.ndarray], epochs: Sequence[int]
) -> dict[str, float]:
    """Returns the numbers of C5 for the record.

    Args:
      mantel: layer -> epoch -> `statistics.mantel`.
      random_trees: layer -> float64 [P], the last epoch's coefficients with the same random trees.
      epochs: kept ones, the untrained network first.
    """
    (conv1, conv1_untrained), (fc7, fc7_untrained) = (
        [mantel[name][str(epoch)] for epoch in (epochs[-1], epochs[0])] for name in ("conv1", "fc7")
    )
    random_rise = random_trees["fc7"] - random_trees["conv1"]
    return {
        "mantel_conv1": conv1["rho"],
        "mantel_fc7": fc7["rho"],
        "mantel_fc7_p": fc7["p"],
        "mantel_conv1_untrained": conv1_untrained["rho"],
        "mantel_fc7_untrained": fc7_untrained["rho"],
        # as far above the baseline of its claim as the untrained network is above its own: the control
        "mantel_as_untrained": conv1["rho"] + fc7_untrained["rho"] - conv1_untrained["rho"],
        # as far above conv1 as fc7 is with random trees of the same shape: their 95 % point, and the p of the rise
        "mantel_as_random": conv1["rho"] + float(np.quantile(random_rise, 0.95)),
        "mantel_rise_p": selectivity.chance(fc7["rho"] - conv1["rho"], random_rise, exact=False),
    }


def selectivity_metrics(trained: Selectivities, untrained: Selectivities) -> dict[str, float]:
    """Returns the numbers of C4 for the record, of the coarsest level."""
    coarsest, coarsest_untrained = ([rows[0] for rows in layers.values()] for layers in (trained, untrained))
    (at, p), (start, _) = selectivity.best_layer(coarsest), selectivity.best_layer(coarsest_untrained)
    null_95, at_start = coarsest[at]["null_95"], coarsest_untrained[start]
    return {
        "selectivity_best": coarsest[at]["best"],
        "selectivity_null_95": null_95,
        "selectivity_p": p,
        "selectivity_best_untrained": at_start["best"],
        "selectivity_null_95_untrained": at_start["null_95"],
        # as far above the baseline of its claim as the untrained network is above its own: the control
        "selectivity_as_untrained": null_95 + at_start["best"] - at_start["null_95"],
    }


def measure_probes(run: FlatRun, levels: Levels, config: AnalysisConfig) -> dict[str, Any]:
    """Returns chance-corrected probe accuracy of A0 per layer, level and epoch, with random groups (C2, C3, T2).

    Args:
      run: A0.
      levels: int64 [K] each, coarsest first.
      config: flags of analyze.py.
    """
    data, network = run.data, evaluate.rebuild(run.flags, run.data)
    pixels, truth = probe_images(data, config)
    labelings: dict[str, np.ndarray] = {}
    for level in levels:
        name = str(int(level.max()) + 1)
        random = {f"{name}/random{at}": trees.random_levels([level], 100 + at)[0] for at in range(CONTROLS)}
        labelings |= {name: level} | random
    labelings["classes"] = np.arange(len(data.names))
    table: dict[str, dict[str, dict[str, float]]] = {
        tap: {name: {} for name in labelings} for tap in evaluate.PROBE_TAPS
    }
    purity: dict[str, float] = {}
    every = statistics.distinct_splits(levels[0], config.groupings + 1)
    drawn = (trees.random_levels([levels[0]], 200 + at)[0] for at in range(config.groupings))
    groupings, nulls = list(drawn if every is None else every), []
    epochs = evaluate.kept_epochs(run.folder)
    for epoch in tqdm(epochs, desc="probes", unit="epoch", leave=False, disable=None):
        evaluate.load_epoch(network, run.folder, epoch)
        parts = [evaluate.probe_features(network, data, images, run.flags, run.device) for images in pixels]
        for tap, rows in table.items():
            features = [part[tap] for part in parts]
            for name, level in labelings.items():
                rows[name][str(epoch)] = probes.probe(features, truth, level)
            if tap == COARSE_TAP:
                nulls.append([probes.probe(features, truth, grouping) for grouping in groupings])
            if epoch == epochs[-1]:
                purity[tap] = probes.kmeans_purity(features[2].numpy()[:2000], levels[0][truth[2][:2000]])
    e90 = {
        tap: {name: statistics.epoch_to_90(list(map(int, curve)), list(curve.values())) for name, curve in rows.items()}
        for tap, rows in table.items()
    }
    metrics = probe_metrics(table, e90, nulls, epochs, exact=every is not None)
    return {"probes": table, "e90": e90, "purity": purity, "metrics": metrics}


def probe_images(data: Data, config: AnalysisConfig) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns pixels and labels of the images that probes are fitted to, chosen on and tested on."""
    apart = np.setdiff1d(data.train, data.val)  # with --train-held-out the training part has both
    train = apart[balanced(data.labels[apart], config.probe_images, 5)]
    val, test = data.val[: max(200, len(train) // 4)], balanced(data.test_labels, config.probe_test_images, 5)
    pixels = [data.images[train], data.images[val], data.test_images[test]]
    return pixels, [data.labels[train], data.labels[val], data.test_labels[test]]


def probe_metrics(
    table: Mapping[str, Mapping[str, Mapping[str, float]]],
    e90: Mapping[str, Mapping[str, float]],
    nulls: Sequence[Sequence[float]],
    epochs: Sequence[int],
    exact: bool,
) -> dict[str, float]:
    """Returns the numbers of C2 and C3 for the record.

    Args:
      table: layer -> labels -> epoch -> chance-corrected accuracy; labels are the coarsest groups first.
      e90: layer -> labels -> epoch to 90 % of the rise.
      nulls: for each epoch, the early layer's accuracy on each random grouping of --groupings; maybe none.
      epochs: kept ones, the untrained network first.
      exact: whether the random groupings are all there are.
    """
    untrained, first, last = (str(epochs[at]) for at in (0, 1, -1))
    names = list(table[COARSE_TAP])
    coarse = names[0]
    early, late = table[COARSE_TAP][coarse], table[CLASS_TAP]["classes"]
    controls = [name for name in names if name.startswith(f"{coarse}/")]
    has_groupings = bool(nulls[0])
    if not has_groupings:
        nulls = [[table[COARSE_TAP][name][str(epoch)] for name in controls] for epoch in epochs]
    rise = early[first] - early[untrained]
    at_start, at_first = nulls[0], nulls[1]
    risen = np.subtract(at_first, at_start)  # of random groups, the control
    counted = statistics.counted_epochs_to_90(epochs, [[*early.values()], *np.transpose(nulls)])
    return {
        "e90_early_coarse": e90[COARSE_TAP][coarse],
        "e90_late_classes": e90[CLASS_TAP]["classes"],
        "e90_late_coarse": e90[CLASS_TAP][coarse],
        "e90_early_random": float(np.mean([e90[COARSE_TAP][name] for name in controls])),
        # of all random groupings; one whose probe does not rise counts as one epoch more than the last
        "e90_early_as_random": float(counted[1:].mean()),
        "e90_early_random_never": float((counted[1:] > epochs[-1]).mean()),
        "e90_early_p": selectivity.chance(-counted[0], -counted[1:], exact) if has_groupings else math.nan,
        "probe_early_coarse_first": early[first],
        "probe_early_coarse_untrained": early[untrained],
        "probe_early_random_first": float(np.mean(at_first)),
        "probe_early_random_untrained": float(np.mean(at_start)),
        "probe_early_rise": rise,
        "probe_early_rise_random": float(risen.mean()),
        # the untrained network, and what random groups gain: control of `probe_early_coarse_first`
        "probe_early_as_random": early[untrained] + float(risen.mean()),
        "probe_early_rise_p": selectivity.chance(rise, risen, exact) if has_groupings else math.nan,
        "probe_late_classes_last": late[last],
    }
