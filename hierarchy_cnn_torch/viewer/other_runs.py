"""The viewer on runs of the other papers of this repository: whatever scores or confusions their folders hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import datasets
from hierarchy_cnn_torch.method import similarity, trees
from hierarchy_cnn_torch.viewer.view import View, samples_of, softmax
from reproduction.runtime.arrays import read_npy
from reproduction.runtime.run_folder import UserError, read_json, shown


def view_of_other(folder: Path, title: str, data_dir: str | None, sizes: list[int]) -> View:
    """A page for a run folder of another paper.

    Args:
      folder: holds evaluation.json with confusion_last and class_names (subclass), or fc-logits-test.npy beside
        config.json (class2str).
      sizes: groups per level of the derived tree.
    Raises:
      UserError: neither is there; or the data set of the scores cannot be loaded.
    """
    config = read_json(folder / "config.json", "") if (folder / "config.json").exists() else {}
    name = title or shown(folder)
    logits_file, evaluation = folder / "fc-logits-test.npy", folder / "evaluation.json"
    if logits_file.exists():
        logits = read_npy(logits_file)
        place = data_dir or config.get("data_dir")
        try:
            data = datasets.load(str(config.get("dataset")), place, bool(config.get("accept_unverified")))
        except datasets.DatasetError as error:
            raise UserError(f"viewer: the images of {config.get('dataset')} are missing ({error})") from None
        if logits.shape != (len(data.test_labels), data.num_classes):
            raise UserError(
                f"{shown(logits_file)}: {logits.shape} scores, {len(data.test_labels)} test images; other data?"
            )
        probabilities = softmax(logits)
        labels = np.asarray(data.test_labels)
        counts = similarity.confusion_matrix(labels, logits.argmax(1), data.num_classes)
        # scores of the test set: good enough to look at, never to test a claim on
        distance = similarity.score_distance(logits)
        names = [str(n) for n in data.class_names]
        samples = samples_of(labels, probabilities, data.test_images, note="test images of the fully connected head")
        return View(
            name, names, _tree(distance, names, sizes), distance, [("FC head", [("last", counts)])], [], samples
        )
    if evaluation.exists() and "confusion_last" in (found := read_json(evaluation, "")):
        try:
            names = [str(n) for n in found["class_names"]]
            tables = [
                (label, np.array(found[key]))
                for label, key in (("best epoch", "confusion_best"), ("last", "confusion_last"))
                if found.get(key)
            ]
        except (KeyError, TypeError, ValueError):
            tables = []
        if not tables:
            raise UserError(f"{shown(evaluation)}: holds no confusions of named classes; it is damaged or another file")
        epochs = [(label, similarity.check_confusion(counts, names)) for label, counts in tables]
        distance = similarity.profile_distance(epochs[-1][1])
        return View(name, names, _tree(distance, names, sizes), distance, [("run", epochs)])
    raise UserError(
        f"{shown(folder)}: no A0 (run python hierarchy_cnn_torch/train.py --stage flat --out {shown(folder)}/A0), and "
        "no evaluation.json with confusions or fc-logits-test.npy of another paper"
    )


def _tree(distance: np.ndarray, names: list[str], sizes: list[int]) -> trees.Node:
    return trees.tree_of(similarity.cut(similarity.dendrogram(distance), sizes) if sizes else [], names)
