"""Steps 1c and 1d: uncertainty of the coarse label of each image, and the certain images of each class.

U = 1 - p* if the mean prediction over the views is right, 1 + p* if it is wrong (p*: its largest entry). So every
misclassified image ranks behind every correct one.

A view is a fixed transformation. The views of all images are drawn at once from one seeded generator, so what an image
gets is a function of (seed, image) alone. Averaging n draws from few views is the same as computing each view once and
weighting it by how often it was drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

P_HORIZONTAL, P_VERTICAL = 0.8, 0.3  # authors' models/Classifier.py
SHIFT = 1  # pixels
IN_CACHE = 32  # network inputs whose activations a CPU's cache holds: ResNet-18 is 15 percent slower with 200


# --- views ----------------------------------------------------------------------------------------------------------


def shift(images: Tensor, down: int, right: int) -> Tensor:
    """Moves images by whole pixels; the border is repeated.

    Args:
      images: [B, C, H, W], any dtype.
      down: pixels, may be negative.
      right: pixels, may be negative.
    """
    height, width = images.shape[-2:]
    rows = (torch.arange(height, device=images.device) - down).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) - right).clamp(0, width - 1)
    return images[..., rows, :][..., columns]


def _floats(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.float() / 255


def _like(images: Tensor, template: Tensor) -> Tensor:
    return images.to(template.dtype) if template.is_floating_point() else (images.clamp(0, 1) * 255).round().byte()


def grey_scale(images: Tensor) -> Tensor:
    """Returns the luminance (0.299, 0.587, 0.114) in all three channels."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device, dtype=_floats(images).dtype)
    grey = (_floats(images) * weights[:, None, None]).sum(1, keepdim=True)
    return _like(grey.expand_as(images), images)


def zoom(images: Tensor) -> Tensor:
    """Returns the central three quarters, scaled back to the full size."""
    height, width = images.shape[-2:]
    top, left = height // 8, width // 8
    part = _floats(images)[..., top : height - top, left : width - left]
    return _like(F.interpolate(part, (height, width), mode="bilinear", align_corners=False), images)


def hue(images: Tensor) -> Tensor:
    """Turns the colours by 60 degrees about the grey axis."""
    cos, sin, third = 0.5, 3**0.5 / 2, 1 / 3
    diagonal, off = cos + third * (1 - cos), third * (1 - cos)
    swing = third**0.5 * sin
    rows = (
        (diagonal, off - swing, off + swing),
        (off + swing, diagonal, off - swing),
        (off - swing, off + swing, diagonal),
    )
    floats = _floats(images)
    matrix = torch.tensor(rows, device=floats.device, dtype=floats.dtype)
    return _like(torch.einsum("dc,bchw->bdhw", matrix, floats), images)


View = Callable[[Tensor], Tensor]

FLIPS: tuple[View, ...] = (
    lambda x: x,
    lambda x: x.flip(-1),
    lambda x: x.flip(-2),
    lambda x: x.flip((-2, -1)),
)
SHIFTS: tuple[View, ...] = (
    lambda x: x,
    lambda x: shift(x, SHIFT, 0),
    lambda x: shift(x, -SHIFT, 0),
    lambda x: shift(x, 0, SHIFT),
    lambda x: shift(x, 0, -SHIFT),
)
# Kinds shown in the authors' images/uncertainty.png; their order and strength are ours.
PICTURE: tuple[View, ...] = (
    lambda x: x,
    grey_scale,
    lambda x: x.flip(-1).rot90(1, (-2, -1)),
    zoom,
    hue,
)
VIEWS = {"flips": FLIPS, "shifts": SHIFTS, "picture": PICTURE}
AUG_SETS = tuple(VIEWS)


def draw_views(count: int, n_aug: int, seed: int, aug_set: str) -> Tensor:
    """Draws which view each augmentation of each image is, a function of the seed and the image's position.

    Args:
      count: number of images N.
      n_aug: augmentations per image.
      seed: seed of the run.
      aug_set: "flips": horizontal with p = 0.8, then vertical with p = 0.3, so identity .14, horizontal .56,
        vertical .06, both .24. "shifts" and "picture": one of the five, uniformly.
    Returns:
      int64 [N, n_aug], positions in VIEWS[aug_set].
    Source: authors' models/Classifier.py (flips); the other two sets are ours. Deviation: FGL-D23.
    """
    words = hashlib.sha256(f"{seed}\x1funcertainty\x1fviews".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(words[:8], "little") >> 1)
    if aug_set == "flips":
        coins = torch.rand(count, n_aug, 2, generator=generator)
        horizontal, vertical = coins[..., 0] < P_HORIZONTAL, coins[..., 1] < P_VERTICAL
        return horizontal.long() + 2 * vertical.long()
    return torch.randint(len(VIEWS[aug_set]), (count, n_aug), generator=generator)


