"""What a finished stage 2 is worth: class2str.md section 7 over the whole test set, artefacts and the record."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import datasets
from class2str_tf import plots as pictures
from class2str_tf.flags import SETTINGS, settings_of
from class2str_tf.method import codes, model
from class2str_tf.method import string_tree as hierarchy
from class2str_tf.method.layers import count_parameters, tf, tf1
from class2str_tf.networks import build as networks
from class2str_tf.training import frozen_features as features
from class2str_tf.training.reduced_fc import train_reduced
from class2str_tf.training.stage1 import active_deviations
from class2str_tf.training.timing import forward_times
from reproduction.runtime import tf_runtime
from reproduction.runtime.record import make_record, still_rising, versions_of
from reproduction.runtime.run_folder import Run, UserError, shown, write_bytes, write_json


def accuracies(results: Mapping[str, Any], fc_logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Every accuracy of section 7, each over all test images by counts.

    Args:
      results: "p" float32 [N, L, 2], "q" float32 [C, L, 2], "inverse_of" int64 [N], "inverse_of_q" int64 [C].
      fc_logits: float32 [N, C] of stage 1.
      labels: int64 [N].
    Returns:
      Metric name -> fraction in [0, 1], or a count. `lh_accuracy` is string match, the paper's column.
    """
    table, bits = codes.bits_of(results["q"]), codes.bits_of(results["p"])
    exact = codes.class_accuracy(results["p"], table, labels, "exact")
    values = {
        "fc_accuracy": float(np.mean(fc_logits.argmax(axis=1) == labels)),
        "lh_accuracy": float(np.mean(codes.string_match(bits, table, labels))),
        "class_accuracy_exact": exact["accuracy"],
        "class_accuracy_exact_pessimistic": exact["pessimistic"],
        "unowned_strings": exact["unowned"],
        "class_accuracy_hamming": codes.class_accuracy(results["p"], table, labels, "hamming")["accuracy"],
        "class_accuracy_ml": codes.class_accuracy(results["p"], table, labels, "ml")["accuracy"],
        "class_accuracy_str2class": float(np.mean(results["inverse_of"] == labels)),
        "inverse_accuracy": float(np.mean(results["inverse_of_q"] == np.arange(len(table)))),
        "distinct_codes": codes.num_distinct(table),
        "classes": len(table),
        "min_confidence": float(codes.min_confidence(results["q"])),
    }
    prefixes = codes.prefix_accuracy(bits, table, labels)
    return values | {f"prefix_accuracy/{i}": float(value) for i, value in enumerate(prefixes, 1)}


def classifier_sizes() -> dict[str, float]:
    """Parameters of the graph that holds both classifiers: all trainable ones, and weights as the poster counts."""
    sizes = {"cnn_parameters": count_parameters("cnn")}
    for name, scope in (("fc", "classifier"), ("lh", "lh")):
        sizes[f"{name}_parameters"] = count_parameters(scope)
        sizes[f"{name}_weights"] = count_parameters(scope, weights_only=True)
    ratio = sizes["lh_parameters"] / sizes["fc_parameters"]
    whole = (sizes["cnn_parameters"] + sizes["lh_parameters"]) / (sizes["cnn_parameters"] + sizes["fc_parameters"])
    return {**sizes, "parameter_ratio": ratio, "parameter_reduction": 1 - ratio, "network_ratio": whole}


def sizes_of(config: Mapping[str, Any], data: datasets.Dataset) -> dict[str, float]:
    """`classifier_sizes` of a configuration."""
    with tf1.Graph().as_default():
        tf1.set_random_seed(0)
        tf1.train.get_or_create_global_step()
        outputs = networks.cnn(tf1.placeholder(tf.uint8, [None, *data.test_images.shape[1:]]), config, False)
        networks.fc_classifier(outputs, config, len(data.class_names), False)
        model.lh_classifier(outputs, config["n_sequence"], config["lstm_units"])
        return classifier_sizes()


def superclasses(data: datasets.Dataset) -> np.ndarray | None:
    """Known superclass of each class, int64 [C], or None."""
    if data.coarse_labels is not None:
        return np.asarray(data.coarse_labels)
    return np.asarray(hierarchy.CIFAR10_SUPERCLASSES) if data.name == "cifar10" else None


