"""A user's own images: one sub-folder for each class, JPEG or PNG, resized to one size.

PATH/train/CLASS/* and PATH/test/CLASS/*, or PATH/CLASS/* with a seeded stratified 80/20 split.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datasets import arrays, image_folders
from datasets.core import DATA_ROOT, Dataset, DatasetError
from datasets.files import read_bounded, reading
from datasets.identity import CACHED_ABOVE, content_digest
from datasets.orientation import upright
from datasets.split import TRAIN_SHARE, stratified

# A picture of more pixels is refused before it is decoded; 64 megapixels decode to 192 MB.
MOST_PIXELS = 64 << 20
MOST_FILE_BYTES = 256 << 20
AT_ONCE = 64


def decode(raw: bytes, size: int, what: str) -> np.ndarray:
    """Decodes one image to uint8 [size, size, 3]: turned upright, cropped to its central square, resized, grey to RGB.

    The same as bringing the shorter side to `size` and cropping the centre, in one step that never
    makes the long side of an extreme picture.

    Raises:
      DatasetError: not JPEG or PNG, damaged, or more than MOST_PIXELS pixels.
    """
    with reading(what), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large pictures: we have our own, lower, limit; damaged EXIF: read as none
        with Image.open(io.BytesIO(raw), formats=("JPEG", "PNG")) as picture:
            width, height = picture.size
            if width * height > MOST_PIXELS:
                raise DatasetError(f"{what}: {width} x {height} pixels, more than {MOST_PIXELS:,} are refused")
            # Pillow clips 16-bit grey to 255 when it converts; the high byte is meant.
            deep = picture.mode.startswith("I")
            image = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)) if deep else picture
            image = upright(image.convert("RGB"), raw)
            width, height = image.size
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            square = image.crop((left, top, left + side, top + side))
            return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))


def _images(paths: Sequence[Path], size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(paths), AT_ONCE):
        part = paths[start : start + AT_ONCE]
        yield np.stack([decode(read_bounded(p, MOST_FILE_BYTES), size, str(p)) for p in part])


def load(path: Path, root: Path | None = None, size: int = 32, seed: int = 0) -> Dataset:
    """Loads a folder of images.

    Args:
      path: holds `train` and `test`, or the classes' folders themselves.
      root: the data folder, which stores a decoded array that is large or was slow to decode (in data/folder).
      size: height and width of the result in pixels, 1..4096.
      seed: decides the 80/20 split, if there is no test folder.

    Returns:
      A data set named "folder:<last part of the path>"; classes are the folder names in sorted order;
      `verified` is False, because no digest of such a folder is published.

    Raises:
      DatasetError: no such folder, no classes, a class without training images, an image that cannot be decoded.
    """
    if not 1 <= size <= 4096:
        raise DatasetError(f"folder:{path}: size {size} is not in 1..4096")
    images = image_folders.read(path)
    parts = {split: ([path / name for name in names], labels) for split, (names, labels) in images.splits.items()}
    if "" in parts:
        files, labels = parts.pop("")
        train_rows, test_rows = stratified(labels, round(TRAIN_SHARE * len(files)), seed)
        parts = {s: ([files[i] for i in k], labels[k]) for s, k in (("train", train_rows), ("test", test_rows))}
    image_folders.check_split(path, images.classes, parts["train"][1], parts["test"][1])
    arrays_, digests = {}, {}
    for split, (part, _) in parts.items():
        digest = digests[f"{images.name}/{split}"] = content_digest(part, path, root)
        cache = (DATA_ROOT if root is None else root) / "folder" / f"{split}-{digest[:16]}-{size}-upright.npy"
        slow = sum(file.stat().st_size for file in part) >= CACHED_ABOVE
        arrays_[split] = arrays.build(cache, (len(part), size, size, 3), functools.partial(_images, part, size), slow)
    return Dataset(
        name=images.name,
        train_images=arrays_["train"],
        train_labels=parts["train"][1],
        test_images=arrays_["test"],
        test_labels=parts["test"][1],
        class_names=images.classes,
        digests=digests,
        verified=False,
    )
