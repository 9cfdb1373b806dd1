"""One coarse class: UMAP, HDBSCAN, and labels by the largest soft membership.

UMAP is imported here and nowhere else: its package pulls in TensorFlow and torchvision where it finds them.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from reproduction.runtime.hidden import hidden

_COMPILED = ("umap", "pynndescent")  # numba stores their compiled functions
# Below this many points neither a neighbourhood graph nor its spectral layout makes sense.
FEW_POINTS = 12
NOISE, NOT_RUN = -1, -2  # hard labels: HDBSCAN's own for noise, and ours for images that it has not seen
_WORKING_MIB = 128  # of scikit-learn's silhouette
_UMAP_FAILURES = (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError, np.linalg.LinAlgError)


@dataclass(frozen=True)
class Settings:
    """What decides the clusters; the defaults are the release's.

    Attributes:
      neighbors: n_neighbors of UMAP.
      min_dist: of UMAP.
      components: n_components of UMAP.
      min_cluster_size: of HDBSCAN, which takes it as min_samples too.
      seed: random_state of UMAP.
      reducer: "umap", or "none" to cluster the features themselves.
    """

    neighbors: int = 30
    min_dist: float = 0.0
    components: int = 4
    min_cluster_size: int = 100
    seed: int = 42
    reducer: str = "umap"

    def width(self, dims: int) -> int:
        """Returns how many numbers of a point HDBSCAN sees, for features of `dims` numbers."""
        return self.components if self.reducer == "umap" else dims


@dataclass
class ClassFit:
    """The clusters of one coarse class with n certain images.

    Attributes:
      embedding: float32 [n, components], the space that HDBSCAN clustered; zeros if nothing could be fitted.
      raw: int64 [n], arg-max cluster as HDBSCAN numbers them (may skip numbers).
      hard: int64 [n], HDBSCAN's own label, -1 for noise; -2 if it was not run.
      strength: float32 [n], the largest membership, in [0, 1]; 0 if the row is zero or NaN.
      silhouette: of `raw` in the embedding; NaN with fewer than two labels.
      warnings: what was unusual, in words.
      repaired: number of rows of zeros or NaN.
    """

    embedding: np.ndarray
    raw: np.ndarray
    hard: np.ndarray
    strength: np.ndarray
    silhouette: float
    warnings: list[str] = field(default_factory=list)
    repaired: int = 0


@functools.cache
def find_numba_cache() -> None:
    """Points NUMBA_CACHE_DIR at a temporary folder if numba would find no place; processes started later inherit it.

    numba looks in NUMBA_CACHE_DIR, in the packages' own folders and in the user's cache. None of them can be written
    to in a read-only environment without a usable HOME.

    Raises:
      ValueError: no temporary folder either.
    """
    named = os.environ.get("NUMBA_CACHE_DIR")
    if (named and _is_writable(Path(named))) or all(map(_is_writable, _own_folders())) or _is_writable(_user_cache()):
        return
    try:
        folder = tempfile.mkdtemp(prefix="numba-")
    except OSError as error:
        raise ValueError(f"no place for numba's compiled code ({error}); set NUMBA_CACHE_DIR to a folder") from None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["NUMBA_CACHE_DIR"] = folder
    if "numba" in sys.modules:  # it has read the variable already
        sys.modules["numba"].config.CACHE_DIR = folder


def _own_folders() -> list[Path]:
    specs = [importlib.util.find_spec(name) for name in _COMPILED]
    return [Path(spec.origin).parent / "__pycache__" for spec in specs if spec is not None and spec.origin]


def _user_cache() -> Path:
    """Returns the folder that numba gets from its copy of appdirs."""
    if sys.platform == "darwin":
        return Path(os.path.expanduser("~/Library/Caches/numba"))
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "numba"


def _is_writable(folder: Path) -> bool:
    """Tells whether a file can be created there: numba's own test, which leaves an empty folder behind."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def import_umap() -> ModuleType:
    """Imports umap without TensorFlow, which it would load for a variant that nothing here uses."""
    if "umap" in sys.modules:
        return sys.modules["umap"]
    find_numba_cache()
    with warnings.catch_warnings(), hidden("tensorflow", "torchvision"):
        warnings.simplefilter("ignore")
        import umap
    _keep_compiled("umap.umap_", "umap.utils")
    return umap


def _keep_compiled(*modules: str) -> None:
    """Lets numba store these modules' functions, as pynndescent's are: compiling takes most of a small clustering.

    Only those that go by their own name: numba would mistake two compilations of one function for each other.
    """
    for module in modules:
        for name, function in vars(importlib.import_module(module)).items():
            if hasattr(function, "enable_caching") and (function.__module__, function.__name__) == (module, name):
                function.enable_caching()


