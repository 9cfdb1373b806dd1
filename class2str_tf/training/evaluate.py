"""Evaluates a finished stage 2: all accuracies over the whole test set, sizes, and what the strings mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import datasets
from class2str_tf.data.images import superclasses
from class2str_tf.flags import Stage2Config
from class2str_tf.method import codes, string_tree
from class2str_tf.method.layers import count_parameters
from class2str_tf.training.frozen_features import Features
from class2str_tf.training.timing import classifiers
from reproduction.runtime.arrays import confusion_counts
from reproduction.runtime.outcomes import Outcomes, outcomes_of
from reproduction.runtime.tf import tf1


def accuracies(
    results: Mapping[str, Any], fc_logits: np.ndarray, labels: np.ndarray
) -> tuple[dict[str, float], dict[str, Outcomes]]:
    """Every accuracy, each over all test images by counts, and which images it is of.

    Args:
      results: "p" float32 [N, L, 2], "q" float32 [C, L, 2], "inverse_of" int64 [N], "inverse_of_q" int64 [C].
      fc_logits: float32 [N, C] of stage 1.
      labels: int64 [N].
    Returns:
      Metric name -> fraction in [0, 1], or a count. `lh_accuracy` is string match, the paper's column.
      Metric name -> outcomes of its images; of `class_accuracy_exact`, where an image may count for a half, only if the
        strings are one-to-one.
    """
    p, table, bits = results["p"], codes.bits_of(results["q"]), codes.bits_of(results["p"])
    shared = {c for group in codes.collisions(table) for c in group}
    alone = np.array([c not in shared for c in range(len(table))])
    match = codes.string_match(bits, table, labels)
    prefixes = np.logical_and.accumulate(bits == table[labels], axis=1)
    right = {
        "fc_accuracy": fc_logits.argmax(axis=1) == labels,
        "lh_accuracy": match,
        "class_accuracy_exact_pessimistic": match & alone[labels],
        "class_accuracy_hamming": codes.decode(p, table, "hamming") == labels,
        "class_accuracy_ml": codes.decode(p, table, "ml") == labels,
        "class_accuracy_str2class": results["inverse_of"] == labels,
    } | {f"prefix_accuracy/{i}": column for i, column in enumerate(prefixes.T, 1)}
    if alone.all():
        right["class_accuracy_exact"] = match
    exact = codes.class_accuracy(p, table, labels, "exact")
    values = {
        **{name: float(np.mean(images)) for name, images in right.items()},
        "class_accuracy_exact": exact["accuracy"],
        "unowned_strings": exact["unowned"],
        "inverse_accuracy": float(np.mean(results["inverse_of_q"] == np.arange(len(table)))),
        "distinct_codes": codes.num_distinct(table),
        "classes": len(table),
        "min_confidence": float(codes.min_confidence(results["q"])),
    }
    return values, {name: outcomes_of(images, labels) for name, images in right.items()}


def sizes_of(config: Stage2Config, data: datasets.Dataset, table: np.ndarray) -> dict[str, float]:
    """Parameters of the CNN and of both classifiers: all trainable ones, and weights as the poster counts."""
    with tf1.Graph().as_default():
        classifiers(config, data.test_images.shape[1:], table)
        sizes = {"cnn_parameters": count_parameters("cnn")}
        for name, scope in (("fc", "classifier"), ("lh", "lh")):
            sizes[f"{name}_parameters"] = count_parameters(scope)
            sizes[f"{name}_weights"] = count_parameters(scope, weights_only=True)
    ratio = sizes["lh_parameters"] / sizes["fc_parameters"]
    whole = (sizes["cnn_parameters"] + sizes["lh_parameters"]) / (sizes["cnn_parameters"] + sizes["fc_parameters"])
    return {**sizes, "parameter_ratio": ratio, "parameter_reduction": 1 - ratio, "network_ratio": whole}


def structure(table: np.ndarray, inputs: Features, data: datasets.Dataset, seed: int) -> dict[str, Any]:
    """Measures how the strings relate to known properties of the classes; JSON values."""
    labels, known, num_classes = data.test_labels, superclasses(data), len(table)
    confusion = confusion_counts(labels, inputs.fc_logits.argmax(axis=1), num_classes)
    means = np.stack([inputs.test[labels == c].mean(axis=0) for c in range(num_classes)])
    measures: dict[str, Any] = {
        "groups": string_tree.prefix_groups(table, data.class_names, known),
        "lcp": string_tree.lcp_matrix(table).tolist(),
        "spearman_confusion": string_tree.spearman(table, string_tree.symmetric_confusion(confusion), seed=seed),
        "spearman_features": string_tree.spearman(table, string_tree.cosine_matrix(means), seed=seed),
    }
    if known is not None:
        measures["superclasses"] = string_tree.superclass_scores(table, known, seed=seed)
    return measures
