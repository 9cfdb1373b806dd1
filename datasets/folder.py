"""A user's own images: one sub-folder per class, JPEG or PNG, brought to one size.

PATH/train/CLASS/* and PATH/test/CLASS/*, or PATH/CLASS/* with a seeded stratified 80/20 split.
"""

from __future__ import annotations

import functools
import hashlib
import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datasets import arrays
from datasets.core import DATA_ROOT, Dataset, DatasetError, name_of
from datasets.split import stratified
from datasets.verify import read_bounded, reading

SUFFIXES = (".jpg", ".jpeg", ".png")
TRAIN_SHARE = 0.8
# A picture of more pixels is refused before it is decoded; 64 megapixels decode to 192 MB.
MOST_PIXELS = 64 << 20
MOST_FILE_BYTES = 256 << 20
AT_ONCE = 64


def decode(raw: bytes, size: int, what: str) -> np.ndarray:
    """One picture as uint8 [size, size, 3]: its centre square, brought to `size`, grey made RGB.

    The same as bringing the shorter side to `size` and cropping the centre, in one step that never
    makes the long side of an extreme picture.

    Raises:
      DatasetError: not JPEG or PNG, damaged, or more than MOST_PIXELS pixels.
    """
    with reading(what), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we have our own, lower, limit
        with Image.open(io.BytesIO(raw), formats=("JPEG", "PNG")) as picture:
            width, height = picture.size
            if width * height > MOST_PIXELS:
                raise DatasetError(f"{what}: {width} x {height} pixels, more than {MOST_PIXELS:,} are refused")
            # Pillow clips 16-bit grey to 255 when it converts; the high byte is meant.
            deep = picture.mode.startswith("I")
            image = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)) if deep else picture
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            square = image.convert("RGB").crop((left, top, left + side, top + side))
            return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))


def _classes(folder: Path) -> list[str]:
    try:
        return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read ({error.strerror})") from error


def _files(folder: Path, classes: Sequence[str], known: Sequence[str]) -> tuple[list[Path], np.ndarray]:
    paths: list[Path] = []
    labels: list[int] = []
    passed_over = 0
    for name in classes:
        if name not in known:
            raise DatasetError(f"{folder / name}: a class that the training folder lacks ({len(known)} classes there)")
        visible = [p for p in sorted((folder / name).iterdir()) if p.is_file() and not p.name.startswith(".")]
        chosen = [p for p in visible if p.suffix.lower() in SUFFIXES]
        passed_over += len(visible) - len(chosen)
        if not chosen:
            raise DatasetError(f"{folder / name}: no JPEG or PNG file ({', '.join(SUFFIXES)})")
        paths += chosen
        labels += [known.index(name)] * len(chosen)
    if passed_over:
        print(f"{folder}: {passed_over} files that are not {', '.join(SUFFIXES)} passed over", file=sys.stderr)
    return paths, np.array(labels, np.int64)


def _digest(paths: Sequence[Path], base: Path) -> str:
    """One sha256 over names and contents of all files, in order."""
    whole = hashlib.sha256()
    for path in paths:
        content = hashlib.sha256(read_bounded(path, MOST_FILE_BYTES)).hexdigest()
        whole.update(f"{path.relative_to(base).as_posix()}\0{content}\n".encode(errors="surrogateescape"))
    return whole.hexdigest()


def _images(paths: Sequence[Path], size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(paths), AT_ONCE):
        part = paths[start : start + AT_ONCE]
        yield np.stack([decode(read_bounded(p, MOST_FILE_BYTES), size, str(p)) for p in part])


def load(path: Path, root: Path | None = None, size: int = 32, seed: int = 0) -> Dataset:
    """Loads a folder of images.

    Args:
      path: holds `train` and `test`, or the classes' folders themselves.
      root: the data folder, in which a large decoded array is kept (data/folder).
      size: height and width of the result in pixels, 1..4096.
      seed: of the 80/20 split where there is no test folder.

    Returns:
      A data set named "folder:<last part of the path>"; classes are the folder names in sorted order;
      `verified` is False, since nobody published what the folder should hold.

    Raises:
      DatasetError: no such folder, no classes, an empty class, a picture that cannot be decoded.
    """
    if not 1 <= size <= 4096:
        raise DatasetError(f"folder:{path}: size {size} is not in 1..4096")
    if not path.is_dir():
        raise DatasetError(f"folder:{path}: no such folder; expected one sub-folder per class")
    top = _classes(path)
    divided = "train" in top and "test" in top
    if not divided and ("train" in top or "test" in top):
        raise DatasetError(f"folder:{path}: has only one of train and test; expected both, or one sub-folder per class")
    train_folder = path / "train" if divided else path
    classes = _classes(train_folder)
    if len(classes) < 2:
        raise DatasetError(f"{train_folder}: {len(classes)} sub-folders; expected one per class, two classes or more")
    class_names = tuple(name_of(train_folder / name) for name in classes)
    set_name = f"folder:{name_of(path)}"
    files, labels = _files(train_folder, classes, classes)
    parts = {"train": (files, labels)}
    if divided:
        parts["test"] = _files(path / "test", _classes(path / "test"), classes)
    else:
        picked, rest = stratified(labels, round(TRAIN_SHARE * len(files)), seed)
        parts = {s: ([files[i] for i in k], labels[k]) for s, k in (("train", picked), ("test", rest))}
    arrays_, digests = {}, {}
    for split, (part, _) in parts.items():
        if not part:
            raise DatasetError(f"folder:{path}: no images for the {split} split; more images are needed")
        digest = digests[f"{set_name}/{split}"] = _digest(part, path)
        cache = (DATA_ROOT if root is None else root) / "folder" / f"{split}-{digest[:16]}-{size}.npy"
        arrays_[split] = arrays.build(cache, (len(part), size, size, 3), functools.partial(_images, part, size))
    return Dataset(
        name=set_name,
        train_images=arrays_["train"],
        train_labels=parts["train"][1],
        test_images=arrays_["test"],
        test_labels=parts["test"][1],
        class_names=class_names,
        digests=digests,
        verified=False,
    )
