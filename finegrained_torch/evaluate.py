"""Predictions of a trained module on a split, and the figures made from them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from finegrained_torch.classifier import LitResnet, Module, MultiHead
from finegrained_torch.data import Items
from reproduction.runtime.run_folder import write_bytes

AUROC_BATCH = 400  # the notebook's evaluation batch


@torch.no_grad()
def log_probabilities(module: Module, items: Items, positions: np.ndarray, batch_size: int) -> np.ndarray:
    """Log-probabilities of images, of the coarse head where there are two.

    Args:
      module: on its device; left in evaluation mode. items, positions: which images, in that order. batch_size: B.
    Returns:
      float32 [n, outputs].
    """
    module.eval()
    found = []
    for at in torch.from_numpy(positions).split(batch_size):
        out = module(items.images[at].to(module.device))
        found.append((out[1] if isinstance(module, MultiHead) else out).float().cpu())
    return torch.cat(found).numpy() if found else np.zeros((0, 0), np.float32)


@torch.no_grad()
def features(module: LitResnet, items: Items, batch_size: int) -> Iterator[np.ndarray]:
    """The output of `avgpool` for every image in file order, un-augmented, in evaluation mode.

    Args:
      module: on its device. items: images. batch_size: B.
    Yields:
      float32 [b, F], b up to B.
    Source: authors' pipeline.py, features_extraction (forward hook on avgpool).
    """
    module.eval()
    module.set_activations()
    for images in items.images.split(batch_size):
        module(images.to(module.device))
        assert module.activations is not None
        yield module.activations.float().cpu().numpy()


def figures(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, macro accuracy and NLL.

    Args:
      scores: log-probabilities [n, C]. labels: int64 [n], 0..C-1.
    Returns:
      accuracy: correct over all. macro_accuracy: mean over the classes that occur. nll: mean negative
      log-likelihood, nats.
    Raises:
      ValueError: no images.
    """
    if len(labels) == 0:
        raise ValueError("no images to evaluate")
    right = scores.argmax(1) == labels
    per_class = [float(right[labels == label].mean()) for label in np.unique(labels)]
    nll = -scores[np.arange(len(labels)), labels].astype(np.float64).mean()
    return {
        "accuracy": float(np.count_nonzero(right)) / len(right),
        "macro_accuracy": sum(per_class) / len(per_class),
        "nll": float(nll),
    }


def auroc(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """One-against-rest AUROC, mean over classes: over the whole set, and the notebook's mean of its batches' values.

    Args:
      scores: log-probabilities [n, C]. labels: int64 [n].
    Returns:
      auroc, auroc_batches (mean over batches of 400 in file order; classes that a batch lacks count 0 there).
    Source: PathMNIST.ipynb. Deviation: FGL-D28.
    """
    from torchmetrics.functional.classification import multiclass_auroc

    def mean_auroc(some: np.ndarray, of: np.ndarray) -> float:
        value = multiclass_auroc(torch.from_numpy(some).exp(), torch.from_numpy(of), some.shape[1], average="none")
        return float(value.mean())

    # DEVIATION FGL-D28: over the whole test set, and the mean of batches beside it for comparison with the notebook
    parts = range(0, len(labels), AUROC_BATCH)
    batches = [mean_auroc(scores[at : at + AUROC_BATCH], labels[at : at + AUROC_BATCH]) for at in parts]
    return {"auroc": mean_auroc(scores, labels), "auroc_batches": sum(batches) / len(batches)}


def write_predictions(path: Path, scores: np.ndarray, labels: np.ndarray, fine: np.ndarray) -> None:
    """predictions.npz: labels, predicted, fine int64 [n], log_probabilities float32 [n, C]; for McNemar's test."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, labels=labels.astype(np.int64), predicted=scores.argmax(1).astype(np.int64),
        fine=fine.astype(np.int64), log_probabilities=scores.astype(np.float32),
    )  # fmt: skip
    write_bytes(path, buffer.getvalue())
