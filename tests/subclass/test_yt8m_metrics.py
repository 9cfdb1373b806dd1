"""Hit@1, PERR, MAP and GAP against a slow form of their definitions."""

import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from subclass_torch.yt8m.metrics import Metrics


def slow_ap(pairs, positives):
    """(score, hit) pairs; Python seed 0, stable descending sort, precision at each hit."""
    shuffled = [pairs[i] for i in random.Random(0).sample(range(len(pairs)), len(pairs))]
    shuffled.sort(key=lambda pair: pair[0], reverse=True)
    hits = total = 0
    for rank, (_, hit) in enumerate(shuffled, 1):
        if hit:
            hits += 1
            total += hits / rank
    return total / positives


def slow_metrics(batches, top_k):
    hit = perr = videos = 0
    everything, by_class, positives = [], {}, {}
    for scores, labels in batches:
        for c in range(scores.shape[1]):
            positives[c] = positives.get(c, 0) + int(labels[:, c].sum())
        chosen = []
        for p, y in zip(scores, labels, strict=True):
            videos += 1
            ranked = sorted(range(len(p)), key=lambda c, p=p: (-p[c], c))
            hit += int(y[ranked[0]])
            g = int(y.sum())
            perr += sum(int(y[c]) for c in ranked[:g] if p[c] > 0) / g if g else 0
            chosen.append(ranked[:top_k])
        for c in range(scores.shape[1]):
            for n, classes in enumerate(chosen):
                if c in classes:
                    pair = (scores[n, c], int(labels[n, c]))
                    everything.append(pair)
                    by_class.setdefault(c, []).append(pair)
    aps = [slow_ap(by_class.get(c, []), n) for c, n in positives.items() if n]
    total = sum(positives.values())
    return {
        "hit_at_1": hit / videos,
        "perr": perr / videos,
        "map": sum(aps) / len(aps) if aps else 0.0,
        "gap": slow_ap(everything, total) if total else 0.0,
    }


@pytest.mark.parametrize(("top_k", "gap", "mean_ap"), [(20, 0.804167, 0.875), (2, 0.604167, 0.625)])
def test_vector_5(top_k, gap, mean_ap):
    metrics = Metrics(4, top_k)
    metrics.add(np.array([[0.9, 0.8, 0.1, 0.3], [0.2, 0.7, 0.6, 0.1]]), np.array([[1, 0, 0, 1], [0, 1, 1, 0]]))
    found = metrics.result()
    assert found["hit_at_1"] == 1.0 and found["perr"] == 0.75
    assert found["gap"] == pytest.approx(gap, abs=1e-6) and found["map"] == pytest.approx(mean_ap, abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 6), st.integers(1, 9), st.integers(1, 10), st.booleans()
)
@example(0, 3, 4, 5, 3, True)  # equal scores at the edge of the retrieval set
def test_metrics_agree_with_the_slow_ones(seed, count, size, classes, top_k, ties):
    rng = np.random.default_rng(seed)
    batches = []
    metrics = Metrics(classes, top_k)
    for _ in range(count):
        scores = rng.random((size, classes))
        scores = np.round(scores, 1) if ties else scores
        labels = (rng.random((size, classes)) < 0.3).astype(int)
        batches.append((scores, labels))
        metrics.add(scores, labels)
    slow = slow_metrics(batches, top_k)
    for name, value in metrics.result().items():
        assert value == pytest.approx(slow[name], abs=1e-12), name