def count_views(views: Tensor, kinds: int) -> Tensor:
    """Counts how often each view was drawn.

    Args:
      views: int64 [N, n_aug] from `draw_views`.
      kinds: number of different views K.
    Returns:
      int64 [N, K], rows sum to n_aug.
    """
    counts = torch.zeros(len(views), kinds, dtype=torch.int64)
    return counts.scatter_add_(1, views, torch.ones_like(views))


# --- uncertainty ----------------------------------------------------------------------------------------------------


class Uncertainty(NamedTuple):
    """Uncertainty of N images.

    Attributes:
      U: float64 [N], in [0, 2].
      mean_prediction: float64 [N, C], rows sum to 1.
    """

    U: np.ndarray
    mean_prediction: np.ndarray


def formula(mean_prediction: Tensor, labels: Tensor) -> Tensor:
    """Computes U from mean predictions.

    Args:
      mean_prediction: float [N, C], rows sum to 1.
      labels: int64 [N], 0..C-1.
    Returns:
      float [N]: 1 - p* in [0, 1 - 1/C] if right, 1 + p* in [1 + 1/C, 2] if wrong.
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
    """Computes the uncertainty of every image under `n_aug` random views.

    Args:
      network: images -> logits [B, C]; evaluated in evaluation mode and left as it is.
      images: [N, C, H, W], the network's input or what `prepare` turns into it (such as uint8); on any device.
      labels: int64 [N], coarse labels.
      n_aug: augmentations per image, >= 1.
      seed: the views are a function of (seed, image).
      batch_size: network inputs at a time; on a CPU never more than IN_CACHE.
      aug_set: one of AUG_SETS.
      prepare: applied to a batch of views before the network.
      progress: called with the number of images that were finished since the last call.
    Returns:
      U and mean predictions, accumulated in float64.
    Raises:
      ValueError: lengths differ, or n_aug < 1.
    Source: authors' models/Classifier.py, unc_configuration. Deviation: FGL-D23.
    """
    if len(images) != len(labels) or n_aug < 1:
        raise ValueError(f"{len(images)} images, {len(labels)} labels, n_aug {n_aug}")
    kinds = VIEWS[aug_set]
    counts = count_views(draw_views(len(images), n_aug, seed, aug_set), len(kinds))
    modes = {module: module.training for module in network.modules()}
    network.eval()
    mean: Tensor | None = None
    values = (*network.parameters(), *network.buffers())  # not the images' device: `prepare` may move them
    at_once = min(batch_size, IN_CACHE) if all(value.device.type == "cpu" for value in values) else batch_size
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
        logits = torch.cat([network(part) for part in parts])
        predictions = torch.softmax(logits.float() if logits.dtype.itemsize < 4 else logits, 1).double().cpu()
        if mean is None:
            mean = torch.zeros(len(images), predictions.shape[1], dtype=torch.float64)
        weights = counts[start + at, kind_of].double() / n_aug
        mean.index_add_(0, start + at, predictions * weights[:, None])
        if progress:
            progress(len(block))
    for module, mode in modes.items():
        module.training = mode
    if mean is None:
        return Uncertainty(np.zeros(0), np.zeros((0, 0)))
    return Uncertainty(formula(mean, torch.as_tensor(labels)).numpy(), mean.numpy())


# --- filter ---------------------------------------------------------------------------------------------------------


def certain_mask(uncertainty: np.ndarray, coarse_labels: np.ndarray, threshold: float) -> np.ndarray:
    """Marks the first int(n_class * threshold / 100) images of each class by ascending uncertainty.

    Args:
      uncertainty: float [N], U in [0, 2].
      coarse_labels: int64 [N].
      threshold: percent that is certain, in (0, 100].
    Returns:
      bool [N]; among equal U the earlier image of the file comes first.
    Raises:
      ValueError: lengths differ, threshold out of range, or a U that is not finite.
    Source: authors' pipeline.py, get_pseudo_labels. Deviation: FGL-D19, FGL-D18.
    """
    if len(uncertainty) != len(coarse_labels):
        raise ValueError(f"{len(uncertainty)} uncertainties for {len(coarse_labels)} labels")
    if not 0 < threshold <= 100:
        raise ValueError(f"threshold {threshold}: a percentage above 0 and at most 100")
    if not np.isfinite(uncertainty).all():
        raise ValueError("uncertainties are not finite")
    certain = np.zeros(len(uncertainty), bool)  # DEVIATION FGL-D18: arrays; the released pandas writes do nothing now
    for label in np.unique(coarse_labels):
        members = np.flatnonzero(coarse_labels == label)
        # DEVIATION FGL-D19: a stable sort, so that ties (many U near 0) go by position
        order = members[np.argsort(uncertainty[members], kind="stable")]
        certain[order[: int(len(members) * threshold / 100)]] = True
    return certain
