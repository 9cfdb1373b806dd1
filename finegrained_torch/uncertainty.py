"""Uncertainty of the coarse label of each image (step 1c): in batches, each distinct view computed once.

U = 1 - p* where the mean prediction over the views is right, 1 + p* where it is wrong (p* its largest entry), so that
every misclassified image ranks behind every correct one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from finegrained_torch import augment
from finegrained_torch.networks import inference_copy
from reproduction.runtime.torch_runtime import generator

IN_CACHE = 32  # network inputs whose activations a CPU's cache holds: ResNet-18 is 15 percent slower with 200


class Uncertainty(NamedTuple):
    """U float64 [N], in [0, 2]; mean_prediction float64 [N, C], rows sum to 1."""

    U: np.ndarray
    mean_prediction: np.ndarray


def formula(mean_prediction: Tensor, labels: Tensor) -> Tensor:
    """U of mean predictions.

    Args:
      mean_prediction: float [N, C], rows sum to 1. labels: int64 [N], 0..C-1.
    Returns:
      float [N]: 1 - p* in [0, 1 - 1/C] where right, 1 + p* in [1 + 1/C, 2] where wrong.
    Source: authors' models/Classifier.py; images/uncertainty.png.
    """
    largest, decided = mean_prediction.max(1)
    return torch.where(decided == labels, 1 - largest, 1 + largest)


@torch.no_grad()
def uncertainty(
    network: nn.Module,
    images: Tensor,
    labels: np.ndarray | Tensor,
    n_aug: int = 5,
    seed: int = 42,
    batch_size: int = 200,
    aug_set: str = "flips",
    prepare: Callable[[Tensor], Tensor] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Uncertainty:
    """Uncertainty of every image under `n_aug` random views.

    Args:
      network: images -> logits [B, C]; evaluated in evaluation mode, and left as it is.
      images: [N, C, H, W], the network's input, or anything `prepare` turns into it (uint8, say); on any device.
      labels: int64 [N], coarse labels.
      n_aug: augmentations an image. seed: the views are a function of (seed, image).
      batch_size: network inputs at a time. aug_set: one of augment.AUG_SETS.
      prepare: applied to a batch of views before the network. progress: called with the images done since last time.
    Returns:
      U and mean predictions, accumulated in float64.
    Raises:
      ValueError: lengths differ, or n_aug < 1.
    Source: authors' models/Classifier.py, unc_configuration. Deviation: FGL-D23.
    """
    if len(images) != len(labels) or n_aug < 1:
        raise ValueError(f"{len(images)} images, {len(labels)} labels, n_aug {n_aug}")
    kinds = augment.VIEWS[aug_set]
    counts = augment.counts_of(draw_views(len(images), n_aug, seed, aug_set), len(kinds))
    fast = inference_copy(network)
    mean: Tensor | None = None
    at_once = min(batch_size, IN_CACHE) if images.device.type == "cpu" else batch_size
    step = max(1, batch_size // 2)  # about 2.5 of the 4 flips are drawn for an image: two batches or so at a time
    for start in range(0, len(images), step):
        # DEVIATION FGL-D23: batches of views; a view drawn twice is computed once and counts twice
        block = images[start : start + step]
        rows, inputs = [], []
        for kind, view in enumerate(kinds):
            drawn = counts[start : start + step, kind].nonzero()[:, 0]
            if len(drawn):
                rows.append(torch.stack([drawn, torch.full_like(drawn, kind)]))
                inputs.append(view(block[drawn.to(block.device)]))
        at, kind_of = torch.cat(rows, 1)
        stacked = torch.cat(inputs)
        parts = (prepare(part) if prepare else part for part in stacked.split(at_once))
        logits = torch.cat([fast(part) for part in parts])
        predictions = torch.softmax(logits.float() if logits.dtype.itemsize < 4 else logits, 1).double().cpu()
        if mean is None:
            mean = torch.zeros(len(images), predictions.shape[1], dtype=torch.float64)
        weights = counts[start + at, kind_of].double() / n_aug
        mean.index_add_(0, start + at, predictions * weights[:, None])
        if progress:
            progress(len(block))
    if mean is None:
        return Uncertainty(np.zeros(0), np.zeros((0, 0)))
    found = formula(mean, torch.as_tensor(labels))
    return Uncertainty(found.numpy(), mean.numpy())


def draw_views(count: int, n_aug: int, seed: int, aug_set: str) -> Tensor:
    """The views of all images, int64 [N, n_aug]: a pure function of the seed and the image's position."""
    return augment.draw(aug_set, count, n_aug, generator(seed, "uncertainty", "views"))
