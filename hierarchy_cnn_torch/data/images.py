"""Splits of a run: training part, held-out part, test; label noise and folds for the label-quality study."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import datasets
from datasets.split import stratified
from hierarchy_cnn_torch.flags import Config
from reproduction.runtime.run_folder import UserError
from reproduction.runtime.torch_runtime import generator

MEAN_IMAGES = 20000  # for mean and deviation, at most
SUBSET_SEED = 0  # the fixed subset and the held-out part are the same for every seed of a row


@dataclass
class Data:
    """The images of one run.

    Attributes:
      images: uint8 [N, H, W, C], all training images in use.
      labels: int64 [N], with planted noise.
      train: int64 indices into them of the training part.
      val: int64 indices into them of the held-out part (it may be in `train` too), the first ones of it a sample; or of
        the fold to predict.
      test_images: uint8 [M, H, W, C].
      test_labels: int64 [M].
      curve: int64 indices into the test images that every epoch is evaluated on.
      names: class names, one more if a class was split.
      kind: int8 [N], 0 untouched, 1 near flip, 2 far flip.
      true_labels: int64 [N], before planting.
      mean: float32 [C], of up to 20,000 images of the training part, in [0, 1].
      sd: float32 [C], likewise.
      digests: name -> sha256 of each part of the data set.
      verified: whether all digests are the known ones.
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


def load(config: Config) -> Data:
    """Loads and splits as the flags say; the same split for every seed and variant of a row.

    Args:
      config: resolved flags.
    Raises:
      UserError: nothing to train on or to hold out, a class or tree that the set does not have.
    """
    # DEVIATION HCN-D01: small sets in place of ImageNet
    full = datasets.load(config.dataset, config.data_dir, config.accept_unverified, size=config.image_size or 32)
    if config.subset:
        full = datasets.subset(full, min(config.subset, len(full.train_labels)), SUBSET_SEED)
    names = [str(name) for name in full.class_names]
    labels = np.asarray(full.train_labels, np.int64)
    planted, kind = labels, np.zeros(len(labels), np.int8)
    if config.split_class >= 0 or config.label_noise:
        from hierarchy_cnn_torch.data.label_noise import plant

        planted, kind, names = plant(config, labels, names)
    if config.folds:
        # DEVIATION HCN-D08: out-of-fold predictions, so that planted labels are judged by networks that never saw them
        parts = np.random.RandomState(SUBSET_SEED).permutation(len(labels)) % config.folds
        train, val = np.flatnonzero(parts != config.fold), np.flatnonzero(parts == config.fold)
    else:
        count = min(config.held_out or min(5000, len(labels) // 5), len(labels))
        val, train = (np.sort(part) for part in stratified(labels, count, SUBSET_SEED + 1))
        if config.dataset.startswith("folder:"):  # read class by class: the first of them are no sample
            val, _ = stratified(labels, count, SUBSET_SEED + 1)
        if config.train_held_out:
            train = np.arange(len(labels))
    if not len(train) or not len(val):
        raise UserError(
            f"{len(train)} images to train on, {len(val)} held out of {len(labels)}: both need some; change --subset, "
            "--held-out or --folds"
        )
    test_labels = np.asarray(full.test_labels, np.int64)
    count = min(config.curve_images or len(test_labels), len(test_labels))
    curve = np.sort(stratified(full.test_labels, count, SUBSET_SEED)[0])
    seen = train if config.dataset.startswith("folder:") else train[:MEAN_IMAGES]
    seen = seen[:: math.ceil(len(seen) / MEAN_IMAGES)]
    pixels = torch.from_numpy(np.array(full.train_images[seen])).float() / 255
    mean, sd = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2)).clamp_min(1e-3)
    return Data(
        images=full.train_images,
        labels=planted,
        train=train,
        val=val,
        test_images=full.test_images,
        test_labels=test_labels,
        curve=curve,
        names=names,
        kind=kind,
        true_labels=labels,
        mean=mean,
        sd=sd,
        digests=dict(full.digests),
        verified=full.verified,
    )


def prepared(images: Tensor, mean: Tensor, sd: Tensor, size: int) -> Tensor:
    """uint8 [B, H, W, C] -> float32 [B, C, H', W'], normalised.

    A side below `size` gets a black frame up to it; a larger one stays as it is: H' = max(H, size).
    """
    x = images.permute(0, 3, 1, 2)
    # DEVIATION HCN-D07: no frame for images of 28 pixels if --image-size is 28
    gap = size - x.shape[-1], size - x.shape[-2]
    if gap[0] > 0 or gap[1] > 0:
        x = torch.nn.functional.pad(x, (gap[0] // 2, gap[0] - gap[0] // 2, gap[1] // 2, gap[1] - gap[1] // 2))
    x = x.float().div_(255)
    return x.sub_(mean.view(1, -1, 1, 1)).div_(sd.view(1, -1, 1, 1))


class Augment:
    """Random crop after 4 pixels of padding, and flip, on batches of uint8; draws are a function of (seed, epoch)."""

    def __init__(self, seed: int, epoch: int, count: int, device: torch.device | str = "cpu"):
        draw = generator(seed, "augment", epoch)
        self.shift = torch.randint(0, 9, (count, 2), generator=draw).to(device)
        self.flip = (torch.rand(count, generator=draw) < 0.5).to(device)

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Augments images [B, H, W, C] that stand at `index` in the training part; all are on the device."""
        height, width = images.shape[1:3]
        framed = torch.nn.functional.pad(images, (0, 0, 4, 4, 4, 4))
        shift = self.shift[index]
        rows = shift[:, :1] + torch.arange(height, device=images.device)
        columns = shift[:, 1:] + torch.arange(width, device=images.device)
        columns = torch.where(self.flip[index][:, None], columns.flip(1), columns)
        batch = torch.arange(len(images), device=images.device)
        return framed[batch[:, None, None], rows[:, :, None], columns[:, None, :]]
