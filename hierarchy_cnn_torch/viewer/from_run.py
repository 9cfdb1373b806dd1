"""The view of one seed of this repository's runs: A0, a second variant, layers over epochs, and the test images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.special import softmax

from hierarchy_cnn_torch.data.tree_files import leaf_names
from hierarchy_cnn_torch.flags import Config
from hierarchy_cnn_torch.method import similarity
from hierarchy_cnn_torch.method.responses import class_correlation
from hierarchy_cnn_torch.report.measure import flat_config, npz, study_tree
from hierarchy_cnn_torch.viewer.view import Epoch, Layer, View, samples_of
from reproduction.runtime import run_data
from reproduction.runtime.arrays import confusion_counts
from reproduction.runtime.run_folder import UserError, read_json, shown, together


def view_of_run(seed_folder: Path, compare: str | None, title: str, data_dir: str | None) -> View:
    """Collects what analyze.py and train.py wrote.

    Args:
      seed_folder: holds A0 and, if it was analysed, analysis/.
      compare: second variant, such as A1; None or a missing one shows A0 alone.
      title: of the page; "" names data set and seed.
      data_dir: data sets, for the images; None takes the run's own.
    Raises:
      UserError: no finished stage 1, with the command to run; its images cannot be loaded; its files are damaged.
    """
    with together(seed_folder, "analyze.py --run FOLDER --overwrite and train.py --overwrite write them anew"):
        return _view_of_run(seed_folder, compare, title, data_dir)


def _view_of_run(seed_folder: Path, compare: str | None, title: str, data_dir: str | None) -> View:
    flat = flat_config(seed_folder)
    saved = npz(seed_folder / "A0" / "predictions.npz")
    names = _names(seed_folder)
    tree = study_tree(seed_folder, flat, names)
    distance = similarity.score_distance(saved["val_logits"])
    runs = [("A0", _epochs(seed_folder / "A0", saved, len(names)))]
    if compare and (seed_folder / compare / "DONE").exists():
        other = npz(seed_folder / compare / "predictions.npz")
        runs.append((compare, _epochs(seed_folder / compare, other, len(names))))
    layers, keep = _layers(seed_folder)
    probabilities = softmax(saved["test_logits"].astype(np.float64), axis=1)
    images = _test_images(seed_folder / "A0", flat, data_dir)
    if images is not None and len(images) != len(probabilities):
        raise UserError(
            f"{shown(seed_folder)}: {len(images)} test images, {len(probabilities)} predictions; other data?"
        )
    samples = samples_of(
        saved["test_labels"],
        probabilities,
        images,
        keep,
        "test images: errors of A0 at its last epoch, right exemplars",
    )
    accuracy = float((probabilities.argmax(1) == saved["test_labels"]).mean())
    about = (
        f"{flat.dataset}, {flat.preset} network, seed {flat.seed}, {flat.epochs} epochs, top-1 accuracy "
        f"{100 * accuracy:.2f} %. Tree: {flat.tree}. Epoch 'end' is measured on the whole test set, the epochs before "
        f"it on the images of the learning curve."
    )
    return View(title or f"{flat.dataset}, seed {flat.seed}", names, tree, distance, runs, layers, samples, about)


def _names(seed_folder: Path) -> list[str]:
    analysed = seed_folder / "analysis" / "analysis.json"
    if analysed.exists():
        return list(read_json(analysed, "names")["names"])
    names = leaf_names(seed_folder / "A0" / "tree.json")
    return [names[at] for at in range(len(names))]


def _epochs(folder: Path, saved: Mapping[str, np.ndarray], size: int) -> list[tuple[str, np.ndarray]]:
    curves = npz(folder / "curves.npz")
    labels = saved["test_labels"][curves["curve_index"]]
    epochs = [(f"epoch {at + 1}", confusion_counts(labels, row, size)) for at, row in enumerate(curves["curve"])]
    last = confusion_counts(saved["test_labels"], saved["test_logits"].argmax(1), size)
    return [*epochs, ("end", last)]


def _layers(seed_folder: Path) -> tuple[list[Layer], list[int]]:
    path = seed_folder / "analysis" / "profiles.npz"
    analysed = seed_folder / "analysis" / "analysis.json"
    if not path.exists() or not analysed.exists():
        return [], []
    arrays = {key.replace("__", "/"): value for key, value in npz(path).items()}
    if odd := [key for key, value in arrays.items() if value.dtype.kind not in "biuf"]:
        raise ValueError(f"{odd[0]} in {path.name} holds no numbers")
    analysis = read_json(analysed, "mantel", "selectivity")
    layers, keep = [], set()
    for name, per_epoch in analysis["mantel"].items():
        epochs: list[Epoch] = []
        for epoch, statistic in sorted(per_epoch.items(), key=lambda item: int(item[0])):
            profile = arrays[f"{name}/{epoch}"]
            rho = float("nan") if statistic["rho"] is None else float(statistic["rho"])
            epochs.append((f"epoch {epoch}", profile, class_correlation(profile.astype(np.float64)), rho))
        top, simg = arrays.get(f"top/{name}"), arrays.get(f"group_simg/{name}")  # older runs lack the latter
        null = None if simg is None else [float(s) for row in analysis["selectivity"][name] for s in row["groups_95"]]
        layers.append(Layer(name, epochs, top, simg, null))
        if top is not None:
            keep |= set(top.ravel().tolist())
    return layers, sorted(keep)


def _test_images(folder: Path, flat: Config, data_dir: str | None) -> np.ndarray | None:
    import datasets

    place = data_dir or flat.data_dir
    size = flat.image_size if flat.dataset.startswith("folder:") else 32
    try:
        data = datasets.load(flat.dataset, place, flat.accept_unverified, size=size)
    except datasets.DatasetError as error:
        raise UserError(f"viewer: the images of {flat.dataset} are missing ({error})") from None
    run_data.check_data(folder, data.digests, "train.py --overwrite writes it anew")
    return data.test_images
