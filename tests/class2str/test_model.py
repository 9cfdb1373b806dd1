"""The method's maths against slow formulations: LSTM, loss terms, and where gradients flow."""

from __future__ import annotations

import numpy as np
import pytest

from class2str_tf.method import model
from reproduction.runtime.tf import tf, tf1


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def run(*fetches, feed=None):
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        return session.run(list(fetches), feed)


def test_lstm_equals_tensorflows_cell(graph):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 7)).astype(np.float32)
    units, steps = 4, 3
    ours = model.lstm([tf.constant(x)] * steps, units, "ours")
    cell = tf1.nn.rnn_cell.LSTMCell(units, name="theirs")
    theirs, _ = tf1.nn.dynamic_rnn(cell, tf.stack([x] * steps), dtype=tf.float32, time_major=True)
    variables = {v.op.name: v for v in tf1.global_variables()}
    kernel = rng.normal(size=(7 + units, 4 * units)).astype(np.float32)
    bias = rng.normal(size=4 * units).astype(np.float32)
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        for name, variable in variables.items():
            if name.endswith(("kernel", "bias")):
                variable.load(kernel if name.endswith("kernel") else bias, session)
        a, b = session.run([tf.stack(ours), theirs])
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_lstm_of_different_inputs_equals_a_loop(graph):
    rng = np.random.default_rng(1)
    xs = [rng.normal(size=(2, 3)).astype(np.float32) for _ in range(4)]
    outputs = model.lstm([tf.constant(x) for x in xs], 5, "lstm")
    kernel, bias, *ours = run(*tf1.trainable_variables(), *outputs)
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    c = h = np.zeros((2, 5))
    for x, output in zip(xs, ours, strict=True):
        i, j, f, o = np.split(np.concatenate([x, h], 1) @ kernel + bias, 4, axis=1)
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(j)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(output, h, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mu", [1.0, 0.9, 0.3])
def test_string_cross_entropy_against_loops(graph, mu):
    rng = np.random.default_rng(2)
    q, logits = softmax(rng.normal(size=(6, 4, 2))), rng.normal(size=(6, 4, 2))
    p = softmax(logits)
    slow = np.mean(
        [sum(mu ** (i + 1) * -sum(q[b, i, k] * np.log(p[b, i, k]) for k in (0, 1)) for i in range(4)) for b in range(6)]
    )
    fast = model.string_cross_entropy(tf.constant(q, tf.float32), tf.constant(logits, tf.float32), mu)
    assert run(fast)[0] == pytest.approx(slow, rel=1e-5)


def test_confidence_reward_has_the_released_sign_and_factor(graph):
    uniform = np.full((200, 4, 2), 0.5, np.float32)
    decided = np.zeros((200, 4, 2), np.float32)
    decided[..., 1] = 1
    values = run(*(model.confidence_reward(tf.constant(q)) for q in (uniform, decided)))
    assert values == pytest.approx([-200, -400])


def terms_of(label_grad: str, weights=(4.0, 100.0, 0.1), mu=0.9, seed=3):
    rng = np.random.default_rng(seed)
    bit_logits = tf.constant(rng.normal(size=(8, 4, 2)), tf.float32)
    q_logits = tf.constant(rng.normal(size=(8, 4, 2)), tf.float32)
    inverse = tf.constant(rng.normal(size=(8, 10)), tf.float32)
    labels = tf.constant(rng.integers(0, 10, 8))
    return bit_logits, q_logits, model.loss_terms(bit_logits, q_logits, inverse, labels, weights, mu, label_grad)


def test_total_is_the_weighted_sum(graph):
    _, _, terms = terms_of("flow")
    string, inverse, reward, total = run(*terms)
    assert total == pytest.approx(4 * string + 100 * inverse + 0.1 * reward, rel=1e-6)


def test_gradient_into_the_strings_is_zero_iff_stopped(graph):
    for label_grad in ("flow", "stop"):
        bits, q, terms = terms_of(label_grad)
        into_q = tf.gradients(terms.rnn_classification_loss, q)[0]
        into_p = tf.gradients(terms.rnn_classification_loss, bits)[0]
        assert (into_q is None) == (label_grad == "stop")
        assert np.abs(run(into_p)[0]).max() > 0
        if into_q is not None:
            assert np.abs(run(into_q)[0]).max() > 1e-3
        assert tf.gradients(terms.l2_z, q)[0] is not None


def test_stop_leaves_every_value_unchanged(graph):
    flow, stop = run(*terms_of("flow")[2]), run(*terms_of("stop")[2])
    assert flow == stop


def test_gradient_of_the_strings_by_finite_differences(graph):
    rng = np.random.default_rng(4)
    labels = np.array([0, 1, 2])
    bits = rng.normal(size=(3, 2, 2))
    q0 = rng.normal(size=(3, 2, 2))
    inverse = rng.normal(size=(3, 3))
    q = tf1.placeholder(tf.float32, [3, 2, 2])
    terms = model.loss_terms(
        tf.constant(bits, tf.float32),
        q,
        tf.constant(inverse, tf.float32),
        tf.constant(labels),
        (1.0, 1.0, 1.0),
        0.9,
        "flow",
    )

    def slow(values: np.ndarray) -> float:
        qs, ps = softmax(values), softmax(bits)
        string = np.mean(
            [sum(0.9 ** (i + 1) * -np.sum(qs[b, i] * np.log(ps[b, i])) for i in range(2)) for b in range(3)]
        )
        cross = -np.mean([np.log(softmax(inverse)[b, labels[b]]) for b in range(3)])
        return string + cross - 0.5 * np.sum(qs**2)

    gradient = run(tf.gradients(terms.loss, q)[0], feed={q: q0})[0]
    for index in np.ndindex(q0.shape):
        step = np.zeros_like(q0)
        step[index] = 1e-5
        assert gradient[index] == pytest.approx((slow(q0 + step) - slow(q0 - step)) / 2e-5, abs=2e-4)


def train_class2str(weights: tuple[float, float, float], seed: int, steps: int) -> int:
    """Class2Str and Str2Class alone on random labels (the released gradient): distinct strings reached."""
    with tf1.Graph().as_default():
        tf1.set_random_seed(seed)
        labels = tf.random.stateless_uniform(
            [200], [seed, tf.cast(tf1.train.get_or_create_global_step(), tf.int32)], 0, 10, tf.int64
        )
        q_logits = model.class2str(tf.one_hot(labels, 10), 4, 500)
        inverse = model.str2class(tf.nn.softmax(q_logits), 10, 500)
        terms = model.loss_terms(tf.zeros([200, 4, 2]), q_logits, inverse, labels, weights, 0.9, "stop")
        train = tf1.train.AdamOptimizer(1e-4).minimize(terms.loss, global_step=tf1.train.get_global_step())
        q = model.class2str(tf.eye(10), 4, 500)
        with tf1.Session() as session:
            session.run(tf1.global_variables_initializer())
            for _ in range(steps):
                session.run(train)
            bits = session.run(q).argmax(axis=2)
    return len({tuple(row) for row in bits})


def test_seed_weights_reach_a_one_to_one_code_and_the_flag_defaults_collapse():
    reached = [train_class2str((4, 100, 0.1), seed, 1200) for seed in range(3)]
    assert sum(distinct == 10 for distinct in reached) >= 2, reached
    assert train_class2str((1, 1, 1), 0, 400) == 1
