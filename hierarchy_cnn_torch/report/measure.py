"""All statistics of one seed, as JSON values: what the tables, figures and claims are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.split import stratified
from hierarchy_cnn_torch.data.images import Data, named_tree
from hierarchy_cnn_torch.method import label_quality, probes, responses, selectivity, similarity, statistics, trees
from hierarchy_cnn_torch.training import evaluate
from reproduction.runtime.arrays import read_npz
from reproduction.runtime.run_folder import UserError, read_json, read_metrics, shown
from reproduction.runtime.torch_runtime import generator

CONTROLS = 2  # random groupings of equal sizes per level, for the probes


def npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a run's file.

    Raises:
      UserError: missing or unreadable.
    """
    return read_npz(path, hint="run that arm again with --overwrite")


def flat_config(seed_folder: Path) -> dict[str, Any]:
    """Flags of the seed's A0.

    Raises:
      UserError: stage 1 is missing; names the command.
    """
    folder = seed_folder / "A0"
    if not (folder / "DONE").exists():
        raise UserError(
            f"{shown(folder)}: no finished stage 1; run: python hierarchy_cnn_torch/train.py --stage flat "
            f"--out {shown(folder)}"
        )
    return dict(read_json(folder / "config.json", "dataset", "seed"))


def study_tree(seed_folder: Path, flat: Mapping[str, Any], names: list[str]) -> tuple[trees.Node, str]:
    """The tree that statistics refer to: the official one where there is one, else the derived one."""
    if flat["tree"] == "official":
        return named_tree("official", flat["dataset"], names), "official"
    return trees.load_tree(seed_folder / "A0" / "tree.json", names), flat["tree"]


def everything(
    seed_folder: Path, flat: dict[str, Any], config: dict[str, Any], data: Data, device: torch.device, out: Path
) -> dict[str, Any]:
    """Runs the parts of --what.

    Returns:
      JSON values; `metrics` holds the flat figures for the record.
    """
    tree, kind = study_tree(seed_folder, flat, data.names)
    levels = trees.levels_of(tree)
    if not levels:
        raise UserError(f"{shown(seed_folder)}: the {kind} tree has no level between root and classes")
    arms = config["arms"]
    found: dict[str, Any] = {
        "dataset": flat["dataset"], "seed": flat["seed"], "preset": flat["preset"], "epochs": flat["epochs"],
        "names": data.names, "tree": kind, "levels": [level.tolist() for level in levels], "arms": arms, "metrics": {},
    }  # fmt: skip
    what = config["what"].split(",")
    derived = trees.levels_of(trees.load_tree(seed_folder / "A0" / "tree.json", data.names))
    if kind == "official" and derived:
        found["agreement"] = statistics.tree_agreement(levels, derived)
    if "confusion" in what:
        found["T1"] = confusion_tables(seed_folder, data, levels, config)
        first = found["T1"]["A0"]["levels"]
        found["metrics"] |= {
            "block_lift_coarse": first[0]["lift"], "block_p_coarse": first[0]["p"],
            "block_lift_fine": first[-1]["lift"], "block_p_fine": first[-1]["p"],
            "mistake_height": found["T1"]["A0"]["height"],
        }  # fmt: skip
        if config["compare"] in arms:
            found["gap"] = group_gaps(seed_folder, ("A0", config["compare"]), data, levels, config["bootstrap"])
            for arm in ("A0", config["compare"]):
                found["metrics"][f"gap/{arm}"] = found["gap"][arm]["all"][0]
            groups = [value[0] for name, value in found["gap"]["A0"].items() if name != "all"]
            found["metrics"]["gap_spread"] = max(groups) - min(groups)
    if "arms" in what:
        found["curves"] = arm_curves(seed_folder, arms, data)
        for arm in arms:
            reached = epochs_to(found["curves"]["A0"]["test"], found["curves"][arm]["test"])
            found["metrics"][f"epochs_to_A0/{arm}"] = reached
    if "responses" in what:
        layer_statistics(seed_folder, flat, config, data, levels, device, out, found)
    if "probes" in what:
        probe_tables(seed_folder, flat, config, data, levels, device, found)
    if "quality" in what and config["folds"]:
        found["quality"] = study_labels(seed_folder, data)
        found["metrics"] |= {f"quality_{name}": value for name, value in found["quality"]["retrieval"].items()}
    found["metrics"] = {k: float(v) for k, v in found["metrics"].items() if v is not None and math.isfinite(v)}
    return found


