"""The processes that cluster: one per coarse class where memory allows, each result kept for a killed run.

A process gets the file of the features and the rows of its class, never the features themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
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

import numpy as np

from finegrained_torch import membership
from finegrained_torch.compile_cache import find_numba_cache
from finegrained_torch.membership import Settings
from reproduction.launch.jobs import cores
from reproduction.runtime.arrays import read_npz
from reproduction.runtime.run_folder import UserError, write_bytes

# Largest resident size of one process (measured: 1.6 GB at 27,000 x 512): what the libraries take, and each point.
_PROCESS_BYTES = 500 << 20
_POINT_BYTES = 20_000
_FLOAT_COPIES = 10
# All processes together; with the process of the stage itself they stay under 4 GiB for 50,000 x 512.
_TOTAL_BYTES = 3200 << 20
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def class_bytes(count: int, dims: int) -> int:
    """Estimate of the largest resident size of the process that clusters `count` points of `dims` numbers."""
    return _PROCESS_BYTES + count * (_POINT_BYTES + _FLOAT_COPIES * 4 * dims)


def available_bytes() -> int:
    """Memory that can be taken without swapping, as the kernel says; else half of 8 GiB."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 4 << 30


def worker_count(counts: Sequence[int], dims: int, cores: int, available: int) -> int:
    """How many classes may be clustered at once: the largest ones together must fit.

    Args:
      counts: points of each class. dims: numbers per point. cores: of this machine. available: bytes free.
    Returns:
      1..min(cores, classes).
    """
    budget = min(_TOTAL_BYTES, int(0.8 * available))
    taken, workers = 0, 0
    for count in sorted(counts, reverse=True)[: max(1, cores)]:
        taken += class_bytes(count, dims)
        if workers and taken > budget:
            break
        workers += 1
    return max(1, workers)


@dataclass(frozen=True)
class Job:
    """One class on its way to a process; `rows` index the features in `path`, a .npy file."""

    label: int
    path: str
    rows: np.ndarray
    settings: Settings
    progress: bool
    new_path: str
    new_rows: np.ndarray


Found = dict[str, np.ndarray]  # embedding, raw, hard, strength, silhouette [1], repaired [1], warnings, new_raw


def _begin() -> None:
    """A process of the pool ends with its parent and has one thread: the result depends on their number."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in _THREADS:
        os.environ[name] = "1"


def _cluster_one(job: Job) -> Found:
    points = np.ascontiguousarray(np.load(job.path, mmap_mode="r", allow_pickle=False)[job.rows], np.float32)

    def say(what: str) -> None:
        if job.progress:
            print(f"cluster: class {job.label}: {what}", file=sys.stderr, flush=True)

    fit = membership.fit_class(points, job.settings, say)
    new_raw = np.empty(0, np.int64)
    if len(job.new_rows):
        say(f"{len(job.new_rows):,} new images")
        fresh = np.load(job.new_path, mmap_mode="r", allow_pickle=False)[job.new_rows]
        new_raw, _ = membership.assign_new(fit, np.ascontiguousarray(fresh, np.float32))
    return {
        "embedding": fit.embedding,
        "raw": fit.raw,
        "hard": fit.hard,
        "strength": fit.strength,
        "silhouette": np.array([fit.silhouette]),
        "repaired": np.array([fit.repaired]),
        "warnings": np.array(fit.warnings, dtype=np.str_),
        "new_raw": new_raw,
    }


@contextlib.contextmanager
def on_disk(features: np.ndarray) -> Iterator[str]:
    """Path of a .npy file with these features: their own where they are memory-mapped from one, else a temporary."""
    name = getattr(features, "filename", None)
    if isinstance(features, np.memmap) and name is not None and str(name).endswith(".npy"):
        mapped = np.load(name, mmap_mode="r", allow_pickle=False)
        if mapped.shape == features.shape and mapped.dtype == features.dtype and features.offset == mapped.offset:
            yield str(name)
            return
    with tempfile.TemporaryDirectory(prefix="features-") as folder:
        path = str(Path(folder) / "features.npy")
        np.save(path, np.asarray(features, np.float32), allow_pickle=False)
        yield path


def _key(features: np.ndarray, job: Job, new: np.ndarray | None) -> str:
    """Hash of everything the clusters of one class depend on, library versions aside."""
    digest = hashlib.sha256(json.dumps(asdict(job.settings), sort_keys=True).encode())
    for source, rows in ((features, job.rows), (new, job.new_rows)):
        if source is not None:
            digest.update(np.ascontiguousarray(source[rows], np.float32).tobytes())
    return digest.hexdigest()


def _kept(path: Path | None, key: str) -> Found | None:
    """The result of an earlier, killed run of the same class; None where there is none that fits."""
    if path is None or not path.exists():
        return None
    with contextlib.suppress(UserError):
        held = read_npz(path)
        if str(held.pop("key", "")) == key:
            return held
    return None


def run(
    jobs: list[Job],
    found: dict[int, Found],
    features: np.ndarray,
    new_features: np.ndarray | None,
    workers: int | None,
    progress: bool,
    keep: Path | None,
    pool: ProcessPoolExecutor | None,
) -> None:
    """Fills `found`: what an earlier run kept, then the other classes, the largest first."""
    from tqdm import tqdm

    keys = {job.label: _key(features, job, new_features) for job in jobs}
    files = {job.label: None if keep is None else keep / f"class{job.label}.npz" for job in jobs}
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        earlier = _kept(files[job.label], keys[job.label])
        if earlier is not None:
            found[job.label] = earlier
    open_jobs = sorted((job for job in jobs if job.label not in found), key=lambda job: -len(job.rows))
    bar = tqdm(
        total=len(jobs), initial=len(found), desc="cluster", unit="class",
        disable=not progress or not sys.stderr.isatty(),
    )  # fmt: skip

    def take(job: Job, result: Found) -> None:
        found[job.label] = result
        path = files[job.label]
        if path is not None:
            buffer = io.BytesIO()
            np.savez(buffer, key=np.array(keys[job.label]), **result)  # type: ignore[arg-type]
            write_bytes(path, buffer.getvalue())
        bar.update()

    with bar:
        if workers == 0:
            for job in open_jobs:
                take(job, _cluster_one(job))
        elif open_jobs and pool is not None:
            _in_processes(pool, open_jobs, take)
        elif open_jobs:
            with open_pool([len(job.rows) for job in open_jobs], features.shape[1], workers) as own:
                _in_processes(own, open_jobs, take)


@contextlib.contextmanager
def open_pool(counts: Sequence[int], dims: int, workers: int | None = None) -> Iterator[ProcessPoolExecutor]:
    """Processes that cluster; shared by several clusterings, each process compiles UMAP's loops once.

    Args:
      counts: points of the classes. dims: numbers per point.
      workers: processes at once, >= 1; None as many as cores and memory allow.
    """
    if workers is None:
        workers = worker_count(counts, dims, cores(), available_bytes())
    find_numba_cache()  # before the processes start: they share the folder
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


def _in_processes(pool: ProcessPoolExecutor, jobs: Sequence[Job], take: Callable[[Job, Found], None]) -> None:
    waiting = {pool.submit(_cluster_one, job): job for job in jobs}
    for done in as_completed(waiting):
        take(waiting[done], done.result())