def structure(table: np.ndarray, inputs: features.Features, data: datasets.Dataset, seed: int) -> dict[str, Any]:
    """How the strings relate to what is known of the classes (7.8, 7.9): JSON values."""
    labels, known, num_classes = data.test_labels, superclasses(data), len(table)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (labels, inputs.fc_logits.argmax(axis=1)), 1)
    means = np.stack([inputs.test[labels == c].mean(axis=0) for c in range(num_classes)])
    found: dict[str, Any] = {
        "groups": hierarchy.prefix_groups(table, data.class_names, known),
        "lcp": hierarchy.lcp_matrix(table).tolist(),
        "spearman_confusion": hierarchy.spearman_with_confusion(table, confusion, seed=seed),
        "spearman_features": hierarchy.spearman_with_features(table, means, seed=seed),
    }
    if known is not None:
        found["superclasses"] = hierarchy.superclass_scores(table, known, seed=seed)
    return found


def finish(
    run: Run,
    data: datasets.Dataset,
    inputs: features.Features,
    results: Mapping[str, Any],
    steps: int,
    session_config: Any,
) -> None:
    """Evaluates, draws, records and prints; raises UserError where every class ended on one string."""
    config, history = run.config, results["history"]
    table = codes.bits_of(results["q"])
    values = {**accuracies(results, inputs.fc_logits, data.test_labels), **sizes_of(config, data)}
    if not config["no_reduced_fc"]:
        budget = int(values["lh_weights"])
        reduced = train_reduced(
            config, inputs, data.train_labels, data.test_labels, len(table), budget, steps, session_config
        )
        values |= {"reduced_fc_accuracy": reduced["accuracy"], "reduced_fc_weights": reduced["weights"]}
    found = structure(table, inputs, data, config["seed"])
    for name in ("spearman_features", "spearman_confusion"):
        if found[name]["rho"] is not None:
            values |= {name: found[name]["rho"], f"{name}_p": found[name]["p"]}
    times = forward_times(config, data, table, session_config)
    values["time_change"] = times[str(config["B"])]["change"]
    write_strings(run.folder, results["q"], data, history[-1]["step"])

    metrics: dict[str, dict[str, float | None]] = {
        name: {"last": value, "best_on_val": None, "best_on_test": None} for name, value in values.items()
    }
    metrics["lh_accuracy"]["best_on_test"] = max(line["test/rnn_acc"] for line in history)
    one_to_one = [line["test/distinct"] == len(table) for line in history]
    first = one_to_one.index(True) if any(one_to_one) else None
    run.finish(
        make_record(
            paper="class2str",
            row=config["row"],
            stage="lh",
            seed=config["seed"],
            argv=sys.argv,
            config=config,
            metrics=metrics,
            details={
                "strings": codes.strings(table),
                "class_names": list(data.class_names),
                "distinct_of_each_attempt": results["attempts"],
                "first_one_to_one_step": None if first is None else history[first]["step"],
                "one_to_one_lost_later": first is not None and not all(one_to_one[first:]),
                "collisions": codes.collisions(table),
                "training_images": len(data.train_labels),
                "seconds_per_image": times,
                "headline_decoder": config["decode"],
                "still_rising": still_rising(
                    [line["test/rnn_acc"] for line in history if line["test/attempt"] == history[-1]["test/attempt"]]
                ),
            },
            artefacts=ARTEFACTS,
            seconds=history[-1]["test/seconds"],
            images_per_s=round(results["images_per_s"], 1),
            data=data.digests,
            data_verified=data.verified,
            deviations=deviations(config),
            versions=versions_of("tensorflow", "tf-keras", "tf-slim", "numpy", "scipy"),
            deterministic=True,
            gpu=tf_runtime.gpu_name(),
        ),
        lambda: write_artefacts(run.folder, table, values, found, data),
    )
    print_summary(values, config, codes.strings(table), data, results["attempts"])
    print(f"run folder {shown(run.folder)}; string tree: tree.png, tree.txt; record: record.json", flush=True)
    fail_if_collapsed(values["distinct_codes"], len(table), run.folder)


