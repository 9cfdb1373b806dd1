"""Resizes, crops, mirrors and scales images. Every draw is a stateless op keyed by seed and image number.

Source: the released data_sampling/ and preprocessing functions; resized as in TF1 (`align_corners=False`, no half-pixel
centres).
"""

from __future__ import annotations

from collections.abc import Sequence

from reproduction.runtime.tf import tf, tf1
from triplet_tf.config.base_config import BATCH_FRAME, BATCH_SIDE

VGG_MEAN = (123.68, 116.78, 103.94)
DENSENET_MEAN, DENSENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def preprocess(images: tf.Tensor, kind: str) -> tf.Tensor:
    """Scales pixels as those that the network's checkpoint was trained on.

    Args:
      images: RGB float32 [..., 3] in 0..255.
      kind: inception_v1 ([-1, 1]), vgg (minus the mean, not scaled) or densenet (standardised).
    Returns:
      float32 [..., 3].
    """
    if kind == "vgg":
        return images - tf.constant(VGG_MEAN)
    if kind == "densenet":  # DEVIATION STL-D12: over the last axis, whatever the number of axes
        return (images / 255.0 - tf.constant(DENSENET_MEAN)) / tf.constant(DENSENET_STD)
    return (images / 255.0 - 0.5) * 2.0


def resize(image: tf.Tensor, height: tf.Tensor | int, width: tf.Tensor | int) -> tf.Tensor:
    """Resizes bilinearly, as TF1 does. [H, W, 3] -> float32 [height, width, 3]."""
    size = tf.stack([height, width])
    return tf1.image.resize_bilinear(image[None], size, align_corners=False)[0]


def resized_shape(shape: tf.Tensor, side: tf.Tensor | int, frame: tf.Tensor | int) -> tf.Tensor:
    """Computes the size at which the shorter side is `side` and the aspect is kept; truncated, as released.

    The release multiplies in float32: for 348 x 520 and side 350 the result is 349 x 522.

    Args:
      shape: int32 [2], height and width.
      side: pixels.
      frame: side of the crop that has to fit.
    Returns:
      int32 [2].
    """
    exact = tf.cast(shape, tf.float32)
    ratio = tf.cast(side, tf.float32) / tf.reduce_min(exact)
    # DEVIATION STL-D17: never below the crop, where the release stops
    return tf.maximum(tf.cast(exact * ratio, tf.int32), frame)


def shorter_side_to(image: tf.Tensor, side: tf.Tensor | int, frame: tf.Tensor | int) -> tf.Tensor:
    """Resizes to `resized_shape`. uint8 [H, W, 3] -> float32 [h, w, 3]."""
    height, width = tf.unstack(resized_shape(tf.shape(image)[:2], side, frame))
    return resize(image, height, width)


def reduced(image: tf.Tensor, side: int) -> tf.Tensor:
    """Brings the shorter side of an image down to `side`, never up; whole grey levels. uint8 [H, W, 3] -> uint8."""
    smallest = tf.minimum(side, tf.reduce_min(tf.shape(image)[:2]))
    return tf.cast(tf.round(shorter_side_to(image, smallest, smallest)), tf.uint8)


def draws(seed: int, number: tf.Tensor) -> tf.Tensor:
    """Draws four uniform numbers for one image, float32 [4] in [0, 1).

    Args:
      seed: of the run.
      number: int64 scalar, the image's place in the endless sequence of training images (or of batches).
    """
    return tf.random.stateless_uniform([4], tf.stack([tf.constant(seed, tf.int64), number]))


def _whole(draw: tf.Tensor, count: tf.Tensor | int) -> tf.Tensor:
    """Turns a draw in [0, 1) into one of 0..count-1, int32."""
    return tf.cast(draw * tf.cast(count, tf.float32), tf.int32)


def train_image(
    image: tf.Tensor, draw: tf.Tensor, frame: int, sides: Sequence[int], flip: bool, kind: str
) -> tf.Tensor:
    """Prepares a training image in style img: side ~ U{low..high}, random crop, mirrored with p = 0.5.

    Args:
      image: uint8 [H, W, 3].
      draw: float32 [4] in [0, 1).
      frame: side of the crop, at most low.
      sides: low, high.
      flip: False never mirrors.
      kind: see `preprocess`.
    Returns:
      float32 [frame, frame, 3].
    """
    size, corner, mirror = train_crop(tf.shape(image)[:2], draw, frame, sides, flip)
    crop = tf.slice(resize(image, *tf.unstack(size)), tf.concat([corner, [0]], 0), [frame, frame, 3])
    if flip:
        crop = tf.where(mirror, crop[:, ::-1], crop)
    return preprocess(tf.ensure_shape(crop, [frame, frame, 3]), kind)