def reduce(points: np.ndarray, settings: Settings) -> tuple[np.ndarray, bool, list[str]]:
    """Embeds one class by UMAP.

    Args:
      points: float32 [n, D], n >= 3, not all equal.
      settings: everything that is not in them is the library's default.
    Returns:
      (float32 [n, components], whether UMAP could embed the points, warnings); zeros if it could not.
    Source: authors' pipeline.py.
    """
    umap = import_umap()
    notes: list[str] = []
    count = len(points)
    neighbors = min(settings.neighbors, count - 1)
    if neighbors < settings.neighbors:
        notes.append(f"{count} points: {neighbors} neighbours instead of {settings.neighbors}")

    def fit(**options: Any) -> tuple[np.ndarray | None, str]:
        """Returns the embedding, or None and the reason."""
        model = umap.UMAP(
            n_neighbors=neighbors,
            min_dist=settings.min_dist,
            n_components=settings.components,
            random_state=settings.seed,
            n_jobs=1,
            **options,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model.fit(points)
            except _UMAP_FAILURES as error:
                return None, str(error).split("\n")[0]
        embedding = np.asarray(model.embedding_, np.float32)
        return (embedding, "") if np.isfinite(embedding).all() else (None, "an embedding that is not finite")

    embedding, reason = fit()
    if embedding is None:  # many equal points leave the spectral layout without a solution
        notes.append(f"UMAP's spectral start failed ({reason}); random start instead")
        embedding, reason = fit(init="random")
    if embedding is None:  # squares of 1e19 and more are not finite in float32
        notes.append(f"UMAP's random start failed ({reason})")
        return np.zeros((count, settings.components), np.float32), False, notes
    return embedding, True, notes


def decide(memberships: np.ndarray, hard: np.ndarray, embedding: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Turns soft memberships into labels.

    Args:
      memberships: float [n, k], rows of non-negative numbers; a row may be zero or NaN.
      hard: int64 [n], -1 for noise.
      embedding: float [n, d], used for rows without a membership.
    Returns:
      (int64 [n] in 0..k-1, float32 [n] largest membership, number of rows without one).
    Source: authors' pipeline.py (arg-max). Deviation: FGL-D17.
    """
    clean = np.nan_to_num(memberships, nan=0.0, posinf=0.0, neginf=0.0)
    labels = clean.argmax(1).astype(np.int64)
    missing = ~np.isfinite(memberships).all(1) | (clean.max(1, initial=0.0) <= 0)
    if missing.any():  # DEVIATION FGL-D17: not cluster 0, but the hard label, else the nearest centroid
        labels[missing] = hard[missing]
        unlabelled = np.flatnonzero(missing & (hard < 0))
        if len(unlabelled):
            known = np.unique(hard[hard >= 0])
            if len(known):
                centres = np.stack([embedding[hard == k].mean(0) for k in known])
                labels[unlabelled] = known[_nearest(embedding[unlabelled], centres)]
            else:
                labels[unlabelled] = 0
    strength = np.where(missing, 0.0, clean.max(1, initial=0.0)).astype(np.float32)
    return labels, strength, int(missing.sum())


def _nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.array([((centres - point) ** 2).sum(1).argmin() for point in points], np.int64)


def _one_cluster(embedding: np.ndarray, reason: str, notes: list[str], hard: int = NOT_RUN) -> ClassFit:
    """DEVIATION FGL-D16: a class in which nothing can be found is one pseudo-class, and the others go on."""
    count = len(embedding)
    return ClassFit(
        embedding,
        np.zeros(count, np.int64),
        np.full(count, hard, np.int64),
        np.zeros(count, np.float32),
        float("nan"),
        [*notes, f"one pseudo-class: {reason}"],
    )


def fit_class(points: np.ndarray, settings: Settings, report: Callable[[str], None] = lambda _: None) -> ClassFit:
    """Fits UMAP and HDBSCAN to the certain images of one coarse class.

    Args:
      points: float [n, D], finite, n >= 1; they are clustered in float32.
      settings: of UMAP and HDBSCAN.
      report: called with the name of each step before it begins.
    Returns:
      The clusters; one cluster with a warning if the class is too small or holds no structure.
    Source: authors' pipeline.py. Deviations: FGL-D16, FGL-D17.
    """
    points, count = np.ascontiguousarray(points, np.float32), len(points)
    blank = np.zeros((count, settings.width(points.shape[1])), np.float32)
    if count < FEW_POINTS:
        return _one_cluster(blank, f"{count} points are too few to embed", [])
    if (points == points[0]).all():
        return _one_cluster(blank, "all points are equal", [])
    if settings.reducer == "umap":
        report(f"UMAP of {count:,} x {points.shape[1]}")
        embedding, embedded, notes = reduce(points, settings)
        if not embedded:
            return _one_cluster(embedding, "UMAP cannot embed the points", notes)
    else:
        embedding, notes = points, []
    if count < 2 * settings.min_cluster_size:  # HDBSCAN, which never returns a single cluster, has none to find
        reason = f"{count} points, fewer than twice min_cluster_size {settings.min_cluster_size}"
        return _one_cluster(embedding, reason, notes)
    report("HDBSCAN")
    import hdbscan  # DEVIATION FGL-D32: this package, since scikit-learn's HDBSCAN has no membership vectors

    clusterer = hdbscan.HDBSCAN(min_cluster_size=settings.min_cluster_size, prediction_data=True, core_dist_n_jobs=1)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        hard = clusterer.fit_predict(embedding).astype(np.int64)
        if hard.max(initial=-1) < 0:
            return _one_cluster(embedding, "HDBSCAN found no cluster", notes, NOISE)
        memberships = hdbscan.all_points_membership_vectors(clusterer)
    raw, strength, repaired = decide(memberships, hard, embedding)
    if repaired:
        notes.append(f"{repaired} rows without a membership took their hard label or the nearest centroid")
    report("silhouette")
    silhouette = silhouette_of(embedding, raw)
    return ClassFit(embedding, raw, hard, strength, silhouette, notes, repaired)


def silhouette_of(embedding: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean silhouette in [-1, 1]; NaN with fewer than two labels, or one for each point."""
    kinds = len(np.unique(labels))
    if kinds < 2 or kinds >= len(labels):
        return float("nan")
    largest = np.abs(embedding).max()
    if largest > 1e15:  # its squares overflow in float32 from 1e19 on; the silhouette does not depend on the scale
        embedding = embedding / largest
    import sklearn
    from sklearn.metrics import silhouette_score

    with sklearn.config_context(working_memory=_WORKING_MIB):  # its default takes a GiB
        return float(silhouette_score(embedding, labels))
