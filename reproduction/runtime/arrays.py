"""Arrays of a run on disk: written atomically, read so that a damaged or foreign file never runs code."""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reproduction.runtime.faults import first_line
from reproduction.runtime.run_folder import UserError, atomic, shown

MOST_BYTES = 2 << 30  # more than any run writes into one npz; a small archive may claim to unpack to terabytes


def _unreadable(path: Path, error: Exception, hint: str) -> UserError:
    if isinstance(error, FileNotFoundError):
        reason = "no such file"
    else:
        # the first sentence; NumPy's second one advises to read pickles all the same
        reason = f"not a readable array ({first_line(error).partition('. ')[0]})"
    return UserError(f"{shown(path)}: {reason}{hint and '; '}{hint}")


def check_zip(path: Path) -> None:
    """Checks the members of a file that is a zip, because torch.load ignores the checksums that torch.save writes.

    Raises:
      ValueError: a member's checksum does not match.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            if damaged := packed.testzip():
                raise ValueError(f"the checksum of {damaged} does not match")


def may_be_whole(error: Exception) -> bool:
    """Whether a read failed because of the disk or the memory (torch: a RuntimeError), not of the file's content."""
    if isinstance(error, OSError):
        return error.errno not in (None, errno.EINVAL)  # EINVAL: an offset inside the file is wrong
    return isinstance(error, MemoryError) or any(word in str(error) for word in ("allocate memory", "out of memory"))


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], compress: bool = True) -> None:
    """Writes an .npz file atomically; a reader sees the old file or the new one, never half of it.

    Args:
      path: the file; its folder is created.
      arrays: name -> array of any type but object.
      compress: whether to deflate; False for large arrays of random bits.
    Raises:
      ValueError: an array holds objects, which only a pickle could store.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        (np.savez_compressed if compress else np.savez)(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts the images of each pair of true and predicted class.

    Args:
      labels: int [N], true classes in [0, classes).
      predicted: int [N], in [0, classes).
      classes: number of classes.
    Returns:
      int64 [classes, classes]; rows are true classes.
    Raises:
      ValueError: a label is out of range.
    """
    labels, predicted = np.asarray(labels, np.int64), np.asarray(predicted, np.int64)
    for values in (labels, predicted):
        if len(values) and not 0 <= values.min() <= values.max() < classes:
            raise ValueError(f"labels must lie in [0, {classes})")
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def read_npz(path: Path | str, names: Sequence[str] = (), hint: str = "") -> dict[str, np.ndarray]:
    """The arrays of an .npz file, none of them pickled.

    Args:
      path: the file.
      names: those that must be there, and the only ones read; none reads all.
      hint: what to run, for the message.
    Raises:
      UserError: missing, damaged, holds pickled objects, lacks a name, or unpacks to more than MOST_BYTES.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(info.file_size for info in packed.infolist())
        if size > MOST_BYTES:
            raise ValueError(f"unpacks to {size:,} bytes, more than {MOST_BYTES:,}")
        with np.load(path, allow_pickle=False) as stored:
            return {name: _array(stored[name]) for name in names or stored.files}
    except Exception as error:  # zip, zlib and NumPy's header raise nearly anything
        raise _unreadable(path, error, hint) from None


def _array(value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray):  # a member that is no .npy comes as its bytes
        raise ValueError("a member that is no array")
    if value.dtype.kind == "U" and (np.frombuffer(value.tobytes(), value.dtype.byteorder + "u4") > 0x10FFFF).any():
        raise ValueError("a text with characters that do not exist")  # Python itself fails on them with SystemError
    return value


def read_npy(path: Path | str, hint: str = "", mapped: bool = False) -> np.ndarray:
    """Reads the array of an .npy file, which must not be pickled.

    Args:
      path: the file.
      hint: what to run, for the message.
      mapped: return a read-only memory map instead of an array in memory.
    Raises:
      UserError: missing, damaged, or holds pickled objects.
    """
    path = Path(path)
    try:
        return _array(np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False))
    except Exception as error:
        raise _unreadable(path, error, hint) from None
