"""Splits of a run: training part, held-out part, test; label noise and folds for the label-quality study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import datasets
from datasets.split import stratified
from hierarchy_cnn_torch.method import label_quality, trees
from reproduction.runtime.run_folder import UserError
from reproduction.runtime.torch_runtime import generator

SUBSET_SEED = 0  # the fixed subset and the held-out part are the same for every seed of a row


@dataclass
class Data:
    """One run's images.

    Attributes:
      images, labels: uint8 [N, H, W, C] and int64 [N] of all training images in use (labels with planted noise).
      train, val: int64 indices into them; val is the held-out part, or the fold to predict.
      test_images, test_labels: as loaded.
      curve: int64 indices into the test images that every epoch is evaluated on.
      names: class names, one more where a class was split.
      kind: int8 [N], 0 untouched, 1 near flip, 2 far flip.
      true_labels: int64 [N], before planting.
      mean, sd: float32 [C], of the training part, in 0..1.
      digests, verified: of the data set.
    """

    images: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    val: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    curve: np.ndarray
    names: list[str]
    kind: np.ndarray
    true_labels: np.ndarray
    mean: Tensor
    sd: Tensor
    digests: dict[str, str]
    verified: bool


def load(config: Mapping[str, Any]) -> Data:
    """Loads and splits as the flags say; the same split for every seed and arm of a row.

    Raises:
      UserError: nothing to train on or to keep back, a class or tree that the set does not have.
    """
    try:
        full = datasets.load(
            config["dataset"], config["data_dir"], config["accept_unverified"], size=config["image_size"] or 32
        )
    except datasets.DatasetError as error:
        if config["dataset"] == "fashion_mnist":
            raise UserError(f"{error}; or DATASET=mnist5k (--dataset mnist5k), its own row") from None
        raise
    if config["subset"]:
        full = datasets.subset(full, min(config["subset"], len(full.train_labels)), SUBSET_SEED)
    names = [str(name) for name in full.class_names]
    labels = np.asarray(full.train_labels, np.int64)
    kind = np.zeros(len(labels), np.int8)
    planted = labels
    if config["split_class"] >= 0:
        if config["split_class"] >= len(names):
            raise UserError(f"--split-class: {config['split_class']}, allowed are 0 to {len(names) - 1}")
        planted = label_quality.split_class(labels, config["split_class"], len(names), config["seed"])
        names = [*names, f"{names[config['split_class']]} (second label)"]
    if config["label_noise"]:
        level = trees.choose_levels(noise_tree(config, names), [])[-1]
        allowed = labels != config["split_class"]
        planted, kind = label_quality.plant_noise(planted, level, config["label_noise"], config["seed"], allowed)
    if config["folds"]:
        # DEVIATION HCN-D08: out-of-fold predictions, so that planted labels are judged by networks that never saw them
        parts = np.random.RandomState(SUBSET_SEED).permutation(len(labels)) % config["folds"]
        train, val = np.flatnonzero(parts != config["fold"]), np.flatnonzero(parts == config["fold"])
    else:
        held = min(config["held_out"] or min(5000, len(labels) // 5), len(labels))
        val, train = (np.sort(part) for part in stratified(labels, held, SUBSET_SEED + 1))
    if not len(train) or not len(val):
        raise UserError(
            f"{len(train)} images to train on, {len(val)} kept back of {len(labels)}: both need some; change --subset, "
            "--held-out or --folds"
        )
    count = config["curve_images"] or len(full.test_labels)
    curve = np.sort(stratified(full.test_labels, min(count, len(full.test_labels)), SUBSET_SEED)[0])
    pixels = torch.from_numpy(np.array(full.train_images[train[:20000]])).float() / 255
    mean, sd = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2)).clamp_min(1e-3)
    return Data(
        full.train_images, planted, train, val, full.test_images, np.asarray(full.test_labels, np.int64), curve,
        names, kind, labels, mean, sd, dict(full.digests), full.verified,
    )  # fmt: skip


def noise_tree(config: Mapping[str, Any], names: list[str]) -> trees.Node:
    """The tree whose groups say which flips are near; a split class gets its twin as sibling."""
    base = names[:-1] if config["split_class"] >= 0 else names
    if config["tree"] in ("derived", "random"):
        raise UserError("--label-noise needs --tree official or a tree file: near and far are defined by its groups")
    tree = named_tree(config["tree"], config["dataset"], base)
    if len(base) == len(names):
        return tree
    levels = [np.append(level, level[config["split_class"]]) for level in trees.levels_of(tree)]
    return trees.tree_of(levels, names)


def named_tree(tree: str, dataset: str, names: list[str]) -> trees.Node:
    """The official tree, or one from a file."""
    return trees.official_tree(dataset, names) if tree == "official" else trees.load_tree(tree, names)


def prepared(images: Tensor, mean: Tensor, sd: Tensor, size: int) -> Tensor:
    """uint8 [B, H, W, C] -> float32 [B, C, H', W'], normalised.

    A side below `size` gets a black frame up to it; a larger one stays as it is: H' = max(H, size).
    """
    x = images.permute(0, 3, 1, 2)
    gap = size - x.shape[-1], size - x.shape[-2]
    if gap[0] > 0 or gap[1] > 0:
        x = torch.nn.functional.pad(x, (gap[0] // 2, gap[0] - gap[0] // 2, gap[1] // 2, gap[1] - gap[1] // 2))
    x = x.float().div_(255)
    return x.sub_(mean.view(1, -1, 1, 1)).div_(sd.view(1, -1, 1, 1))


class Augment:
    """Random crop after 4 pixels of padding, and flip, on batches of uint8; draws are a function of (seed, epoch)."""

    def __init__(self, seed: int, epoch: int, count: int):
        draw = generator(seed, "augment", epoch)
        self.shift = torch.randint(0, 9, (count, 2), generator=draw)
        self.flip = torch.rand(count, generator=draw) < 0.5

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Augments images [B, H, W, C] that stand at `index` in the training part."""
        height, width = images.shape[1:3]
        framed = torch.nn.functional.pad(images, (0, 0, 4, 4, 4, 4))
        shift = self.shift[index].to(images.device)
        rows = shift[:, :1] + torch.arange(height, device=images.device)
        columns = shift[:, 1:] + torch.arange(width, device=images.device)
        columns = torch.where(self.flip[index].to(images.device)[:, None], columns.flip(1), columns)
        batch = torch.arange(len(images), device=images.device)
        return framed[batch[:, None, None], rows[:, :, None], columns[:, None, :]]
