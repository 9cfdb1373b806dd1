"""The viewer on runs of the other papers of this repository: whatever scores or confusions their folders hold."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

import datasets
from hierarchy_cnn_torch.flags import as_user_error
from hierarchy_cnn_torch.method import similarity, trees
from hierarchy_cnn_torch.viewer.view import View, samples_of
from reproduction.runtime import run_data
from reproduction.runtime.arrays import confusion_counts, read_npy
from reproduction.runtime.run_folder import UserError, read_json, shown


def view_of_other(folder: Path, title: str, data_dir: str | None, wanted: list[int]) -> View:
    """Returns the view of a run folder of another paper.

    Args:
      folder: holds evaluation.json with confusion_last and class_names (subclass), or fc-logits-test.npy next to
        config.json (class2str).
      title: of the page; "" names the folder.
      data_dir: data sets, for the images; None takes the run's own.
      wanted: groups of each level of the derived tree; none: `similarity.default_sizes`.
    Raises:
      UserError: neither is there; there are no levels as asked for; the data set of the scores cannot be
        loaded or has changed; or which of its images were scored is not known.
    """
    config = read_json(folder / "config.json", "") if (folder / "config.json").exists() else {}
    name = title or shown(folder)
    logits_file, evaluation = folder / "fc-logits-test.npy", folder / "evaluation.json"
    if logits_file.exists():
        logits = read_npy(logits_file)
        data = _scored_images(folder, config, data_dir)
        if logits.shape != (len(data.test_labels), data.num_classes):
            raise UserError(
                f"{shown(logits_file)}: {logits.shape} scores, {len(data.test_labels)} test images; other data?"
            )
        probabilities = softmax(logits.astype(np.float64), axis=1)
        labels = np.asarray(data.test_labels)
        counts = confusion_counts(labels, logits.argmax(1), data.num_classes)
        # scores of the test set: good enough to look at, never to test a claim on
        distance = similarity.score_distance(logits)
        names = [str(n) for n in data.class_names]
        samples = samples_of(
            labels, probabilities, data.test_images, note="errors of the fully connected head, right exemplars"
        )
        tree = derived_tree(distance, names, wanted)
        return View(name, names, tree, distance, [("FC head", [("last", counts)])], [], samples)
    if evaluation.exists() and "confusion_last" in (content := read_json(evaluation, "")):
        try:
            names = [str(n) for n in content["class_names"]]
            tables = [
                (label, np.array(content[key]))
                for label, key in (("best epoch", "confusion_best"), ("last", "confusion_last"))
                if content.get(key)
            ]
        except (KeyError, TypeError, ValueError):
            tables = []
        if not tables:
            raise UserError(f"{shown(evaluation)}: holds no confusions of named classes; it is damaged or another file")
        with as_user_error():
            epochs = [(label, similarity.check_confusion(counts, names)) for label, counts in tables]
        distance = similarity.profile_distance(epochs[-1][1])
        return View(name, names, derived_tree(distance, names, wanted), distance, [("run", epochs)])
    raise UserError(
        f"{shown(folder)}: no A0 (run python hierarchy_cnn_torch/train.py --stage flat --out {shown(folder)}/A0), and "
        "no evaluation.json with confusions or fc-logits-test.npy of another paper"
    )


def _scored_images(folder: Path, config: Mapping[str, Any], data_dir: str | None) -> datasets.Dataset:
    """The data of a class2str run, whose test split is what was scored (with --hold-out, training images)."""
    name, held_out = str(config.get("dataset")), config.get("hold_out")
    if held_out and (config.get("train_images") or held_out != "stratified"):
        split = "--train-images" if config.get("train_images") else "an earlier way of holding out"
        raise UserError(f"{shown(folder)}: made with --hold-out and {split}; the viewer cannot find the scored images")
    try:
        data = datasets.load(name, data_dir or config.get("data_dir"), bool(config.get("accept_unverified")))
    except datasets.DatasetError as error:
        raise UserError(f"viewer: the images of {name} are missing ({error})") from None
    run_data.check_data(folder, data.digests, "train it again with --overwrite")
    return datasets.hold_out(data, len(data.train_labels) // 5) if held_out else data


def derived_tree(distance: np.ndarray, names: list[str], wanted: list[int]) -> trees.Node:
    """Returns the average linkage of the classes, cut into levels.

    Args:
      distance: float [K, K].
      names: class names.
      wanted: --levels; if empty, `similarity.default_sizes`.
    Raises:
      UserError: levels were asked for and there is none; if only some are lacking, a line on stderr says so.
    """
    sizes = wanted or similarity.default_sizes(len(names))
    with as_user_error():
        levels = similarity.cut(similarity.dendrogram(distance), sizes) if sizes else []
    message = similarity.lacking(levels, wanted)
    if message and not levels:
        raise UserError(f"{message}; leave --levels out, or give --tree")
    if message:
        print(message, file=sys.stderr)
    return trees.tree_of(levels, names)
