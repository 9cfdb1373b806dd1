"""Pad, random crop, mirror, normalization and cutout on whole uint8 batches.

The draws of an epoch are made at once, one row per image of the training set, so that what happens to an image is a
function of (seed, stage, epoch, image) alone and not of the batch or the process it falls into.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PAD = 4  # black border of the random crop [authors' notebook.py]


class Draws(NamedTuple):
    """Random numbers of one epoch, int64 [N] (holes [N, n_holes]) except `flip`, bool [N]."""

    top: Tensor
    left: Tensor
    flip: Tensor
    hole_y: Tensor
    hole_x: Tensor

    def of(self, items: Tensor) -> Draws:
        """The draws of some items, in their order."""
        return Draws(*(field[items] for field in self))

    def to(self, device: torch.device) -> Draws:
        """The draws on a device."""
        return Draws(*(field.to(device) for field in self))


def tensor_of(array: np.ndarray) -> Tensor:
    """Returns the array as a tensor, not copied; no warning for a read-only memory map (SVHN): nothing writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def draw(count: int, size: int, n_holes: int, generator: torch.Generator) -> Draws:
    """Draws crop offset, mirroring and hole centres.

    Args:
      count: N, images.
      size: their side in pixels.
      n_holes: holes an image.
      generator: source of the random numbers.
    Returns:
      top, left uniform in 0..2*PAD; flip with probability 1/2; hole centres uniform over the image (0..size-1).
    Source: authors' notebook.py (transforms) and cutout.py; one draw for the whole epoch is ours.
    """

    def uniform(high: int, *shape: int) -> Tensor:
        # DEVIATION SDN-D26: a torch generator, no NumPy state shared by workers
        return torch.randint(0, high, shape, generator=generator)

    return Draws(
        uniform(2 * PAD + 1, count),
        uniform(2 * PAD + 1, count),
        uniform(2, count).bool(),
        uniform(size, count, n_holes),
        uniform(size, count, n_holes),
    )


def crop_flip(images: Tensor, draws: Draws) -> Tensor:
    """Pads with black, crops at the drawn offsets and mirrors the drawn images.

    Args:
      images: uint8 [B, H, W, C].
      draws: the draws of these B images.
    Returns:
      uint8 [B, H, W, C], contiguous.
    Source: torchvision's RandomCrop(32, padding=4) and RandomHorizontalFlip, as the authors use them.
    """
    count, height, width, channels = images.shape
    padded = F.pad(images, (0, 0, PAD, PAD, PAD, PAD))
    image, row, pixel, _ = padded.stride()
    # All crops of an image as one view; picking one is a copy of `height` contiguous rows.
    crops = padded.as_strided((count, 2 * PAD + 1, 2 * PAD + 1, height, width * channels), (image, row, pixel, row, 1))
    cropped = crops[torch.arange(count, device=images.device), draws.top, draws.left].view(images.shape)
    return torch.where(draws.flip[:, None, None, None], cropped.flip(2), cropped)  # `nonzero` would wait for a GPU


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Computes (images - mean) / std per channel.

    Args:
      images: uint8 [B, H, W, C].
      mean: float32 [C], on the 0-255 scale.
      std: float32 [C], on the 0-255 scale.
    Returns:
      float32 [B, C, H, W], a channels-last view.
    """
    count, height, width, channels = images.shape
    scale = (1 / std).repeat(width)  # over a row of W * C values: contiguous inner loop
    shift = (-mean / std).repeat(width)
    rows = torch.addcmul(shift, images.reshape(count, height, width * channels).float(), scale)
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


def cut_holes(inputs: Tensor, draws: Draws, length: int) -> Tensor:
    """Sets square holes to 0, which is the data set's mean after normalization.

    Args:
      inputs: float32 [B, C, H, W], normalized; overwritten if it is a channels-last view, as `normalize` returns.
      draws: the draws of these B images.
      length: side in pixels; a hole reaches from centre - length // 2 to centre + length // 2, clipped at the border.
    Returns:
      float32 [B, C, H, W], a channels-last view: of the memory of such `inputs`, else of a copy.
    Source: authors' cutout.py.
    """
    count, channels, height, width = inputs.shape
    half = length // 2
    rows = inputs.permute(0, 2, 3, 1).reshape(count, height, width * channels)
    y = torch.arange(height, device=inputs.device)
    x = torch.arange(width, device=inputs.device).repeat_interleave(channels)
    for hole in range(draws.hole_y.shape[1]):
        centre_y, centre_x = draws.hole_y[:, hole, None], draws.hole_x[:, hole, None]
        in_rows = ((y >= centre_y - half) & (y < centre_y + half)).float()[:, :, None]  # [B, H, 1]
        in_columns = ((x >= centre_x - half) & (x < centre_x + half)).float()[:, None, :]  # [B, 1, W*C]
        rows *= torch.addcmul(torch.ones((), device=inputs.device), in_rows, in_columns, value=-1)
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


def training_batch(
    images: Tensor, draws: Draws, mean: Tensor, std: Tensor, crop: bool, cutout: bool, length: int
) -> Tensor:
    """Makes a training batch: crop and mirror, normalize, cut out, in the authors' order.

    Args:
      images: uint8 [B, H, W, C].
      draws: of these images.
      mean: float32 [C], on the 0-255 scale.
      std: float32 [C], on the 0-255 scale.
      crop: whether to crop and mirror (`--data_augmentation`).
      cutout: whether to cut holes (`--cutout`).
      length: side of a hole in pixels (`--length`).
    Returns:
      float32 [B, C, H, W].
    """
    if crop:
        images = crop_flip(images, draws)
    inputs = normalize(images, mean, std)
    return cut_holes(inputs, draws, length) if cutout else inputs