def deviations(config: Mapping[str, Any]) -> list[str]:
    """Ids of the deviations from the released stage 2 that are on in this configuration."""
    active = active_deviations(config) + ["C2S-D04", "C2S-D09", "C2S-D12", "C2S-D18", "C2S-D24"]
    if config["label_grad"] == "flow":
        active.append("C2S-D01")
    if config["finetune"] == "all":
        active.append("C2S-D02")
    elif (config["finetune"] == "bn") != (settings_of(config["dataset"]) is SETTINGS["mnist"]):
        active.append("C2S-D31")
    if config["lh_preset"] != "released" or config["lstm_units"] != list(settings_of(config["dataset"])["released"]):
        active.append("C2S-D28")
    if config["retry_collisions"]:
        active.append("C2S-D23")
    return active


def write_strings(folder: Path, q: np.ndarray, data: datasets.Dataset, step: int) -> None:
    """Writes the string table of this check, one-to-one or not: JSON, and the authors' pickled list (C2S-D24)."""
    table = codes.bits_of(q)
    strings = codes.strings(table)
    name = {"imagenet": "imagenet1000"}.get(data.name, data.name.partition(":")[0])
    write_json(
        folder / f"{name}_strings.json",
        {
            "step": step,
            "distinct": codes.num_distinct(table),
            "min_confidence": float(codes.min_confidence(q)),
            "strings": strings,
            "class_names": list(data.class_names),
            "image_shape": list(data.test_images.shape[1:]),
            "maker": "class2str_tf stage 2",
        },
    )
    write_bytes(folder / f"{name}_strings.pkl", pickle.dumps(strings, protocol=0))


ARTEFACTS = (
    {"kind": "image", "path": "tree.png", "title": "Class strings as a tree"},
    {"kind": "image", "path": "prefixes.png", "title": "Accuracy after the first bits"},
    {"kind": "text", "path": "tree.txt", "title": "Class strings as text"},
    {"kind": "json", "path": "tree.json", "title": "Class strings as nested JSON"},
    {"kind": "json", "path": "evaluation.json", "title": "Every figure of the evaluation"},
)


def write_artefacts(
    folder: Path, table: np.ndarray, values: Mapping[str, float], found: Mapping[str, Any], data: datasets.Dataset
) -> None:
    """Writes evaluation.json, tree.{json,txt,dot,png} and prefixes.png."""
    write_json(folder / "evaluation.json", {"metrics": values, "structure": found})
    names = data.class_names
    prefix = [values[f"prefix_accuracy/{i}"] for i in range(1, table.shape[1] + 1)]
    tree = hierarchy.trie(table, names)
    write_json(folder / "tree.json", tree)
    write_bytes(folder / "tree.txt", hierarchy.trie_text(tree).encode())
    write_bytes(folder / "tree.dot", hierarchy.trie_dot(tree).encode())
    pictures.draw_tree(table, names, folder / "tree.png", superclasses(data), data.coarse_names)
    pictures.draw_prefix_curve(prefix, folder / "prefixes.png", dataset=data.name)


def print_summary(
    values: Mapping[str, float],
    config: Mapping[str, Any],
    strings: list[str],
    data: datasets.Dataset,
    attempts: list[int],
) -> None:
    """The run in a few lines."""
    headline = f"class_accuracy_{config['decode']}"
    reduced = f", reduced FC {100 * values['reduced_fc_accuracy']:.2f}" if "reduced_fc_accuracy" in values else ""
    print(
        f"FC {100 * values['fc_accuracy']:.2f} %, LH {100 * values['lh_accuracy']:.2f} (string match), "
        f"{100 * values[headline]:.2f} (decoded, {config['decode']}){reduced}"
    )
    print(
        f"{values['distinct_codes']} distinct strings for {values['classes']} classes"
        + (f" after {len(attempts)} attempts" if len(attempts) > 1 else "")
        + f"; classifier parameters LH/FC {values['parameter_ratio']:.3f}, whole network {values['network_ratio']:.3f}"
    )
    print("strings: " + ", ".join(f"{n} {s}" for n, s in list(zip(data.class_names, strings, strict=True))[:20]))


def fail_if_collapsed(distinct: int, num_classes: int, folder: Path) -> None:
    """A run whose classes all share one string is finished, recorded, and an error.

    Raises:
      UserError: with what to change.
    """
    if distinct == 1 < num_classes:
        raise UserError(
            f"{shown(folder)}: all {num_classes} classes ended on one string, so the accuracy of this run means "
            "nothing; raise --w_i or lower --w_l2 (the authors: --w_c=4 --w_i=100 --w_l2=0.1)"
        )
