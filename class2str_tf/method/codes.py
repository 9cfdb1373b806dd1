"""Class strings on arrays: bits, collisions, decoding through the table, accuracies. NumPy only.

Symbols: C classes, L bits of a string, N images, D distinct strings. `codes` is the static table, uint8 [C, L], the
most probable bits that Class2Str gives each class; `p` is the LH classifier's distribution of each bit of an image.
A string is compared as a whole number (first bit most significant), which holds for L up to 62.
Source: authors' TestHash and match_all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RULES = ("exact", "hamming", "ml")
MAX_BITS = 62
PROBABILITY_FLOOR = 1e-30  # a softmax in float32 underflows to 0, and one bit must not outvote all others for ever
CHUNK_ELEMENTS = 1 << 20  # of an [images, strings] table: 8 MiB in float64, whatever N is


def bits_of(q: np.ndarray) -> np.ndarray:
    """Most probable value of each bit, as the authors' TestHash: 0 if q(0) > q(1), else 1 (so a tie is 1).

    Args:
      q: float [..., L, 2], probabilities or logits of the values 0 and 1.
    Returns:
      uint8 [..., L], 0 or 1.
    Raises:
      ValueError: the last axis is not 2, or a value is NaN.
    Source: authors' TestHash.
    """
    q = _distributions(q)
    return (~(q[..., 0] > q[..., 1])).astype(np.uint8)


def min_confidence(q: np.ndarray) -> float:
    """Smallest max(q) over classes and bits: how near the least decided bit is to a coin.

    DEVIATION C2S-D18: the authors' find_unbiased returns the last entry instead of the smallest.

    Args:
      q: float [..., L, 2], probabilities in [0, 1].
    Returns:
      A number in [0.5, 1] for proper distributions.
    Raises:
      ValueError: no distribution at all, or as `bits_of`.
    """
    q = _distributions(q)
    if q.size == 0:
        raise ValueError("min_confidence of no distribution")
    return float(q.max(axis=-1).min())


def strings(bits: np.ndarray) -> list[str]:
    """Rows as text. uint8 [C, L] of 0 and 1 -> C strings of L digits, the form of the authors' strings file."""
    return ["".join("01"[bit] for bit in row) for row in _table(bits).tolist()]


def from_strings(texts: Sequence[str]) -> np.ndarray:
    """Inverse of `strings`.

    Args:
      texts: C strings over {0, 1}, all of one length L >= 1.
    Returns:
      uint8 [C, L].
    Raises:
      ValueError: empty, of several lengths, or with another character.
    """
    if not texts or not texts[0]:
        raise ValueError("no class strings")
    for text in texts:
        if len(text) != len(texts[0]) or set(text) - set("01"):
            raise ValueError(f"class string {text!r} is not made of {len(texts[0])} digits 0 and 1")
    return _table(np.array([[int(digit) for digit in text] for text in texts], np.uint8))


def num_distinct(bits: np.ndarray) -> int:
    """D, the number of different strings among the rows. uint8 [C, L] -> int in 1..min(C, 2^L) (0 for C = 0)."""
    return len(np.unique(_keys(_table(bits))))


def collisions(bits: np.ndarray) -> list[list[int]]:
    """Classes that share a string.

    Args:
      bits: uint8 [C, L].
    Returns:
      One list of class ids (ascending, two or more) for each shared string, ordered by their first id.
    """
    groups: dict[int, list[int]] = {}
    for class_id, key in enumerate(_keys(_table(bits)).tolist()):
        groups.setdefault(key, []).append(class_id)
    return [group for group in groups.values() if len(group) > 1]


