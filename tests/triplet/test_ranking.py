"""The metric losses: values of the authors' functions, slow oracles, finite differences, degenerate batches."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest

from reproduction.runtime.tf import tf, tf1
from triplet_tf import ranking

REFERENCE_LABELS = np.array([0, 0, 1, 1])
REFERENCE = np.stack([f(np.deg2rad([0, 25, 60, 150])) for f in (np.cos, np.sin)], axis=1)
BATCHES = {
    "P x K": np.repeat(np.arange(4), 3),
    "uneven": np.array([2, 0, 0, 1, 0, 2, 0, 5]),
    "a class of one": np.array([0, 0, 1]),
    "one class": np.zeros(5, int),
    "all different": np.arange(5),
    "one image": np.zeros(1, int),
}


LOSSES = {
    "semi_hard": lambda y, e: ranking.semi_hard_loss(y, e, 0.2),
    "hard": lambda y, e: ranking.batch_hard_loss(y, e, 0.2),
    "hard 10": lambda y, e: ranking.batch_hard_loss(y, e, 10),
    "soft": lambda y, e: ranking.batch_hard_loss(y, e, "soft"),
    "SOFT": lambda y, e: ranking.batch_hard_loss(y, e, "SOFT"),
    "none": lambda y, e: ranking.batch_hard_loss(y, e, "none"),
    "euclidean": lambda y, e: ranking.batch_hard_loss(y, e, 0.2, True),
    "euclidean soft": lambda y, e: ranking.batch_hard_loss(y, e, "soft", euclidean=True),
    "awtl": lambda y, e: ranking.adaptive_weight_loss(y, e, 0.2),
    "center": lambda y, e: ranking.center_loss(y, e, tf.zeros([6, 4], e.dtype)),
}


@functools.cache
def built(name: str, dtype: str, size: int | None) -> tuple:
    """A session with one loss and its gradient; shared by the tests, since building costs more than running."""
    with tf1.Graph().as_default():
        labels, e = tf1.placeholder(tf.int64, [size]), tf1.placeholder(dtype, [size, None])
        value = LOSSES[name](labels, e)
        assert value.dtype.name == dtype and value.shape.ndims == 0
        return tf1.Session(), labels, e, [value, tf.convert_to_tensor(tf1.gradients(value, e)[0])]


def evaluate(name: str, labels: np.ndarray, embeddings: np.ndarray, dtype: str = "float64") -> tuple[float, np.ndarray]:
    """Value and gradient; batches of a size known beforehand go through tf-slim, see `semi_hard_loss`."""
    by_slim = name.endswith(" by slim")
    session, y, e, wanted = built(name.removesuffix(" by slim"), dtype, len(labels) if by_slim else None)
    return session.run(wanted, {y: labels, e: embeddings})


def unit(count: int, width: int = 4, seed: int = 0) -> np.ndarray:
    e = np.random.default_rng(seed).normal(size=(count, width))
    return e / np.linalg.norm(e, axis=1, keepdims=True)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def neighbours(labels: np.ndarray, e: np.ndarray, a: int) -> tuple[list[float], list[float]]:
    """Distances of an anchor to its positives and to its negatives, in the order of the batch."""
    positives = [distance(e[a], e[j]) for j in range(len(e)) if j != a and labels[j] == labels[a]]
    return positives, [distance(e[a], e[j]) for j in range(len(e)) if labels[j] != labels[a]]


def slow_semi_hard(labels: np.ndarray, e: np.ndarray, margin: float) -> float:
    terms = []
    for a in range(len(e)):
        positives, negatives = neighbours(labels, e, a)
        for d in positives:
            outside = [x for x in negatives if x > d]
            chosen = min(outside) if outside else max(negatives, default=0.0)
            terms.append(max(0.0, margin + d - chosen))
    return sum(terms) / len(terms) if terms else 0.0


def slow_hard(labels: np.ndarray, e: np.ndarray, margin: float | str, power: float = 1.0) -> float:
    terms = []
    for a in range(len(e)):
        positives, negatives = ([d**power for d in near] for near in neighbours(labels, e, a))
        gap = max(positives, default=0.0) - min(negatives, default=1e5)
        if isinstance(margin, str):
            terms.append(gap if margin == "none" else max(gap, 0) + math.log1p(math.exp(-abs(gap))))
        else:
            terms.append(max(0.0, gap + margin))
    return sum(terms) / len(terms)


def awtl_weights(labels: np.ndarray, e: np.ndarray, a: int) -> tuple[list[float], list[float]]:
    positives, negatives = neighbours(labels, e, a)
    p, n = [math.exp(d) for d in positives], [math.exp(-d) for d in negatives]
    return [x / sum(p) for x in p], [x / sum(n) for x in n]


def slow_awtl(labels: np.ndarray, e: np.ndarray, margin: float, weights_of: np.ndarray | None = None) -> float:
    """The loss at e with the weights of another embedding (to differentiate with the weights held)."""
    terms = []
    for a in range(len(e)):
        (positives, negatives), (wp, wn) = (
            neighbours(labels, e, a),
            awtl_weights(labels, e if weights_of is None else weights_of, a),
        )
        near = np.dot(wn, negatives) if negatives else 1e5
        terms.append(max(0.0, margin + float(np.dot(wp, positives)) - near))
    return sum(terms) / len(terms)


def numeric_gradient(function: Callable[[np.ndarray], float], at: np.ndarray, h: float = 1e-6) -> np.ndarray:
    out = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        step = np.zeros_like(at)
        step[index] = h
        out[index] = (function(at + step) - function(at - step)) / (2 * h)
    return out


def test_reference_values():
    expected = {"hard": 0.4659982, "soft": 0.7671574, "SOFT": 0.7671574, "none": -0.1239440, "semi_hard": 0.3064221}
    for name, value in expected.items():
        for dtype in ("float32", "float64"):
            assert evaluate(name, REFERENCE_LABELS, REFERENCE, dtype)[0] == pytest.approx(value, abs=5e-7), name
    by_slim, _ = evaluate("semi_hard by slim", REFERENCE_LABELS, REFERENCE, "float32")
    assert by_slim == pytest.approx(0.3064221, abs=5e-7)
    gaps = [max(p) - min(n) for p, n in (neighbours(REFERENCE_LABELS, REFERENCE, a) for a in range(4))]
    assert gaps == pytest.approx([-0.8126156, -0.1743115, 1.6383041, -1.1471529], abs=5e-8)  # and the oracle itself


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize(
    ("name", "slow", "margin"),
    [
        ("semi_hard", slow_semi_hard, 0.2),
        ("hard", slow_hard, 0.2),
        ("soft", slow_hard, "soft"),
        ("none", slow_hard, "none"),
        ("euclidean", functools.partial(slow_hard, power=0.5), 0.2),
        ("euclidean soft", functools.partial(slow_hard, power=0.5), "soft"),
        ("awtl", slow_awtl, 0.2),
    ],
)
def test_values_and_gradients_against_slow_oracles(name, slow, margin, kind):
    labels = BATCHES[kind]
    e = unit(len(labels), seed=len(kind))
    expected = slow(labels, e, margin)
    held = {"weights_of": e} if slow is slow_awtl else {}
    offset = 1e5 if expected < -1e4 else 0.0  # a batch without negatives under 'none'
    slope = numeric_gradient(lambda x: slow(labels, x, margin, **held) + offset, e)
    value, gradient = evaluate(name, labels, e)
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(gradient, slope, atol=1e-4 if offset else 1e-7)
    for single in ("semi_hard", "semi_hard by slim") if name == "semi_hard" else (name,):
        value, gradient = evaluate(single, labels, e, "float32")
        assert value == pytest.approx(expected, rel=2e-5, abs=2e-6)
        np.testing.assert_allclose(gradient, slope, atol=1e-4 if offset else 2e-5)


@pytest.mark.parametrize("name", [*LOSSES, "semi_hard by slim"])
def test_collapsed_embeddings_and_zeros_give_no_nan(name):
    for labels in BATCHES.values():
        for e in (np.tile(unit(1), (len(labels), 1)), np.zeros((len(labels), 4))):
            value, gradient = evaluate(name, labels, e, "float32")
            assert np.isfinite(value) and np.isfinite(gradient).all()
            if name.startswith("euclidean"):  # rounding makes a distance of 0 up to 3e-4, whose slope is finite
                assert np.abs(gradient).max() < 1e-2
            elif name != "center":
                assert np.abs(gradient).max() < 1e-6  # distances of 0 push nothing, as in the released code


def test_the_gradient_of_a_euclidean_distance_is_its_direction_and_0_at_0():
    labels = np.array([0, 0, 1])
    for gap in (0.0, 1e-30, 1e-12, 1e-6):  # of the positive pair, along the second axis; the negative lies on the first
        _, gradient = evaluate("euclidean", labels, np.array([[0.0, 0.0], [0.0, gap], [0.1, 0.0]]))
        assert np.isfinite(gradient).all() and np.abs(gradient).max() < 2
        # both anchors, a third each, pull image 1 along the unit vector from image 0
        assert gradient[1, 1] == pytest.approx(2 / 3 if gap else 0, abs=1e-4)


def test_a_collapse_costs_exactly_the_margin():
    labels, e = BATCHES["P x K"], np.ones((12, 4)) / 2
    for name in ("semi_hard", "semi_hard by slim", "hard", "awtl", "euclidean"):
        assert evaluate(name, labels, e, "float32")[0] == pytest.approx(0.2, abs=1e-6), name


def test_batches_without_a_valid_triplet():
    e = unit(5)
    for name in ("semi_hard", "semi_hard by slim"):  # no positive pair: nothing to average
        value, gradient = evaluate(name, np.arange(5), e, "float32")
        assert value == 0 and not gradient.any()
    for name in ("hard", "awtl"):  # no negative: no anchor violates the margin
        value, gradient = evaluate(name, np.zeros(5, int), e)
        assert value == 0 and not gradient.any()


def test_tied_distances_share_the_gradient():
    e = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    labels = np.array([0, 0, 0, 1, 2])  # image 0 has two farthest positives and two nearest negatives
    value, gradient = evaluate("hard 10", labels, e)
    assert value == pytest.approx(slow_hard(labels, e, 10.0))
    np.testing.assert_allclose(gradient[1], gradient[2][::-1])  # the picture is symmetric in the two axes,
    np.testing.assert_allclose(gradient[3], gradient[4][::-1])  # so an unequal share would show

    _, gradient = evaluate("none", np.array([0, 0, 0, 1]), e[:4])
    # of the 4 anchors only 0 itself pulls at image 0: half of 2(e0-e1), half of 2(e0-e2), minus 2(e0-e3)
    np.testing.assert_allclose(gradient[0], [(-1 + 4) / 4, -1 / 4])


def test_margins_that_are_no_numbers():
    e = tf.zeros([2, 2])
    for loss in (ranking.semi_hard_loss, ranking.adaptive_weight_loss):
        for margin in ("soft", "none", None, True):
            with pytest.raises(ValueError, match="needs a number"):
                loss(tf.constant([0, 1]), e, margin)
    with pytest.raises(ValueError, match="'soft' or 'none'"):
        ranking.batch_hard_loss(tf.constant([0, 1]), e, "hard")


def test_center_loss_and_update_by_hand():
    with tf1.Graph().as_default(), tf1.Session() as session:
        e, labels = tf.constant([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), tf.constant([0, 0, 1])
        centers = tf1.get_variable("centers", initializer=[[0.0, 0.0], [2.0, 0.0], [7.0, 7.0]], trainable=False)
        loss = ranking.center_loss(labels, e, centers)
        with tf1.control_dependencies([loss]):
            update = ranking.center_update(labels, e, centers)
        session.run(centers.initializer)
        gradient = tf1.gradients(loss, e)[0]
        value, slope, _ = session.run([loss, gradient, update])
        assert value == 1.5
        np.testing.assert_allclose(slope, [[1, 0], [0, 1], [-1, 0]])
        np.testing.assert_allclose(session.run(centers), [[1 / 6, 1 / 6], [1.75, 0], [7, 7]], rtol=1e-6)


def test_center_update_against_a_loop_over_images():
    rng = np.random.default_rng(3)
    e, labels, old = rng.normal(size=(20, 3)), rng.integers(0, 6, 20), rng.normal(size=(7, 3))
    for alpha in (0.5, 0.1):
        with tf1.Graph().as_default(), tf1.Session() as session:
            centers = tf1.get_variable("centers", initializer=old, trainable=False)
            update = ranking.center_update(tf.constant(labels), tf.constant(e), centers, alpha)
            loss = ranking.center_loss(tf.constant(labels), tf.constant(e), centers)
            session.run(centers.initializer)
            assert session.run(loss) == pytest.approx(
                0.5 * sum(distance(x, old[y]) for x, y in zip(e, labels, strict=True))
            )
            session.run(update)
            new = session.run(centers)
        expected = old.copy()
        for x, y in zip(e, labels, strict=True):
            expected[y] -= alpha * (old[y] - x) / (1 + (labels == y).sum())
        np.testing.assert_allclose(new, expected, atol=1e-12)


def test_new_centers_are_normal_repeatable_and_not_trained():
    drawn = []
    for seed in (0, 0, 1):
        with tf1.Graph().as_default(), tf1.Session() as session:
            tf1.set_random_seed(seed)
            if drawn:
                tf.constant(0.0)  # what else is in the graph makes no difference
            centers = ranking.new_centers(100, 64)
            assert centers.op.name == "centers" and not tf1.trainable_variables()
            session.run(centers.initializer)
            drawn.append(session.run(centers))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).mean() > 0.5
    assert abs(drawn[0].mean()) < 0.05 and abs(drawn[0].std() - 1) < 0.05


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize(("margin", "euclidean"), [(0.2, False), (0.2, True), (0.0, False), ("soft", False)])
def test_batch_statistics_count_all_triplets(kind, margin, euclidean):
    labels = BATCHES[kind]
    e = unit(len(labels), seed=7)
    with tf1.Graph().as_default(), tf1.Session() as session:
        found = session.run(ranking.batch_statistics(tf.constant(labels), tf.constant(e), margin, euclidean))
    positive, negative, active, triplets, power = [], [], 0, 0, 0.5 if euclidean else 1.0
    for a in range(len(e)):
        p, n = neighbours(labels, e, a)
        positive, negative = positive + p, negative + n
        m = 0.0 if margin == "soft" else margin
        active += sum(x**power + m > y**power for x in p for y in n)
        triplets += len(p) * len(n)
    assert found["positive_distance"] == pytest.approx(np.mean(positive) if positive else 0.0)
    assert found["negative_distance"] == pytest.approx(np.mean(negative) if negative else 0.0)
    assert found["active_triplets"] == pytest.approx(active / triplets if triplets else 0.0)


def test_batch_statistics_show_a_collapse():
    with tf1.Graph().as_default(), tf1.Session() as session:
        e = tf.constant(np.tile(unit(1), (8, 1)), tf.float32)
        found = session.run(ranking.batch_statistics(tf.constant([0, 0, 1, 1, 2, 2, 3, 3]), e, 0.2))
    assert found["active_triplets"] == 1 and found["positive_distance"] < 1e-6 and found["negative_distance"] < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_squared_distances(dtype):
    e = unit(9, 5)
    with tf1.Graph().as_default(), tf1.Session() as session:
        found = session.run(ranking.squared_distances(tf.constant(np.vstack([e, e[:1]]), dtype)))
    e = np.vstack([e, e[:1]])
    slow = [[distance(a, b) for b in e] for a in e]
    np.testing.assert_allclose(found, slow, atol=1e-6)
    assert (found >= 0).all() and (np.diag(found) == 0).all() and found.dtype == dtype
