"""2-D UMAP maps for the pictures: one of each coarse class and one of all images together. Nothing else uses them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from finegrained_torch import membership
from finegrained_torch.cluster_jobs import on_disk
from finegrained_torch.membership import Settings
from reproduction.runtime.arrays import read_npz, write_npz
from reproduction.runtime.run_folder import UserError

JOINT = -1  # the map of all classes
JOINT_IMAGES = 20_000  # more would take as much memory as the clustering of all classes, and show no more
_FEW_POINTS = 12


def joint_rows(count: int) -> np.ndarray:
    """The images of the joint map: all, or JOINT_IMAGES of them at even distances in file order; int64."""
    return np.unique(np.linspace(0, count - 1, min(count, JOINT_IMAGES)).round().astype(np.int64))


def map_one(path: str, rows: np.ndarray, settings: Settings) -> np.ndarray:
    """2-D UMAP of some rows of a .npy file; zeros where there is too little to lay out.

    Returns:
      float32 [n, 2].
    """
    points = np.ascontiguousarray(np.load(path, mmap_mode="r", allow_pickle=False)[rows], np.float32)
    if len(points) < _FEW_POINTS or (points == points[0]).all():
        return np.zeros((len(points), 2), np.float32)
    return membership.reduce(points, settings)[0]


def make_maps(
    file: Path, features: np.ndarray, coarse: np.ndarray, settings: Settings, pool: ProcessPoolExecutor | None = None
) -> dict[int, np.ndarray]:
    """All maps, taken from `file` where it holds those of the same features and settings.

    Args:
      file: where they are kept (npz).
      features: float32 [N, D]. coarse: int64 [N].
      settings: of the clustering; the maps differ in having two components.
      pool: of `cluster_jobs.open_pool`; None works in this process.
    Returns:
      coarse class -> float32 [n, 2], its images in file order; JOINT -> the same of `joint_rows`.
    """
    settings = replace(settings, components=2, reducer="umap")
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    digest.update(coarse.tobytes() + np.ascontiguousarray(features, np.float32).tobytes())
    key = digest.hexdigest()
    if file.exists():
        with contextlib.suppress(UserError):
            held = read_npz(file)
            if str(held.pop("key", "")) == key:
                return {int(name): points for name, points in held.items()}
    rows = {JOINT: joint_rows(len(coarse))} | {c: np.flatnonzero(coarse == c) for c in np.unique(coarse).tolist()}
    with on_disk(features) as path:
        if pool is None:
            made = {label: map_one(path, own, settings) for label, own in rows.items()}
        else:
            waiting = {label: pool.submit(map_one, path, own, settings) for label, own in rows.items()}
            made = {label: job.result() for label, job in waiting.items()}
    arrays = {str(label): points for label, points in made.items()}
    write_npz(file, {"key": np.array(key), **arrays}, compress=False)
    return made