def confusion_tables(
    seed_folder: Path, data: Data, levels: list[np.ndarray], config: Mapping[str, Any]
) -> dict[str, Any]:
    """T1 and C1 for every arm, on the test images."""
    out = {}
    for arm in config["arms"]:
        saved = npz(seed_folder / arm / "predictions.npz")
        labels, predicted = saved["test_labels"], saved["test_logits"].argmax(1)
        counts = similarity.confusion_matrix(labels, predicted, len(data.names))
        rows = []
        for level in levels:
            row: dict[str, Any] = dict(statistics.block_diagonality(counts, level, config["permutations"]))
            row["within_95"] = statistics.within_interval(labels, predicted, level, config["bootstrap"])
            report = statistics.group_report(counts, level)
            row |= {"accuracy": report["accuracy"], "corrected": report["corrected"]}
            rows.append(row)
        out[arm] = {
            "levels": rows, "height": statistics.mistake_severity(counts, levels),
            "nested": statistics.nested_shares(counts, levels),
            "conditional": statistics.conditional_accuracy(counts, levels),
            "counts": counts.tolist() if len(data.names) <= 200 else None,
        }  # fmt: skip
    return out


def group_gaps(
    seed_folder: Path, arms: tuple[str, ...], data: Data, levels: list[np.ndarray], draws: int
) -> dict[str, dict[str, list[float]]]:
    """Train accuracy minus test accuracy of each finest group: [gap, low, high], bootstrap over images (C6)."""
    level = levels[-1]
    tree = trees.tree_of([level], data.names)
    out: dict[str, dict[str, list[float]]] = {}
    for arm in arms:
        saved = npz(seed_folder / arm / "predictions.npz")
        train = saved["train_labels"], saved["train_predicted"] == saved["train_labels"]
        test = saved["test_labels"], saved["test_logits"].argmax(1) == saved["test_labels"]
        out[arm] = {}
        groups = [("all", np.zeros(0, int)), *((node.name, np.array(node.classes)) for node in tree.children)]
        for name, classes in groups:
            a = train[1] if name == "all" else train[1][np.isin(train[0], classes)]
            b = test[1] if name == "all" else test[1][np.isin(test[0], classes)]
            if not len(a) or not len(b):
                continue
            rng = np.random.default_rng([0, 0x6A9])
            drawn = [
                a[rng.integers(0, len(a), len(a))].mean() - b[rng.integers(0, len(b), len(b))].mean()
                for _ in range(draws)
            ]
            low, high = np.percentile(drawn, [2.5, 97.5])
            out[arm][name] = [float(a.mean() - b.mean()), float(low), float(high)]
    return out