def string_match(bits: np.ndarray, codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns whether all predicted bits equal those of the true class; the mean is the authors' `rnn_acc`.

    If classes share a string, each of them counts as right. So print the number of distinct strings with it.

    Args:
      bits: uint8 [N, L], predicted.
      codes: uint8 [C, L].
      labels: integers [N] in 0..C-1.
    Returns:
      bool [N].
    Raises:
      ValueError: shapes that do not fit, a label out of range.
    Source: authors' match_all; poster's column LH (inferred).
    """
    bits, codes, labels = _table(bits), _table(codes), np.asarray(labels)
    if labels.shape != bits.shape[:1] or codes.shape[1] != bits.shape[1]:
        raise ValueError(f"bits {bits.shape}, table {codes.shape} and labels {labels.shape} do not fit together")
    if labels.size and (labels.min() < 0 or labels.max() >= len(codes)):
        raise ValueError(f"a label is not in 0..{len(codes) - 1}")
    return np.asarray(_keys(bits) == _keys(codes)[labels])


def decode(p: np.ndarray, codes: np.ndarray, rule: str) -> np.ndarray:
    """Returns the class of each image, decoded through the static table.

    Rules: `exact`, the class that owns the most probable string, -1 if no class does; `hamming`, the class whose
    string differs in fewest bits, ties by `ml`; `ml`, the class with the largest sum over bits of
    log p^i(c_i(k)), each probability floored at `PROBABILITY_FLOOR`. What is tied after that, above all classes that
    share a string, goes to the lowest class id.

    Args:
      p: float [N, L, 2], probabilities of the LH classifier.
      codes: uint8 [C, L].
      rule: exact, hamming or ml.
    Returns:
      int64 [N], -1 or 0..C-1.
    Raises:
      ValueError: unknown rule, shapes that do not fit, NaN, an empty table.
    Source: `exact` follows from the poster's static table, the others are ours.
    """
    if rule not in RULES:
        raise ValueError(f"decoding rule {rule!r}: choose {', '.join(RULES)}")
    p, codes = _distributions(p), _table(codes)
    if p.ndim != 3 or p.shape[1] != codes.shape[1] or not len(codes):
        raise ValueError(f"distributions {p.shape} do not fit a table of strings {codes.shape}")
    keys, owners = np.unique(_keys(codes), return_index=True)  # owners: lowest class id of each string
    if rule == "exact":
        predicted = _keys(bits_of(p))
        position = np.minimum(np.searchsorted(keys, predicted), len(keys) - 1)
        return np.where(keys[position] == predicted, owners[position], -1)
    owners = np.sort(owners)  # so that the first of several best strings is the one with the lowest class id
    table = codes[owners]
    size, classes = max(1, CHUNK_ELEMENTS // len(table)), np.empty(len(p), np.int64)
    for start in range(0, len(p), size):
        classes[start : start + size] = owners[_nearest(p[start : start + size], table, rule == "hamming")]
    return classes


def class_accuracy(p: np.ndarray, codes: np.ndarray, labels: np.ndarray, rule: str) -> dict[str, float]:
    """Accuracy over classes, not strings: what a user of the static table gets.

    Args:
      p: float [N, L, 2].
      codes: uint8 [C, L].
      labels: integers [N] in 0..C-1, N >= 1.
      rule: as `decode`.
    Returns:
      accuracy: share of images decoded rightly, in [0, 1]; under `exact` a string with k owners gives each of them
        the credit 1/k, under the other rules the lowest id takes it.
      pessimistic: the same with every decision for a shared string counted as wrong; <= accuracy.
      unowned: share of images whose most probable string no class owns, whatever the rule.
    Raises:
      ValueError: as `decode` and `string_match`.
    Source: ours.
    """
    bits = bits_of(p)
    match = string_match(bits, codes, labels)
    if not len(match):
        raise ValueError("class accuracy of no images")
    keys = _keys(_table(codes))
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    num_owners = counts[inverse][np.asarray(labels)]  # of the true class's string, [N]
    credit = match / num_owners if rule == "exact" else (decode(p, codes, rule) == labels).astype(np.float64)
    return {
        "accuracy": float(credit.mean()),
        "pessimistic": float((credit * (num_owners == 1)).mean()),
        "unowned": float(np.mean(~np.isin(_keys(bits), keys))),
    }


def _nearest(p: np.ndarray, table: np.ndarray, by_hamming: bool) -> np.ndarray:
    """Index of the best string for each image of a chunk. [n, L, 2], distinct strings [D, L] -> int64 [n]."""
    log_p = np.log(np.maximum(p.astype(np.float64), PROBABILITY_FLOOR))
    scores = np.zeros((len(p), len(table)))  # [n, D]; bit by bit, so that equal terms give equal sums
    for i, column in enumerate(table.T):
        scores += log_p[:, i, column.astype(np.intp)]
    if by_hamming:
        bits = bits_of(p)
        distance = np.zeros(scores.shape, np.int16)
        for i, column in enumerate(table.T):
            distance += bits[:, i, None] != column
        scores[distance > distance.min(axis=1, keepdims=True)] = -np.inf
    return np.asarray(scores.argmax(axis=1))


def _distributions(q: np.ndarray) -> np.ndarray:
    q = np.asarray(q)
    if q.ndim < 2 or q.shape[-1] != 2:
        raise ValueError(f"bit distributions have shape {q.shape}, not [..., L, 2]")
    if np.isnan(q).any():
        raise ValueError("bit distributions hold NaN")
    return q


def _table(bits: np.ndarray) -> np.ndarray:
    bits = np.asarray(bits)
    if bits.ndim != 2 or not 1 <= bits.shape[1] <= MAX_BITS:
        raise ValueError(f"strings have shape {bits.shape}, not [C, L] with 1 <= L <= {MAX_BITS}")
    if bits.size and (bits.min() < 0 or bits.max() > 1 or (bits != np.floor(bits)).any()):
        raise ValueError("strings hold values other than 0 and 1")
    return bits.astype(np.uint8, copy=False)


def _keys(bits: np.ndarray) -> np.ndarray:
    """Strings as whole numbers. uint8 [N, L] -> int64 [N]."""
    return bits.astype(np.int64) @ (1 << np.arange(bits.shape[1] - 1, -1, -1, dtype=np.int64))
