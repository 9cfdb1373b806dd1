"""The pool5 features of ImageNet on disk: written in blocks, so that a killed run can continue; memory-mapped."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from class2str_tf.data.imagenet import ImageNet, Stream
from reproduction.runtime.arrays import read_npy
from reproduction.runtime.run_folder import Run, UserError, read_json, shown, stop_signals, write_json
from reproduction.runtime.tf import tf, tf1

BLOCK_BATCHES = 16  # batches between two notes of what is done
FILES = {"train": ("features-train",), "val": ("features-test", "fc-logits-test")}


def extract(
    session: tf1.Session,
    stream: Stream,
    outputs: tuple[tf.Tensor, tf.Tensor],
    data: ImageNet,
    digests: Mapping[str, str],
    run: Run,
    batch_size: int,
) -> int:
    """Writes features-train.npy, features-test.npy and fc-logits-test.npy into the run folder, going on after a kill.

    Args:
      session: with the weights assigned.
      stream: the images' pipeline, in the same graph.
      outputs: features [B, F] and logits [B, C] of `stream.images`.
      data: the images.
      digests: digests of weights and lists; features of others are computed again.
      run: the run.
      batch_size: B.
    Returns:
      How many images were read, those of a killed run not counted.
    Raises:
      UserError: an unreadable image, or not enough free disk space.
    """
    maker = {**digests, "size": data.test_images.shape[1]}
    splits = {"train": data.train_images.paths, "val": data.test_images.paths}
    _check_room(run.folder, {split: len(paths) for split, paths in splits.items()}, outputs)
    images = 0
    with stop_signals() as stop:
        for split, paths in splits.items():
            tensors = outputs[: len(FILES[split])]
            widths = [tensor.shape.as_list()[1] for tensor in tensors]
            tables, done = _open_partial(run.folder, split, maker, len(paths), widths)
            if done == len(paths):
                continue
            images += len(paths) - done
            stream.start(session, paths[done:])
            bar = tqdm(total=len(paths), initial=done, desc=f"pool5, {split}", unit="img", disable=None, leave=False)
            for number, start in enumerate(range(done, len(paths), batch_size), 1):
                batch = paths[start : start + batch_size]
                try:
                    rows = session.run(tensors)
                except tf.errors.OpError:
                    raise UserError(stream.find_unreadable(session, batch)) from None
                done = start + len(batch)
                for table, part in zip(tables, rows, strict=True):
                    table[start:done] = part
                bar.update(len(batch))
                if number % BLOCK_BATCHES == 0 or done == len(paths):
                    for table in tables:
                        table.flush()
                    write_json(run.folder / f"{split}.progress", {"maker": maker, "done": done})
                    if stop.requested and done < len(paths):
                        stop.leave(run.folder)
            bar.close()
            del tables
            for name in FILES[split]:
                (run.folder / f"{name}.partial").rename(run.folder / f"{name}.npy")
    return images


def _open_partial(
    folder: Path, split: str, maker: Mapping[str, Any], count: int, widths: Sequence[int]
) -> tuple[list[np.memmap], int]:
    """Growing files of a split and how many rows of them are written; ([], count) where all of them are whole."""
    progress = folder / f"{split}.progress"
    state = read_json(progress, "") if progress.exists() else {}
    done = state.get("done") if state.get("maker") == maker else 0
    partial = {folder / f"{name}.partial": (count, width) for name, width in zip(FILES[split], widths, strict=True)}
    final = [folder / f"{name}.npy" for name in FILES[split]]
    if done == count:
        for old, new in zip(partial, final, strict=True):
            if old.exists():  # killed between the last block and its new name
                old.rename(new)
        if all(path.exists() for path in final):
            return [], count
    elif isinstance(done, int) and 0 < done < count and all(_fits(path, shape) for path, shape in partial.items()):
        return [np.lib.format.open_memmap(path, "r+") for path in partial], done
    progress.unlink(missing_ok=True)
    for path in final:
        path.unlink(missing_ok=True)
    return [np.lib.format.open_memmap(path, "w+", np.float32, shape) for path, shape in partial.items()], 0


def _fits(path: Path, shape: tuple[int, int]) -> bool:
    """Whether the file of a killed run can be gone on with: opened for writing, a damaged one would be stretched."""
    try:
        table = read_npy(path, mapped=True)
    except UserError:
        return False
    return (table.shape, table.dtype) == (shape, np.float32)


def _check_room(folder: Path, counts: Mapping[str, int], outputs: Sequence[tf.Tensor]) -> None:
    """Raises UserError where the disk is too small for the features that are still to be written."""
    needed = 0
    for split, names in FILES.items():
        needed += sum(4 * counts[split] * t.shape.as_list()[1] for t, _ in zip(outputs, names, strict=False))
        for file in (folder / f"{name}{end}" for name in names for end in (".npy", ".partial")):
            needed -= 512 * file.stat().st_blocks if file.exists() else 0  # a growing file is sparse
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{shown(folder)}: the pool5 features need {needed / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free; "
            "choose --runs-dir on a larger disk"
        )


def open_features(folder: Path, data: ImageNet, stage1_command: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Opens the features that `run_fc` wrote, for stage 2; the training features are memory-mapped.

    Args:
      folder: run folder of stage 1 (`cnn_dir`).
      data: the images the features must be of.
      stage1_command: for the message.
    Returns:
      float32 features of the training images [N, F], of the validation images [M, F], FC logits [M, C].
    Raises:
      UserError: not there, not complete, or of other images.
    """
    tables = []
    for split, count in (("train", len(data.train_labels)), ("val", len(data.test_labels))):
        progress = folder / f"{split}.progress"
        files = [folder / f"{name}.npy" for name in FILES[split]]
        if not progress.exists() or not all(path.exists() for path in files):
            raise UserError(f"{shown(folder)}: no pool5 features of {split}; run first: python {stage1_command}")
        state = read_json(progress, "done", "maker")
        list_name = f"imagenet-{split}.json"
        maker = state["maker"] if isinstance(state["maker"], dict) else {}
        if state["done"] != count or maker.get(list_name) != data.digests[list_name]:
            raise UserError(f"{shown(folder)}: pool5 features of other images; run again: python {stage1_command}")
        tables += [read_npy(path, f"run again: python {stage1_command}", mapped=True) for path in files]
        if any(table.ndim != 2 or len(table) != count or table.dtype != np.float32 for table in tables[-len(files) :]):
            raise UserError(f"{shown(folder)}: damaged pool5 features; run again: python {stage1_command}")
    train, test, logits = tables
    return train, test, logits
