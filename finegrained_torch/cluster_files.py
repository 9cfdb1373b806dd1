"""Files of a clustering: the release's three CSV files, a TensorBoard projector of each class, and all of it as npz.

The CSV files hold one number per line, one line per training image in file order, without a header.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finegrained_torch.clustering import Clustering
from reproduction.runtime.arrays import read_npz
from reproduction.runtime.record import versions_of
from reproduction.runtime.run_folder import MetricsLog, UserError, shown, write_bytes, write_json

ARRAYS = ("pseudo", "raw", "hard", "strength", "embedding", "parent")


def _column(values: np.ndarray) -> bytes:
    return ("\n".join(map(str, values.tolist())) + "\n").encode()


def write_labels(folder: Path, pseudo: np.ndarray, certain: np.ndarray, coarse: np.ndarray) -> None:
    """pseudo.csv (s, -1 for uncertain images), mask.csv (0 certain, 1 uncertain), new_super.csv (coarse label).

    Args:
      pseudo: int64 [N]. certain: bool [N]. coarse: int64 [N].
    Source: authors' pipeline.py (names and contents); section 2.2. Deviation: FGL-D08.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "mask.csv", _column(1 - certain.astype(np.int64)))
    write_bytes(folder / "new_super.csv", _column(coarse))
    write_bytes(folder / "pseudo.csv", _column(pseudo))


def read_column(path: Path) -> np.ndarray:
    """One of the CSV files as int64 [N].

    Raises:
      UserError: missing, or not one whole number per line.
    """
    try:
        return np.array([int(line) for line in path.read_text(encoding="utf-8-sig").split()], np.int64)
    except OSError as error:
        raise UserError(f"{shown(path)}: {error.strerror or error}; --stage cluster writes it") from None
    except (ValueError, OverflowError):
        raise UserError(f"{shown(path)}: not one whole number per line; --stage cluster writes it anew") from None


def save_clustering(
    folder: Path,
    dataset: str,
    clustering: Clustering,
    certain: np.ndarray,
    coarse: np.ndarray,
    *,
    settings: Mapping[str, Any],
    input_hash: str = "",
    class_names: Sequence[str] = (),
    fine: np.ndarray | None = None,
) -> None:
    """Writes everything about a clustering below `folder`.

    Args:
      folder: the --out_dir.
      dataset: name in the names of the folders.
      certain: bool [N]. coarse: int64 [N]. fine: int64 [N] known subclasses, for the projector's captions.
      settings: what it was made with, JSON values.
      input_hash: sha256 of the features.
      class_names: of the coarse classes.
    Source: authors' pipeline.py; section 2.2. The silhouette is a scalar, not a folder's name (FGL-D25).
    """
    below = folder / f"sub_{dataset}"
    write_labels(below, clustering.pseudo, certain, coarse)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: getattr(clustering, name) for name in ARRAYS})
    write_bytes(below / "clustering.npz", buffer.getvalue())
    for entry in clustering.per_class:
        if entry["clusters"]:
            _projector(folder / "run" / f"sub_{dataset}" / str(entry["class"]), clustering, coarse, entry, fine)
    facts = {
        "maker": "finegrained_torch, stage cluster",
        "settings": dict(settings),
        "features_sha256": input_hash,
        "versions": versions_of("umap-learn", "hdbscan", "scikit-learn", "numpy", "numba"),
        "num_labels": clustering.num_labels,
        "parent": clustering.parent.tolist(),
        "class_names": list(class_names),
        "per_class": clustering.per_class,
    }
    write_json(below / "clusters.json", facts)


def load_clustering(path: Path) -> dict[str, np.ndarray]:
    """The arrays of `clustering.npz`.

    Raises:
      UserError: missing or damaged.
    """
    return read_npz(path, ARRAYS, "--stage cluster --overwrite makes it anew")


def _projector(
    folder: Path, clustering: Clustering, coarse: np.ndarray, entry: Mapping[str, Any], fine: np.ndarray | None
) -> None:
    """TensorBoard's embedding projector for one class, and its silhouette as a scalar."""
    folder.mkdir(parents=True, exist_ok=True)
    own = np.flatnonzero((coarse == entry["class"]) & (clustering.pseudo >= 0))
    points = clustering.embedding[own]
    tensors = "\n".join("\t".join(f"{value:.6g}" for value in row) for row in points)
    head = ["image", "pseudo", "membership"] + ([] if fine is None else ["subclass"])
    rows = ["\t".join(head)]
    for at in own.tolist():
        cells = [str(at), str(clustering.pseudo[at]), f"{clustering.strength[at]:.4f}"]
        rows.append("\t".join(cells + ([] if fine is None else [str(fine[at])])))
    write_bytes(folder / "tensors.tsv", (tensors + "\n").encode())
    write_bytes(folder / "metadata.tsv", ("\n".join(rows) + "\n").encode())
    config = (
        'embeddings {\n  tensor_name: "embedding"\n  tensor_path: "tensors.tsv"\n  metadata_path: "metadata.tsv"\n}\n'
    )
    write_bytes(folder / "projector_config.pbtxt", config.encode())
    if entry["silhouette"] is not None:  # DEVIATION FGL-D25: a scalar, not a part of a folder's name
        log = MetricsLog(folder, subfolder="events")
        log.write(0, {"silhouette": entry["silhouette"]})
        log.close()