def train_crop(
    shape: tf.Tensor, draw: tf.Tensor, frame: int, sides: Sequence[int], flip: bool
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Chooses the crop of a training image; arguments as for `train_image`, `shape` is int32 [2].

    Returns:
      (size after resizing int32 [2], top and left corner in it int32 [2], whether to mirror bool).
    """
    size = resized_shape(shape, sides[0] + _whole(draw[0], sides[1] - sides[0] + 1), frame)
    room = size - frame + 1
    return size, tf.stack([_whole(draw[1], room[0]), _whole(draw[2], room[1])]), draw[3] < (0.5 if flip else 0.0)


def test_image(image: tf.Tensor, frame: int, side: int, kind: str) -> tf.Tensor:
    """Prepares a test image in style img: shorter side to `side`, central crop, offsets truncated. As `train_image`."""
    size, corner, _ = test_crop(tf.shape(image)[:2], frame, side)
    crop = tf.slice(resize(image, *tf.unstack(size)), tf.concat([corner, [0]], 0), [frame, frame, 3])
    return preprocess(tf.ensure_shape(crop, [frame, frame, 3]), kind)


def test_crop(shape: tf.Tensor, frame: int, side: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Computes the crop of a test image, as `train_crop`."""
    size = resized_shape(shape, side, frame)
    return size, (size - frame) // 2, tf.constant(False)


def crops(pixels: tf.Tensor, places: tf.Tensor, frame: int, kind: str) -> tf.Tensor:
    """Prepares a batch from a table of all pixels; same values as `train_image` and `test_image`, up to rounding.

    Args:
      pixels: uint8 [P, 3], images one after the other.
      places: int64 [B, 8]: an image's first row in `pixels`, its height and width, then its crop as of `train_crop`.
      frame: side of the crop.
      kind: see `preprocess`.
    Returns:
      float32 [B, frame, frame, 3].
    """
    columns = (places[:, i : i + 1] for i in range(8))  # a GPU has no kernel that splits int64
    first, height, width, new_height, new_width, top, left, mirror = columns
    at = tf.range(frame, dtype=tf.int64)[None]

    def neighbours(position: tf.Tensor, old: tf.Tensor, new: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        exact = tf.cast(position, tf.float32) * (tf.cast(old, tf.float32) / tf.cast(new, tf.float32))
        low = tf.cast(tf.floor(exact), tf.int64)
        return low, tf.minimum(low + 1, old - 1), exact - tf.floor(exact)

    above, below, down = neighbours(top + at, height, new_height)
    before, behind, along = neighbours(left + tf.where(mirror > 0, frame - 1 - at, at), width, new_width)

    def row(y: tf.Tensor) -> tf.Tensor:
        start = (first + y * width)[:, :, None]
        one, other = (tf.cast(tf.gather(pixels, start + x[:, None]), tf.float32) for x in (before, behind))
        return one + (other - one) * along[:, None, :, None]

    upper, lower = row(above), row(below)
    return preprocess(tf.ensure_shape(upper + (lower - upper) * down[:, :, None, None], [None, frame, frame, 3]), kind)


def square(image: tf.Tensor) -> tf.Tensor:
    """Resizes an image on load in style batch: 256 x 256 whatever the aspect. -> float32 [256, 256, 3]."""
    # DEVIATION STL-D13: the released code expects images of that size and cannot batch others
    return tf.ensure_shape(resize(image, BATCH_SIDE, BATCH_SIDE), [BATCH_SIDE, BATCH_SIDE, 3])


def train_batch(images: tf.Tensor, draw: tf.Tensor, mirror: tf.Tensor, kind: str) -> tf.Tensor:
    """Prepares a training batch in style batch: one crop, offsets 0..32, then each image mirrored or not.

    Args:
      images: float32 [B, 256, 256, 3].
      draw: float32 [4] of the batch.
      mirror: bool [B].
      kind: see `preprocess`.
    Returns:
      float32 [B, 224, 224, 3].
    """
    # DEVIATION STL-D08: 32 is drawn too, and the mirror image is exact (released: shifted, one column black)
    room = BATCH_SIDE - BATCH_FRAME + 1
    top, left = _whole(draw[1], room), _whole(draw[2], room)
    crop = tf.slice(images, tf.stack([0, top, left, 0]), [-1, BATCH_FRAME, BATCH_FRAME, 3])
    crop = tf.where(mirror[:, None, None, None], crop[:, :, ::-1], crop)
    return preprocess(tf.ensure_shape(crop, [None, BATCH_FRAME, BATCH_FRAME, 3]), kind)


def test_batch(images: tf.Tensor, kind: str) -> tf.Tensor:
    """Prepares a test batch in style batch: centre crop at offset 16. float32 [B, 256, 256, 3] -> [B, 224, 224, 3]."""
    start = (BATCH_SIDE - BATCH_FRAME) // 2
    crop = images[:, start : start + BATCH_FRAME, start : start + BATCH_FRAME]
    return preprocess(crop, kind)
