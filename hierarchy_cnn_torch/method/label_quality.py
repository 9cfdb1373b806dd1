"""Finding doubtful labels: far confident errors, images of two classes, labels that mean the same, duplicates.

All scores take predictions for images the network was not trained on (out-of-fold for training images).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hierarchy_cnn_torch.method.selectivity import auroc
from hierarchy_cnn_torch.method.similarity import row_normalised
from hierarchy_cnn_torch.method.trees import lca_height

MOST_BITS = 4  # that differ between the hashes of two copies of an image


def label_scores(probabilities: np.ndarray, labels: np.ndarray, levels: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Scores the doubt about each label.

    Args:
      probabilities: float [N, K], out-of-fold.
      labels: int [N], as in the data set.
      levels: tree levels, coarsest first.
    Returns:
      s1: p(predicted) - p(label) for errors, else 0; in [0, 1].
      s2: s1 x height of the LCA of the two (far and confident: wrong label).
      s3: LCA height x (1 - gap) of the two most probable classes if their gap is at most 0.1, else 0 (several objects).
    """
    rows = np.arange(len(labels))
    num_classes = probabilities.shape[1]
    height = lca_height(levels, num_classes)
    predicted = probabilities.argmax(1)
    s1 = np.where(predicted != labels, probabilities[rows, predicted] - probabilities[rows, labels], 0.0)
    s2 = s1 * height[predicted, labels]
    two = np.argpartition(-probabilities, 1, axis=1)[:, :2]
    gap = np.abs(probabilities[rows, two[:, 0]] - probabilities[rows, two[:, 1]])
    s3 = np.where(gap <= 0.1, height[two[:, 0], two[:, 1]] * (1 - gap), 0.0)
    return {"s1": s1, "s2": s2, "s3": s3}


def redundant_pairs(counts: np.ndarray) -> list[tuple[int, int, float]]:
    """Ranks pairs of labels by s4 = min(P_ij, P_ji) / (P_ii + P_jj), largest first: labels that may mean the same.

    Args:
      counts: int [K, K] confusion counts, rows actual; P are its row shares.
    Returns:
      (i, j, s4) with i < j, for all pairs with s4 > 0; infinite if neither class is ever right.
    """
    rates = row_normalised(counts)
    recall = np.diag(rates)
    score = np.minimum(rates, rates.T)
    i, j = np.nonzero(np.triu(score, 1))
    with np.errstate(divide="ignore"):
        values = score[i, j] / (recall[i] + recall[j])
    order = np.lexsort((j, i, -values))
    return [(int(i[k]), int(j[k]), float(values[k])) for k in order]


def difference_hash(images: np.ndarray) -> np.ndarray:
    """Returns a 64-bit difference hash of each image: 8 x 8 comparisons of neighbours in a 9 x 8 grey thumbnail.

    Args:
      images: uint8 [N, H, W, C], H and W at least 9.
    Returns:
      uint64 [N].
    """
    grey = images.astype(np.float32).mean(3)

    def edges(length: int, parts: int) -> np.ndarray:
        return np.linspace(0, length, parts + 1).round().astype(int)

    rows = np.add.reduceat(grey, edges(grey.shape[1], 8)[:-1], axis=1)
    cells = np.add.reduceat(rows, edges(grey.shape[2], 9)[:-1], axis=2)
    widths = np.diff(edges(grey.shape[2], 9))
    cells = cells / widths
    bits = (cells[:, :, 1:] > cells[:, :, :-1]).reshape(len(images), 64)
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def duplicates(hashes: np.ndarray, labels: np.ndarray, block: int = 512) -> list[tuple[int, int, int]]:
    """Finds pairs of images with different labels whose hashes differ in at most MOST_BITS bits.

    Args:
      hashes: uint64 [N].
      labels: int [N].
      block: rows compared at a time.
    Returns:
      (image, image, Hamming distance), nearest first.
    """
    pairs = []
    for start in range(0, len(hashes), block):
        bits = np.bitwise_count(hashes[start : start + block, None] ^ hashes[None, start:])
        i, j = np.nonzero(bits <= MOST_BITS)
        keep = (j > i) & (labels[start + i] != labels[start + j])
        pairs += [(int(start + a), int(start + b), int(bits[a, b])) for a, b in zip(i[keep], j[keep], strict=True)]
    return sorted(pairs, key=lambda pair: (pair[2], pair[0], pair[1]))


def retrieval(scores: np.ndarray, kind: np.ndarray) -> dict[str, float]:
    """Measures how well a score finds planted flips (T4).

    Args:
      scores: float [N], larger is more doubtful.
      kind: int [N], 0 untouched, 1 near flip, 2 far flip.
    Returns:
      auroc_near, auroc_far: each half against untouched images; precision_all, precision_near, precision_far: share
      of planted flips (of that half) among as many top images as were planted.
    """
    out = {}
    for name, which in (("near", (1,)), ("far", (2,)), ("all", (1, 2))):
        planted = np.isin(kind, which)
        use = planted | (kind == 0)
        out[f"auroc_{name}"] = auroc(scores[use], planted[use])
        count = int(planted.sum())
        top = np.argsort(-scores[use], kind="stable")[:count]
        out[f"precision_{name}"] = float(planted[use][top].mean()) if count else float("nan")
    return out
