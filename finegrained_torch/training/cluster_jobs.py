"""Clusters classes in processes, as many as memory allows; each result is stored, so that a killed run goes on.

A process gets the path of the features and the rows of its class, never the features themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from finegrained_torch.method.cluster_one_class import ClassFit, Settings, find_numba_cache, fit_class
from finegrained_torch.method.clustering import ClassRows, Clustering, number_clusters, split_classes
from finegrained_torch.method.umap_maps import map_points
from reproduction.runtime.arrays import read_npz, write_npz
from reproduction.runtime.cores import available_bytes, cores
from reproduction.runtime.parent import end_with_parent
from reproduction.runtime.run_folder import UserError

# Largest resident size of one process (measured: 1.6 GB at 27,000 x 512): what the libraries take, and each point.
_PROCESS_BYTES = 500 << 20
_POINT_BYTES = 20_000
_FLOAT_COPIES = 10
# All processes together; with the process of the stage itself they stay under 4 GiB for 50,000 x 512.
_TOTAL_BYTES = 3200 << 20
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def class_bytes(count: int, dims: int) -> int:
    """Estimates the largest resident size of the process that clusters `count` points of `dims` numbers."""
    return _PROCESS_BYTES + count * (_POINT_BYTES + _FLOAT_COPIES * 4 * dims)


def worker_count(counts: Sequence[int], dims: int, cores: int, available: int) -> int:
    """Decides how many classes may be clustered at once: the largest ones together must fit into memory.

    Args:
      counts: points of each class.
      dims: numbers per point.
      cores: of this machine.
      available: free bytes.
    Returns:
      1..min(cores, classes).
    """
    budget = min(_TOTAL_BYTES, int(0.8 * available))
    taken = np.cumsum([class_bytes(count, dims) for count in sorted(counts, reverse=True)[:cores]])
    return max(1, int((taken <= budget).sum()))


@dataclass(frozen=True)
class Job:
    """One class on its way to a process.

    Attributes:
      rows: which rows of the features it has.
      path: .npy file of the features.
      settings: of UMAP and HDBSCAN.
    """

    rows: ClassRows
    path: str
    settings: Settings


Result = TypeVar("Result")


def _begin() -> None:
    """Makes a process of the pool end with its parent and use one thread: the result depends on their number."""
    end_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(dict.fromkeys(_THREADS, "1"))


def rows_of(path: str, rows: np.ndarray) -> np.ndarray:
    """Reads some rows of a .npy file."""
    return np.load(path, mmap_mode="r", allow_pickle=False)[rows]


def cluster_one(job: Job) -> ClassFit:
    """Clusters one class from the files of the features."""

    def report(step: str) -> None:
        print(f"cluster: class {job.rows.label}: {step}", file=sys.stderr, flush=True)

    return fit_class(rows_of(job.path, job.rows.rows), job.settings, report)


def map_one(job: Job) -> np.ndarray:
    """Lays the images of one map out in two dimensions."""
    return map_points(rows_of(job.path, job.rows.rows), job.settings)


@contextlib.contextmanager
def on_disk(features: np.ndarray) -> Iterator[str]:
    """Gives the path of a .npy file with these features: the one they are memory-mapped from, else a temporary one."""
    if isinstance(features, np.memmap) and str(features.filename).endswith(".npy"):
        path = str(features.filename)
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if mapped.shape == features.shape and mapped.dtype == features.dtype and features.offset == mapped.offset:
            yield path
            return
    with tempfile.TemporaryDirectory(prefix="features-") as folder:
        path = str(Path(folder) / "features.npy")
        np.save(path, np.asarray(features, np.float32), allow_pickle=False)
        yield path


def _key(features: np.ndarray, rows: np.ndarray, settings: Settings) -> str:
    """Hashes everything that the clusters of one class depend on, except library versions."""
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    digest.update(np.ascontiguousarray(features[rows], np.float32).tobytes())
    return digest.hexdigest()


def read_stored(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """Reads what an earlier run stored under the same key; None if there is nothing that fits."""
    if path.exists():
        with contextlib.suppress(UserError):
            stored = read_npz(path)
            if str(stored.pop("key", "")) == key:
                return stored
    return None


def run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], pool: ProcessPoolExecutor | None
) -> Iterator[tuple[Job, Result]]:
    """Calls a function for each job, in processes or without a pool in this one; yields each as soon as it is done."""
    if pool is None:
        for job in jobs:
            yield job, function(job)
        return
    waiting = {pool.submit(function, job): job for job in jobs}
    for done in as_completed(waiting):
        yield waiting[done], done.result()


def cluster_in_processes(
    features: np.ndarray,
    coarse_labels: np.ndarray,
    certain: np.ndarray,
    *,
    workers: int | None = None,
    keep: Path | None = None,
    pool: ProcessPoolExecutor | None = None,
    **settings: Any,
) -> Clustering:
    """Does what `clustering.cluster_classes` does, with one process per class, the largest class first.

    Args:
      features: float32 [N, D], an array or a memory map.
      coarse_labels: int64 [N].
      certain: bool [N].
      workers: processes at once; None: as many as cores and memory allow; 0: all in this process.
      keep: folder for the results of finished classes, used again if the same class has the same input.
      pool: of `open_pool`, if several clusterings share their processes.
      **settings: of `cluster_one_class.Settings`.
    Raises:
      UserError: shapes that do not fit, values that are not finite, or a process that was killed.
    """
    from tqdm import tqdm

    chosen = Settings(**settings)
    try:
        classes = split_classes(features, coarse_labels, certain, chosen)
    except ValueError as error:
        raise UserError(str(error)) from None
    populated = [one for one in classes if len(one.rows)]
    results: dict[int, ClassFit] = {}
    keys = {one.label: _key(features, one.rows, chosen) for one in populated}
    for label, key in keys.items():
        arrays = None if keep is None else read_stored(keep / f"class{label}.npz", key)
        if arrays is not None:
            scalars: dict[str, Any] = {name: arrays[name].item() for name in ("silhouette", "repaired")}
            results[label] = ClassFit(**{**arrays, **scalars, "warnings": arrays["warnings"].tolist()})
    missing = sorted((one for one in populated if one.label not in results), key=lambda one: -len(one.rows))
    silent = not sys.stderr.isatty()
    bar = tqdm(desc="cluster", total=len(populated), initial=len(results), unit="class", disable=silent)
    with contextlib.ExitStack() as stack, bar:
        path = stack.enter_context(on_disk(features))
        if pool is None and workers != 0 and missing:
            counts = [len(one.rows) for one in missing]
            pool = stack.enter_context(open_pool(counts, features.shape[1], workers))
        for job, fit in run_jobs(cluster_one, [Job(one, path, chosen) for one in missing], pool):
            label = job.rows.label
            results[label] = fit
            if keep is not None:
                stored = {name: np.asarray(value) for name, value in vars(fit).items()}
                write_npz(keep / f"class{label}.npz", {"key": np.array(keys[label]), **stored}, compress=False)
            bar.update()
    return number_clusters(results, classes, len(features), chosen.width(features.shape[1]))


@contextlib.contextmanager
def open_pool(counts: Sequence[int], dims: int, workers: int | None = None) -> Iterator[ProcessPoolExecutor]:
    """Opens processes that cluster; shared by several clusterings, so that each compiles UMAP's loops once.

    Args:
      counts: points of the classes.
      dims: numbers per point.
      workers: processes at once, >= 1; None: as many as cores and memory allow.
    Raises:
      UserError: a process was killed, or there is no place for compiled code.
    """
    if workers is None:
        workers = worker_count(counts, dims, cores(), available_bytes())
    try:
        find_numba_cache()  # before the processes start: they share the folder
    except ValueError as error:
        raise UserError(str(error)) from None
    # spawn: a fork would inherit the threads of torch and of OpenMP in an unknown state
    size = max(1, min(workers, len(counts)))
    with ProcessPoolExecutor(size, get_context("spawn"), initializer=_begin) as pool:
        try:
            yield pool
        except BrokenProcessPool:
            raise UserError(
                f"a process that runs UMAP was killed, most likely for want of memory (largest class: {max(counts):,} "
                "images); --cluster_workers 1 takes one class at a time, and finished classes are kept"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list((pool._processes or {}).values()):
                process.kill()
            raise
