"""Batches out of YouTube-8M TFRecords: streamed, shuffled through a bounded buffer, a function of (seed, epoch)."""

from __future__ import annotations

import glob
import itertools
import sys
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reproduction.runtime.run_folder import REPO_ROOT, UserError, shown
from reproduction.runtime.torch_runtime import derive
from subclass_torch.yt8m import tfrecord
from subclass_torch.yt8m.flags import EVAL, MAP, PLAIN, TRAIN

RGB, AUDIO = 1024, 128
WIDTH = RGB + AUDIO


class Videos(NamedTuple):
    """Some videos: float32 [n, 1152] raw rgb and audio, and for each its labels."""

    features: np.ndarray
    labels: list[np.ndarray]


def anchored(path: str) -> Path:
    """Returns the path or pattern that a flag means: a default starts at the repository, another relative one at the
    working directory.
    """
    place = Path(path.replace("\\", "/"))  # DEVIATION SDN-Y01: the released defaults hold Windows separators
    return REPO_ROOT / place if place.as_posix() in (TRAIN, PLAIN, EVAL, MAP) else place


def shards(pattern: str, flag: str) -> list[Path]:
    """Returns the files of a pattern, sorted; see `anchored`.

    An empty file among others holds no record, which is allowed and worth a warning.

    Raises:
      UserError: no file matches, or all that match are empty.
    """
    paths = [Path(name) for name in sorted(glob.glob(str(anchored(pattern))))]
    if not paths:
        raise UserError(f"--{flag} {pattern}: no file matches (YouTube-8M, video level: research.google.com/youtube8m)")
    empty = [path for path in paths if not path.stat().st_size]
    if len(empty) == len(paths):
        raise UserError(
            f"--{flag} {pattern}: no records, all matching files ({len(paths)}) are empty; fetch them again"
        )
    if empty:
        print(
            f"warning: --{flag}: {len(empty)} of {len(paths)} files are empty, the first is {shown(empty[0])}",
            file=sys.stderr,
        )
    return paths


def decode(payload: bytes, path: Path, record: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [1152] (rgb, audio) and labels int64 of one record.

    Raises:
      UserError: a key is missing or has another length, or a label is out of range; names file and record.
    """
    try:
        example = tfrecord.parse_example(payload)
        for key, length in (("labels", None), ("mean_rgb", RGB), ("mean_audio", AUDIO)):
            if key not in example:
                raise ValueError(f"no {key}")
            if isinstance(example[key], list) or (length is not None and len(example[key]) != length):
                raise ValueError(f"{key} holds {len(example[key])} values, not {length or 'numbers'}")
        labels = np.asarray(example["labels"])
        if labels.dtype.kind != "i" or (len(labels) and (labels.min() < 0 or labels.max() >= classes)):
            raise ValueError(f"labels {labels.tolist()[:5]} are not in 0..{classes - 1}")
        features = np.concatenate([np.asarray(example["mean_rgb"]), np.asarray(example["mean_audio"])])
        if not np.isfinite(features).all():
            raise ValueError("a feature is not finite")
    except ValueError as error:
        raise UserError(f"{shown(path)}: record {record}: {error}") from None
    return features, labels


def payloads(paths: list[Path], seed: int, epoch: int, shuffle: bool, buffer: int) -> Iterator[tuple[bytes, Path, int]]:
    """Raw records of all shards, in an order that is a function of (seed, epoch); at most `buffer` wait at a time."""
    rng = np.random.default_rng(derive(seed, "yt8m", "order", epoch))
    order = rng.permutation(len(paths)) if shuffle else np.arange(len(paths))
    waiting: list[tuple[bytes, Path, int]] = []
    for index in order:
        for number, (_, payload) in enumerate(tfrecord.records(paths[index])):
            item = (payload, paths[index], number)
            if not shuffle or buffer < 2:
                yield item
            elif len(waiting) < buffer:
                waiting.append(item)
            else:
                place = int(rng.integers(buffer))
                yield waiting[place]
                waiting[place] = item
    for place in rng.permutation(len(waiting)):
        yield waiting[place]


def batches(
    paths: list[Path],
    size: int,
    classes: int,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    buffer: int = 10000,
    skip: int = 0,
    ahead: int = 0,
) -> Generator[Videos, None, None]:
    """Batches of decoded videos; the last one may be smaller.

    Args:
      paths: shards.
      size: videos per batch.
      classes: allowed labels are 0..classes-1.
      seed: of the order.
      epoch: of the order.
      shuffle: shards and records.
      buffer: records that wait for shuffling.
      skip: batches to skip without decoding, when a stopped run continues.
      ahead: batches prepared in the background; they come in the same order.
    """

    def decoded() -> Generator[Videos, None, None]:
        items = itertools.islice(payloads(paths, seed, epoch, shuffle, buffer), skip * size, None)
        videos = (decode(*item, classes) for item in items)
        while batch := list(itertools.islice(videos, size)):
            features, labels = zip(*batch, strict=True)
            yield Videos(np.stack(features), list(labels))

    return _in_background(decoded(), ahead) if ahead else decoded()


def _in_background(source: Iterator[Videos], ahead: int) -> Generator[Videos, None, None]:
    """Runs an iterator in a thread that stays at most `ahead` items in front; its errors come out here."""
    pool = ThreadPoolExecutor(1)  # one thread, so that the items keep their order
    try:
        waiting = deque(pool.submit(next, source, None) for _ in range(ahead))
        while (videos := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, source, None))
            yield videos
    finally:
        pool.shutdown(cancel_futures=True)


def indicator(labels: list[np.ndarray], outputs: int) -> np.ndarray:
    """float32 [n, outputs], 1 at each label."""
    out = np.zeros((len(labels), outputs), np.float32)
    for row, positives in enumerate(labels):
        out[row, positives] = 1
    return out
