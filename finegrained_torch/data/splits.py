"""Training and validation images: one seeded disjoint split for all stages, or the release's overlapping ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from reproduction.runtime.arrays import read_npz, write_npz
from reproduction.runtime.run_folder import UserError, shown
from reproduction.runtime.torch_runtime import derive

VALIDATION_SHARE = 10  # one tenth


def fixed_split(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A seeded disjoint 90/10 split, the same for every stage.

    Args:
      count: N training images.
      seed: of the run.
    Returns:
      (train int64 [N - N // 10], val int64 [N // 10]), each in file order; together all of 0..N-1.
    Raises:
      UserError: fewer than 10 images.
    Source: ours. Deviation: FGL-D04.
    """
    if count < VALIDATION_SHARE:
        raise UserError(f"{count} training images: at least {VALIDATION_SHARE} are needed for a 90/10 split")
    # DEVIATION FGL-D04: one disjoint split for all stages; --split legacy draws as the release does
    generator = torch.Generator().manual_seed(derive(seed, "split"))
    order = torch.randperm(count, generator=generator).numpy()
    val_count = count // VALIDATION_SHARE
    return np.sort(order[val_count:]), np.sort(order[:val_count])


def legacy_split(count: int, seed: int, stage: str) -> tuple[np.ndarray, np.ndarray]:
    """Two independent draws, as two calls of random_split give: about 90 % of validation lies in training.

    Args:
      count: images to split (of a pseudo-label training only the certain ones).
      seed: of the run.
      stage: "coarse" replays the release's draw right after seed_everything(seed); the others draw anew.
    Returns:
      (train int64 [ceil(0.9 N)], val int64 [N // 10]) in drawn order (FGL-D21).
    Source: authors' dataloader_simple.py. Deviation: FGL-D04.
    """
    generator = torch.Generator().manual_seed(seed if stage == "coarse" else derive(seed, "legacy split", stage))
    val_count = count // VALIDATION_SHARE
    first, second = (torch.randperm(count, generator=generator).numpy() for _ in range(2))
    return first[: count - val_count], second[count - val_count :]  # DEVIATION FGL-D21: integers, no 1-element tensors


def stored_split(path: Path, count: int, seed: int, overwrite: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The fixed split of a run, written at its first use and compared at every later one; or replaced (`overwrite`).

    Raises:
      UserError: the file holds another split or is damaged.
    """
    train, val = fixed_split(count, seed)
    if not path.exists():
        write_npz(path, {"train": train, "val": val})
        return train, val
    stored = read_npz(path, ("train", "val"), "not a readable split; choose another --out_dir")
    same = np.array_equal(stored["train"], train) and np.array_equal(stored["val"], val)
    if not same and overwrite:
        path.unlink()
        return stored_split(path, count, seed)
    if not same:
        raise UserError(
            f"{shown(path)}: holds another split (data set, --limit_train or --seed differ); "
            "choose another --out_dir, or --overwrite to start anew"
        )
    return train, val