def arm_curves(seed_folder: Path, arms: list[str], data: Data) -> dict[str, Any]:
    """F8: accuracy and gradient norms per epoch of each arm, and the figures of T3."""
    out = {}
    for arm in arms:
        rows = read_metrics(seed_folder / arm)
        record = read_json(seed_folder / arm / "record.json", "metrics", "details")
        out[arm] = {
            "test": [row["test/accuracy"] for row in rows],
            "val": [row["val/accuracy"] for row in rows],
            "train": [row["train/accuracy"] for row in rows],
            "gradient": {k.split("/")[1]: [row[k] for row in rows] for k in rows[0] if k.startswith("gradient/")},
            "metrics": {name.partition("/")[2]: value["last"] for name, value in record["metrics"].items()},
            "betas": record["details"].get("betas"),
        }
        saved = npz(seed_folder / arm / "curves.npz")["gradients"]
        steps = max(1, len(saved) // len(rows))
        out[arm]["first_epoch_gradients"] = saved[:steps, 0].mean(0).tolist()
        out[arm]["first_epoch_ratios"] = saved[:steps, 1].mean(0).tolist()
    return out


def epochs_to(reference: list[float], curve: list[float]) -> float:
    """First epoch (1-based, interpolated) at which a curve reaches the reference's last value; one more than its
    length where it never does."""
    goal = reference[-1]
    if curve[0] >= goal:
        return 1.0
    for epoch, (a, b) in enumerate(zip(curve, curve[1:], strict=False), 1):
        if b >= goal:
            return epoch + (goal - a) / (b - a)
    return float(len(curve) + 1)


def layer_statistics(
    seed_folder: Path, flat: dict[str, Any], config: dict[str, Any], data: Data, levels: list[np.ndarray],
    device: torch.device, out: Path, found: dict[str, Any],
) -> None:  # fmt: skip
    """C4 and C5: responses of A0, per layer; class correlation over kept epochs, selectivity at the last one."""
    folder = seed_folder / "A0"
    network = evaluate.rebuild(flat, data)
    count = min(config["response_images"] or len(data.test_labels), len(data.test_labels))
    index = np.sort(stratified(data.test_labels, count, 3)[0])
    pixels, labels = data.test_images[index], data.test_labels[index]
    layers = [*network.response_layers()]
    epochs = evaluate.kept_epochs(folder)
    mantel: dict[str, dict[str, Any]] = {name: {} for name in layers}
    arrays: dict[str, np.ndarray] = {}
    for epoch in epochs:
        evaluate.load_epoch(network, folder, epoch)
        if epoch == epochs[-1]:
            streamed = evaluate.stream_responses(
                network, data, pixels, labels, index, flat, device, layers, config["response"], out / "responses"
            )
            profiles = {name: sums.mean() for name, (sums, _) in streamed.items()}
        else:
            profiles = evaluate.class_profiles(network, data, pixels, labels, flat, device, layers, config["response"])
        for name, profile in profiles.items():
            correlation = responses.class_correlation(profile)
            mantel[name][str(epoch)] = statistics.mantel(correlation, levels, 999)
            arrays[f"{name}/{epoch}"] = profile.astype(np.float32)
    chosen: dict[str, list[dict[str, Any]]] = {}
    for name in layers[:-1]:
        values, _ = responses.open_responses(out / "responses" / name)
        arrays[f"top/{name}"] = streamed[name][1].images
        chosen[name] = []
        shares = []
        for level in levels:
            row = selectivity.best_with_null(values, labels, level)
            row["level_groups"] = int(level.max()) + 1
            row["class_rank_null"] = [
                selectivity.random_best(len(data.names), int((level == g).sum()), values.shape[1])
                for g in range(int(level.max()) + 1)
            ]
            chosen[name].append(row)
            per_group = [
                selectivity.sample_selectivity(values, level[labels] == g) for g in range(int(level.max()) + 1)
            ]
            shares.append(np.max(per_group, 0))
        arrays[f"simg/{name}"] = np.stack(shares).astype(np.float32)
    from hierarchy_cnn_torch.training.record import write_npz

    write_npz(out / "profiles.npz", **{key.replace("/", "__"): value for key, value in arrays.items()})
    coarsest = [rows[0] for rows in chosen.values()]
    at, p = selectivity.best_layer(coarsest)
    best = coarsest[at]
    for rows in chosen.values():
        for row in rows:
            del row["null"]  # long, and summed up by its mean and its 95 % point
    found["mantel"], found["selectivity"], found["kept_epochs"] = mantel, chosen, epochs
    last = str(epochs[-1])
    early, late = mantel["conv1"][last]["rho"], mantel["fc7"][last]["rho"]
    found["metrics"] |= {
        "mantel_conv1": early, "mantel_fc7": late, "mantel_fc7_p": mantel["fc7"][last]["p"],
        "selectivity_best": best["best"], "selectivity_null_95": best["null_95"], "selectivity_p": p,
    }  # fmt: skip


def probe_tables(
    seed_folder: Path, flat: dict[str, Any], config: dict[str, Any], data: Data, levels: list[np.ndarray],
    device: torch.device, found: dict[str, Any],
) -> None:  # fmt: skip
    """C2, C3, T2: chance-corrected probe accuracy of A0 per tap, level and kept epoch, with random-group controls."""
    folder = seed_folder / "A0"
    network = evaluate.rebuild(flat, data)
    count = min(config["probe_images"], len(data.train))
    train = data.train[np.sort(stratified(data.labels[data.train], count, 5)[0])]
    size = min(config["probe_test_images"] or len(data.test_labels), len(data.test_labels))
    test = np.sort(stratified(data.test_labels, size, 5)[0])
    val = data.val[: max(200, count // 4)]
    classes = np.arange(len(data.names))
    questions: dict[str, list[np.ndarray]] = {str(int(level.max()) + 1): [level] for level in levels}
    questions["classes"] = [classes]
    controls = {name: [trees.random_levels([q[0]], 100 + c)[0] for c in range(CONTROLS)]
                for name, q in questions.items() if name != "classes"}  # fmt: skip
    truth = [data.labels[train], data.labels[val], data.test_labels[test]]
    table: dict[str, Any] = {}
    purity: dict[str, Any] = {}
    epochs = evaluate.kept_epochs(folder)
    for epoch in epochs:
        evaluate.load_epoch(network, folder, epoch)
        parts = [
            evaluate.probe_features(network, data, pixels, flat, device)
            for pixels in (data.images[train], data.images[val], data.test_images[test])
        ]
        for tap in evaluate.PROBE_TAPS:
            features = [part[tap] for part in parts]
            for name, (level,) in questions.items():
                value = probes.probe(features, truth, level)
                table.setdefault(tap, {}).setdefault(name, {})[str(epoch)] = value
                for at, control in enumerate(controls.get(name, [])):
                    value = probes.probe(features, truth, control)
                    table[tap].setdefault(f"{name}/random{at}", {})[str(epoch)] = value
            if epoch == epochs[-1]:
                purity[tap] = probes.kmeans_purity(features[2].numpy()[:2000], levels[0][truth[2][:2000]])
    e90 = {
        tap: {
            name: statistics.epoch_to_90([int(e) for e in curve], list(curve.values())) for name, curve in rows.items()
        }
        for tap, rows in table.items()
    }
    found["probes"], found["e90"], found["purity"] = table, e90, purity
    coarse, early, late = next(iter(questions)), "conv2", "fc7"
    first = str(epochs[min(1, len(epochs) - 1)])
    last = str(epochs[-1])
    control = float(np.mean([table[early][f"{coarse}/random{c}"][first] for c in range(CONTROLS)]))
    found["metrics"] |= {
        "e90_early_coarse": e90[early][coarse], "e90_late_classes": e90[late]["classes"],
        "e90_late_coarse": e90[late][coarse],
        "probe_early_coarse_first": table[early][coarse][first], "probe_early_random_first": control,
        "probe_early_coarse_untrained": table[early][coarse][str(epochs[0])],
        "probe_late_classes_last": table[late]["classes"][last],
    }  # fmt: skip


def study_labels(seed_folder: Path, data: Data) -> dict[str, Any]:
    """C8, T4: planted flips and the split class, found from out-of-fold predictions."""
    parts = [npz(path) for path in sorted(seed_folder.glob("fold*/fold.npz"))]
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    config = read_json(sorted(seed_folder.glob("fold*/config.json"))[0], "")
    twin = config["split_class"]
    names = [*data.names, "second label"] if twin >= 0 else list(data.names)
    kept = sorted(seed_folder.glob("fold*/noise_tree.json"))[0]
    spelled = trees.leaf_names(kept)
    tree = trees.load_tree(kept, [spelled.get(i, name) for i, name in enumerate(names)])
    levels = trees.levels_of(tree)
    scores = label_quality.label_scores(joined["probabilities"], joined["labels"], levels)
    use = joined["true_labels"] != twin  # the split class is a question of its own
    out: dict[str, Any] = {"retrieval": label_quality.retrieval(scores["s2"][use], joined["kind"][use])}
    out["planted"] = {"near": int((joined["kind"] == 1).sum()), "far": int((joined["kind"] == 2).sum())}
    plain = label_quality.retrieval(scores["s1"][use], joined["kind"][use])
    out["retrieval_s1"] = plain
    pairs = label_quality.redundant_pairs(label_quality.out_of_fold_counts(joined["probabilities"], joined["labels"]))
    out["pairs"] = [[i, j, s] for i, j, s in pairs[:10]]
    if twin >= 0:
        ranks = [at for at, (i, j, _) in enumerate(pairs, 1) if (i, j) == (twin, len(data.names))]
        out["retrieval"]["redundant_rank"] = float(ranks[0]) if ranks else float(len(pairs) + 1)
    for name in ("s2", "s3"):
        order = np.argsort(-scores[name], kind="stable")[:60]
        out[f"images_{name}"] = joined["index"][order].tolist()
        out[f"labels_{name}"] = joined["labels"][order].tolist()
        out[f"predicted_{name}"] = joined["probabilities"][order].argmax(1).tolist()
        out[f"planted_{name}"] = joined["kind"][order].tolist()
    first = np.sort(torch.randperm(len(data.images), generator=generator(0, "duplicates"))[:10000].numpy())
    hashes = label_quality.difference_hash(data.images[first])
    found = label_quality.duplicates(hashes, data.true_labels[first])
    out["duplicates"] = [[int(first[a]), int(first[b]), d] for a, b, d in found[:30]]
    out["duplicate_pairs"] = len(found)
    return out
